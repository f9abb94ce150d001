"""How far two judges agree on the same rows: raw agreement, Cohen's kappa, Gwet's AC1, the confusion, the rows that differ.

Questions about one image are not independent, so every interval is a jackknife over images (delete one image at a time,
t with images - 1 degrees of freedom).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.records import Record

Counts = NDArray[np.float64]


class Estimate(Record):
    """A value and its 95 % limits, which are None where they cannot be had (one image, or no variation)."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Agreement(Record):
    """Two judges, a and b, over the rows that both judged. `confusion[i][j]` counts rows where a said i and b said j."""

    n: int
    clusters: int
    confusion: tuple[tuple[int, int], tuple[int, int]]
    share_a: float
    share_b: float
    raw: Estimate
    kappa: Estimate
    ac1: Estimate
    #: Rows that one of them did not judge.
    only_one: int
    differ: tuple[str, ...]


def raw_agreement(m: Counts) -> float:
    return float(np.trace(m) / m.sum())


def cohens_kappa(m: Counts) -> float:
    """Cohen 1960: agreement beyond what the two judges' own shares would give. NaN where both always say the same one."""
    p = m / m.sum()
    chance = float(p.sum(1) @ p.sum(0))
    return (raw_agreement(m) - chance) / (1 - chance) if chance < 1 else math.nan


def gwets_ac1(m: Counts) -> float:
    """Gwet 2008: stable where nearly all rows fall in one category, as kappa is not."""
    share = float((m.sum(1) + m.sum(0))[1] / (2 * m.sum()))
    chance = 2 * share * (1 - share)
    return (raw_agreement(m) - chance) / (1 - chance)


def agreement(a: Mapping[str, int | None], b: Mapping[str, int | None], cluster: Mapping[str, str]) -> Agreement:
    """Agreement over the rows of `cluster` (sample id -> image). Raises ValueError when no row was judged by both."""
    both = [i for i in cluster if a.get(i) is not None and b.get(i) is not None]
    if not both:
        raise ValueError("no row that both have judged")
    tables: dict[str, Counts] = {}
    for i in both:
        tables.setdefault(cluster[i], np.zeros((2, 2)))[a[i], b[i]] += 1
    parts = list(tables.values())
    total = np.sum(parts, axis=0)
    one = sum((a.get(i) is None) != (b.get(i) is None) for i in cluster)
    (n00, n01), (n10, n11) = total.astype(int).tolist()
    return Agreement(
        n=len(both),
        clusters=len(parts),
        confusion=((n00, n01), (n10, n11)),
        share_a=(n10 + n11) / len(both),
        share_b=(n01 + n11) / len(both),
        raw=_estimate(raw_agreement, total, parts),
        kappa=_estimate(cohens_kappa, total, parts),
        ac1=_estimate(gwets_ac1, total, parts),
        only_one=one,
        differ=tuple(i for i in both if a[i] != b[i]),
    )


def _estimate(f: Callable[[Counts], float], total: Counts, parts: Sequence[Counts]) -> Estimate:
    from scipy.special import stdtrit

    value = f(total)
    if math.isnan(value):
        return Estimate(value=None)
    count = len(parts)
    left_out = np.array([f(total - part) for part in parts]) if count > 1 else np.array([math.nan])
    if np.isnan(left_out).any():
        return Estimate(value=value)
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    if error == 0:
        return Estimate(value=value)
    half = float(stdtrit(count - 1, 0.975)) * error
    return Estimate(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))
