"""Loading a task's rows: from the official archive on disk, or from the small real data in the package.

Every row is checked before anything is generated: an unreadable image, an empty question, a missing
reference or a repeated id is reported by id and, by `on_bad_row`, refused or skipped and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness import plugins
from harness.errors import DataError, UserError
from harness.records import BadImageError, DataCard, ImageRef, Sample
from harness.specs import TaskSpec

Source = Literal["auto", "local", "bundled"]


@dataclass(frozen=True)
class LoadedTask:
    """Rows ready to be asked (fulfils harness.contracts.Task)."""

    spec: TaskSpec
    samples: list[Sample]
    card: DataCard
    #: What the user should know about these rows, if anything (a fallback, rows left out).
    notes: tuple[str, ...] = ()


def _archive(
    spec: TaskSpec, spec_path: Path, source: Source, data_dir: Path | None
) -> tuple[Literal["local", "bundled"], Path, str, str]:
    """(source, root folder, resolution, note) of the data to read."""
    data_dir = data_dir or (Path(os.environ["HARNESS_DATA_DIR"]) if os.environ.get("HARNESS_DATA_DIR") else None)
    local = data_dir / spec.local if data_dir and spec.local else None
    if source == "local" or (source == "auto" and local and local.is_dir()):
        if not spec.local:
            raise UserError(f"task '{spec.name}' has no local archive layout")
        if local is None:
            raise UserError(f"task '{spec.name}': --data local needs a folder", hint="give --data-dir or set HARNESS_DATA_DIR")
        if not local.is_dir():
            raise DataError(
                f"{local}: no such folder", hint=f"put the official archive of '{spec.name}' there, or use --data bundled"
            )
        return "local", local, "original", ""
    if spec.bundled is None:
        raise DataError(f"task '{spec.name}' has no bundled data", hint="give --data-dir with its official archive")
    note = (
        f"{spec.name}: no full-resolution data given, using the package's {spec.bundled.resolution} images"
        if source == "auto"
        else ""
    )
    return "bundled", spec_path.parent / "bundled" / spec.bundled.folder, spec.bundled.resolution, note


def check(samples: Iterable[Sample]) -> dict[str, str]:
    """The rows that cannot be asked or scored: id -> why. Decodes every image once, in threads."""
    bad: dict[str, str] = {}
    seen: set[str] = set()
    images: dict[str, ImageRef] = {}
    rows = list(samples)
    for s in rows:
        if s.id in seen:
            bad[s.id] = "duplicate id"
        seen.add(s.id)
        if not s.question.strip():
            bad[s.id] = "empty question"
        elif not any(a.strip() for a in s.reference.answers):
            bad[s.id] = "no reference answer"
        images.update((i.name, i) for i in s.images)

    def broken(image: ImageRef) -> str | None:
        try:
            image.open()
        except BadImageError as e:
            return str(e)
        return None

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        reasons = dict(zip(images, pool.map(broken, images.values()), strict=True))
    for s in rows:
        for i in s.images:
            if reasons[i.name]:
                bad.setdefault(s.id, f"image {reasons[i.name]}")
    return bad


def fingerprint(samples: Iterable[Sample]) -> str:
    """sha256 over ids, questions, references and image bytes, in order."""
    h = hashlib.sha256()
    for s in samples:
        h.update(json.dumps([s.id, s.question, s.reference.model_dump(mode="json"), [i.sha256 for i in s.images]]).encode())
    return h.hexdigest()


def load(
    spec: TaskSpec,
    spec_path: Path,
    *,
    source: Source = "auto",
    data_dir: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    on_bad_row: Literal["fail", "skip"] = "fail",
) -> LoadedTask:
    """Read, filter and check a task's rows.

    Raises DataError when a row is bad and `on_bad_row` is "fail"; the message names the first rows and counts the rest.
    """
    split = split or spec.split
    if split not in spec.splits:
        raise UserError(f"task '{spec.name}' has no split '{split}'", hint=plugins.did_you_mean(split, list(spec.splits)))
    used, root, resolution, note = _archive(spec, spec_path, source, data_dir)
    if used == "bundled":
        reader, archive_split = plugins.load("layouts", "bundle"), split
    else:
        reader, archive_split = plugins.load("layouts", spec.layout), spec.splits[split]
    samples, dropped = [], {}
    for s in reader(root, archive_split):
        if any(s.slices.get(k) != v for k, v in spec.where.items()):
            continue
        if s.id in spec.drop:
            dropped[s.id] = spec.drop[s.id]
            continue
        samples.append(s)
        if limit is not None and len(samples) == limit:
            break
    if not samples:
        raise DataError(f"{root}: task '{spec.name}', split '{split}': no rows")
    if bad := check(samples):
        listed = "\n".join(f"  row {k}: {v}" for k, v in list(bad.items())[:5])
        more = f"\n  ... and {len(bad) - 5} more" if len(bad) > 5 else ""
        if on_bad_row == "fail":
            raise DataError(
                f"task '{spec.name}': {len(bad)} of {len(samples)} rows cannot be used:\n{listed}{more}",
                hint="mend them, or pass --on-bad-row skip",
            )
        dropped |= bad
        samples = [s for s in samples if s.id not in bad]
    notes = tuple(
        filter(
            None,
            [
                note,
                f"{spec.name}: {len(dropped)} rows left out ({'; '.join(f'{k}: {v}' for k, v in list(dropped.items())[:3])})"
                if dropped
                else "",
            ],
        )
    )
    card = DataCard(
        task=spec.name,
        split=split,
        source=used,
        resolution=resolution,
        rows=len(samples),
        images=len({i.name for s in samples for i in s.images}),
        dropped=dropped,
        fingerprint=fingerprint(samples),
        spec_sha256=spec.sha256,
    )
    return LoadedTask(spec, samples, card, notes)
