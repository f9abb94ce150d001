"""The run folders under `--runs`, read once. Run folders are the truth (harness/runs.py); all else can be made again.

    store.py     finds the folders, reads their cards and gives each run as arrays            read([Path("runs")])
    reading.py   JSONL -> arrays
    index.py     the arrays, kept in RUNS/.index/*.parquet until the JSONL changes
    browse.py    pages of questions, answers and verdicts, from RUN/.index/rows-KEY.parquet   Browser(runs).page(Filter(...))

    runs, damaged = read([Path("runs")])
    runs[0].card.model.name, runs[0].judged[0].final.mean()

What cannot be trusted is set aside as `Damaged` with the reason and hides nothing else: a line that is not a record, fewer
rows than the card names, a prediction for a row that was never asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from harness.errors import RunError, UserError
from harness.records import RunCard
from harness.runs import RunFolder, slug
from leaderboard import index, reading
from leaderboard.reading import Damaged as Damaged
from leaderboard.reading import Run as Run

#: What makes a folder a run's, sound or not.
_MARKS = frozenset({"card.json", "samples.jsonl", "predictions.jsonl", "verdicts"})


def find(roots: Sequence[Path]) -> list[Path]:
    """Every run folder under `roots`, sound or not, each once. Raises UserError for a root that is none."""
    found: dict[tuple[int, int], Path] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of runs", hint="give the folder that `harness run` wrote to with --runs")
        for run in (run for model in _folders(root) for run in _runs(model)):
            with contextlib.suppress(FileNotFoundError):  # removed a moment ago
                status = run.stat()
                found.setdefault((status.st_dev, status.st_ino), Path(run))
        if not found and (_is_run(root) or any(map(_is_run, _folders(root)))):
            raise UserError(
                f"{root}: not a folder of runs, but of one model or one run", hint="give the folder above it with --runs"
            )
    return list(found.values())


def _folders(path: str | Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """The folders in this one, by name. Raises OSError where they may not be listed."""
    with os.scandir(path) as entries:
        return sorted(filter(_is_folder, entries), key=lambda e: e.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _runs(model: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    """The run folders of a model. A folder that may not be listed counts as one: reading its card will say why."""
    try:
        return [run for run in _folders(model) if _is_run(run)]
    except FileNotFoundError:
        return []
    except OSError:
        return [model]


def _is_run(folder: os.PathLike[str]) -> bool:
    try:
        return not _MARKS.isdisjoint(os.listdir(folder))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def load(folders: Sequence[Path]) -> tuple[list[tuple[Path, RunCard]], list[Damaged]]:
    """The run folders with their cards, and those whose card is missing or damaged."""
    sound: list[tuple[Path, RunCard]] = []
    damaged = []
    for path in folders:
        try:
            sound.append((path, RunFolder(path).card()))
        except RunError as e:
            missing = "no card.json: the run never began, or lost it"
            why = missing if _missing(path / "card.json") else str(e).removeprefix(f"{path}/")
            damaged.append(Damaged(path=str(path), reason=why))
    return sound, damaged


def _missing(path: Path) -> bool:
    """Whether there is no such file; one that may not be looked at is there."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def read(roots: Sequence[Path]) -> tuple[list[Run], list[Damaged]]:
    """Every run under the folders `roots` as arrays, in the order of their names, and what had to be set aside."""
    sound, damaged = load(find(roots))
    runs, unreadable = read_runs(sound)
    return runs, [*damaged, *unreadable]


def read_runs(folders: Sequence[tuple[Path, RunCard]]) -> tuple[list[Run], list[Damaged]]:
    """`read`, of these run folders (with their cards) and no others. What the index does not know is added to it."""
    stamps = {path: index.stamp(path) for path, _ in folders}  # before anything is read: what is written meanwhile is news
    by_root: dict[Path, list[tuple[Path, RunCard]]] = {}
    for path, card in folders:
        by_root.setdefault(path.absolute().parent.parent, []).append((path, card))
    known = {run.folder: run for root, own in by_root.items() for run in index.load(root, own, stamps)}
    new, damaged = reading.read([(path, card) for path, card in folders if path not in known])
    bad = {Path(d.path) for d in damaged}
    for root, own in by_root.items():
        placed = {path for path, card in own if path.absolute().parent.name == slug(card.model.name)}  # not a copy elsewhere
        keep = [run for run in new if run.folder in placed and not any(b.is_relative_to(run.folder) for b in bad)]
        if keep:
            index.save(root, keep, stamps)
    known |= {run.folder: run for run in new}
    return [known[path] for path, _ in folders if path in known], damaged
