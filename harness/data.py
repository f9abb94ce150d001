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
from typing import Any, Literal, cast, get_args

from harness import plugins, specs
from harness.archives import Archive, HubError, from_hub
from harness.errors import DataError, UserError
from harness.pictures import AS_IT_IS, MAX_PIXELS, BadImageError, Reading
from harness.plugins import did_you_mean
from harness.records import DataCard, ImageRef, Sample
from harness.specs import Bundled, Columns, Hub, Local, Origin, TaskSpec

Source = Literal["auto", "hub", "local", "bundled"]
Used = Literal["hub", "local", "bundled"]


def parse_source(text: str) -> Source:
    """`--data`'s value. Raises UserError with the valid ones."""
    if text in get_args(Source):
        return cast(Source, text)
    raise UserError(f"--data {text}: unknown", hint=f"one of {', '.join(get_args(Source))}")


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
    #: Further folders by the spec's name for them; those that do not exist are left out.
    extra: Mapping[str, Archive] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: What is wrong with each row that cannot be used, by its id; a second bad row of one id is "ID (2)".
    bad: dict[str, str] = field(default_factory=dict)

    def reject(self, name: str, why: str) -> None:
        """Report a row, once each, that cannot be used."""
        key, count = name, 1
        while key in self.bad:
            count += 1
            key = f"{name} ({count})"
        self.bad[key] = why


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
    origin: str | None = None


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
    return _Place("hub", hub.layout, view, "original", f"{hub.repo}@{found.commit}")


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
        if source == "auto" and (has["local"] or has["hub"]):  # a task that has no other data falls back to nothing
            whose = "the package's" if _installed(spec_path) else "its own"
            reason = "; ".join(why) or "no --data-dir given"
            place.view.notes.insert(
                0, f"{spec.name}: no full-resolution data, using {whose} {place.resolution} images ({reason})"
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
        if not any(a.strip() for a in s.reference.answers):
            return "no reference answer"
        if broken := next((why for i in s.images if (why := self.images[id(i)][1])), None):
            return f"image {broken}"
        return "duplicate id" if s.id in self.ids else None


def _broken(image: ImageRef) -> str | None:
    try:
        image.verify()
    except BadImageError as e:
        return str(e)
    return None


def fingerprint(samples: Iterable[Sample]) -> str:
    """sha256 over ids, questions, references and images (bytes, and what was done beyond plain conversion), in order."""
    h = hashlib.sha256()
    for s in samples:
        images = [i.pixels_key for i in s.images]
        h.update(json.dumps([s.id, s.question, s.reference.model_dump(mode="json"), images]).encode())
    return h.hexdigest()


@dataclass
class _Filter:
    """The rows that a spec's `where` keeps and its `drop` does not name, and a count of the others."""

    spec: TaskSpec
    dropped: dict[str, str] = field(default_factory=dict)
    filtered: int = 0

    def kept(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        """Raises DataError at the end, where `where` kept nothing because no row has such a slice."""
        spec, some = self.spec, False
        seen: dict[str, set[str]] = {}
        for s in map(_with_derived, samples):
            if any(s.slices.get(k) != v for k, v in spec.where.items()):
                self.filtered += 1
                for k, v in s.slices.items():
                    seen.setdefault(k, set()).add(v)
            elif s.id in spec.drop:
                self.dropped[s.id] = spec.drop[s.id]
            else:
                some = True
                yield s
        for k, v in spec.where.items() if seen and not some else ():
            if k not in seen:
                raise DataError(f"task '{spec.name}': where: no row has a slice '{k}'", hint=did_you_mean(k, list(seen)))
            if v not in seen[k]:
                raise DataError(f"task '{spec.name}': where: no row has {k} '{v}'", hint=did_you_mean(v, sorted(seen[k])))


def read(
    spec: TaskSpec,
    spec_path: Path,
    *,
    source: Source = "auto",
    data_dir: Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    images: bool = True,
    max_pixels: int | None = None,
    reading: Reading | None = None,
) -> Rows:
    """Read, filter and check a split up to `limit` usable rows; bad rows are reported, not refused.

    Without `images` no image is opened and rows come unchecked, for who wants a few of them and not all. Pictures are read as
    the spec says and up to `max_pixels` (None: the usual limit), or, to see what an earlier run saw, as its `reading` says.
    Raises DataError when the split cannot be read at all.
    """
    if data_dir and not data_dir.is_dir():
        raise DataError(f"--data-dir {data_dir}: no such folder")
    split = split or spec.split
    if split not in spec.splits:
        raise UserError(f"task '{spec.name}' has no split '{split}'", hint=did_you_mean(split, spec.splits))
    place = _place(spec, spec_path, source, data_dir, split)
    view, left_out, checker = place.view, _Filter(spec), _Checker()
    reading = reading or Reading(window=spec.window, frame=spec.frame, max_pixels=max_pixels or MAX_PIXELS)
    rows = map(_Reader(reading).with_reading, left_out.kept(plugins.load("layouts", place.layout)(view)))
    samples: list[Sample] = []
    while part := list(islice(rows, None if limit is None else limit - len(samples))):
        for s, why in checker.check(part) if images else ((s, None) for s in part):
            if why is None:
                samples.append(s)
            else:
                view.reject(s.id, why)
    if not samples and not view.bad:
        raise DataError(f"{view.archive}: task '{spec.name}', split '{split}': no rows")
    notes = view.notes + (_shown_otherwise(spec.name, samples) if images else [])
    return Rows(
        place.source, place.resolution, place.origin, samples, view.bad, left_out.dropped, left_out.filtered, notes, reading
    )  # fmt: skip


def _changes(samples: Iterable[Sample]) -> dict[str, int]:
    """What was done to pictures beyond converting them to RGB -> to how many of them."""
    once = {i.sha256: i for s in samples for i in s.images}
    return dict(Counter(change for i in once.values() for change in i.changes))


def _shown_otherwise(name: str, samples: Sequence[Sample]) -> list[str]:
    """The note about pictures that older versions of the harness showed otherwise, if there are any."""
    counted = "; ".join(f"{n} {change}" for change, n in _changes(samples).items())
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
    split: str | None = None,
    limit: int | None = None,
    on_bad_row: OnBadRow = "fail",
    max_pixels: int | None = None,
) -> LoadedTask:
    """A task's rows, ready to be asked.

    Raises DataError when a row is bad and `on_bad_row` is "fail"; the message names the first rows and counts the rest.
    """
    rows = read(spec, spec_path, source=source, data_dir=data_dir, split=split, limit=limit, max_pixels=max_pixels)
    refuse(spec.name, rows.bad, len(rows.samples), on_bad_row, "; `harness tasks validate` lists them all")
    dropped = rows.dropped | rows.bad
    notes = rows.notes + _left_out(spec.name, dropped)
    return LoadedTask(spec, rows.samples, card(spec, split or spec.split, rows), tuple(notes))


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


def card(spec: TaskSpec, split: str, rows: Rows) -> DataCard:
    """Which rows these are."""
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
        **counted(rows.samples),
    )


def counted(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a card says that follows from the samples alone."""
    images = {i.sha256 for s in samples for i in s.images}
    return {
        "rows": len(samples), "images": len(images), "pictures": _changes(samples), "fingerprint": fingerprint(samples),
    }  # fmt: skip
