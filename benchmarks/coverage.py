"""How often 95 % intervals hold the truth when questions share images: what leaderboard/stats.py does, and what it could do.

    python -m benchmarks.coverage        # writes benchmarks/results/coverage.json and prints the table of docs/leaderboard.md

Verdicts are beta-binomial within an image. `ours` is totals_interval: the cluster t interval, and Wilson's on effective rows or
images where that has too little to go on. The bootstraps draw whole images with replacement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaderboard import stats

RESULTS = Path(__file__).parent / "results"
#: Images x questions an image, true share, intraclass correlation.
CASES = [
    *(("96 x 11", share, 0.15) for share in (0.5, 0.6, 0.7, 0.9, 0.98, 0.995)),
    *(("203 x 2", 0.3, 0.15), ("67 x 2", 0.25, 0.3), ("20 x 5", 0.6, 0.15), ("20 x 5", 0.95, 0.15)),
    *(("10 x 11", 0.6, 0.15), ("10 x 11", 0.9, 0.15), ("5 x 11", 0.6, 0.15)),
    *(
        (images, share, 0.15)
        for images in ("20 x 2 + 5 x 40", "100 x 1 + 10 x 10", "20 x 1 + 1 x 60")
        for share in (0.3, 0.6, 0.9)
    ),
]
DRAWS, BOOTSTRAP = 2000, 500
Floats = NDArray[np.float64]


def cluster_t(sums: Floats, sizes: Floats) -> tuple[float, float]:
    value = float(sums.sum() / sizes.sum())
    half = stats.t_quantile(0.95, len(sums)) * stats.standard_error(sums, sizes)
    return value - half, value + half


def bootstraps(sums: Floats, sizes: Floats, rng: np.random.Generator) -> tuple[tuple[float, float], tuple[float, float]]:
    """Percentile, and bootstrap-t (studentised by the clustered standard error)."""
    value, error = float(sums.sum() / sizes.sum()), stats.standard_error(sums, sizes)
    drawn = rng.integers(0, len(sums), (BOOTSTRAP, len(sums)))
    s, m = sums[drawn], sizes[drawn]
    means = s.sum(1) / m.sum(1)
    residuals = s - m * means[:, None]
    count = len(sums)
    errors = np.sqrt(count / (count - 1) * (residuals**2).sum(1)) / m.sum(1)
    percentile = np.quantile(means, [0.025, 0.975])
    t = (means - value)[errors > 0] / errors[errors > 0]
    low, high = np.quantile(t, [0.025, 0.975]) if len(t) else (0.0, 0.0)
    return (float(percentile[0]), float(percentile[1])), (value - high * error, value - low * error)


def sizes_of(images: str) -> Floats:
    """
    >>> sizes_of("2 x 5 + 1 x 7")
    array([5., 5., 7.])
    """
    parts = [tuple(map(int, part.split(" x "))) for part in images.split(" + ")]
    return np.repeat([float(each) for _, each in parts], [count for count, _ in parts])


def case(images: str, share: float, icc: float) -> dict[str, Any]:
    sizes = sizes_of(images)
    n, k = sizes.sum(), (1 - icc) / icc
    rng = np.random.default_rng(len(sizes) * 1000 + int(sizes[0]))
    held = dict.fromkeys(("wilson on rows", "cluster t", "bootstrap", "bootstrap-t", "ours"), 0)
    width = 0.0
    for _ in range(DRAWS):
        sums = rng.binomial(sizes.astype(int), rng.beta(share * k, (1 - share) * k, len(sizes))).astype(np.float64)
        ours = stats.totals_interval(sums, sizes)
        percentile, studentised = bootstraps(sums, sizes, rng)
        found = {
            "wilson on rows": stats.wilson(float(sums.sum()) / n, n, stats._z(0.95)),
            "cluster t": cluster_t(sums, sizes),
            "bootstrap": percentile,
            "bootstrap-t": studentised,
            "ours": (ours.low, ours.high),
        }
        for name, (low, high) in found.items():
            held[name] += low <= share <= high
        width += ours.high - ours.low
    shares = {name: round(100 * count / DRAWS, 1) for name, count in held.items()}
    return {
        "images x questions": images,
        "share": share,
        "icc": icc,
        **shares,
        "width of ours": round(100 * width / DRAWS, 1),
    }


def main() -> None:
    table = [case(*c) for c in CASES]
    (RESULTS / "coverage.json").write_text(json.dumps(table, indent=2) + "\n")
    print("| " + " | ".join(table[0]) + " |")
    print("|" + "---:|" * len(table[0]))
    for row in table:
        print("| " + " | ".join(value if isinstance(value, str) else f"{value:g}" for value in row.values()) + " |")


if __name__ == "__main__":
    main()
