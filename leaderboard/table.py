"""Which cells stand in which table, in which order, and with which rank (terminal.py and formats.py show them).

Cells stand in one table only when data, slices, prompt, reader and judge version are the same (leaderboard.cell.Cell.comparable).

    found, damaged = cells([Path("runs")])
    found[0].value, found[0].low, found[0].high, found[0].rank
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import RunCard
from harness.shown import asked, percent
from leaderboard.cell import NO_VALUE as NO_VALUE
from leaderboard.cell import RANK_COVERAGE as RANK_COVERAGE
from leaderboard.cell import Cell as Cell
from leaderboard.cell import Counted, count
from leaderboard.gains import with_gains
from leaderboard.measured import with_metrics
from leaderboard.ranks import rank_ranges
from leaderboard.reading import NONE, Run
from leaderboard.store import Damaged, find, load, read_runs

Sort = Literal["score", "model", "trainer", "created", "n"]
GroupBy = Literal["trainer", "base", "model"]


@dataclass(frozen=True)
class Filters:
    """Which cells: those that match one of the globs in each list given. Judges are NAME or NAME@VERSION."""

    tasks: Sequence[str] | None = None
    judges: Sequence[str] | None = None
    models: Sequence[str] | None = None
    trainers: Sequence[str] | None = None
    prompts: Sequence[str] | None = None


@dataclass(frozen=True)
class Board:
    """Cells in the order of a table, what could not be read, and the runs behind the cells by folder."""

    cells: list[Cell]
    damaged: list[Damaged]
    runs: dict[str, Run]
    #: Folders of runs that do not have the slice which was asked for, and so no cell.
    without_slice: list[str] = field(default_factory=list)


def cells(
    runs: Sequence[Path],
    *,
    slice_by: str | None = None,
    tasks: Sequence[str] | None = None,
    judges: Sequence[str] | None = None,
) -> tuple[list[Cell], list[Damaged]]:
    """Every cell of the runs under the folders `runs`, in the order of a table, and the run folders that cannot be read.

    Raises UserError, with the nearest name, for a folder, task, judge or slice that is not there.
    """
    return cells_of(find(runs), slice_by=slice_by, tasks=tasks, judges=judges)


def cells_of(
    folders: Sequence[Path],
    *,
    slice_by: str | None = None,
    tasks: Sequence[str] | None = None,
    judges: Sequence[str] | None = None,
) -> tuple[list[Cell], list[Damaged]]:
    """`cells`, of these run folders and no others."""
    found = board(folders, slice_by=slice_by, filters=Filters(tasks=tasks, judges=judges))
    return found.cells, found.damaged


def board(
    folders: Sequence[Path],
    *,
    slice_by: str | None = None,
    filters: Filters | None = None,
    sort: Sort = "score",
    group_by: GroupBy | None = None,
    metrics: Sequence[str] = (),
) -> Board:
    """The cells of these run folders that pass `filters`, in the order of a table.

    `slice_by` gives each value of that slice a cell of its own; `group_by` keeps a table's cells of one trainer, base or
    model together; `metrics` are read from scores.json. Raises UserError, with the nearest name, for a filter that nothing
    passes, a slice that no run has and a metric that no run was scored by.
    """
    filters = filters or Filters()
    sound, damaged = load(folders)
    for what, wanted in (
        ("task", filters.tasks),
        ("model", filters.models),
        ("trainer", filters.trainers),
        ("prompt", filters.prompts),
    ):
        if wanted is not None:
            _known(what, wanted, {_property(what, card) for _, card in sound})
            sound = [(path, card) for path, card in sound if _matches(_property(what, card), wanted)]
    runs, unreadable = read_runs(sound)
    aside = sorted([*damaged, *unreadable], key=lambda d: d.path)
    return of_runs(runs, aside, slice_by=slice_by, judges=filters.judges, sort=sort, group_by=group_by, metrics=metrics)


def of_runs(
    runs: Sequence[Run],
    damaged: Sequence[Damaged] = (),
    *,
    slice_by: str | None = None,
    judges: Sequence[str] | None = None,
    sort: Sort = "score",
    group_by: GroupBy | None = None,
    metrics: Sequence[str] = (),
) -> Board:
    """`board`, of runs that are read already."""
    without: list[str] = []
    controls = [r for r in runs if r.card.data.control]
    if len(controls) < len(runs):  # they stand in tables of their own only where there is nothing else
        runs = [r for r in runs if not r.card.data.control]
    if slice_by is not None:
        have = [run for run in runs if slice_by in run.asked.slices]
        if runs and not have:
            known = sorted({name for run in runs for name in run.asked.slices})
            raise UserError(f"no run has a slice '{slice_by}'", hint=did_you_mean(slice_by, known))
        without, runs = [str(run.folder) for run in runs if slice_by not in run.asked.slices], have
    counted = [one for run in runs for judged in run.judged or (None,) for one in count(run, judged, slice_by)]
    if judges is not None:
        _known("judge", judges, {name for one in counted for name in _judge_names(one.cell)})
        counted = [one for one in counted if any(_matches(name, judges) for name in _judge_names(one.cell))]
    found = list(_with_ranks(counted))
    # the verdict of a judge of rubrics is only whether a row has all points: its score is a metric of its name
    rubrics = sorted({c.judge for c in found if c.judge and c.judge.startswith("rubric:")})
    if metrics or rubrics:
        found = with_metrics(found, {str(run.folder): run for run in runs}, metrics, rubrics)
    found = with_gains(found, {str(run.folder): run for run in runs}, controls)
    whole = {c.comparable for c in found if c.limit is None}  # what --limit cut short comes after the rest of its task

    def place(c: Cell) -> tuple[Any, ...]:
        return c.task, c.split, c.comparable not in whole, c.comparable, c.slice or ("", ""), _order(c, sort, group_by)

    found.sort(key=place)
    return Board(found, list(damaged), {str(run.folder): run for run in runs}, without)


def _property(what: str, card: RunCard) -> str:
    found = {"task": card.data.task, "model": card.model.name, "trainer": card.model.trainer or "none", "prompt": card.prompt}
    return found[what]


def _order(c: Cell, sort: Sort, group_by: GroupBy | None) -> tuple[Any, ...]:
    """Where a cell stands in its table."""
    by_score = (not c.ranked, -(c.value or 0.0), c.model, c.run)
    first: dict[str, Any] = {"score": (), "model": c.model, "trainer": c.trainer or "", "created": c.created, "n": -c.n}
    return (group_of(c, group_by) or "", first[sort], *by_score)


def group_of(c: Cell, group_by: GroupBy | None) -> str | None:
    """What `group_by` calls the cell's group; None without one."""
    if group_by is None:
        return None
    return {"trainer": c.trainer or "no trainer", "base": c.base or c.model, "model": c.model}[group_by]


def _judge_names(cell: Cell) -> set[str]:
    return {cell.judge, f"{cell.judge}@{cell.judge_version}"} if cell.judge else set()


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in globs)


def _known(kind: str, wanted: Iterable[str], there: set[str]) -> None:
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise UserError(f"no run of {kind} '{pattern}'", hint=did_you_mean(pattern, sorted(there)))


def _with_ranks(counted: Sequence[Counted]) -> Iterator[Cell]:
    """The cells, those that may be ranked with their rank among the others of their table (and slice value)."""
    together: dict[tuple[Any, ...], list[Counted]] = defaultdict(list)
    for one in counted:
        together[one.cell.comparable, one.cell.slice, one.cell.ranked].append(one)
    for (_, _, ranked), group in together.items():
        if not ranked or len(group) == 1:
            yield from (one.cell for one in group)
            continue
        asked, rows = group[0].run.asked, group[0].rows
        places = [one.run.asked.rows_of(asked)[rows] for one in group]
        final = np.stack([np.where(p == NONE, NONE, one.final[p]) for one, p in zip(group, places, strict=True)]).astype(np.int8)
        for one, rank in zip(group, rank_ranges(final, asked.clusters[rows]), strict=True):
            yield one.cell.model_copy(update={"rank": rank})


def grouped(found: Iterable[Cell]) -> list[list[Cell]]:
    """The cells, in their order, in lists that may each stand in one table."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found:
        groups.setdefault(cell.comparable, []).append(cell)
    return list(groups.values())


def labels(found: Iterable[Cell]) -> dict[str, str]:
    """run -> its model's name; where two runs have the same, the key of the run folder tells them apart."""
    models: dict[str, set[str]] = defaultdict(set)
    for cell in found:
        models[cell.model].add(cell.run)
    return {run: m if len(runs) == 1 else f"{m} [{run.rpartition('-')[2]}]" for m, runs in models.items() for run in runs}


def heading(c: Cell) -> str:
    """Of a cell's table: task, split, and the slice or how many questions were asked, and how often."""
    what = f"by {c.slice[0]}" if c.slice else asked(c.samples, c.repeats)
    limit = f" (--limit {c.limit})" if c.limit is not None else ""
    return f"{c.task} · {c.split} · {what}{limit}{f' · control {c.control}' if c.control else ''}"


def rank(c: Cell) -> str:
    """Empty without one."""
    return "–".join(map(str, dict.fromkeys(c.rank))) if c.rank else ""


def note(cell: Cell) -> str:
    """What a reader must know of a cell: why it is not ranked, and what the missing verdicts could make of it. Often empty."""
    if cell.predicted < cell.samples:
        return f"not ranked, {cell.predicted:,} of {cell.samples:,} answered so far"
    if not cell.finished:
        return "not ranked, the run was not closed"
    if cell.value is None:
        return "not judged"
    if cell.fails:
        return f"not ranked, the judge fails its certificate ({cell.fails})"
    if not cell.missing:
        return ""
    bounds = f"{percent(cell.bound_low)} if the other {cell.missing} were all wrong, {percent(cell.bound_high)} if all right"
    return f"{'' if cell.ranked else 'not ranked, '}{cell.n:,} of {cell.samples:,} judged; {bounds}"


def differing(group: Iterable[Cell]) -> str:
    """Which generation arguments are not the same for all of these cells; empty where they are."""
    values: dict[str, set[float]] = defaultdict(set)
    for cell in group:
        for name, value in cell.generation.items():
            if name != "stop":  # the same for all of them
                values[name].add(value)
    differ = [f"{name} {' or '.join(f'{v:g}' for v in sorted(own))}" for name, own in values.items() if len(own) > 1]
    return f"not all were run alike: {', '.join(differ)}" if differ else ""


def as_json(found: Sequence[Cell], damaged: Sequence[Damaged]) -> dict[str, Any]:
    """What `--json` prints: {"cells": [...], "damaged": [...]}, ready for json.dumps. Shares from 0 to 1, None where unknown."""
    return {"cells": [c.model_dump(mode="json") for c in found], "damaged": [d.model_dump(mode="json") for d in damaged]}
