"""Visual gain: how much better a model answers with the pictures than with even grey ones, row by row.

Needs a run of the same model, prompt and settings with `--control blank-image`; the difference is paired and clustered. Where its
interval holds 0, nothing shows that the pictures were used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RunError, UserError
from harness.shown import cluster_of
from leaderboard.cell import Cell, configuration
from leaderboard.reading import NONE, Judged, Run
from leaderboard.stats import Difference, holm, paired_difference
from leaderboard.store import find, load, read_runs

#: The name among a cell's metrics.
GAIN = "visual gain"
CONTROL = "blank-image"


def with_gains(found: Sequence[Cell], runs: dict[str, Run], controls: Sequence[Run]) -> list[Cell]:
    """The cells, with the gain among their metrics where there is a control of their run."""
    if not controls:
        return list(found)
    out = []
    for c in found:
        gain = _of_cell(c, runs[c.run], controls)
        if gain is not None:
            limits = c.metric_limits | {GAIN: (gain.low, gain.high)}
            c = c.model_copy(update={"metrics": c.metrics | {GAIN: gain.value}, "metric_limits": limits})
        out.append(c)
    return out


def _of_cell(c: Cell, run: Run, controls: Sequence[Run]) -> Difference | None:
    judged = _judged(run, c)
    for other in controls:
        if judged is not None and is_control(other, run, CONTROL) and (blind := _judged(other, c)) is not None:
            return difference(run, judged, other, blind, c.slice)
    return None


def unseeing(c: Cell) -> bool:
    """Whether the interval of a cell's visual gain holds 0."""
    low, high = c.metric_limits.get(GAIN, (1.0, 1.0))
    return low <= 0 <= high


def is_control(other: Run, run: Run, control: str) -> bool:
    """Whether `other` is this control of `run`: the same model asked in the same way."""
    a, b = other.card, run.card
    return (
        a.data.control == control
        and a.data.control_of == b.data.fingerprint
        and (a.prompt_sha256, a.reader, a.reasoning_tags) == (b.prompt_sha256, b.reader, b.reasoning_tags)
        and configuration(a, a.generation.model_dump_json()) == configuration(b, b.generation.model_dump_json())
    )


@dataclass(frozen=True)
class Look:
    """A run against one of its controls, by one judge."""

    control: str
    judge: str
    #: The run's score and the control's, on the rows that both were judged on.
    score: float
    without: float
    gain: Difference
    clustered_by: str
    #: (slice, value, gain) of the task's slices.
    slices: tuple[tuple[str, str, Difference], ...]
    #: Over the controls that were asked for together.
    p_holm: float = 1.0

    def as_json(self) -> dict[str, Any]:
        own = {k: getattr(self, k) for k in ("control", "judge", "score", "without", "p_holm")}
        parts = [{"slice": name, "value": value, "gain": asdict(part)} for name, value, part in self.slices]
        return own | {"gain": asdict(self.gain), "slices": parts}


def _controls_of(run: Path) -> tuple[Run, dict[str, Run]]:
    """The run and its controls beside it, by name. Raises RunError where the run cannot be read."""
    root = run.absolute().parent.parent
    sound, damaged = load(find([root]))
    every, unreadable = read_runs(sound)
    own = next((r for r in every if r.folder.absolute() == run.absolute()), None)
    if own is None:
        why = next((d.reason for d in (*damaged, *unreadable) if Path(d.path).absolute() == run.absolute()), "not a run folder")
        raise RunError(f"{run}: {why}")
    names = {r.card.data.control for r in every if r.card.data.control}
    found = {name: next((r for r in every if is_control(r, own, name)), None) for name in sorted(names)}
    return own, {name: other for name, other in found.items() if other is not None}


def there(run: Path) -> set[str]:
    """The controls of a run that are there and finished."""
    return {name for name, other in _controls_of(run)[1].items() if other.card.finished}


def looks(run: Path, judge: str, names: Sequence[str]) -> list[Look]:
    """The run against each of these controls that this judge has seen, p values corrected over them. Raises UserError."""
    own, others = _controls_of(run)
    judged = [j for j in own.judged if judge in (j.judge, f"{j.judge}@{j.version}")]
    if len(judged) != 1:
        known = ", ".join(f"{j.judge}@{j.version}" for j in own.judged)
        raise UserError(f"{run}: {len(judged)} sets of verdicts of '{judge}'", hint=f"name one of {known}")
    out = []
    for name in names:
        other = others.get(name)
        blind = (
            next((j for j in other.judged if (j.judge, j.version) == (judged[0].judge, judged[0].version)), None)
            if other
            else None
        )
        if other is None or blind is None or (gain := difference(own, judged[0], other, blind)) is None:
            continue
        parts = [
            (slice_, value, part)
            for slice_, (values, _) in own.asked.slices.items()
            for value in values
            if (part := difference(own, judged[0], other, blind, (slice_, value))) is not None
        ]
        score = _share(own, judged[0], other, blind)
        out.append(
            Look(
                name, f"{judged[0].judge}@{judged[0].version}", score, score - gain.value, gain, cluster_of(own.card.data),
                tuple(parts),
            )
        )  # fmt: skip
    return [replace(one, p_holm=p) for one, p in zip(out, holm([one.gain.p for one in out]), strict=True)]


def _share(run: Run, judged: Judged, other: Run, blind: Judged) -> float:
    """The run's score on the rows that both were judged on."""
    place = other.asked.rows_of(run.asked)
    both = (judged.final != NONE) & (place != NONE) & (np.where(place == NONE, NONE, blind.final[place]) != NONE)
    return float(judged.final[both].mean())


def _judged(run: Run, c: Cell) -> Judged | None:
    return next((j for j in run.judged if (j.judge, j.version) == (c.judge, c.judge_version)), None)


def difference(run: Run, judged: Judged, other: Run, blind: Judged, slice_: tuple[str, str] | None = None) -> Difference | None:
    """The run's score less the control's, on the rows that both were judged on; None where there is none."""
    rows = np.arange(len(run.asked.ids))
    if slice_ is not None and slice_[0] in run.asked.slices:
        values, codes = run.asked.slices[slice_[0]]
        rows = np.flatnonzero(codes == (values.index(slice_[1]) if slice_[1] in values else NONE))
    place = other.asked.rows_of(run.asked)[rows]
    a, b = judged.final[rows], np.where(place == NONE, NONE, blind.final[place])
    both = (a != NONE) & (b != NONE)
    if not both.any():
        return None
    return paired_difference(a[both].tolist(), b[both].tolist(), run.asked.clusters[rows][both].tolist())
