"""Loading a task's rows: from a local archive, from the hub, or from the small real data in the package.

Every row is checked before anything is generated: an unreadable image, an empty question, a missing or unreadable
reference or a repeated id is reported by id and, by `on_bad_row`, refused or skipped and counted. Of rows that share an id
the first usable one is kept.

A layout (entry point `harness.layouts`) is a function of a View that yields samples in the archive's own order, none left
out: what a row lacks is for this module to report.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from harness import plugins
from harness.archives import nearest
from harness.errors import DataError, UserError
from harness.pictures import AS_IT_IS, MAX_PIXELS, BadImageError, Reading
from harness.places import Source as Source
from harness.places import Used, place, with_pictures
from harness.places import View as View
from harness.places import parse_source as parse_source
from harness.places import splits as splits
from harness.plugins import did_you_mean
from harness.records import DataCard, ImageRef, Sample
from harness.specs import TaskSpec


@dataclass(frozen=True)
class LoadedTask:
    """Rows ready to be asked (fulfils harness.contracts.Task)."""

    spec: TaskSpec
    samples: list[Sample]
    card: DataCard
    #: What the user should know about these rows, if anything (a fallback, rows left out).
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """A split as it was read: the usable `samples`, what is wrong with each of the others, and what the YAML left out."""

    source: Used
    resolution: str
    #: REPO@COMMIT of the hub's rows.
    origin: str | None
    samples: list[Sample]
    bad: dict[str, str]
    dropped: dict[str, str]
    #: How many rows `where` left out, as far as the split was read.
    filtered: int
    notes: list[str]
    #: What was asked about how pictures are read.
    reading: Reading = AS_IT_IS


_ASKING = {"what", "where", "which", "how", "who", "whose", "whom", "when", "why"}
#: Words that open a question which yes or no answers.
POLAR = {
    "is", "are", "was", "were", "am", "do", "does", "did", "has", "have", "had", "can", "could", "will", "would", "should",
    "may", "might", "must",
}  # fmt: skip


def question_word(question: str) -> str:
    """What a question opens with: what, where, is, does ...; else "other".

    >>> question_word("In which plane is the image?"), question_word("Describe the lesion.")
    ('which', 'other')
    """
    words: list[str] = re.findall(r"[a-z]+", question.lower().replace("n't", ""))[:2]
    if words and words[0] in _ASKING | POLAR:
        return words[0]
    return words[1] if len(words) > 1 and words[1] in _ASKING else "other"


_FORMS = {"yesno": "yes/no", "choice": "choice", "open": "open"}


def _with_derived(sample: Sample) -> Sample:
    """The sample with the slices that every task has: `form` and `question_word`."""
    derived = {"form": _FORMS[sample.reference.kind], "question_word": question_word(sample.question)}
    return sample.model_copy(update={"slices": {**derived, **sample.slices}})


class _Reader:
    """Gives every picture of a split what is asked about how it is read; one picture stays one object."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.images: dict[int, tuple[ImageRef, ImageRef]] = {}  # the first is held, so that its id stays its own

    def with_reading(self, sample: Sample) -> Sample:
        if self.reading == AS_IT_IS or not sample.images:
            return sample
        return sample.model_copy(update={"images": tuple(self._asked(i) for i in sample.images)})

    def _asked(self, image: ImageRef) -> ImageRef:
        if id(image) not in self.images:
            frame = image.reading.frame or self.reading.frame  # the row's own before the YAML's
            asked = replace(image, reading=self.reading.model_copy(update={"frame": frame}))
            self.images[id(image)] = (image, asked)
        return self.images[id(image)][1]


class _Checker:
    """Which rows can be asked and scored. Remembers ids and images, so that a split can be checked a part at a time."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.images: dict[int, tuple[ImageRef, str | None]] = {}  # the image is held, so that its id stays its own

    def check(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample, str | None]]:
        """(row, why it cannot be used or None). Reads, hashes and decodes every image once, in threads."""
        new = {id(i): i for s in samples for i in s.images if id(i) not in self.images}
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
            found = pool.map(_broken, new.values())
            self.images.update((k, (i, why)) for (k, i), why in zip(new.items(), found, strict=True))
        for s in samples:
            why = self._problem(s)
            if why is None:
                self.ids.add(s.id)
            yield s, why

    def _problem(self, s: Sample) -> str | None:
        if not s.question.strip():
            return "empty question"
        if not s.reference.rubric and not any(a.strip() for a in s.reference.answers):
            return "no reference answer"
        if broken := next((i for i in s.images if self.images[id(i)][1]), None):
            near = nearest(broken.path) if broken.path and broken.member is None and not os.path.exists(broken.path) else None
            return f"image {self.images[id(broken)][1]}{f'; did you mean {near!r}?' if near else ''}"
        return "duplicate id" if s.id in self.ids else None


def _broken(image: ImageRef) -> str | None:
    try:
        image.verify()
    except BadImageError as e:
        return str(e)
    return None


def fingerprint(samples: Iterable[Sample]) -> str:
    """sha256 over what is asked and what is right, in order: ids, questions, references, image bytes (and what was done beyond
    plain conversion), system turns, groups."""
    return Tally.of(samples).fingerprint


class Tally:
    """What a card says of samples, counted one at a time."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()
        self._images: dict[str, str | None] = {}
        #: What was done to pictures beyond converting them to RGB -> to how many of them.
        self.pictures: Counter[str] = Counter()
        #: Images that stand in rows of more than one group.
        self.shared: set[str] = set()
        self._clusters: set[str] = set()
        self._kinds: set[str] = set()

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Tally:
        tally = cls()
        for s in samples:
            tally.add(s)
        return tally

    def add(self, s: Sample) -> None:
        self.rows += 1
        told = [s.id, s.question, s.reference.model_dump(mode="json"), [i.pixels_key for i in s.images]]
        told += [{"system": s.system, "group": s.group}] if s.system or s.group else []
        told += [{"history": s.history}] if s.history else []
        self._hash.update(json.dumps(told).encode())
        for image in s.images:
            if image.sha256 not in self._images:
                self.pictures.update(image.changes)
            if self._images.setdefault(image.sha256, s.group) != s.group:
                self.shared.add(image.sha256)
        self._clusters.add(s.cluster)
        self._kinds.add(s.group.rpartition(":")[0] if s.group else ("question", "image", "image set")[min(len(s.images), 2)])

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    def fields(self) -> dict[str, Any]:
        """The card's fields. Rows of one and of several images are clustered by their set of images."""
        kinds = self._kinds - {"image"} if {"image", "image set"} <= self._kinds else self._kinds
        return {
            "rows": self.rows,
            "images": len(self._images),
            "pictures": dict(self.pictures),
            "clusters": len(self._clusters),
            "cluster_of": next(iter(kinds)) if len(kinds) == 1 else "cluster",
            "fingerprint": self.fingerprint,
        }


@dataclass
class _Filter:
    """The rows that a spec's `where` keeps and its `drop` does not name, and a count of the others."""

    spec: TaskSpec
    #: The values of the slices that `where` names.
    seen: dict[str, set[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    filtered: int = 0

    def kept(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """Raises DataError at the end, where `where` names a slice or a value that no row has."""
        spec, some = self.spec, False
        seen, others = self.seen, set[str]()
        for s in map(_with_derived, samples):
            for k in spec.where:
                if k in s.slices:
                    seen.setdefault(k, set()).add(s.slices[k])
            if any(s.slices.get(k) not in v for k, v in spec.where.items()):
                self.filtered += 1
                others.update(s.slices)
            elif s.id in spec.drop:
                self.dropped[s.id] = spec.drop[s.id]
            else:
                some = True
                yield s
        if not some and not self.filtered:
            return
        for k, values in spec.where.items():
            if k not in seen:
                raise DataError(f"task '{spec.name}': where: no row has a slice '{k}'", hint=did_you_mean(k, sorted(others)))
            if missing := next((v for v in values if v not in seen[k]), None):
                raise DataError(
                    f"task '{spec.name}': where: no row has {k} '{missing}'", hint=did_you_mean(missing, sorted(seen[k]))
                )

    @property
    def unseen(self) -> bool:
        """Whether some of the values that `where` names stood in no row yet."""
        return any(not set(v) <= self.seen.get(k, set()) for k, v in self.spec.where.items())


#: Rows whose images are checked at a time.
_PART = 256


class Split:
    """A split that is read as it is iterated: its usable samples. `rows` tells the rest, once it was read.

    Without `images` no image is opened and rows come unchecked, for who wants a few of them and not all. Pictures are read as
    the spec says and up to `max_pixels` (None: the usual limit), or, to see what an earlier run saw, as its `reading` says.
    Raises DataError when it cannot be read at all.
    """

    def __init__(
        self,
        spec: TaskSpec,
        spec_path: Path,
        *,
        source: Source = "auto",
        data_dir: Path | None = None,
        images_dir: Path | None = None,
        split: str | None = None,
        limit: int | None = None,
        images: bool = True,
        max_pixels: int | None = None,
        reading: Reading | None = None,
    ) -> None:
        if data_dir and not data_dir.is_dir():
            raise DataError(f"--data-dir {data_dir}: no such folder")
        self.spec, self.name, self.limit, self.images = spec, split or spec.split, limit, images
        if self.name not in spec.splits:
            raise UserError(f"task '{spec.name}' has no split '{split}'", hint=did_you_mean(self.name, spec.splits))
        if images_dir is None and os.environ.get("HARNESS_IMAGES"):
            images_dir = Path(os.environ["HARNESS_IMAGES"])
        self.place = place(spec, spec_path, source, data_dir, self.name)
        self.view = self.place.view
        if self.place.layout == "table":
            self.view = with_pictures(self.view, images_dir)
        self.left_out = _Filter(spec)
        self.reading = reading or Reading(window=spec.window, frame=spec.frame, max_pixels=max_pixels or MAX_PIXELS)

    def __iter__(self) -> Iterator[Sample]:
        checker, found, some = _Checker(), 0, False
        rows = map(_Reader(self.reading).with_reading, self.left_out.kept(plugins.load("layouts", self.place.layout)(self.view)))
        while part := list(islice(rows, _PART if self.limit is None else min(_PART, self.limit - found))):
            some = True
            for s, why in checker.check(part) if self.images else ((s, None) for s in part):
                if why is None:
                    found += 1
                    yield s
                else:
                    self.view.reject(s.id, why)
        while self.limit is not None and self.left_out.unseen and next(rows, None):
            pass  # a value of `where` is misspelt, or stands further down
        if not found and not some and not self.view.bad:
            raise DataError(f"{self.view.archive}: task '{self.spec.name}', split '{self.name}': no rows")

    def rows(self, samples: list[Sample]) -> Rows:
        """What was read, with the samples that were kept of it."""
        place, left, view = self.place, self.left_out, self.view
        return Rows(
            place.source, place.resolution, place.origin, samples, view.bad, left.dropped, left.filtered, view.notes, self.reading
        )  # fmt: skip


def read(
    spec: TaskSpec,
    spec_path: Path,
    *,
    source: Source = "auto",
    data_dir: Path | None = None,
    images_dir: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    images: bool = True,
    max_pixels: int | None = None,
    reading: Reading | None = None,
) -> Rows:
    """Read, filter and check a split up to `limit` usable rows; bad rows are reported, not refused. As `Split` says."""
    found = Split(
        spec, spec_path, source=source, data_dir=data_dir, images_dir=images_dir, split=split, limit=limit, images=images,
        max_pixels=max_pixels, reading=reading,
    )  # fmt: skip
    return found.rows(list(found))


def shown_otherwise(name: str, tally: Tally) -> list[str]:
    """The note about pictures that older versions of the harness showed otherwise, if there are any."""
    counted = "; ".join(f"{n} {change}" for change, n in tally.pictures.items())
    if not counted:
        return []
    return [f"{name}: pictures are read as a viewer shows them ({counted}); runs made before that stand in tables of their own"]


OnBadRow = Literal["fail", "skip"]


def load(
    spec: TaskSpec,
    spec_path: Path,
    *,
    source: Source = "auto",
    data_dir: Path | None = None,
    images_dir: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    on_bad_row: OnBadRow = "fail",
    max_pixels: int | None = None,
) -> LoadedTask:
    """A task's rows, ready to be asked.

    Raises DataError when a row is bad and `on_bad_row` is "fail"; the message names the first rows and counts the rest.
    """
    rows = read(
        spec, spec_path, source=source, data_dir=data_dir, images_dir=images_dir, split=split, limit=limit, max_pixels=max_pixels
    )
    refuse(spec.name, rows.bad, len(rows.samples), on_bad_row, "; `harness tasks validate` lists them all")
    tally = Tally.of(rows.samples)
    notes = rows.notes + shown_otherwise(spec.name, tally) + _left_out(spec.name, rows.dropped | rows.bad)
    if tally.shared:
        notes.append(f"{spec.name}: {len(tally.shared)} images are in rows of several clusters, which are then not independent")
    return LoadedTask(spec, rows.samples, card(spec, split or spec.split, rows, tally.fields()), tuple(notes))


def refuse(name: str, bad: Mapping[str, str], good: int, on_bad_row: OnBadRow, hint: str = "") -> None:
    """Raise DataError where `bad` rows (id -> why) of a task end the run: by "fail" always, by "skip" if no good one is left."""
    if bad and on_bad_row == "fail":
        listed = "\n".join(f"  row {k}: {v}" for k, v in list(bad.items())[:5])
        more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise DataError(
            f"task '{name}': {len(bad)} of {good + len(bad)} rows cannot be used:\n{listed}{more}",
            hint=f"mend them, or pass --on-bad-row skip{hint}",
        )
    if bad and not good:
        raise DataError(f"task '{name}': none of {len(bad)} rows can be used: row {': '.join(next(iter(bad.items())))}")


def _left_out(name: str, rows: Mapping[str, str]) -> list[str]:
    """The note about rows left out, if any."""
    first = "; ".join(f"{k}: {v}" for k, v in list(rows.items())[:3])
    return [f"{name}: {len(rows)} rows left out ({first}{' ...' if len(rows) > 3 else ''})"] if rows else []


def without(task: LoadedTask, bad: dict[str, str], on_bad_row: OnBadRow) -> LoadedTask:
    """The task without the rows that a model cannot be asked (id -> why). Raises DataError as `load` does."""
    samples = [s for s in task.samples if s.id not in bad]
    refuse(task.spec.name, bad, len(samples), on_bad_row)
    if not bad:
        return task
    found = task.card.model_copy(update=counted(samples) | {"dropped": task.card.dropped | bad})
    return replace(task, samples=samples, card=found, notes=(*task.notes, *_left_out(task.spec.name, bad)))


def card(spec: TaskSpec, split: str, rows: Rows, tallied: Mapping[str, Any] | None = None) -> DataCard:
    """Which rows these are. `tallied` is what a Tally of the samples says, where they were not kept."""
    return DataCard(
        task=spec.name,
        split=split,
        source=rows.source,
        resolution=rows.resolution,
        origin=rows.origin,
        dropped=rows.dropped | rows.bad,
        filtered=rows.filtered,
        reading=rows.reading,
        spec_sha256=spec.sha256,
        may_leave_machine=spec.may_leave_machine,
        **(tallied or counted(rows.samples)),
    )


def counted(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a card says that follows from the samples alone."""
    return Tally.of(samples).fields()
