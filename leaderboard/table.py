"""Cells, and the terminal table and JSON made of them.

A cell is one model's score on one task by one judge (or on one slice of it). A missing verdict is neither right nor wrong:
the value is over judged rows, `coverage` says how many those are, `bound_low` and `bound_high` what the value would be if
every missing verdict were a 0 or a 1. Cells stand in one table only when data, prompt and judge version are the same.

    found, damaged = cells([Path("runs")])
    render(found, Console(), damaged)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Record
from leaderboard.reading import FINISH, NONE, Judged, Run
from leaderboard.stats import totals_interval
from leaderboard.store import Damaged, find, load, read_runs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Below this share of judged rows a cell is shown but not ranked.
RANK_COVERAGE = 0.98
#: The slice value of rows that have none, in a run where others do.
NO_VALUE = "(not given)"
#: How many reasons for missing verdicts a cell names; the others are counted together.
MAX_REASONS = 5


class Cell(Record):
    """One model's score on one task by one judge. Scores, limits and shares are from 0 to 1."""

    model: str
    trainer: str | None
    base: str | None
    task: str
    split: str
    #: None, as is `value`, where no judge has seen the run.
    judge: str | None
    judge_version: str | None
    #: (name, value); None for all rows.
    slice: tuple[str, str] | None
    data_fingerprint: str
    source: str
    resolution: str
    prompt: str
    prompt_sha256: str
    value: float | None
    low: float | None
    high: float | None
    #: Which formula gave `low` and `high` (leaderboard/stats.py).
    method: str | None
    #: Judged rows, and how many images they are about.
    n: int
    clusters: int
    #: Rows asked, and how many of them the model has answered.
    samples: int
    predicted: int
    missing: int
    missing_reasons: dict[str, int]
    coverage: float
    bound_low: float
    bound_high: float
    finished: bool
    ranked: bool
    #: Share of the answers that were cut off at the token limit.
    truncated: float
    #: Share of right reasoning over the `reasoning_n` rows where it was judged.
    reasoning: float | None
    reasoning_n: int
    run: str
    created: str

    @property
    def comparable(self) -> tuple[str, ...]:
        """What cells of one table share; the value of a slice may differ, as it takes its own rows."""
        slice_name, judge = self.slice[0] if self.slice else "", f"{self.judge}@{self.judge_version}" if self.judge else ""
        return (self.task, self.split, slice_name, judge, self.data_fingerprint, self.prompt_sha256)


def cells(
    runs: Sequence[Path],
    *,
    slice_by: str | None = None,
    tasks: Sequence[str] | None = None,
    judges: Sequence[str] | None = None,
) -> tuple[list[Cell], list[Damaged]]:
    """Every cell of the runs under the folders `runs`, in the order of a table, and the run folders that cannot be read.

    `slice_by` gives each value of that slice a cell of its own; `judges` are NAME or NAME@VERSION. Raises UserError, with the
    nearest name, for a folder, task, judge or slice that is not there.
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
    sound, damaged = load(folders)
    if tasks is not None:
        _known("task", tasks, {card.data.task for _, card in sound})
        sound = [(path, card) for path, card in sound if card.data.task in tasks]
    runs, unreadable = read_runs(sound)
    if slice_by is not None:
        have = [run for run in runs if slice_by in run.asked.slices]
        if runs and not have:
            known = sorted({name for run in runs for name in run.asked.slices})
            raise UserError(f"no run has a slice '{slice_by}'", hint=did_you_mean(slice_by, known))
        runs = have
    found = [cell for run in runs for judged in run.judged or (None,) for cell in _cells(run, judged, slice_by)]
    if judges is not None:
        _known("judge", judges, {name for c in found for name in _judge_names(c)})
        found = [c for c in found if _judge_names(c) & set(judges)]
    found.sort(key=lambda c: (*c.comparable, c.slice or ("", ""), not c.ranked, -(c.value or 0.0), c.model, c.run))
    return found, sorted([*damaged, *unreadable], key=lambda d: d.path)


def _judge_names(cell: Cell) -> set[str]:
    return {cell.judge, f"{cell.judge}@{cell.judge_version}"} if cell.judge else set()


def _known(kind: str, wanted: Iterable[str], there: set[str]) -> None:
    for name in wanted:
        if name not in there:
            raise UserError(f"no run of {kind} '{name}'", hint=did_you_mean(name, sorted(there)))


def _cells(run: Run, judged: Judged | None, slice_by: str | None) -> Iterator[Cell]:
    """The cell of all rows; those of each value of the slice, if one is given."""
    if slice_by is None:
        yield _cell(run, judged, None, np.arange(len(run.asked.ids)))
        return
    values, codes = run.asked.slices[slice_by]
    for code in np.unique(codes):
        yield _cell(run, judged, (slice_by, NO_VALUE if code == NONE else values[code]), np.flatnonzero(codes == code))


def _cell(run: Run, judged: Judged | None, slice_: tuple[str, str] | None, rows: NDArray[np.intp]) -> Cell:
    """The cell that these rows of a run make."""
    card, samples = run.card, len(rows)
    nothing = np.full(len(run.finish), NONE, dtype=np.int8)
    final, reasoning = (judged.final, judged.reasoning) if judged else (nothing, nothing)
    seen = rows[final[rows] != NONE]
    sizes = np.bincount(run.asked.clusters[seen]).astype(np.float64)
    right = np.bincount(run.asked.clusters[seen], weights=final[seen]).astype(np.float64)[sizes > 0]
    interval = totals_interval(right, sizes[sizes > 0]) if len(seen) else None
    n, correct = len(seen), int(right.sum())
    finish, reasoned = run.finish[rows], reasoning[rows][reasoning[rows] != NONE]
    predicted = int(np.count_nonzero(finish != NONE))
    finished = card.finished is not None and predicted == samples
    return Cell(
        model=card.model.name,
        trainer=card.model.trainer,
        base=card.model.base,
        task=card.data.task,
        split=card.data.split,
        judge=judged.judge if judged else None,
        judge_version=judged.version if judged else None,
        slice=slice_,
        data_fingerprint=card.data.fingerprint,
        source=card.data.source,
        resolution=card.data.resolution,
        prompt=card.prompt,
        prompt_sha256=card.prompt_sha256,
        value=interval.value if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        method=interval.method if interval else None,
        n=n,
        clusters=int(np.count_nonzero(sizes)),
        samples=samples,
        predicted=predicted,
        missing=samples - n,
        missing_reasons=_missing(run, judged, rows[final[rows] == NONE]),
        coverage=n / samples,
        bound_low=correct / samples,
        bound_high=(correct + samples - n) / samples,
        finished=finished,
        ranked=finished and n / samples >= RANK_COVERAGE,
        truncated=int(np.count_nonzero(finish == FINISH.index("length"))) / predicted if predicted else 0.0,
        reasoning=int(reasoned.sum()) / len(reasoned) if len(reasoned) else None,
        reasoning_n=len(reasoned),
        run=str(run.folder),
        created=card.created,
    )


def _missing(run: Run, judged: Judged | None, rows: NDArray[np.intp]) -> dict[str, int]:
    """Why these rows have no verdict, the most frequent reason first."""
    given = judged.missing if judged else {}
    absent = ("not answered yet", "not judged yet")
    reasons = Counter(given.get(row, absent[int(run.finish[row] != NONE)]) for row in rows.tolist())
    return _shortened(dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))))


def _shortened(reasons: dict[str, int]) -> dict[str, int]:
    rest = sum(list(reasons.values())[MAX_REASONS:])
    return dict(list(reasons.items())[:MAX_REASONS]) | ({"other reasons": rest} if rest else {})


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


def percent(share: float | None) -> str:
    """One decimal; an en dash where there is nothing."""
    return "–" if share is None else f"{100 * share:.1f}"


def note(cell: Cell) -> str:
    """What a reader must know of a cell: why it is not ranked, and what the missing verdicts could make of it. Often empty."""
    if cell.predicted < cell.samples:
        return f"not ranked, {cell.predicted} of {cell.samples} answered so far"
    if not cell.finished:
        return "not ranked, the run was not closed"
    if cell.value is None:
        return "not judged"
    if not cell.missing:
        return ""
    bounds = f"{percent(cell.bound_low)} if the other {cell.missing} were all wrong, {percent(cell.bound_high)} if all right"
    return f"{'' if cell.ranked else 'not ranked, '}{cell.n} of {cell.samples} judged; {bounds}"


def as_json(found: Sequence[Cell], damaged: Sequence[Damaged]) -> dict[str, Any]:
    """What `--json` prints: {"cells": [...], "damaged": [...]}, ready for json.dumps. Shares from 0 to 1, None where unknown."""
    return {"cells": [c.model_dump(mode="json") for c in found], "damaged": [d.model_dump(mode="json") for d in damaged]}


# -- the terminal -----------------------------------------------------------------------------------------------------


def render(found: Sequence[Cell], console: Console, damaged: Sequence[Damaged] = ()) -> None:
    """Print a table for each group of comparable cells, the best model first, then the run folders that are damaged."""
    for group in grouped(found):
        console.print(_table(group))
    if damaged:
        console.print(_plain("Damaged, and in no table:", "bold red"))
        for d in damaged:
            console.print(_plain(f"  {d.path}\n    {d.reason}", "red"))


def _plain(text: str, style: str = "") -> Text:
    """Text from a run folder, in which nothing is markup or moves the cursor."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text), style=style)


def _table(group: list[Cell]) -> Table:
    """One table. Columns that would say nothing (all judged, nothing cut off, no reasoning judged) are left out."""
    from rich import box
    from rich.table import Table

    first, names = group[0], labels(group)
    questions = "" if first.slice else f" · {first.samples} questions"
    table = Table(
        title=_plain(f"{first.task} · {first.split}{questions}", "bold"),
        title_justify="left",
        caption=_caption(group, names),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    extra = {
        "judged\n%": [percent(c.coverage) if c.coverage < 1 else "" for c in group],
        "cut\noff %": [percent(c.truncated) if c.truncated else "" for c in group],
        "reason-\ning %": [percent(c.reasoning) if c.reasoning is not None else "" for c in group],
    }
    extra = {title: column for title, column in extra.items() if any(column)}
    table.add_column("model", overflow="fold")
    table.add_column("trainer", no_wrap=True)
    for title in ("score\n%", "95 %\ninterval", "n", "images", *extra):
        table.add_column(title, justify="right", no_wrap=True)
    for i, c in enumerate(group):
        if c.slice and (i == 0 or group[i - 1].slice != c.slice):
            table.add_row(_plain(f"{c.slice[0]}: {c.slice[1]}", "bold"))
        between = "–" if c.value is None else f"{percent(c.low)} – {percent(c.high)}"
        last = i + 1 == len(group) or (group[i + 1].slice, group[i + 1].ranked) != (c.slice, c.ranked)
        table.add_row(
            _plain(("  " if c.slice else "") + names[c.run], "" if c.ranked else "dim"),
            _plain(c.trainer or "–"),
            _plain(percent(c.value), "bold" if c.ranked else "dim"),
            *(between, str(c.n), str(c.clusters)),
            *(column[i] for column in extra.values()),
            end_section=last,
        )
    return table


def _caption(group: list[Cell], names: dict[str, str]) -> Text:
    """What a reader must know of single rows, and what all of them have in common."""
    first = group[0]
    notes = [] if first.slice else [f"{names[c.run]}: {note(c)}" for c in group if note(c)]
    judge = f"judge {first.judge}@{first.judge_version}" if first.judge else "not judged"
    data = f"{first.source} data {first.data_fingerprint[:8]}, {first.resolution}"
    return _plain("\n".join([*notes, f"{judge} · prompt {first.prompt} · {data}", ""]), "dim")
