"""What people would have said of all rows, from their word on some of them and a judge's word on every one.

Prediction-powered inference (Angelopoulos et al. 2023, PPI; 2023, PPI++) with clusters and design weights. Of N rows a judge
(or any predictor) says f; people say y of n of these, drawn at random:

    theta(k) = k mean_N(f) + mean_n(y - k f)

It is unbiased whatever the judge does: what the judge gets wrong is measured on the n rows and taken off. k is chosen so that the
variance is least: 1 for a judge who knows, near 0 for one who says nothing, and then people stand alone. Questions about one
image are not independent, and the n rows are among the N; so each cluster's influence on theta is summed over its rows, judged
and labelled alike, and the variance is that of these sums (with G / (G - 1) for G clusters). The limits are Wilson's on as many
rows as would have that variance, with t's quantile (Dean & Pagano 2015): near 0 and 1 the plain t interval covers 93 %.

    found = calibrate(f, labels, weights, clusters)
    found.calibrated.value, found.calibrated.low, found.people.value, found.judge.value
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaderboard.stats import CLUSTER_T, MIN_MIXED, Floats, Interval, effective, mean_interval, t_quantile, wilson

#: With fewer random labels the interval does not hold: 84, 90, 94, 94 % of nominal 95 at 15, 30, 60, 148.
MIN_LABELS = 60
PPI = "prediction-powered"


class TooFewLabels(ValueError):
    """Fewer than MIN_LABELS labels: `have` are there."""

    def __init__(self, have: int) -> None:
        super().__init__(f"{have} rows with a human verdict are too few: the interval holds from {MIN_LABELS} on")
        self.have = have


@dataclass(frozen=True)
class Calibration:
    """The share that is right by three measures, each with its 95 % interval."""

    #: The judge's word on all rows, corrected by what people say.
    calibrated: Interval
    #: People alone, on the rows that they judged.
    people: Interval
    #: The judge alone, on all rows.
    judge: Interval
    #: How much the judge's word counts, from 0 to 1 (lambda of PPI++).
    trust: float
    #: Share of rows that the judge calls right, of those that people call right; and wrong of wrong. None where there are none.
    sensitivity: Interval | None
    specificity: Interval | None

    @property
    def labels(self) -> int:
        return self.people.n


def calibrate(
    judged: Mapping[str, int],
    labels: Mapping[str, int],
    weights: Mapping[str, float],
    clusters: Mapping[str, Hashable],
    level: float = 0.95,
) -> Calibration:
    """The share of the rows of `clusters` (row -> image) that people would call right.

    `judged` and `labels` are 0 or 1 by row; `weights` says for how many rows each label stands. A row without the judge's word
    gets the judge's mean, which leaves the estimate unbiased as long as it is chance which rows lack it. Raises TooFewLabels.
    """
    rows = list(clusters)
    seen = [i for i in rows if i in labels]
    if len(seen) < MIN_LABELS:
        raise TooFewLabels(len(seen))
    number: dict[Hashable, int] = {}
    group = np.array([number.setdefault(clusters[i], len(number)) for i in rows], dtype=np.intp)
    known = [judged[i] for i in rows if i in judged]
    mean = sum(known) / len(known) if known else 0.0
    f = np.array([judged.get(i, mean) for i in rows], dtype=np.float64)
    y = np.array([labels.get(i, 0) for i in rows], dtype=np.float64)
    w = np.array([weights[i] if i in labels else 0.0 for i in rows], dtype=np.float64)
    w /= w.sum()
    ours, theirs = float(w @ y), float(w @ f)
    # influences by cluster: of people's mean, and of what one unit of trust adds to it
    alone = _by_cluster(w * (y - ours), group)
    added = _by_cluster((f - f.mean()) / len(rows) - w * (f - theirs), group)
    scale = float(added @ added)
    trust = min(1.0, max(0.0, -float(alone @ added) / scale)) if scale > 1e-18 else 0.0
    labelled = _by_cluster((w > 0).astype(np.float64), group)
    count = effective(labelled[labelled > 0])
    # so few of one kind (counted in the heaviest labels) that how they vary is hardly known: the judge's help is not counted then
    few = min(float(w[y == said].sum()) for said in (0, 1)) < MIN_MIXED * float(w.max())

    def interval(k: float, method: str) -> Interval:
        influence = alone + k * added
        variance = len(number) / (len(number) - 1) * float(influence @ influence) if len(number) > 1 else 0.0
        value = min(1.0, max(0.0, ours + k * (float(f.mean()) - theirs)))
        if 0 < value < 1 and variance > 1e-18:
            worth = value * (1 - value) / variance
            worth = min(worth, kish(w[w > 0])) if few else worth
        else:
            worth = kish(_by_cluster(w, group))  # all said the same: as many as there are images
        low, high = wilson(value, worth, t_quantile(level, max(count, 1.5)))
        n = len(rows) if k else len(seen)
        return Interval(value, max(0.0, low), min(1.0, high), n, int((labelled > 0).sum()), method)

    uniform = len({round(weights[i], 9) for i in seen}) == 1
    about = [clusters[i] for i in seen]
    own = mean_interval([labels[i] for i in seen], about, level) if uniform else interval(0.0, CLUSTER_T)
    sensitivity, specificity = rates(judged, labels, clusters, level)
    return Calibration(
        calibrated=interval(trust, PPI) if trust > 0 else own,
        people=own,
        judge=mean_interval(known, [clusters[i] for i in rows if i in judged], level) if known else own,
        trust=trust,
        sensitivity=sensitivity,
        specificity=specificity,
    )


def kish(weights: Floats) -> float:
    """How many equal weights would vary a mean as much (Kish 1965); 0 for none."""
    return float(weights.sum() ** 2 / (weights @ weights)) if len(weights) else 0.0


def made_from(root: Path, files: Sequence[Path]) -> dict[str, int]:
    """Files under a folder of runs, and how long they are: they are only ever added to, so a change shows."""
    return {str(path.absolute().relative_to(root)): path.stat().st_size if path.exists() else -1 for path in files}


def is_current(root: Path, made: Mapping[str, int]) -> bool:
    """Whether these files are what they were."""
    return all((root / name).exists() and (root / name).stat().st_size == size for name, size in made.items())


def _by_cluster(values: Floats, group: NDArray[np.intp]) -> Floats:
    return np.bincount(group, weights=values).astype(np.float64)


def rates(
    judged: Mapping[str, int], labels: Mapping[str, int], clusters: Mapping[str, Hashable], level: float = 0.95
) -> tuple[Interval | None, Interval | None]:
    """A judge's sensitivity and specificity against people: its share of 1 where they say 1, and of 0 where they say 0."""
    found: list[Interval | None] = []
    for said in (1, 0):
        rows = [i for i in clusters if i in judged and labels.get(i) == said]
        found.append(mean_interval([int(judged[i] == said) for i in rows], [clusters[i] for i in rows], level) if rows else None)
    return found[0], found[1]


@dataclass(frozen=True)
class Plan:
    """Expected half widths of the 95 % interval, as shares, for so many labels."""

    labels: int
    people: float
    calibrated: float


def plan(
    labels: Sequence[int], rows: int, *, score: float, sensitivity: float, specificity: float, images: int | None = None,
    icc: float = 0.0,
) -> list[Plan]:  # fmt: skip
    """How wide the interval of people alone and the calibrated one would be with so many labels of `rows` rows.

    `score` is the share that people would call right; `icc` how alike rows of one image are. Raises ValueError for what cannot
    be.
    """
    if not all(0 <= x <= 1 for x in (score, sensitivity, specificity, icc)) or rows < 2 or not 1 <= (images or rows) <= rows:
        raise ValueError("shares go from 0 to 1, and there are 1 to --rows images")
    if any(not 2 <= n <= rows for n in labels):
        raise ValueError("there are 2 to --rows labels")
    says = score * sensitivity + (1 - score) * (1 - specificity)
    spread, judged = score * (1 - score), says * (1 - says)
    common = score * (sensitivity - says)
    explained = common**2 / judged if judged > 0 and common > 0 else 0.0
    groups = images or rows
    all_rows = (1 + (rows / groups - 1) * icc) / rows
    out = []
    for n in labels:
        some = (1 + (n - 1) / groups * icc) / n
        t = t_quantile(0.95, min(n, groups * (1 - (1 - 1 / groups) ** n)))
        widths = (t * math.sqrt(max(0.0, v)) for v in (spread * some, spread * some - explained * (some - min(some, all_rows))))
        out.append(Plan(n, *widths))
    return out
