"""The pixels that a row was asked about. A run folder keeps only their names and a hash, so they are looked for in the task's
data and shown only when the hash is the one that the run recorded. What is served is always encoded anew: the decoded pixels
and nothing else of the file, which also drops what else it said of the patient.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.pictures import BadImageError, Reading
from harness.records import ImageRef, RunCard

if TYPE_CHECKING:
    from harness.records import Sample
    from harness.specs import TaskSpec
    from leaderboard.browse import Row

#: A radiograph keeps its pixels up to this many a side.
MAX_SIDE = 2048


class NoPictureError(Exception):
    """Why there is no picture to show, in words for the page."""


class Pictures:
    """Finds pictures by the run's card and the row as samples.jsonl has it. Data is loaded once a task and kept.

    `data_dir` holds the official archives; `tasks` are specs of the user's own, which no plugin brings.
    """

    def __init__(self, data_dir: Path | None = None, tasks: Sequence[tuple[TaskSpec, Path]] = ()) -> None:
        self.data_dir = data_dir
        self.tasks = {spec.name: (spec, path) for spec, path in tasks}
        self._loaded: dict[tuple[str, str, str, Reading], dict[str, Sample] | NoPictureError] = {}
        self._lock = threading.Lock()

    def find(self, card: RunCard, row: Row) -> tuple[ImageRef, ...]:
        """The row's images. Raises NoPictureError where the data is not here, or is not what was asked about."""
        if not row.images:
            raise NoPictureError("this row has no image")
        sample = self._samples(card).get(row.id.rpartition("#")[0] if card.data.repeats > 1 else row.id)
        if sample is None:
            raise NoPictureError(f"row {row.id} is not in the {card.data.source} data of '{card.data.task}' that is here")
        try:
            same = sample.pictured == (row.pictured or row.cluster)
        except BadImageError as e:
            raise NoPictureError(str(e)) from None
        if not same:
            raise NoPictureError(
                f"the image of row {row.id} in the {card.data.source} data here is not the one that the model was asked about"
            )
        return sample.images

    def _samples(self, card: RunCard) -> dict[str, Sample]:
        key = (card.data.task, card.data.split, card.data.source, card.data.reading)
        with self._lock:
            if key not in self._loaded:
                try:
                    self._loaded[key] = self._load(card)
                except UserError as e:
                    self._loaded[key] = NoPictureError(f"{e}{f' ({e.hint})' if e.hint else ''}")
            found = self._loaded[key]
        if isinstance(found, NoPictureError):
            raise found
        return found

    def _load(self, card: RunCard) -> dict[str, Sample]:
        """The split's rows by id. Raises UserError where its spec or its data is not on this machine."""
        from harness import data, specs

        name, source = card.data.task, card.data.source
        if source == "file":
            raise UserError(f"the rows of '{name}' came from another program, which keeps their images")
        installed = specs.catalog()
        if name not in self.tasks and name not in installed:
            raise UserError(f"no spec of task '{name}' is installed", hint="give its YAML with --tasks")
        spec, path = self.tasks.get(name) or (specs.read(installed[name]), installed[name])
        seen = card.data.reading  # the frame and window that the model was shown, whatever the spec says today
        rows = data.read(spec, path, source=source, data_dir=self.data_dir, split=card.data.split, images=False, reading=seen)
        return {s.id: s for s in reversed(rows.samples)}  # of two with one id the first was asked


def encode(image: ImageRef, *, side: int = MAX_SIDE) -> bytes:
    """The picture as PNG, at most `side` pixels wide and high. Raises BadImageError where it cannot be decoded."""
    return _encode(image, side, "PNG")


def encode_small(image: ImageRef, *, side: int = 448) -> bytes:
    """The picture as a small JPEG. Raises BadImageError where it cannot be decoded."""
    return _encode(image, side, "JPEG", quality=85)


def _encode(image: ImageRef, side: int, kind: str, **options: Any) -> bytes:
    picture = image.open()
    picture.thumbnail((side, side))
    picture.info = {}  # comments and colour profiles, which Pillow would write again
    if kind == "PNG" and (grey := picture.convert("L")).convert("RGB").tobytes() == picture.tobytes():
        picture = grey  # a third of the bytes
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
