"""How far the judges of a table's runs agree: any two that judged the same answers, a human among them where there is one."""

from __future__ import annotations

from itertools import combinations

from leaderboard.plots import Agreement
from leaderboard.reading import NONE, Int8, Int32
from leaderboard.site.library import Shelf, Table
from leaderboard.stats import mean_interval


def agreements(shelf: Shelf, shown: Table) -> list[Agreement]:
    """A line for each run of the table and each two of its judges; a human stands second, as the one to agree with."""
    out = []
    for cell in shown.cells:
        run = shelf.read[cell.run]
        judges = sorted(run.judged, key=lambda j: (j.judge.startswith("human"), j.path.stem))
        for a, b in combinations(judges, 2):
            names = (a.path.stem, b.path.stem, shown.names[cell.run])
            if found := _agreement(names, a.final, b.final, run.asked.clusters):
                out.append(found)
    return out


def _agreement(names: tuple[str, str, str], a: Int8, b: Int8, clusters: Int32) -> Agreement | None:
    both = (a != NONE) & (b != NONE)
    if not both.any():
        return None
    x, y = a[both], b[both]
    share = mean_interval((x == y).astype(float).tolist(), clusters[both].tolist())
    return Agreement(*names, share, kappa(x, y), int(((x == 1) & (y == 0)).sum()), int(((x == 0) & (y == 1)).sum()))


def kappa(x: Int8, y: Int8) -> float | None:
    """Cohen's kappa (1960) of two lists of 0 and 1; None where both judges always say the same one thing.

    >>> kappa(np.array([1, 1, 0, 0], dtype=np.int8), np.array([1, 0, 0, 0], dtype=np.int8))
    0.5
    """
    p, q = float(x.mean()), float(y.mean())
    expected = p * q + (1 - p) * (1 - q)
    return None if expected == 1 else (float((x == y).mean()) - expected) / (1 - expected)
