"""How far judges agree on the same rows: raw agreement, Cohen's kappa, Gwet's AC1, the confusion, the rows that differ; and of
any number of raters, of whom not all judged every row, Krippendorff's alpha.

Questions about one image are not independent. Raw agreement is a share of rows and has the interval of one
(leaderboard/stats.py); those of kappa, AC1 and alpha are a jackknife over images (delete one image at a time, t with images - 1
degrees of freedom). The terminal, the pages and the plots all show what `agreement` gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.records import Record
from leaderboard.stats import totals_interval

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


def raw_agreement(m: Counts) -> Counts:
    return np.asarray(np.trace(m, axis1=-2, axis2=-1) / m.sum((-2, -1)))


def cohens_kappa(m: Counts) -> Counts:
    """Cohen 1960: agreement beyond what the two judges' own shares would give. NaN where both always say the same one."""
    p = m / m.sum((-2, -1), keepdims=True)
    chance = (p.sum(-1) * p.sum(-2)).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1, (raw_agreement(m) - chance) / (1 - chance), math.nan)


def gwets_ac1(m: Counts) -> Counts:
    """Gwet 2008: stable where nearly all rows fall in one category, as kappa is not."""
    share = (m.sum(-1) + m.sum(-2))[..., 1] / (2 * m.sum((-2, -1)))
    chance = 2 * share * (1 - share)
    return np.asarray((raw_agreement(m) - chance) / (1 - chance))


def agreement(a: Mapping[str, int | None], b: Mapping[str, int | None], cluster: Mapping[str, Hashable]) -> Agreement:
    """Agreement over the rows of `cluster` (sample id -> image). Raises ValueError when no row was judged by both."""
    both = [i for i in cluster if a.get(i) is not None and b.get(i) is not None]
    if not both:
        raise ValueError("no row that both have judged")
    tables: dict[Hashable, Counts] = {}
    for i in both:
        tables.setdefault(cluster[i], np.zeros((2, 2)))[a[i], b[i]] += 1
    parts = np.array(list(tables.values()))
    total = parts.sum(axis=0)
    one = sum((a.get(i) is None) != (b.get(i) is None) for i in cluster)
    (n00, n01), (n10, n11) = total.astype(int).tolist()
    return Agreement(
        n=len(both),
        clusters=len(parts),
        confusion=((n00, n01), (n10, n11)),
        share_a=(n10 + n11) / len(both),
        share_b=(n01 + n11) / len(both),
        raw=_raw(parts),
        kappa=_estimate(cohens_kappa, total, parts),
        ac1=_estimate(gwets_ac1, total, parts),
        only_one=one,
        differ=tuple(i for i in both if a[i] != b[i]),
    )


def krippendorffs_alpha(m: Counts) -> Counts:
    """Krippendorff 2004, nominal, from (..., 3): observed disagreement, and how many 0 and 1 were said of rows judged by several.

    NaN where all said the same.
    """
    disagreed, zeros, ones = m[..., 0], m[..., 1], m[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(zeros * ones > 0, 1 - disagreed * (zeros + ones - 1) / (2 * zeros * ones), math.nan)


def alpha(votes: Mapping[str, Sequence[int]], cluster: Mapping[str, Hashable]) -> Estimate:
    """Krippendorff's alpha of each row's votes; rows with fewer than two tell nothing."""
    parts: dict[Hashable, Counts] = {}
    for i in cluster:
        if len(said := votes.get(i, ())) >= 2:
            ones = sum(said)
            zeros = len(said) - ones
            parts.setdefault(cluster[i], np.zeros(3))[:] += (2 * ones * zeros / (len(said) - 1), zeros, ones)
    if not parts:
        return Estimate(value=None)
    counted = np.array(list(parts.values()))
    return _estimate(krippendorffs_alpha, counted.sum(axis=0), counted)


def _raw(parts: Counts) -> Estimate:
    """The share of rows with the same verdict, with the interval that every share of rows has here."""
    found = totals_interval(np.trace(parts, axis1=1, axis2=2), parts.sum((1, 2)))
    return Estimate(value=found.value, low=found.low, high=found.high)


def _estimate(f: Callable[[Counts], Counts], total: Counts, parts: Counts) -> Estimate:
    from scipy.special import stdtrit

    value = float(f(total))
    if math.isnan(value):
        return Estimate(value=None)
    count = len(parts)
    left_out = f(total - parts) if count > 1 else np.array([math.nan])
    if np.isnan(left_out).any():
        return Estimate(value=value)
    error = math.sqrt((count - 1) / count * float(((left_out - left_out.mean()) ** 2).sum()))
    if error == 0:
        return Estimate(value=value)
    half = float(stdtrit(count - 1, 0.975)) * error
    return Estimate(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))
