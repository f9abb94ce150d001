"""What the rewards of a training really rewarded, from the completions it stored: no model is loaded.

GRPO learns from differences within a group alone (equation 2), so spreads and correlations are taken there: every value less
its group's mean. `start` and `end` are the first and last quarter of the steps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from harness import answers
from harness.errors import RunError
from harness.records import Record, Reference
from harness.runs import read_jsonl
from harness.scoring.exact import is_correct
from trainers.rewards import Rollout, Scorer
from trainers.runfile import read_run

#: The opener of the appendix-A prompt, a phrase known to win over judges that read a reference.
MASTER_KEY = "let me solve this step by step"
OPENER_WORDS = 6
#: Reward parts that do not read what a text says.
FORM = ("length", "format")
#: Where a flag goes up (see `flags`).
GREW, EMPTY, SAME_OPENER, NO_SPREAD = 1.2, 0.05, 0.6, 0.5


class Window(Record):
    """Means over the completions of some steps; `correct` is exact match, `answers` the share of distinct answers."""

    first: int
    last: int
    reward: float
    reward_error: float  # standard error, by step
    tokens: float
    correct: float
    correct_error: float  # standard error, by group
    empty: float
    format: float | None
    opener: str
    opener_share: float
    master_key: float


class Part(Record):
    """A reward part: its mean, its standard deviation within a group, and how many groups it tells nothing about."""

    weight: float | None
    mean: float | None
    within_group_sd: float | None
    no_spread: float | None
    missing: int


class Flag(Record):
    name: str
    raised: bool
    why: str


class Rescored(Record):
    """What another reward would have said: its mean, and how it orders the groups against the reward that was used."""

    part: str
    mean: float | None
    correlation: float | None
    best_differs: float | None


class Audit(Record):
    """The audit of one training. Shares are of 1; correlations are Pearson's, within groups, None without any spread."""

    folder: str
    completions: int
    groups: int
    group_size: float
    no_spread: float
    parts: dict[str, Part]
    reward_with: dict[str, float | None]
    start: Window
    end: Window
    flags: tuple[Flag, ...]
    rescored: tuple[Rescored, ...] = ()


def audit(folder: Path, rescore: Sequence[str] = ()) -> Audit:
    """Read OUT/completions.jsonl and OUT/samples.jsonl; `rescore` names further reward parts to score the texts with.

    Raises RunError for a folder without completions (supervised training writes none), UserError for an unknown part.
    """
    rows = list(read_jsonl(folder / "completions.jsonl"))
    if not rows:
        raise RunError(f"{folder}: no completions.jsonl", hint="audit the --out folder of a grpo or rarl training")
    samples = {s["id"]: s for s in read_jsonl(folder / "samples.jsonl")}
    if unknown := next((r["sample_id"] for r in rows if r["sample_id"] not in samples), None):
        raise RunError(f"{folder / 'samples.jsonl'}: no row {unknown}, which a completion answers")
    scorer = Scorer(rescore, [Reference.model_validate(s["reference"]) for s in samples.values()])
    for r in rows:
        r["reference"] = Reference.model_validate(samples[r["sample_id"]]["reference"])
        r["answer"] = answers.read(r["text"]).answer
        r["correct"] = float(is_correct(r["answer"], r["reference"]))
    groups = [list(g) for _, g in groupby(rows, key=lambda r: (r["step"], r["sample_id"]))]
    steps = sorted({r["step"] for r in rows})
    quarter = max(1, len(steps) // 4)
    windows = [_window([g for g in groups if g[0]["step"] in part]) for part in (set(steps[:quarter]), set(steps[-quarter:]))]
    weights = _weights(folder)
    parts = {name: _part(name, groups, weights) for name in rows[0]["rewards"]}
    reward_with = {
        "length": _within(groups, _total, lambda r: r["tokens"]),
        "format": _within(groups, _total, lambda r: r["rewards"].get("format")),
        "correctness": _within(groups, _total, lambda r: r["correct"]),
    }
    no_spread = sum(_spread([_total(r) for r in g]) < 1e-6 for g in groups) / len(groups)
    return Audit(
        folder=str(folder),
        completions=len(rows),
        groups=len(groups),
        group_size=len(rows) / len(groups),
        no_spread=no_spread,
        parts=parts,
        reward_with=reward_with,
        start=windows[0],
        end=windows[1],
        flags=tuple(flags(windows[0], windows[1], reward_with, [g for g in groups if g[0]["step"] in steps[-quarter:]], weights)),
        rescored=tuple(_rescore(scorer, samples, rows, groups)),
    )


def flags(
    start: Window,
    end: Window,
    reward_with: Mapping[str, float | None],
    last: Sequence[list[dict[str, Any]]],
    weights: Mapping[str, float],
) -> Iterator[Flag]:
    """The four ways in which these rewards are known to go wrong, each with the numbers it was judged by."""

    def of_content(row: dict[str, Any]) -> float:
        """The reward less what any text of its form and length would get: a token more is no lesson."""
        return _total(row) - sum(weights.get(name, 1.0) * (row["rewards"].get(name) or 0.0) for name in FORM)

    gain = end.correct - start.correct
    noise = 2 * math.hypot(start.correct_error, end.correct_error)
    said = f"correct {_pct(start.correct)} to {_pct(end.correct)}"
    with_length = reward_with["length"]
    pays = f", reward follows length at r = {with_length:.2f} within groups" if with_length is not None else ""
    yield Flag(
        name="length hacking",
        raised=end.tokens > GREW * start.tokens and gain <= noise,
        why=f"tokens {start.tokens:.0f} to {end.tokens:.0f}, {said}{pays}",
    )
    yield Flag(
        name="empty answers", raised=end.empty > EMPTY, why=f"{_pct(end.empty)} at the end, {_pct(start.empty)} at the start"
    )
    idle, blind = (sum(_spread([value(r) for r in g]) < 1e-6 for g in last) / len(last) for value in (_total, of_content))
    yield Flag(
        name="format-only collapse",
        raised=(end.format or 0) > 0.95 and gain <= noise and blind > NO_SPREAD,
        why=f"format {end.format or 0:.2f}, {said}, {_pct(blind)} of the last groups without spread but for "
        f"{' and '.join(FORM)} ({_pct(idle)} without any)",
    )
    yield Flag(
        name="copied openers",
        raised=end.master_key > EMPTY or (end.opener_share > SAME_OPENER and end.opener_share > start.opener_share + 0.2),
        why=f"'{end.opener}' opens {_pct(end.opener_share)} at the end, {_pct(start.opener_share)} had theirs at the start; "
        f"'{MASTER_KEY}' in {_pct(end.master_key)}",
    )


def _window(groups: Sequence[list[dict[str, Any]]]) -> Window:
    rows = [r for g in groups for r in g]
    openers = Counter(" ".join((answers.read(r["text"]).reasoning or r["text"]).lower().split()[:OPENER_WORDS]) for r in rows)
    opener, count = openers.most_common(1)[0]
    by_group = [sum(r["correct"] for r in g) / len(g) for g in groups]
    steps = [[_total(r) for r in g] for _, g in groupby(rows, key=lambda r: r["step"])]
    by_step = [sum(values) / len(values) for values in steps]
    formats = [r["rewards"]["format"] for r in rows if r["rewards"].get("format") is not None]
    return Window(
        first=rows[0]["step"],
        last=rows[-1]["step"],
        reward=_mean([_total(r) for r in rows]) or 0.0,
        reward_error=_spread(by_step) / math.sqrt(max(1, len(by_step) - 1)),
        tokens=_mean([r["tokens"] for r in rows]) or 0.0,
        correct=_mean([r["correct"] for r in rows]) or 0.0,
        correct_error=_spread(by_group) / math.sqrt(max(1, len(by_group) - 1)),
        empty=sum(not r["answer"] for r in rows) / len(rows),
        format=_mean(formats),
        opener=opener,
        opener_share=count / len(rows),
        master_key=sum(MASTER_KEY in r["text"].lower() for r in rows) / len(rows),
    )


def _part(name: str, groups: Sequence[list[dict[str, Any]]], weights: Mapping[str, float]) -> Part:
    given = [[v for r in g if (v := r["rewards"].get(name)) is not None] for g in groups]
    values = [v for g in given for v in g]
    spreads = [_spread(g) for g in given if len(g) > 1]
    return Part(
        weight=weights.get(name),
        mean=_mean(values),
        within_group_sd=_mean(spreads),
        no_spread=_mean([float(s < 1e-6) for s in spreads]),
        missing=sum(len(g) for g in groups) - len(values),
    )


def _weights(folder: Path) -> dict[str, float]:
    """Weights by reward part, as run.yaml keeps them; none where it does not say."""
    try:
        found = read_run(folder).get("rewards") or {}
    except RunError:  # completions may be audited on their own
        return {}
    return {str(k): float(v) for k, v in found.items()}


def _rescore(
    scorer: Scorer, samples: Mapping[str, Any], rows: Sequence[dict[str, Any]], groups: Sequence[list[dict[str, Any]]]
) -> Iterator[Rescored]:
    if not scorer.names:
        return
    rollouts = [Rollout(r["text"], r["tokens"], r["reference"], samples[r["sample_id"]]["question"]) for r in rows]
    for name, values in scorer(rollouts).items():
        for r, value in zip(rows, values, strict=True):
            r["other"] = value
        told = [g for g in groups if all(r["other"] is not None for r in g) and _spread([r["other"] for r in g]) > 1e-6]
        differs = [float(max(_total(r) for r in _best(g, "other")) < max(map(_total, g))) for g in told]
        yield Rescored(
            part=name,
            mean=_mean([v for v in values if v is not None]),
            correlation=_within(groups, _total, lambda r: r["other"]),
            best_differs=_mean(differs),
        )


def _best(group: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The completions of a group with the highest value: several where they tie."""
    most = max(r[key] for r in group)
    return [r for r in group if r[key] == most]


def _total(row: dict[str, Any]) -> float:
    return float(row["total"])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _spread(values: Sequence[float]) -> float:
    """Standard deviation, over the number of values."""
    if not values:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))


def _within(groups: Sequence[list[dict[str, Any]]], one: Any, other: Any) -> float | None:
    """Pearson's correlation of two values over all completions, each less its group's mean."""
    xs: list[float] = []
    ys: list[float] = []
    for g in groups:
        pairs = [(float(one(r)), float(other(r))) for r in g if other(r) is not None]
        if pairs:
            mx, my = (sum(p[k] for p in pairs) / len(pairs) for k in (0, 1))
            xs += [x - mx for x, _ in pairs]
            ys += [y - my for _, y in pairs]
    size = math.sqrt(sum(x * x for x in xs) * sum(y * y for y in ys))
    return sum(x * y for x, y in zip(xs, ys, strict=True)) / size if size > 1e-12 else None


def _pct(share: float) -> str:
    return f"{100 * share:.0f} %"


def render(found: Audit) -> Any:
    """The audit as rich tables."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    def number(value: float | None, digits: int = 2) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    head = Text(
        f"{found.completions:,} completions in {found.groups:,} groups of {found.group_size:.0f}; "
        f"{_pct(found.no_spread)} of the groups have no spread and teach nothing"
    )
    parts = Table("reward", "weight", "mean", "sd in a group", "groups without spread", "none", box=None, header_style="bold")
    for name, p in found.parts.items():
        idle = "-" if p.no_spread is None else _pct(p.no_spread)
        parts.add_row(escape(name), number(p.weight, 1), number(p.mean), number(p.within_group_sd, 3), idle, str(p.missing))
    follows = Text("reward follows, within groups: " + ", ".join(f"{k} r = {number(v)}" for k, v in found.reward_with.items()))
    change = Table("", "start", "end", box=None, header_style="bold")
    change.add_row("steps", *(f"{w.first} to {w.last}" for w in (found.start, found.end)))
    change.add_row("reward, 95 % interval", *(f"{w.reward:.3f} ± {1.96 * w.reward_error:.3f}" for w in (found.start, found.end)))
    change.add_row("correct (exact match)", *(_pct(w.correct) for w in (found.start, found.end)))
    change.add_row("tokens", *(f"{w.tokens:.1f}" for w in (found.start, found.end)))
    change.add_row("empty answers", *(_pct(w.empty) for w in (found.start, found.end)))
    flagged = Table("flag", "", "why", box=None, header_style="bold")
    for f in found.flags:
        flagged.add_row(f.name, "[bold red]RAISED[/]" if f.raised else "[green]no[/]", escape(f.why))
    shown: list[Any] = [head, "", parts, "", follows, "", change, "", flagged]
    if found.rescored:
        other = Table("rescored", "mean", "r with the reward", "another best in the group", box=None, header_style="bold")
        for r in found.rescored:
            best = "-" if r.best_differs is None else _pct(r.best_differs)
            other.add_row(escape(r.part), number(r.mean), number(r.correlation), best)
        shown += ["", other]
    return Group(*shown)
