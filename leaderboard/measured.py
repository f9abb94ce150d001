"""The metrics of runs beside their judges: means from scores.json, clustered intervals from each row's own value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.runs import RunFolder
from harness.shown import with_interval
from leaderboard.cell import Cell
from leaderboard.reading import Run
from leaderboard.stats import average_interval


def with_metrics(
    found: Sequence[Cell], runs: Mapping[str, Run], names: Sequence[str], where_known: Sequence[str] = ()
) -> list[Cell]:
    """The cells with the metrics that their runs' scores.json has. Raises UserError for one of `names` that no run has."""
    scores = {run: _scores(Path(run)) for run in {c.run for c in found}}
    for name in names:
        if found and not any(name in own for own in scores.values()):
            known = sorted({metric for own in scores.values() for metric in own})
            raise UserError(f"no run was scored by metric '{name}'", hint=did_you_mean(name, known))
    names = list(dict.fromkeys([*names, *where_known]))
    values = {run: _values(runs[run], names) for run in scores}
    out = []
    for c in found:
        means = dict(_means(c, scores[c.run], names))
        limits = {n: limit for n in means if (limit := _limits(c, runs[c.run], values[c.run][n])) is not None}
        out.append(c.model_copy(update={"metrics": c.metrics | means, "metric_limits": c.metric_limits | limits}))
    return out


def _scores(run: Path) -> dict[str, Any]:
    """The metrics of a run's scores.json; none where it was not written yet or cannot be read."""
    try:
        found = json.loads((run / "scores.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _means(c: Cell, scores: dict[str, Any], names: Sequence[str]) -> Iterator[tuple[str, float]]:
    for name in names:
        entry: Any = scores
        for key in (name, *(("slices", *c.slice) if c.slice else ()), "value"):
            entry = entry.get(key) if isinstance(entry, dict) else None
        if isinstance(entry, int | float) and not isinstance(entry, bool) and math.isfinite(entry):
            yield name, float(entry)


def _values(run: Run, names: Sequence[str]) -> dict[str, dict[int, float]]:
    """{metric: {row: value}} of the rows that it applies to; runs of before there were such files have none."""
    out: dict[str, dict[int, float]] = {name: {} for name in names}
    for sample_id, row in RunFolder(run.folder).measured().items():
        for name in names:
            value = row.values.get(name)
            if value is not None and sample_id in run.asked.position:
                out[name][run.asked.position[sample_id]] = value
    return out


def _limits(c: Cell, run: Run, values: Mapping[int, float]) -> tuple[float, float] | None:
    """The 95 % interval over the cell's rows, clustered as its score is; None where no row has a value."""
    rows = sorted(values)
    if c.slice:
        known, codes = run.asked.slices[c.slice[0]]
        rows = [r for r in rows if codes[r] == known.index(c.slice[1])]
    if not rows:
        return None
    clusters: list[int] = np.asarray(run.asked.clusters)[rows].tolist()
    found = average_interval([values[r] for r in rows], clusters)
    return found.low, found.high


def measured(c: Cell, name: str) -> str:
    """A cell's metric as a table shows it, with its interval where there is one."""
    return with_interval(c.metrics.get(name), *c.metric_limits.get(name, (None, None)))
