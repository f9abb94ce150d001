"""How far raters agree with themselves, with each other, and judges with them, on one run.

found = reliability(folder)            everything on all rows that people judged
found = reliability(folder, keep)      on those of these rows
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from itertools import combinations

from harness.records import Record
from harness.runs import RunFolder
from judges.agreement import Agreement, Estimate, agreement, alpha
from judges.human import NAME, labels, people
from judges.human.drawing import answered, run_name
from leaderboard.calibration import rates
from leaderboard.stats import Interval, mean_interval


class Rater(Record):
    """One rater: rows judged, how many of these they could not judge, their share of 1, and the hidden repeats."""

    name: str
    n: int
    cannot: int
    right: Estimate
    #: How often the second word was the first; `repeats` rows came twice.
    repeats: int
    itself: Estimate


class Pair(Record):
    a: str
    b: str
    found: Agreement


class Against(Record):
    """A judge against people: how often it accepts what they accept, and refuses what they refuse."""

    judge: str
    sensitivity: Estimate
    specificity: Estimate
    found: Agreement


class Reliability(Record):
    """What people said of a run's rows, each rater's own words; `several` rows have two words or more."""

    run: str
    rows: int
    several: int
    raters: tuple[Rater, ...]
    pairs: tuple[Pair, ...]
    alpha: Estimate
    judges: tuple[Against, ...]


def reliability(folder: RunFolder, keep: Collection[str] | None = None) -> Reliability:
    """Over the study rows of this run (of `keep`, if given). Raises UserError where nobody has judged one."""
    there = {(row.sample.id, row.pair): row.cluster for row in answered(folder) if keep is None or row.sample.id in keep}
    clusters = {i: cluster for (i, _), cluster in there.items()}
    finals: dict[str, dict[str, int]] = defaultdict(dict)
    seconds: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    cannot: dict[str, set[str]] = defaultdict(set)
    together = people_of(folder)
    for one in labels.latest(folder.root):
        if one.item.key not in there or one.study.adjudicates:
            continue
        i = one.item.sample_id
        if one.label.final == "cannot":
            cannot[one.rater].add(i)
        elif one.label.final is not None:
            finals[one.rater][i] = one.label.final
        if one.again is not None:
            seconds[one.rater].append((i, one.again.final == one.label.final))
    votes: dict[str, list[int]] = defaultdict(list)
    for given in finals.values():
        for i, final in given.items():
            votes[i].append(final)
    pairs = []
    for a, b in combinations(sorted(finals), 2):
        if finals[a].keys() & finals[b].keys():
            pairs.append(Pair(a=a, b=b, found=agreement(finals[a], finals[b], clusters)))
    return Reliability(
        run=run_name(folder),
        rows=len(votes),
        several=sum(len(v) > 1 for v in votes.values()),
        raters=tuple(
            _rater(name, finals[name], cannot[name], seconds[name], clusters) for name in sorted(finals.keys() | cannot.keys())
        ),
        pairs=tuple(pairs),
        alpha=alpha(votes, clusters),
        judges=tuple(_against(folder, {i: v for i, v in together.items() if i in clusters}, clusters)),
    )


def people_of(folder: RunFolder) -> dict[str, int]:
    """What people together say of a run's rows, as `--judge human` would. Raises UserError where nobody said anything."""
    predictions = folder.predictions()
    verdicts = people(folder.root).judge([(s, predictions[s.id]) for s in folder.questions() if s.id in predictions])
    return {v.sample_id: v.final for v in verdicts if v.final is not None}


def _rater(
    name: str, finals: dict[str, int], cannot: set[str], seconds: list[tuple[str, bool]], clusters: dict[str, str]
) -> Rater:
    return Rater(
        name=name, n=len(finals) + len(cannot), cannot=len(cannot), right=_share(finals, clusters), repeats=len(seconds),
        itself=_share({i: int(same) for i, same in seconds}, clusters),
    )  # fmt: skip


def _share(values: dict[str, int], clusters: dict[str, str]) -> Estimate:
    if not values:
        return Estimate(value=None)
    return estimate(mean_interval(list(values.values()), [clusters[i] for i in values]))


def estimate(interval: Interval | None) -> Estimate:
    return Estimate(value=interval.value, low=interval.low, high=interval.high) if interval else Estimate(value=None)


def _against(folder: RunFolder, people: dict[str, int], clusters: dict[str, str]) -> list[Against]:
    out = []
    for name, version in folder.judges():
        given = {i: v.final for i, v in folder.verdicts(name, version).items() if v.final is not None}
        if name.partition(":")[0] == NAME or not given.keys() & people.keys():
            continue
        sensitivity, specificity = rates(given, people, clusters)
        found = agreement(given, people, clusters)
        out.append(
            Against(judge=f"{name}@{version}", sensitivity=estimate(sensitivity), specificity=estimate(specificity), found=found)
        )
    return out
