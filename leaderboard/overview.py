"""Models x tasks: one table for each judge and prompt, a column for each set of rows, and the plain average over tasks.

for view in overviews(board([...])):
    view.columns, view.rows[0].cells, view.rows[0].average
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leaderboard.cell import totals
from leaderboard.stats import Interval, macro_interval
from leaderboard.table import Board, Cell

#: A cluster that is an image's hash (harness.records.Sample.cluster), and no row's id.
_IMAGE = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Row:
    """A model: its cell in each column (None where it has none), and their average if it has all and all may be ranked."""

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
    columns: tuple[Cell, ...]
    rows: tuple[Row, ...]


def overviews(board: Board) -> list[Overview]:
    """Those with more than one column, the best average first. Where a model was run twice on the same rows, the later run."""
    by_view: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in board.cells:
        if cell.judge and cell.judge_version and cell.slice is None and cell.value is not None:
            by_view.setdefault((cell.judge, cell.judge_version, cell.prompt), []).append(cell)
    found = [Overview(*key, *_matrix(board, cells)) for key, cells in by_view.items()]
    return [view for view in found if len(view.columns) > 1]


def _matrix(board: Board, cells: Sequence[Cell]) -> tuple[tuple[Cell, ...], tuple[Row, ...]]:
    columns = {cell.comparable: cell for cell in cells}
    models: dict[str, dict[tuple[str, ...], Cell]] = {}
    for cell in sorted(cells, key=lambda c: c.created):
        models.setdefault(cell.configuration, {})[cell.comparable] = cell
    once = len({c.task for c in columns.values()}) == len(columns)  # two sets of rows of one task are not two tasks
    rows = []
    names = [next(iter(own.values())).model for own in models.values()]
    for (configuration, own), name in zip(models.items(), names, strict=True):
        first = next(iter(own.values()))
        full = once and len(own) == len(columns) and all(c.ranked for c in own.values())
        average = macro_interval([_totals(board, c) for c in own.values()]) if full else None
        label = name if names.count(name) == 1 else f"{name} [{configuration[:4]}]"
        rows.append(Row(label, first.trainer, tuple(own.get(key) for key in columns), average))
    rows.sort(key=lambda row: (row.average is None, -(row.average.value if row.average else 0.0), row.model))
    return tuple(columns.values()), tuple(rows)


def _totals(board: Board, cell: Cell) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Images that tasks share are the same image; a question without one is its task's own, whatever its id."""
    run = board.runs[cell.run]
    (judged,) = (j for j in run.judged if (j.judge, j.version) == (cell.judge, cell.judge_version))
    images, right, sizes = totals(run, judged.final, np.arange(len(run.asked.ids)))
    return [i if _IMAGE.fullmatch(i) else f"{cell.task}/{i}" for i in images], right, sizes


def as_json(views: Sequence[Overview]) -> list[dict[str, Any]]:
    """The averages, for json.dumps; shares from 0 to 1."""
    return [
        {"judge": v.judge, "judge_version": v.judge_version, "prompt": v.prompt, "tasks": [c.task for c in v.columns]}
        | {"model": row.model, "trainer": row.trainer}
        | vars(row.average)
        for v in views
        for row in v.rows
        if row.average
    ]
