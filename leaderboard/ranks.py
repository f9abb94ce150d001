"""A rank is a range: which places a model may hold, given which differences between models are real.

Every pair of models is compared on the rows that both have a verdict on, paired and clustered by image, as
leaderboard.stats.paired_difference does it; for all pairs at once, because a table of 100 models has 4,950.
"""

from __future__ import annotations

import numpy as np

from leaderboard.reading import NONE, Int8, Int32
from leaderboard.stats import MIN_CLUSTERS, MIN_MIXED, Floats, holm, paired_difference

ALPHA = 0.05


def rank_ranges(final: Int8, clusters: Int32) -> list[tuple[int, int]]:
    """For each model the best and the worst place it may hold (1 is first).

    `final` is models x rows, verdicts 1, 0 or NONE; `clusters` numbers each row's image. A model stands below those that are
    better than it at 5 % after Holm's correction over all pairs, and above those that are worse.
    """
    models = len(final)
    differences, p = pairwise(final, clusters)
    i, j = np.triu_indices(models, 1)
    real = np.zeros((models, models), dtype=np.bool_)
    real[i, j] = real[j, i] = np.array(holm(p[i, j].tolist())) < ALPHA
    better = (real & (differences < 0)).sum(axis=1)
    worse = (real & (differences > 0)).sum(axis=1)
    return [(int(1 + b), int(models - w)) for b, w in zip(better, worse, strict=True)]


def pairwise(final: Int8, clusters: Int32) -> tuple[Floats, Floats]:
    """Row's share minus column's over the rows that both have (0 where there is none), and its two-sided p value."""
    from scipy.special import bdtr, stdtr

    s = _sums(final, clusters)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = s["d"] / s["n"]
        squares = s["dd"] - 2 * mean * s["dn"] + mean**2 * s["nn"]
        variance = s["groups"] / (s["groups"] - 1) * squares / s["n"] ** 2
        clusters_told = (17 * s["n"] + 3 * s["nn"]) ** 2 / (289 * s["nn"] + 102 * s["n3"] + 9 * s["n4"])  # stats.effective
        p = 2 * stdtr(clusters_told - 1, -np.abs(mean) / np.sqrt(variance))
    sound = (clusters_told >= MIN_CLUSTERS) & (variance > 1e-18) & (s["departing"] >= MIN_MIXED)
    single = s["largest"] <= 1
    p[single] = 2 * bdtr((s["dd"] - np.abs(s["d"]))[single] // 2, s["dd"][single].astype(np.int64), 0.5)  # McNemar's exact test
    for i, j in np.argwhere(np.triu(~sound & ~single, 1)):
        both = np.flatnonzero((final[i] != NONE) & (final[j] != NONE))
        p[i, j] = p[j, i] = (
            paired_difference(final[i, both], final[j, both], clusters[both].tolist()).p if len(both) else 1.0  # type: ignore[arg-type]
        )
    return np.nan_to_num(mean), np.minimum(p, 1.0)


def _sums(final: Int8, clusters: Int32) -> dict[str, Floats]:
    """Sums over images, each models x models: d and n are an image's difference and its number of rows."""
    models = len(final)
    departures = {"less": -1, "same": 0, "more": 1}
    names = ("d", "n", "dd", "dn", "nn", "n3", "n4", "groups", "largest", *departures)
    sums: dict[str, Floats] = {name: np.zeros((models, models)) for name in names}
    squared: dict[str, Floats] = {name: np.zeros((models, models)) for name in departures}
    order = np.argsort(clusters, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1):
        right, judged = (final[:, rows] == 1).astype(np.float64), (final[:, rows] != NONE).astype(np.float64)
        both = right @ judged.T
        d, n = both - both.T, judged @ judged.T
        sums["d"] += d
        sums["n"] += n
        sums["dd"] += d * d
        sums["dn"] += d * n
        nn = n * n
        sums["nn"] += nn
        sums["n3"] += nn * n
        sums["n4"] += nn * nn
        sums["groups"] += n > 0
        np.maximum(sums["largest"], n, out=sums["largest"])
        for name, constant in departures.items():
            departing = n * (d != constant * n)
            sums[name] += departing
            squared[name] += departing * departing
    sums["departing"] = np.minimum.reduce([sums[name] ** 2 / np.maximum(squared[name], 1) for name in departures])
    return sums
