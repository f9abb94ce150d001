"""Where a task's rows are: the local archive, the hub's copy, or the small real data in the package."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Literal, cast, get_args

from harness import specs
from harness.archives import Archive, HubError, from_hub, unnamed
from harness.columns import Columns
from harness.errors import DataError, UserError
from harness.specs import Bundled, Hub, Local, Origin, TaskSpec

Source = Literal["auto", "hub", "local", "bundled"]
Used = Literal["hub", "local", "bundled"]


def parse_source(text: str) -> Source:
    """`--data`'s value. Raises UserError with the valid ones."""
    if text in get_args(Source):
        return cast(Source, text)
    raise UserError(f"--data {text}: unknown", hint=f"one of {', '.join(get_args(Source))}")


#: Characters of what is said about one row.
MOST_SAID = 1_000
#: Characters of a row's id, where it is named.
MOST_NAMED = 200


@dataclass(frozen=True)
class View:
    """What a layout reads: one split of one source. It may add notes for the user, and `reject` rows that it cannot read."""

    archive: Archive
    #: The split as the source spells it, and as the spec does.
    split: str
    name: str
    columns: Columns = field(default_factory=Columns)
    images: str = "."
    separator: str | None = None
    encoding: str | None = None
    #: The folder of images that the user gave, where it lies elsewhere.
    pictures: Archive | None = None
    #: Further folders by the spec's name for them; those that do not exist are left out.
    extra: Mapping[str, Archive] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: What is wrong with each row that cannot be used, by its id; a second bad row of one id is "ID (2)".
    bad: dict[str, str] = field(default_factory=dict)

    def reject(self, name: str, why: str) -> None:
        """Report a row, once each, that cannot be used."""
        why = " ".join(why.split()) if len(why) < MOST_SAID else f"{' '.join(why[:MOST_SAID].split())} ..."
        name = " ".join(name.split())[:MOST_NAMED] if len(name) > MOST_NAMED or "\n" in name else name
        key, count = name, 1
        while key in self.bad:
            count += 1
            key = f"{name} ({count})"
        self.bad[key] = why


def splits(spec: TaskSpec, source: Source) -> list[str]:
    """The splits that a source has; every one that some source has for auto."""
    if source == "auto":
        return spec.splits
    found = {"hub": spec.hub, "local": spec.local, "bundled": spec.bundled}[source]
    return list(found.splits or spec.splits) if found else []


@dataclass(frozen=True)
class Place:
    source: Used
    layout: str
    view: View
    resolution: str
    origin: str | None = None


def _view(spec: TaskSpec, origin: Origin, archive: Archive, split: str, extra: Mapping[str, Archive] | None = None) -> View:
    notes = [f"{spec.name}: {origin.note}"] if origin.note else []
    return View(
        archive, origin.splits[split], split, origin.columns, origin.images, origin.separator, origin.encoding, None, extra or {},
        notes=notes,
    )  # fmt: skip


def with_pictures(view: View, images_dir: Path | None) -> View:
    """The view with the folder of images that --images gives, or that the YAML names by an absolute path."""
    folder, pattern = images_dir, view.images
    if Path(pattern).is_absolute() or pattern.startswith("~/"):
        parts = Path(pattern).expanduser().parts
        fixed = list(takewhile(lambda p: "{}" not in p, parts))
        folder, pattern = folder or Path(*fixed), "/".join(parts[len(fixed) :]) or "."
    if folder is None:
        return view
    if (pictures := Archive.at(folder)) is None:
        raise DataError(f"{folder}: no such folder of images", hint="--images DIR says where they lie")
    return replace(view, images=pattern, pictures=pictures)


def _installed(path: Path) -> bool:
    return any(path.resolve().parent == f.resolve() for f in specs.folders())


def _local(spec: TaskSpec, local: Local, spec_path: Path, data_dir: Path | None, split: str) -> Place:
    """The archive under --data-dir; for a YAML of the user's own also beside it. Raises DataError where there is none."""
    own = None if _installed(spec_path) else spec_path.parent
    tried: list[Path] = []
    found: list[tuple[Path, Archive]] = []
    for base, within in ((data_dir, None), (own, own)):
        if base and (archive := Archive.at(base / local.folder, within)):
            found.append((base, archive))
        elif base:
            tried.append(base / local.folder)
    if not found:
        if not tried:
            raise UserError(f"task '{spec.name}': --data local needs a folder", hint="give --data-dir or set HARNESS_DATA_DIR")
        raise DataError(
            f"{' and '.join(map(str, tried))}: no such folder, and no zip of that name",
            hint=f"put the official archive of '{spec.name}' there, or use another --data",
        )
    # a folder that many tasks share (".") says nothing by being there: it has to hold the split's files
    shared = (f for f in found if local.folder != "." or f[1].glob(local.splits[split]))
    base, archive = next(shared, found[0])
    extra = {k: a for k, v in local.extra.items() if (a := Archive.at(base / v, own if base == own else None))}
    view = _view(spec, local, archive, split, extra)
    if data_dir and base != data_dir:
        view.notes.append(f"{spec.name}: not under {data_dir}; read from beside its YAML, {archive}")
    return Place("local", local.layout, view, "original")


def _hub(spec: TaskSpec, hub: Hub, split: str, *, fresh: bool) -> Place:
    files = re.sub(r"(?<=\.json)#.*", "", hub.splits[split])  # a list within a JSON file is no file
    patterns = [unnamed(f.replace("{split}", files)) for f in hub.files or ["{split}"]]
    found = from_hub(hub.repo, hub.revision, patterns, fresh=fresh)
    view = _view(spec, hub, found.archive, split)
    view.notes.append(
        f"{spec.name}: read from the hub, {hub.repo}@{found.commit[:12]}"
        + (f", as it was cached ({found.stale})" if found.stale else "")
    )
    return Place("hub", hub.layout, view, "original", f"{hub.repo}@{found.commit}")


def _bundled(spec: TaskSpec, bundled: Bundled, spec_path: Path, split: str) -> Place:
    for folder in (spec_path.parent, *specs.folders()):
        if archive := Archive.at(folder / "bundled" / bundled.folder, folder):
            split_there = (bundled.splits or {split: split})[split]
            view = View(archive, split_there, split, notes=[f"{spec.name}: {bundled.note}"] if bundled.note else [])
            return Place("bundled", "bundle", view, bundled.resolution)
    raise DataError(f"{spec_path.parent / 'bundled' / bundled.folder}: no such folder")


def place(spec: TaskSpec, spec_path: Path, source: Source, data_dir: Path | None, split: str) -> Place:
    """Where the rows of a split are read from.

    auto: the local archive where there is one; else the hub, if it is cached or answers; else the bundle, saying so.
    """
    if data_dir is None and os.environ.get("HARNESS_DATA_DIR"):
        data_dir = Path(os.environ["HARNESS_DATA_DIR"])
    sources: tuple[Used, ...] = ("local", "hub", "bundled")
    has = {s: split in splits(spec, s) for s in sources}
    if source != "auto" and not has[source]:
        raise UserError(
            f"task '{spec.name}' has no {source} data for split '{split}'",
            hint=f"--data {' or '.join(k for k, v in has.items() if v)}",
        )
    why: list[str] = []
    hint = None
    if spec.local and has["local"] and source in ("auto", "local"):
        try:
            return _local(spec, spec.local, spec_path, data_dir, split)
        except UserError as e:
            alone = not has["hub"] and not has["bundled"]
            if source == "local" or alone or "leads out" in str(e):
                raise
            why, hint = [str(e)] if data_dir else [], e.hint
    if spec.hub and has["hub"] and source in ("auto", "hub"):
        try:
            return _hub(spec, spec.hub, split, fresh=source == "hub")
        except HubError as e:
            if source == "hub":
                raise
            why.append(str(e))
            hint = hint or e.hint
    if spec.bundled and has["bundled"]:
        found = _bundled(spec, spec.bundled, spec_path, split)
        if source == "auto" and (has["local"] or has["hub"]):  # a task that has no other data falls back to nothing
            whose = "the package's" if _installed(spec_path) else "its own"
            reason = "; ".join(why) or "no --data-dir given"
            found.view.notes.insert(
                0, f"{spec.name}: no full-resolution data, using {whose} {found.resolution} images ({reason})"
            )
        return found
    raise DataError(
        f"task '{spec.name}', split '{split}': no data ({'; '.join(why) or 'no --data-dir given'})",
        hint=hint or "give --data-dir with its official archive",
    )
