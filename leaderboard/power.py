"""How large a difference can be seen, and how many rows it takes, before anything is run.

Two models answer the same n questions, and a share `discordance` of these is right in one and wrong in the other. Without a
difference the difference of the two scores has standard error sqrt(discordance * effect / n), and the paired test finds a
true one of size d with probability `power` when

    d = (z_{1 - alpha/2} + z_{power}) sqrt(discordance * effect / n)          (Miettinen 1968; Connor 1987 without its - d^2)

`effect` is the design effect of questions that share an image, 1 + (questions an image - 1) x icc (Kish 1965), where icc is
the correlation of the two models' differences within an image.

    detectable(148, discordance=0.2)      0.103: 10.3 points, on a test set of the paper's size
    rows_needed(0.05, discordance=0.2)    628
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from leaderboard.stats import paired_variance


@dataclass(frozen=True)
class Pair:
    """What two runs tell about their task: rows, images, share of discordant rows, design effect of the difference."""

    n: int
    clusters: int
    discordance: float
    effect: float
    clustered_by: str = "image"


def detectable(
    n: int, discordance: float, *, effect: float = 1.0, clusters: int | None = None, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference of two scores (0 to 1) that n rows find with probability `power`.

    Where it is above `discordance` these rows find none, as no difference is larger. With a number of `clusters` the
    quantiles are those of t. Raises ValueError for arguments that cannot be.
    """
    _check(n, discordance, effect, clusters, alpha, power)
    return _quantiles(alpha, power, clusters) * math.sqrt(discordance * effect / n)


def rows_needed(difference: float, discordance: float, *, effect: float = 1.0, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many rows find a true difference with probability `power`. Raises ValueError as `detectable` does."""
    _check(1, discordance, effect, None, alpha, power)
    if not 0 < difference <= discordance:
        raise ValueError("a difference is above 0 and at most the share of rows on which the two disagree")
    return math.ceil(_quantiles(alpha, power, None) ** 2 * discordance * effect / difference**2)


def design_effect(n: int, clusters: int, icc: float) -> float:
    """By how much the variance grows when n questions are about so many images, equally many each."""
    if not (1 <= clusters <= n and 0 <= icc <= 1):
        raise ValueError("there are 1 to n images, and icc is from 0 to 1")
    return 1 + (n / clusters - 1) * icc


def observed(a: Sequence[int], b: Sequence[int], clusters: Sequence[Hashable]) -> Pair:
    """What two runs' verdicts on the same rows tell. The effect is at least 1: fewer rows do not tell more."""
    n = len(a)
    discordance = sum(x != y for x, y in zip(a, b, strict=True)) / n
    alone = (discordance - (sum(a) / n - sum(b) / n) ** 2) / n
    effect = paired_variance(a, b, clusters) / alone if alone > 0 else 1.0
    return Pair(n, len(set(clusters)), discordance, max(1.0, effect))


def _quantiles(alpha: float, power: float, clusters: int | None) -> float:
    from scipy.stats import norm, t

    of = norm if clusters is None else t(clusters - 1)
    return float(of.ppf(1 - alpha / 2) + of.ppf(power))


def _check(n: int, discordance: float, effect: float, clusters: int | None, alpha: float, power: float) -> None:
    if n < 1 or (clusters is not None and not 2 <= clusters <= n):
        raise ValueError("there is at least one row, and there are 2 to n images")
    if not (0 < discordance <= 1 and effect >= 1 and 0 < alpha < 1 and 0.5 <= power < 1):
        raise ValueError(
            "discordance is above 0 and at most 1, effect at least 1, alpha between 0 and 1, power from 0.5 to below 1"
        )
