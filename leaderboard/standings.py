"""The same runs under every protocol, and whether the order of the models survives.

    (found,) = standings(list(board.runs.values()), find_all("exact,medevalkit,medgemma"))
    [(row.protocol, row.tau, row.swaps) for row in found.rows]

Only runs on the same rows with the same prompt and reader are put side by side, as on the leaderboard. No model is needed: the
stored texts are scored again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from harness.records import Record
from harness.runs import RunFolder
from harness.scoring.protocols import Protocol
from harness.shown import cluster_of
from leaderboard.cell import RANK_COVERAGE
from leaderboard.reading import Run
from leaderboard.rescored import Answered, Scored
from leaderboard.stats import Scoring, holm, scoring_difference, scoring_interval

ALPHA = 0.05


class Standing(Record):
    """A model's score under a protocol, as a share, over the `n` rows that count; its interval where it is a share indeed."""

    value: float
    low: float | None
    high: float | None
    n: int


class Swap(Record):
    """Two models that change places: by the first protocol `ahead` is better, by this one `behind` is."""

    ahead: str
    behind: str
    #: Two-sided p values of either difference, paired and clustered, after Holm over all swaps of the table; None where the
    #: rows do not bear one.
    p_first: float | None
    p_here: float | None

    @property
    def real(self) -> bool:
        """Whether both orders hold at 5 %."""
        return all(p is not None and p < ALPHA for p in (self.p_first, self.p_here))


class Row(Record):
    """All models under one protocol. `tau` is Kendall's (tau-b) with the order under the first; None where there is no order."""

    protocol: str
    scores: tuple[Standing | None, ...]
    tau: float | None
    swaps: tuple[Swap, ...]


class Standings(Record):
    """Protocols x models, for runs that may be compared; the best model by the first protocol comes first."""

    task: str
    split: str
    prompt: str
    reader: int
    asked: int
    repeats: int
    limit: int | None
    clusters: int
    clustered_by: str
    models: tuple[str, ...]
    runs: tuple[str, ...]
    #: Models without an answer to 98 % of the rows: shown, and left out of the order.
    unranked: tuple[str, ...]
    #: Whether texts hold more than an answer (thinking, tags), which most protocols read along.
    think: bool
    rows: tuple[Row, ...]


def standings(
    runs: Sequence[Run], protocols: Sequence[Protocol], report: Callable[[int, int], None] = lambda *_: None
) -> list[Standings]:
    """A table for each set of comparable runs, in the order in which they come. Raises RunError for a damaged run.

    `report` is told how many runs are scored, of how many.
    """
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        data, card = run.card.data, run.card
        key = (data.task, data.split, data.fingerprint, run.asked.content, card.prompt_sha256, card.generation.stop, card.reader)
        groups.setdefault(key, []).append(run)
    done, out = 0, []
    for group in groups.values():
        answered, scored = [], []
        for run in group:
            if (run.finish >= 0).any():
                answered.append(Answered.of(RunFolder(run.folder)))
                scored.append([answered[-1].scored(p) for p in protocols])
            done += 1
            report(done, len(runs))
        if answered:
            out.append(_table(group[0], answered, scored, protocols))
    return out


def _table(first: Run, answered: list[Answered], scored: list[list[Scored]], protocols: Sequence[Protocol]) -> Standings:
    order = sorted(range(len(answered)), key=lambda i: -(scored[i][0].score or 0))
    answered, scored = [answered[i] for i in order], [scored[i] for i in order]
    names = _names(answered)
    ranked = [i for i, a in enumerate(answered) if len(a.samples) >= RANK_COVERAGE * a.asked]
    swaps = [
        (k, i, j) for k in range(1, len(protocols)) for i, j in combinations(ranked, 2)
        if _sign(scored[i][0], scored[j][0]) * _sign(scored[i][k], scored[j][k]) < 0
    ]  # fmt: skip
    p = _p_values(answered, scored, swaps)
    rows = []
    for k, protocol in enumerate(protocols):
        own = tuple(
            Swap(ahead=names[min(i, j)], behind=names[max(i, j)], p_first=p[k, i, j][0], p_here=p[k, i, j][1])
            for at, i, j in swaps if at == k
        )  # fmt: skip
        scores = tuple(_standing(s[k], a) for s, a in zip(scored, answered, strict=True))
        both = [(scored[i][0].score, scored[i][k].score) for i in ranked]
        rows.append(Row(protocol=protocol.name, scores=scores, tau=_tau(both), swaps=own))
    card = first.card
    return Standings(
        task=card.data.task, split=card.data.split, prompt=card.prompt, reader=card.reader, asked=answered[0].asked,
        repeats=card.data.repeats, limit=card.limit, clusters=len(first.asked.images), clustered_by=cluster_of(card.data),
        models=tuple(names), runs=tuple(str(a.folder.path) for a in answered),
        unranked=tuple(n for i, n in enumerate(names) if i not in ranked),
        think=any(p.text.strip() != (p.said or "").strip() for a in answered for p in a.predictions), rows=tuple(rows),
    )  # fmt: skip


def _names(answered: Sequence[Answered]) -> list[str]:
    """The models' names; where two runs have the same, the key of the run folder tells them apart."""
    names = [a.card.model.name for a in answered]
    return [
        n if names.count(n) == 1 else f"{n} [{a.folder.path.name.rpartition('-')[2]}]"
        for n, a in zip(names, answered, strict=True)
    ]


def _standing(scored: Scored, answered: Answered) -> Standing | None:
    if scored.score is None:
        return None
    interval = scoring_interval(scored.rows, answered.clusters)
    limits = {"low": interval.low if interval else None, "high": interval.high if interval else None}
    return Standing(value=float(scored.score), n=int(scored.rows.counted.sum()), **limits)


def _sign(a: Scored, b: Scored) -> int:
    """Which of two is better: 1, -1, or 0 where neither is."""
    return 0 if a.score is None or b.score is None else (a.score > b.score) - (a.score < b.score)


def _tau(pairs: Sequence[tuple[object, object]]) -> float | None:
    """Kendall's tau-b of two columns of scores; None where there are fewer than two models or all are equal."""
    from scipy.stats import kendalltau

    known = [(float(a), float(b)) for a, b in pairs if a is not None and b is not None]  # type: ignore[arg-type]
    if len(known) < 2:
        return None
    tau = float(kendalltau(*zip(*known, strict=True)).statistic)
    return tau if math.isfinite(tau) else None


def _p_values(
    answered: Sequence[Answered], scored: Sequence[Sequence[Scored]], swaps: Sequence[tuple[int, int, int]]
) -> dict[tuple[int, int, int], tuple[float | None, float | None]]:
    """For each swap (protocol, model, model): p under the first protocol and under this one, by Holm over all of them."""
    found = [_p(answered, scored, at, i, j) for k, i, j in swaps for at in (0, k)]
    known = [p for p in found if p is not None]
    corrected = iter(holm(known) if known else ())
    p = [None if one is None else next(corrected) for one in found]
    return {swap: (p[2 * n], p[2 * n + 1]) for n, swap in enumerate(swaps)}


def _p(answered: Sequence[Answered], scored: Sequence[Sequence[Scored]], k: int, i: int, j: int) -> float | None:
    """The p value of the difference between two models over the rows that both have answered."""
    place = {s.id: row for row, s in enumerate(answered[j].samples)}
    pairs = [(row, place[s.id]) for row, s in enumerate(answered[i].samples) if s.id in place]
    if not pairs:
        return None
    ours, theirs = (np.array(rows, dtype=np.intp) for rows in zip(*pairs, strict=True))
    a, b = _rows(scored[i][k], ours), _rows(scored[j][k], theirs)
    if not a.counted.any() or not b.counted.any():
        return None
    found = scoring_difference(a, b, [answered[i].clusters[row] for row in ours])
    return found.p if found else None


def _rows(scored: Scored, rows: np.typing.NDArray[np.intp]) -> Scoring:
    return Scoring(scored.rows.points[rows], scored.rows.counted[rows])


def sentences(table: Standings) -> list[str]:
    """Whether the order of the models survives, in plain words."""
    models = len(table.models) - len(table.unranked)
    if models < 2:
        return ["One model: there is no order that could change."]
    swapping = [row for row in table.rows if row.swaps]
    if not swapping:
        return [f"The order of the {models} models is the same under all {len(table.rows)} protocols."]
    first = table.rows[0].protocol
    out = [f"The order under {first} changes under {len(swapping)} of {len(table.rows) - 1} other protocols."]
    for row in swapping:
        for swap in row.swaps:
            sure = "both orders hold at 5 %" if swap.real else "this may be chance"
            out.append(f"Under {row.protocol}, {swap.behind} comes before {swap.ahead}; {sure}.")
    return out
