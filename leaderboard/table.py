"""Cells: what a leaderboard's tables are made of (terminal.py and formats.py show them).

A cell is one model's score on one task by one judge (or on one slice of it). A missing verdict is neither right nor wrong:
the value is over judged rows, `coverage` says how many those are, `bound_low` and `bound_high` what the value would be if
every missing verdict were a 0 or a 1. Cells stand in one table only when data, prompt and judge version are the same.

    found, damaged = cells([Path("runs")])
    found[0].value, found[0].low, found[0].high, found[0].rank
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Record, RunCard
from leaderboard.ranks import rank_ranges
from leaderboard.reading import FINISH, NONE, Int8, Judged, Run
from leaderboard.stats import Floats, totals_interval
from leaderboard.store import Damaged, find, load, read_runs

Sort = Literal["score", "model", "trainer", "created", "n"]
GroupBy = Literal["trainer", "base", "model"]

#: Below this share of judged rows a cell is shown but not ranked.
RANK_COVERAGE = 0.98
#: The slice value of rows that have none, in a run where others do.
NO_VALUE = "(not given)"
#: How many reasons for missing verdicts a cell names; the others are counted together.
MAX_REASONS = 5


class Cell(Record):
    """One model's score on one task by one judge. Scores, limits and shares are from 0 to 1."""

    model: str
    #: Hash over weights, settings and generation arguments: what tells models of one name apart.
    configuration: str
    trainer: str | None
    base: str | None
    task: str
    split: str
    #: None, as is `value`, where no judge has seen the run.
    judge: str | None
    judge_version: str | None
    #: Whether the judge, where it is a model, has a certificate among these runs; None for the others.
    certified: bool | None
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
    #: The best and the worst place among the ranked cells of its table, given which differences are real (leaderboard/ranks.py);
    #: None where there is nobody to compare it with.
    rank: tuple[int, int] | None = None
    #: Share of the answers that were cut off at the token limit.
    truncated: float
    #: Share of right reasoning over the `reasoning_n` rows where it was judged.
    reasoning: float | None
    reasoning_n: int
    #: Those of scores.json that were asked for: means without an interval.
    metrics: dict[str, float] = {}
    run: str
    created: str

    @property
    def comparable(self) -> tuple[str, ...]:
        """What cells of one table share; the value of a slice may differ, as it takes its own rows."""
        slice_name, judge = self.slice[0] if self.slice else "", f"{self.judge}@{self.judge_version}" if self.judge else ""
        return (self.task, self.split, slice_name, judge, self.data_fingerprint, self.prompt_sha256)


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
    if slice_by is not None:
        have = [run for run in runs if slice_by in run.asked.slices]
        if runs and not have:
            known = sorted({name for run in runs for name in run.asked.slices})
            raise UserError(f"no run has a slice '{slice_by}'", hint=did_you_mean(slice_by, known))
        runs = have
    counted = [one for run in runs for judged in run.judged or (None,) for one in _counted(run, judged, slice_by)]
    if filters.judges is not None:
        _known("judge", filters.judges, {name for one in counted for name in _judge_names(one.cell)})
        counted = [one for one in counted if any(_matches(name, filters.judges) for name in _judge_names(one.cell))]
    found = list(_with_ranks(counted))
    if metrics:
        found = _with_metrics(found, metrics)
    found.sort(key=lambda c: (*c.comparable, c.slice or ("", ""), *_order(c, sort, group_by)))
    return Board(found, sorted([*damaged, *unreadable], key=lambda d: d.path), {str(run.folder): run for run in runs})


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


@dataclass(frozen=True)
class _Counted:
    """A cell, and the rows and verdicts it was counted from."""

    cell: Cell
    run: Run
    final: Int8
    rows: NDArray[np.intp]


def _counted(run: Run, judged: Judged | None, slice_by: str | None) -> Iterator[_Counted]:
    """The cell of all rows; those of each value of the slice, if one is given."""
    parts: list[tuple[tuple[str, str] | None, NDArray[np.intp]]] = [(None, np.arange(len(run.asked.ids)))]
    if slice_by is not None:
        values, codes = run.asked.slices[slice_by]
        named = [(int(code), NO_VALUE if code == NONE else values[code]) for code in np.unique(codes)]
        parts = [((slice_by, value), np.flatnonzero(codes == code)) for code, value in named]
    final = judged.final if judged else np.full(len(run.finish), NONE, dtype=np.int8)
    for slice_, rows in parts:
        if len(rows):
            yield _Counted(_cell(run, judged, slice_, final, rows), run, final, rows)


def totals(run: Run, final: Int8, rows: NDArray[np.intp]) -> tuple[list[str], Floats, Floats]:
    """The images that judged rows are about, and for each how many of these are right, and how many there are."""
    seen = rows[final[rows] != NONE]
    sizes = np.bincount(run.asked.clusters[seen], minlength=len(run.asked.images)).astype(np.float64)
    right = np.bincount(run.asked.clusters[seen], weights=final[seen], minlength=len(sizes)).astype(np.float64)
    there = np.flatnonzero(sizes)
    return [run.asked.images[i] for i in there], right[there], sizes[there]


def _cell(run: Run, judged: Judged | None, slice_: tuple[str, str] | None, final: Int8, rows: NDArray[np.intp]) -> Cell:
    """The cell that these rows of a run make."""
    card, samples = run.card, len(rows)
    images, right, sizes = totals(run, final, rows)
    interval = totals_interval(right, sizes) if images else None
    n, correct = int(sizes.sum()), int(right.sum())
    finish = run.finish[rows]
    reasoned = judged.reasoning[rows][judged.reasoning[rows] != NONE] if judged else np.empty(0)
    predicted = int(np.count_nonzero(finish != NONE))
    finished = card.finished is not None and predicted == samples
    return Cell(
        model=card.model.name,
        configuration=_configuration(card),
        trainer=card.model.trainer,
        base=card.model.base,
        task=card.data.task,
        split=card.data.split,
        judge=judged.judge if judged else None,
        judge_version=judged.version if judged else None,
        certified=_certified(run, judged),
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
        clusters=len(images),
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


def judge_card(card: RunCard, judged: Judged) -> dict[str, Any]:
    """What the run's card says of a judge: model, prompt, parameters. Empty for judges that are no models, and in older cards."""
    found: dict[str, Any] = vars(card).get("judges", {}).get(f"{judged.judge}@{judged.version}", {})
    return found


def _certified(run: Run, judged: Judged | None) -> bool | None:
    if judged is None or "model" not in judge_card(run.card, judged):
        return None
    return (run.folder.parent.parent / ".certificates" / f"{judged.path.stem}.json").is_file()


def _configuration(card: RunCard) -> str:
    model = card.model
    what = [model.name, model.weights_sha256, model.settings_sha256, model.dtype, card.generation.model_dump_json()]
    return sha256(repr(what).encode()).hexdigest()[:16]


def _with_ranks(counted: Sequence[_Counted]) -> Iterator[Cell]:
    """The cells, those that may be ranked with their rank among the others of their table (and slice value)."""
    together: dict[tuple[Any, ...], list[_Counted]] = defaultdict(list)
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


def _with_metrics(found: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells with the metrics that their runs' scores.json has. Raises UserError for one that no run has."""
    scores = {run: _scores(Path(run)) for run in {c.run for c in found}}
    for name in names:
        if found and not any(name in own for own in scores.values()):
            known = sorted({metric for own in scores.values() for metric in own})
            raise UserError(f"no run was scored by metric '{name}'", hint=did_you_mean(name, known))
    return [c.model_copy(update={"metrics": dict(_metrics(c, scores[c.run], names))}) for c in found]


def _scores(run: Path) -> dict[str, Any]:
    """The metrics of a run's scores.json; none where it was not written yet or cannot be read."""
    try:
        found = json.loads((run / "scores.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _metrics(c: Cell, scores: dict[str, Any], names: Sequence[str]) -> Iterator[tuple[str, float]]:
    for name in names:
        entry = scores.get(name, {})
        if c.slice:
            entry = entry.get("slices", {}).get(c.slice[0], {}).get(c.slice[1], {})
        if entry.get("value") is not None:
            yield name, entry["value"]


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
