"""Loading a task's rows: from a local archive, from the hub, or from the small real data in the package.

Every row is checked before anything is generated: an unreadable image, an empty question, a missing or unreadable
reference or a repeated id is reported by id and, by `on_bad_row`, refused or skipped and counted.

A layout (entry point `harness.layouts`) is a function of a View that yields samples in the archive's own order, none left
out: what a row lacks is for this module to report.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from harness import plugins, specs
from harness.archives import Archive, HubError, from_hub
from harness.errors import DataError, UserError
from harness.plugins import did_you_mean
from harness.records import BadImageError, DataCard, ImageRef, Sample
from harness.specs import Bundled, Columns, Hub, Local, Origin, TaskSpec

Source = Literal["auto", "hub", "local", "bundled"]
DUPLICATE = "duplicate id"
Used = Literal["hub", "local", "bundled"]


def parse_source(text: str) -> Source:
    """`--data`'s value. Raises UserError with the valid ones."""
    if text in get_args(Source):
        return cast(Source, text)
    raise UserError(f"--data {text}: unknown", hint=f"one of {', '.join(get_args(Source))}")


@dataclass(frozen=True)
class View:
    """What a layout reads: one split of one source. It may add notes for the user, and rows that it cannot read to `bad`."""

    archive: Archive
    #: The split as the source spells it, and as the spec does.
    split: str
    name: str
    columns: Columns = field(default_factory=Columns)
    images: str = "."
    separator: str | None = None
    #: Further folders by the spec's name for them; those that do not exist are left out.
    extra: Mapping[str, Archive] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)


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
    """A split as it was read: `samples` with the bad ones among them, and what is wrong with each of those by id."""

    source: Used
    #: At what resolution, and of which commit where they are the hub's.
    resolution: str
    samples: list[Sample]
    bad: dict[str, str]
    dropped: dict[str, str]
    notes: list[str]


def splits(spec: TaskSpec, source: Source) -> list[str]:
    """The splits that a source has; every one that some source has for auto."""
    if source == "auto":
        return spec.splits
    found = {"hub": spec.hub, "local": spec.local, "bundled": spec.bundled}[source]
    return list(found.splits or spec.splits) if found else []


# -- where the rows are -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    source: Used
    layout: str
    view: View
    resolution: str


def _view(spec: TaskSpec, origin: Origin, archive: Archive, split: str, extra: Mapping[str, Archive] | None = None) -> View:
    notes = [f"{spec.name}: {origin.note}"] if origin.note else []
    return View(archive, origin.splits[split], split, origin.columns, origin.images, origin.separator, extra or {}, notes=notes)


def _installed(path: Path) -> bool:
    return any(path.resolve().parent == f.resolve() for f in specs.folders())


def _local(spec: TaskSpec, local: Local, spec_path: Path, data_dir: Path | None, split: str) -> _Place:
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
    return _Place("local", local.layout, view, "original")


def _hub(spec: TaskSpec, hub: Hub, split: str, *, fresh: bool) -> _Place:
    patterns = [f.replace("{split}", hub.splits[split]) for f in hub.files or ["{split}"]]
    found = from_hub(hub.repo, hub.revision, patterns, fresh=fresh)
    view = _view(spec, hub, found.archive, split)
    view.notes.append(
        f"{spec.name}: read from the hub, {hub.repo}@{found.commit[:12]}"
        + (f", as it was cached ({found.stale})" if found.stale else "")
    )
    return _Place("hub", hub.layout, view, f"original, {hub.repo}@{found.commit}")


def _bundled(spec: TaskSpec, bundled: Bundled, spec_path: Path, split: str) -> _Place:
    for folder in (spec_path.parent, *specs.folders()):
        if archive := Archive.at(folder / "bundled" / bundled.folder, folder):
            split_there = (bundled.splits or {split: split})[split]
            view = View(archive, split_there, split, notes=[f"{spec.name}: {bundled.note}"] if bundled.note else [])
            return _Place("bundled", "bundle", view, bundled.resolution)
    raise DataError(f"{spec_path.parent / 'bundled' / bundled.folder}: no such folder")


def _place(spec: TaskSpec, spec_path: Path, source: Source, data_dir: Path | None, split: str) -> _Place:
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
        place = _bundled(spec, spec.bundled, spec_path, split)
        if source == "auto":
            place.view.notes.insert(
                0, f"{spec.name}: no full-resolution data, using the package's {place.resolution} images ({'; '.join(why)})"
            )
        return place
    raise DataError(
        f"task '{spec.name}', split '{split}': no data ({'; '.join(why) or 'no --data-dir given'})",
        hint=hint or "give --data-dir with its official archive",
    )


# -- reading and checking ---------------------------------------------------------------------------------------------

_ASKING = {"what", "where", "which", "how", "who", "whose", "whom", "when", "why"}
_VERBS = {
    "is", "are", "was", "were", "am", "do", "does", "did", "has", "have", "had", "can", "could", "will", "would", "should",
    "may", "might", "must",
}  # fmt: skip


def question_word(question: str) -> str:
    """What a question opens with: what, where, is, does ...; else "other".

    >>> question_word("In which plane is the image?"), question_word("Describe the lesion.")
    ('which', 'other')
    """
    words: list[str] = re.findall(r"[a-z]+", question.lower().replace("n't", ""))[:2]
    if words and words[0] in _ASKING | _VERBS:
        return words[0]
    return words[1] if len(words) > 1 and words[1] in _ASKING else "other"


_FORMS = {"yesno": "yes/no", "choice": "choice", "open": "open"}


def _with_derived(sample: Sample) -> Sample:
    """The sample with the slices that every task has: `form` and `question_word`."""
    derived = {"form": _FORMS[sample.reference.kind], "question_word": question_word(sample.question)}
    return sample.model_copy(update={"slices": {**derived, **sample.slices}})


def check(samples: Iterable[Sample]) -> dict[str, str]:
    """The rows that cannot be asked or scored: id -> why. Reads, hashes and decodes every image once, in threads."""
    bad: dict[str, str] = {}
    rows = list(samples)
    for name, count in Counter(s.id for s in rows).items():
        if count > 1:
            bad[name] = f"{DUPLICATE} ({count} rows)"
    images: dict[int, ImageRef] = {}
    for s in rows:
        if not s.question.strip():
            bad.setdefault(s.id, "empty question")
        elif not any(a.strip() for a in s.reference.answers):
            bad.setdefault(s.id, "no reference answer")
        images.update((id(i), i) for i in s.images)

    def broken(image: ImageRef) -> str | None:
        try:
            image.verify()
        except BadImageError as e:
            return str(e)
        return None

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        reasons = dict(zip(images, pool.map(broken, images.values()), strict=True))
    for s in rows:
        for i in s.images:
            if reason := reasons[id(i)]:
                bad.setdefault(s.id, f"image {reason}")
    return bad


def fingerprint(samples: Iterable[Sample]) -> str:
    """sha256 over ids, questions, references and image bytes, in order."""
    h = hashlib.sha256()
    for s in samples:
        h.update(json.dumps([s.id, s.question, s.reference.model_dump(mode="json"), [i.sha256 for i in s.images]]).encode())
    return h.hexdigest()


def _kept(spec: TaskSpec, samples: Iterator[Sample], dropped: dict[str, str], limit: int | None) -> list[Sample]:
    """The samples that `where` keeps and `drop` does not name, `limit` of them."""
    kept: list[Sample] = []
    seen: dict[str, set[str]] = {}
    for s in map(_with_derived, samples):
        if any(s.slices.get(k) != v for k, v in spec.where.items()):
            for k, v in s.slices.items():
                seen.setdefault(k, set()).add(v)
        elif s.id in spec.drop:
            dropped[s.id] = spec.drop[s.id]
        else:
            kept.append(s)
            if len(kept) == limit:
                break
    if not kept and seen:
        for k, v in spec.where.items():
            if k not in seen:
                raise DataError(f"task '{spec.name}': where: no row has a slice '{k}'", hint=did_you_mean(k, list(seen)))
            if v not in seen[k]:
                raise DataError(f"task '{spec.name}': where: no row has {k} '{v}'", hint=did_you_mean(v, sorted(seen[k])))
    return kept


def read(
    spec: TaskSpec,
    spec_path: Path,
    *,
    source: Source = "auto",
    data_dir: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    images: bool = True,
) -> Rows:
    """Read, filter and check a split; bad rows are reported, not refused. Raises DataError when it cannot be read at all.

    Without `images` rows come unchecked and no image is opened, for who wants a few of them and not all.
    """
    if data_dir and not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir}: no such folder")
    split = split or spec.split
    if split not in spec.splits:
        raise UserError(f"task '{spec.name}' has no split '{split}'", hint=did_you_mean(split, spec.splits))
    place = _place(spec, spec_path, source, data_dir, split)
    dropped: dict[str, str] = {}
    samples = _kept(spec, plugins.load("layouts", place.layout)(place.view), dropped, limit)
    if not samples and not place.view.bad:
        raise DataError(f"{place.view.archive}: task '{spec.name}', split '{split}': no rows")
    bad = place.view.bad | (check(samples) if images else {})
    return Rows(place.source, place.resolution, samples, bad, dropped, place.view.notes)


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
    """A task's rows, ready to be asked.

    Raises DataError when a row is bad and `on_bad_row` is "fail"; the message names the first rows and counts the rest.
    """
    rows = read(spec, spec_path, source=source, data_dir=data_dir, split=split, limit=limit)
    samples, dropped = rows.samples, rows.dropped
    if rows.bad:
        total = len({s.id for s in samples} | rows.bad.keys())
        if on_bad_row == "fail":
            listed = "\n".join(f"  row {k}: {v}" for k, v in list(rows.bad.items())[:5])
            more = f"\n  ... and {len(rows.bad) - 5} more" if len(rows.bad) > 5 else ""
            raise DataError(
                f"task '{spec.name}': {len(rows.bad)} of {total} rows cannot be used:\n{listed}{more}",
                hint="mend them, or pass --on-bad-row skip; `harness tasks validate` lists them all",
            )
        dropped = dropped | rows.bad
        samples = list(_usable(samples, rows.bad))
        if not samples:
            raise DataError(f"task '{spec.name}': none of {total} rows can be used: row {next(iter(rows.bad.items()))}")
    notes = list(rows.notes)
    if dropped:
        first = "; ".join(f"{k}: {v}" for k, v in list(dropped.items())[:3])
        notes.append(f"{spec.name}: {len(dropped)} rows left out ({first}{' ...' if len(dropped) > 3 else ''})")
    return LoadedTask(spec, samples, card(spec, split or spec.split, rows, samples, dropped), tuple(notes))


def _usable(samples: Iterable[Sample], bad: Mapping[str, str]) -> Iterator[Sample]:
    """The rows that are not bad, and the first of those that only share an id."""
    seen: set[str] = set()
    for s in samples:
        if s.id not in bad or (bad[s.id].startswith(DUPLICATE) and s.id not in seen):
            yield s
        seen.add(s.id)


def card(spec: TaskSpec, split: str, rows: Rows, samples: list[Sample], dropped: dict[str, str]) -> DataCard:
    """Which rows these are."""
    return DataCard(
        task=spec.name,
        split=split,
        source=rows.source,
        resolution=rows.resolution,
        rows=len(samples),
        images=len({i.sha256 for s in samples for i in s.images}),
        dropped=dropped,
        fingerprint=fingerprint(samples),
        spec_sha256=spec.sha256,
    )
