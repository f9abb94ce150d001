"""Models x tasks: a column for each task, a row for each model, and the plain average over the tasks that models share.

for view in overviews(board([...])):
    view.columns, view.rows[0].cells, view.rows[0].average

A view holds one set of rows of each task. Runs on other rows of a task (another source, other pixels, --num-samples) stand in a
view of their own, and so do runs that --limit cut short: nothing that is run besides can change or remove an average.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from harness.shown import asked
from leaderboard.cell import totals
from leaderboard.stats import Interval, macro_interval
from leaderboard.table import Board, Cell, differing

#: A cluster that is an image's hash (harness.records.Sample.cluster), and no row's id.
_IMAGE = re.compile("[0-9a-f]{16}")
#: What the cells of one column share.
Key = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A model: its cell in each column (None where it has none), and their average if it has, and may be ranked in, each task of
    the average."""

    model: str
    trainer: str | None
    cells: tuple[Cell | None, ...]
    average: Interval | None


@dataclass(frozen=True)
class Overview:
    """What one judge says of all models under one prompt. `columns` holds a cell of each column, for what all of it share."""

    judge: str
    judge_version: str
    prompt: str
    reader: int
    #: Rows that all of its runs were limited to.
    limit: int | None
    columns: tuple[Cell, ...]
    #: The tasks that the average is over: those that most models have.
    averaged: tuple[str, ...]
    #: Of each task, which generation arguments are not the same for all of its runs.
    unlike: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return "Models x tasks" + (f", limited to {self.limit} rows" if self.limit is not None else "")

    @property
    def rows_in_words(self) -> str:
        """Which rows each column is about."""
        return "rows: " + ", ".join(f"{c.task} {asked(c.samples, c.repeats)} ({c.data_fingerprint[:8]})" for c in self.columns)

    @property
    def facts(self) -> list[str]:
        """What all of its numbers share, and what the average is over, in words."""
        some = f"average over {', '.join(self.averaged)}" if 0 < len(self.averaged) < len(self.columns) else ""
        judge = f"judge {self.judge}@{self.judge_version} · prompt {self.prompt} · reader {self.reader}"
        return [*filter(None, (some,)), *self.unlike, judge, self.rows_in_words]


def overviews(board: Board) -> list[Overview]:
    """Those with more than one column, the best average first. Where a model was run twice on the same rows, the later run."""
    columns: dict[Key, list[Cell]] = defaultdict(list)
    for cell in board.cells:
        if cell.judge and cell.slice is None and cell.value is not None:
            columns[cell.comparable].append(cell)
    alike: dict[tuple[Any, ...], list[list[Cell]]] = defaultdict(list)
    for cells in columns.values():
        first = cells[0]
        whole = any(c.limit is None for c in cells)  # a limit that left nothing out in one of them did so in none
        limit = -1 if whole else first.limit or 0
        alike[first.judge, first.judge_version, first.prompt, first.reader, limit].append(cells)
    return [
        _overview(board, chosen)
        for _, parts in sorted(alike.items(), key=lambda item: item[0])
        for chosen in _one_a_task(parts)
        if len(chosen) > 1
    ]


def _one_a_task(columns: Sequence[list[Cell]]) -> Iterator[list[list[Cell]]]:
    """The columns in sets with no task twice: of each task first that which most models have, then that with most rows."""
    by_task: dict[str, list[list[Cell]]] = defaultdict(list)
    for cells in columns:
        by_task[cells[0].task].append(cells)
    for own in by_task.values():
        own.sort(key=lambda cells: (-len({c.configuration for c in cells}), -cells[0].samples, cells[0].comparable))
    for n in range(max(map(len, by_task.values()))):
        yield [own[n] for own in by_task.values() if n < len(own)]


def _overview(board: Board, columns: Sequence[list[Cell]]) -> Overview:
    firsts = tuple(cells[0] for cells in columns)
    models = _models([c for cells in columns for c in cells])
    averaged = _shared([frozenset(c.task for c in own.values() if c.ranked) for own in models])
    names = [next(iter(own.values())).model for own in models]
    rows = []
    for own, name in zip(models, names, strict=True):
        full = averaged and all(task in own and own[task].ranked for task in averaged)
        average = macro_interval([_totals(board, own[task]) for task in averaged]) if full else None
        some = next(iter(own.values()))
        label = name if names.count(name) == 1 else f"{name} [{some.configuration[:4]}]"
        rows.append(Row(label, some.trainer, tuple(own.get(c.task) for c in firsts), average))
    rows.sort(key=lambda row: (row.average is None, -(row.average.value if row.average else 0.0), row.model))
    first = firsts[0]
    limit = None if any(c.limit is None for c in columns[0]) else first.limit
    judge, version = first.judge or "", first.judge_version or ""
    unlike = tuple(f"{cells[0].task}: {said}" for cells in columns if (said := differing(cells)))
    return Overview(judge, version, first.prompt, first.reader, limit, firsts, averaged, unlike, tuple(rows))


def _models(cells: Sequence[Cell]) -> list[dict[str, Cell]]:
    """For each model its cells by task, the later run where there are two. What differs only in max_new_tokens is one model as
    long as no task was run with both."""
    alike: dict[str, dict[str, Cell]] = defaultdict(dict)
    for cell in sorted(cells, key=lambda c: c.created):
        alike[cell.configuration][cell.task] = cell
    found: list[dict[str, Cell]] = []
    for own in alike.values():
        identity = next(iter(own.values())).identity
        same = (m for m in found if next(iter(m.values())).identity == identity and m.keys().isdisjoint(own))
        if (one := next(same, None)) is None:
            found.append(own)
        else:
            one.update(own)
    return found


def _shared(models: Sequence[frozenset[str]]) -> tuple[str, ...]:
    """The tasks, two at least, that most models have all of; of several such sets the largest. Empty where no model has two."""
    best: tuple[tuple[int, int], tuple[str, ...]] = ((0, 0), ())
    for pair in combinations(sorted(set().union(*models)), 2):
        having = [tasks for tasks in models if tasks.issuperset(pair)]
        if having:
            common = frozenset.intersection(*having)
            size = (len(having), len(common))
            best = max(best, (size, tuple(sorted(common))), key=lambda found: found[0])
    return best[1]


def _totals(board: Board, cell: Cell) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Images that tasks share are the same image; a question without one is its task's own, whatever its id."""
    run = board.runs[cell.run]
    (judged,) = (j for j in run.judged if (j.judge, j.version) == (cell.judge, cell.judge_version))
    images, right, sizes = totals(run, judged.final, np.arange(len(run.asked.ids)))
    return [i if _IMAGE.fullmatch(i) else f"{cell.task}/{i}" for i in images], right, sizes


def as_json(views: Sequence[Overview]) -> list[dict[str, Any]]:
    """The averages, for json.dumps; shares from 0 to 1."""
    return [
        {"judge": v.judge, "judge_version": v.judge_version, "prompt": v.prompt, "reader": v.reader, "limit": v.limit}
        | {"tasks": list(v.averaged), "model": row.model, "trainer": row.trainer}
        | vars(row.average)
        for v in views
        for row in v.rows
        if row.average
    ]
