"""How far the judges of a table's runs agree: any two that judged the same answers, a human among them where there is one."""

from __future__ import annotations

from itertools import combinations

from judges.agreement import agreement
from leaderboard.plots import Agreement
from leaderboard.reading import NONE, Judged, Run
from leaderboard.site.library import Shelf, Table


def agreements(shelf: Shelf, shown: Table) -> list[Agreement]:
    """A line for each run of the table and each two of its judges; a human stands second, as the one to agree with."""
    out = []
    for cell in shown.cells:
        run = shelf.read[cell.run]
        cluster = dict(zip(run.asked.ids, run.asked.clusters.tolist(), strict=True))
        judges = sorted(run.judged, key=lambda j: (j.judge.startswith("human"), j.path.stem))
        for a, b in combinations(judges, 2):
            if ((a.final != NONE) & (b.final != NONE)).any():
                found = agreement(_finals(run, a), _finals(run, b), cluster)
                out.append(Agreement(a.path.stem, b.path.stem, shown.names[cell.run], found))
    return out


def _finals(run: Run, judged: Judged) -> dict[str, int | None]:
    return {i: None if value == NONE else value for i, value in zip(run.asked.ids, judged.final.tolist(), strict=True)}
