"""Cells, the terminal table and JSON made of them, and two runs compared row by row.

A cell is one model's score on one task by one judge (or on one slice of it). A missing verdict is neither right nor wrong:
the value is over judged rows, `coverage` says how many those are, `bound_low` and `bound_high` what the value would be if
every missing verdict were a 0 or a 1. Cells stand in one table only when data, prompt and judge version are the same.

    found, damaged = cells([Path("runs")])
    render(found, Console(), damaged)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Record, RunCard
from harness.runs import RunFolder
from leaderboard.stats import paired_difference, totals_interval
from leaderboard.store import Counts, Damaged, count, find, load

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
    counts, unreadable = count(sound, slice_by)
    if slice_by is not None:
        have = {c.entry.folder for c in counts if c.slice is not None}
        if counts and not have:
            known = _slice_names(c.entry.folder for c in counts)
            raise UserError(f"no run has a slice '{slice_by}'", hint=did_you_mean(slice_by, known))
        counts = [c for c in counts if c.entry.folder in have]
    found = [_cell(c, slice_by) for c in counts]
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


def _slice_names(folders: Iterable[Path]) -> list[str]:
    return sorted({name for folder in set(folders) for row in RunFolder(folder).samples() for name in row["slices"]})


def _cell(c: Counts, slice_by: str | None) -> Cell:
    """The cell that an entry's counts make."""
    card = c.entry.card
    judged = [(right, n) for right, n in zip(c.right, c.n, strict=True) if n]
    interval = totals_interval([right for right, _ in judged], [n for _, n in judged]) if judged else None
    n, right = sum(c.n), sum(c.right)
    finished = card.finished is not None and c.predicted == c.samples
    judge, _, version = c.entry.verdicts.stem.rpartition("@") if c.entry.verdicts else ("", "", "")
    return Cell(
        model=card.model.name,
        trainer=card.model.trainer,
        base=card.model.base,
        task=card.data.task,
        split=card.data.split,
        judge=c.judge or judge or None,
        judge_version=version or None,
        slice=(slice_by, NO_VALUE if c.slice is None else c.slice) if slice_by is not None else None,
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
        clusters=len(judged),
        samples=c.samples,
        predicted=c.predicted,
        missing=c.samples - n,
        missing_reasons=_shortened(c.missing),
        coverage=n / c.samples,
        bound_low=right / c.samples,
        bound_high=(right + c.samples - n) / c.samples,
        finished=finished,
        ranked=finished and n / c.samples >= RANK_COVERAGE,
        truncated=c.truncated / c.predicted if c.predicted else 0.0,
        reasoning=c.reasoning_right / c.reasoning_n if c.reasoning_n else None,
        reasoning_n=c.reasoning_n,
        run=str(c.entry.folder),
        created=card.created,
    )


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


# -- two runs ---------------------------------------------------------------------------------------------------------


class Comparison(Record):
    """Run a against run b on the rows that one judge has judged in both. Shares and differences from 0 to 1 (-1 to 1)."""

    run_a: str
    run_b: str
    model_a: str
    model_b: str
    task: str
    split: str
    judge: str
    judge_version: str
    data_fingerprint: str
    #: Rows asked; rows judged in both; the images these are about.
    samples: int
    n: int
    clusters: int
    value_a: float
    value_b: float
    #: a - b, its 95 % interval and two-sided p value, and the formulas they come from (leaderboard/stats.py).
    difference: float
    low: float
    high: float
    method: str
    p: float
    p_method: str
    #: Ids of the rows that only a, and only b, has right.
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def sentence(self) -> str:
        """The finding in plain words."""
        more = f"{abs(100 * self.difference):.1f} points {'more' if self.difference >= 0 else 'less'} often than {self.model_b}"
        limits = f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        seen = f"{self.n} questions on {self.clusters} images"
        chance = "" if self.p < 0.05 else " This may be chance."
        return f"On {self.task}, {self.model_a} is right {more} ({limits}, {p}; {seen}).{chance}"


def compare(run_a: Path, run_b: Path, judge: str, version: str, *, across_prompts: bool = False) -> Comparison:
    """The paired difference of two runs over the rows that `judge` at `version` has judged in both.

    Raises UserError when the runs asked different data, or different prompts unless `across_prompts` says that this is
    what is being compared, or when there is no row that the judge has judged in both.
    """
    a, b = RunFolder(run_a), RunFolder(run_b)
    card_a, card_b = a.card(), b.card()
    _same_question(run_a, card_a, run_b, card_b, across_prompts)
    final_a, final_b = (_finals(folder, judge, version) for folder in (a, b))
    cluster = {row["id"]: row["cluster"] for row in a.samples()}
    shared = [i for i in cluster if i in final_a and i in final_b]
    if not shared:
        raise UserError(f"{run_a} and {run_b}: no row that {judge}@{version} has judged in both")
    rows_a, rows_b = [final_a[i] for i in shared], [final_b[i] for i in shared]
    d = paired_difference(rows_a, rows_b, [cluster[i] for i in shared])
    return Comparison(
        run_a=str(run_a),
        run_b=str(run_b),
        model_a=card_a.model.name,
        model_b=card_b.model.name,
        task=card_a.data.task,
        split=card_a.data.split,
        judge=judge,
        judge_version=version,
        data_fingerprint=card_a.data.fingerprint,
        samples=len(cluster),
        n=d.n,
        clusters=d.clusters,
        value_a=sum(rows_a) / d.n,
        value_b=sum(rows_b) / d.n,
        difference=d.value,
        low=d.low,
        high=d.high,
        method=d.method,
        p=d.p,
        p_method=d.p_method,
        only_a=tuple(i for i in shared if final_a[i] > final_b[i]),
        only_b=tuple(i for i in shared if final_a[i] < final_b[i]),
    )


def _same_question(run_a: Path, a: RunCard, run_b: Path, b: RunCard, across_prompts: bool) -> None:
    if a.data.fingerprint != b.data.fingerprint:
        raise UserError(
            f"cannot compare: {run_a} and {run_b} asked different data "
            f"({a.data.task} {a.data.split}, {a.data.rows} rows, {a.data.source} against "
            f"{b.data.task} {b.data.split}, {b.data.rows} rows, {b.data.source})",
            hint="run both with the same --tasks, --data and --limit",
        )
    if a.prompt_sha256 != b.prompt_sha256 and not across_prompts:
        raise UserError(f"cannot compare: prompt {a.prompt} against {b.prompt}", hint="run both with the same --prompt")


def _finals(folder: RunFolder, judge: str, version: str) -> dict[str, int]:
    """sample id -> 0 or 1, for the rows that were judged."""
    if not folder.verdict_path(judge, version).exists():
        known = [f"{name}@{v}" for name, v in folder.judges()]
        raise UserError(f"{folder.path}: no verdicts of {judge}@{version}", hint=did_you_mean(f"{judge}@{version}", known))
    return {i: v.final for i, v in folder.verdicts(judge, version).items() if v.final is not None}
