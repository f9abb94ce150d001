"""Error bars for verdicts. Questions about one image are not independent, so everything here is clustered by image.

Where the data carry it, a share gets the cluster-robust t interval (statsmodels' `OLS(y, 1).fit(cov_type="cluster",
use_t=True)`, whose one-column formula is written out here: it runs for hundreds of cells). A few big images and many small ones
tell less than their number says, so its degrees of freedom are those of the effective number of clusters (`effective`), which
is their number when all are of a size. The interval breaks down where almost every row is right, or where there are a handful
of images; there the score interval of Wilson (1927) takes over, on an effective number of rows. `Interval.method` always says
which one it was.

    interval = mean_interval([1, 0, 1, 1], ["a", "a", "b", "c"])
    interval.value, interval.low, interval.high
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Below this many effective clusters the variance between them cannot be estimated.
MIN_CLUSTERS = 5
#: The t interval needs this many (Kish's effective) clusters that hold a right answer, and as many that hold a wrong one.
#: With 96 images x 11 questions and ICC 0.15 it covers 94 % at a share of 0.6, but 91 % at 0.98 and 79 % at 0.995 (nominal 95 %).
MIN_MIXED = 10

CLUSTER_T = "cluster t"
WILSON = "Wilson"
WILSON_ROWS = "Wilson on effective rows"
WILSON_CLUSTERS = "Wilson on effective clusters"
RATIO_T = "cluster t, linearised"
MACRO_T = "cluster t over tasks"
MACRO_MOVER = "tasks' intervals combined"
BONETT_PRICE = "Bonett-Price"
BONETT_PRICE_ROWS = "Bonett-Price on effective rows"
BONETT_PRICE_CLUSTERS = "Bonett-Price on effective clusters"


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence limits, all shares (0 to 1) or differences of shares (-1 to 1).

    `n` rows in `clusters` groups; `method` names the formula that gave the limits.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    method: str


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference a - b. `p` is two-sided, for no difference; `p_method` names its test."""

    p: float
    p_method: str


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95) -> Interval:
    """The share of rows that are right, with its confidence interval at `level`.

    `values` lie in [0, 1], one a row; `clusters` says which rows belong together. Raises ValueError when there are no
    rows, the lengths differ, or a value is not in [0, 1].
    """
    y = _checked(values, clusters)
    return totals_interval(*_totals(y, clusters), level=level)


def average_interval(values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95) -> Interval:
    """The mean of numbers that may leave [0, 1], such as points of a rubric; mean and limits are cut to [0, 1].

    Where all lie in [0, 1] it is `mean_interval`; else the cluster-robust t interval, as wide as [0, 1] for a single cluster.
    Raises ValueError when there are no rows, the lengths differ, or a value is no number.
    """
    y = np.asarray(values, dtype=np.float64)
    if len(y) and ((y >= 0) & (y <= 1)).all():
        return mean_interval(values, clusters, level)
    if not len(y) or len(y) != len(clusters) or not np.isfinite(y).all():
        raise ValueError("an interval needs rows, each with a number and a cluster")
    sums, sizes = _totals(y, clusters)
    count = effective(sizes)
    half = t_quantile(level, count) * math.sqrt(_variance(sums, sizes)) if count > 1 else 1.0
    mean = float(y.mean())
    value, low, high = (min(1.0, max(0.0, x)) for x in (mean, mean - half, mean + half))
    return Interval(value, low, high, len(y), len(sizes), CLUSTER_T)


def totals_interval(sums: Sequence[float] | Floats, sizes: Sequence[int] | Floats, level: float = 0.95) -> Interval:
    """`mean_interval` from each cluster's sum of values and number of rows: all that the formulas need."""
    s, m = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if not len(s) or m.min() < 1:
        raise ValueError("an interval needs at least one row in every cluster")
    if s.min() < 0 or (s > m).any():
        raise ValueError("values must lie in [0, 1]")
    n, count = m.sum(), effective(m)
    value = float(s.sum() / n)
    variance = _variance(s, m)
    if m.max() == 1 and np.isin(s, (0, 1)).all():
        limits, method = wilson(value, n, _z(level)), WILSON
    elif count < MIN_CLUSTERS or variance == 0:
        limits, method = wilson(value, _kish(m), _z(level)), WILSON_CLUSTERS
    elif _departing(s, m, (0, 1)) < MIN_MIXED:
        rows = min(max(value * (1 - value) / variance, _kish(m)), n)
        limits, method = wilson(value, rows, t_quantile(level, count)), WILSON_ROWS
    else:
        half = t_quantile(level, count) * math.sqrt(variance)
        limits, method = (value - half, value + half), CLUSTER_T
    low, high = _around(value, limits, 0.0, 1.0)
    return Interval(value, low, high, int(n), len(m), method)


def macro_interval(parts: Sequence[tuple[Sequence[Hashable], Floats, Floats]], level: float = 0.95) -> Interval:
    """The plain mean over tasks of the share that is right, with its interval.

    A part is a task: its images, and for each the sum of values and the number of rows. Images may occur in several tasks,
    as Silvar-Med's do in SLAKE: the variance is taken over images, not over tasks (each share linearised, Cochran 1977), with
    as many degrees of freedom as the task with the fewest effective images has. Where a task has too little for a t interval, the
    tasks' own intervals are combined (MOVER, Zou & Donner 2008); then tasks that share images are held to go wholly together,
    which is too wide rather than too narrow. Raises ValueError when there is no part.
    """
    if not parts:
        raise ValueError("an average needs at least one task")
    own = [totals_interval(sums, sizes, level) for _, sums, sizes in parts]
    value = math.fsum(i.value for i in own) / len(own)
    influence: dict[Hashable, float] = {}
    for (images, sums, sizes), interval in zip(parts, own, strict=True):
        residuals = (np.asarray(sums) - interval.value * np.asarray(sizes)) / (interval.n * len(own))
        for image, residual in zip(images, residuals.tolist(), strict=True):
            influence[image] = influence.get(image, 0.0) + residual
    n, count = sum(i.n for i in own), len(influence)
    if all(_bears_t(np.asarray(s, dtype=np.float64), np.asarray(m, dtype=np.float64), (0, 1)) for _, s, m in parts):
        variance = count / (count - 1) * math.fsum(r * r for r in influence.values())
        half = t_quantile(level, min(effective(np.asarray(m, dtype=np.float64)) for _, _, m in parts)) * math.sqrt(variance)
        limits, method = (value - half, value + half), MACRO_T
    else:
        below, above = [i.value - i.low for i in own], [i.high - i.value for i in own]
        shared = count < sum(i.clusters for i in own)
        down, up = (math.fsum(side) if shared else math.hypot(*side) for side in (below, above))
        limits, method = (value - down / len(own), value + up / len(own)), MACRO_MOVER
    low, high = _around(value, limits, 0.0, 1.0)
    return Interval(value, low, high, n, count, method)


def paired_difference(a: Sequence[int], b: Sequence[int], clusters: Sequence[Hashable], level: float = 0.95) -> Difference:
    """How much more often `a` is right than `b` on the same rows, clustered, with its interval and p value.

    `a` and `b` are 0 or 1, row by row. Mostly the cluster t interval and t test of the row-wise differences. Where each
    row is its own cluster, or too few clusters differ: the interval of Bonett & Price (2012), which adds one
    row to each kind of disagreement, and the exact test that flips the sign of whole clusters (McNemar's exact test where
    each row is its own cluster). Raises ValueError as `mean_interval` does.
    """
    x, y = _checked(a, clusters), _checked(b, clusters)
    if not np.isin(np.concatenate([x, y]), (0, 1)).all():
        raise ValueError("paired verdicts must be 0 or 1")
    d, m = _totals(x - y, clusters)
    n, count, value = m.sum(), effective(m), float(np.mean(x - y))
    variance = _variance(d, m)
    differ = float(np.mean(x != y))
    single = m.max() == 1
    if not single and _bears_t(d, m, (-1, 0, 1)):
        error, t = math.sqrt(variance), t_quantile(level, count)
        low, high = _around(value, (value - t * error, value + t * error), -1.0, 1.0)
        return Difference(value, low, high, int(n), len(m), CLUSTER_T, _t_test(value / error, count), "cluster t test")
    if single:
        rows, factor, method = n, _z(level), BONETT_PRICE
    elif count < MIN_CLUSTERS or variance == 0:
        rows, factor, method = _kish(m), _z(level), BONETT_PRICE_CLUSTERS
    else:
        rows, factor, method = min(max((differ - value**2) / variance, _kish(m)), n), t_quantile(level, count), BONETT_PRICE_ROWS
    low, high = _around(value, _bonett_price(value, differ, rows, factor), -1.0, 1.0)
    test = "exact McNemar" if single else "exact cluster sign flip"
    return Difference(value, low, high, int(n), len(m), method, _sign_flip(d), test)


def paired_variance(a: Sequence[int], b: Sequence[int], clusters: Sequence[Hashable]) -> float:
    """The clustered variance of the mean of a - b, the square of the standard error in `paired_difference`'s t test."""
    return _variance(*_totals(_checked(a, clusters) - _checked(b, clusters), clusters))


@dataclass(frozen=True)
class Scoring:
    """One scoring of rows: each row's points, and whether the row is counted (1 or 0). Points are 0 where it is not."""

    points: Floats
    counted: Floats

    @property
    def value(self) -> float:
        return float(self.points.sum() / self.counted.sum())


def scoring_interval(scored: Scoring, clusters: Sequence[Hashable], level: float = 0.95) -> Interval | None:
    """`mean_interval` of the rows that are counted; None where points can pass 1, so that the score is no share."""
    rows = np.flatnonzero(scored.counted).tolist()
    if not rows or scored.points.max() > 1:
        return None
    return mean_interval(scored.points[rows].tolist(), [clusters[i] for i in rows], level)


def scoring_difference(a: Scoring, b: Scoring, clusters: Sequence[Hashable], level: float = 0.95) -> Difference | None:
    """How much more `a` scores than `b` on the same rows, clustered.

    `paired_difference` where both count the same rows, each as 0 or 1. Otherwise each score is a ratio, linearised (Cochran
    1977), with a cluster t interval; None where fewer than MIN_CLUSTERS effective clusters, or MIN_MIXED that differ, would
    bear it.
    """
    rows = np.flatnonzero((a.counted > 0) | (b.counted > 0)).tolist()
    own = [clusters[i] for i in rows]
    points = np.concatenate([a.points[rows], b.points[rows]])
    if np.array_equal(a.counted, b.counted) and np.isin(points, (0, 1)).all():
        return paired_difference(a.points[rows].tolist(), b.points[rows].tolist(), own, level)
    influence = sum(sign * (s.points - s.value * s.counted)[rows] / s.counted.sum() for sign, s in ((1, a), (-1, b)))
    sums, sizes = _totals(np.asarray(influence), own)
    count, groups = effective(sizes), len(sums)
    if count < MIN_CLUSTERS or _kish(sizes[np.abs(sums) > 1e-12]) < MIN_MIXED:
        return None
    error, value = math.sqrt(groups / (groups - 1) * float(sums @ sums)), a.value - b.value
    half = t_quantile(level, count) * error
    return Difference(
        value, value - half, value + half, len(rows), groups, RATIO_T, _t_test(value / error, count), "cluster t test"
    )


def standard_error(sums: Floats, sizes: Floats) -> float:
    """The cluster-robust standard error of the share, from each cluster's sum and number of rows; 0 where it cannot be told."""
    return math.sqrt(_variance(sums, sizes))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for being several (Holm 1979), in their order: each at most 1, the family-wise error kept."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]), 1.0)
    return [float(x) for x in adjusted]


def _checked(values: Sequence[float], clusters: Sequence[Hashable]) -> Floats:
    y = np.asarray(values, dtype=np.float64)
    if not len(y):
        raise ValueError("an interval needs at least one row")
    if len(y) != len(clusters):
        raise ValueError(f"{len(y)} values but {len(clusters)} cluster labels")
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError("values must lie in [0, 1]")
    return y


def _totals(y: Floats, clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Each cluster's sum of values and its number of rows."""
    number: dict[Hashable, int] = {}
    index = np.fromiter((number.setdefault(c, len(number)) for c in clusters), dtype=np.intp, count=len(y))
    return np.bincount(index, weights=y).astype(np.float64), np.bincount(index).astype(np.float64)


def _variance(sums: Floats, sizes: Floats) -> float:
    """The cluster-robust variance of the mean: the OLS sandwich with one column and G/(G-1) for small samples.

    0 where it cannot be estimated: a single cluster, or clusters that all have the same mean.
    """
    count, n = len(sums), sizes.sum()
    if count < 2:
        return 0.0
    residuals = sums - sizes * (sums.sum() / n)
    variance = float(count / (count - 1) * (residuals @ residuals) / n**2)
    return variance if variance > 1e-18 else 0.0  # what rounding leaves of zero


def _bears_t(sums: Floats, sizes: Floats, constants: Sequence[int]) -> bool:
    """Whether there is enough in it for a t interval over clusters."""
    return effective(sizes) >= MIN_CLUSTERS and _variance(sums, sizes) > 0 and _departing(sums, sizes, constants) >= MIN_MIXED


def _departing(sums: Floats, sizes: Floats, constants: Sequence[int]) -> float:
    """How many (effective) clusters hold a row that differs from the constant which the rows come closest to."""
    return min(_kish(sizes[sums != c * sizes]) for c in constants)


def _kish(sizes: Floats) -> float:
    """The effective number of clusters (Kish 1965): their number when all are of a size, fewer when a few hold most rows."""
    return float(sizes.sum() ** 2 / (sizes @ sizes)) if len(sizes) else 0.0


def effective(sizes: Floats) -> float:
    """How many clusters of one size would tell the variance of the mean as well (G* of Carter, Schnepel & Steigerwald 2017).

    For a mean this is Kish's formula over what each cluster adds to the variance: m + m (m - 1) icc for m rows that are
    correlated by `icc`. It is 0.15 here, about that of questions on one image; in twentieths, so that no rounding enters.
    """
    return _kish(sizes * (17 + 3 * sizes))


@functools.cache
def _z(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))


@functools.lru_cache(maxsize=1024)
def t_quantile(level: float, clusters: float) -> float:
    """Student's t with clusters - 1 degrees of freedom: how many standard errors a limit is away."""
    from scipy.special import stdtrit

    return float(stdtrit(clusters - 1, 0.5 + level / 2))


def _t_test(t: float, clusters: float) -> float:
    from scipy.special import stdtr

    return float(min(1.0, 2 * stdtr(clusters - 1, -abs(t))))


def wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share `p` of `n` rows; with a t quantile for `z` that of Dean & Pagano (2015) for clusters."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def _bonett_price(difference: float, differ: float, n: float, z: float) -> tuple[float, float]:
    """The adjusted Wald interval of Bonett & Price (2012): one row added to each of the two kinds of disagreement."""
    only_a, only_b = ((differ + sign * difference) / 2 * n + 1 for sign in (1, -1))
    a, b = only_a / (n + 2), only_b / (n + 2)
    half = z * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return a - b - half, a - b + half


def _around(value: float, limits: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """The limits, kept within what is possible and around the estimate itself."""
    return float(max(least, min(limits[0], value))), float(min(most, max(limits[1], value)))


def _sign_flip(sums: Floats) -> float:
    """The exact two-sided p value of a total when each cluster's sum was as likely to have the other sign.

    Counts all 2^G flips at once: the distribution of the total is a convolution. With single rows this is McNemar's exact test.
    """
    steps = [int(abs(s)) for s in sums if s]
    chance: NDArray[Any] = np.ones(1)
    for k in steps:  # chance[i]: total = 2 i - (what was added so far)
        chance = 0.5 * (np.pad(chance, (0, k)) + np.pad(chance, (k, 0)))
    total = np.abs(2 * np.arange(len(chance)) - sum(steps))
    return float(min(1.0, chance[total >= abs(sums.sum())].sum()))
