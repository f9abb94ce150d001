"""Which rows people are asked about, and who gets which in what order. All of it follows from the seed.

study = draw(folders, ["alice", "bob"], rows=100, overlap=0.2)
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Sample
from harness.runs import RunFolder
from judges.human.study import DISAGREEMENT, STRATIFIED, UNIFORM, Item, Study, stamp
from judges.replay import pair

#: Share of a rater's items that come again, and from how many items on.
REPEATS, ENOUGH = 0.05, 12
#: The slice value of rows that have none.
NO_VALUE = "(not given)"


class Row(NamedTuple):
    """An answered row of a run."""

    sample: Sample
    pair: str
    cluster: str
    reasoned: bool


def draw(
    folders: Sequence[RunFolder],
    raters: Sequence[str],
    *,
    rows: int,
    overlap: float = 0.2,
    repeats: float = REPEATS,
    sampling: str = UNIFORM,
    seed: int = 0,
) -> Study:
    """A study of `rows` rows of each run, the same questions of all of them as far as they have the same.

    A share `overlap` of the items goes to every rater, each of the others to one; a share `repeats` of a rater's items comes a
    second time, late. `sampling` is uniform, stratified:SLICE (as many rows of each value) or disagreement (rows on which
    judges of the run differ). Raises UserError.
    """
    found: dict[tuple[str, str], Item] = {}
    for folder in folders:
        name = run_name(folder)
        for row, weight in _chosen(folder, rows, sampling, seed):
            key = (row.sample.id, row.pair)
            before = found.get(key)
            weights = (before.weights if before else {}) | {name: weight}
            found[key] = Item(sample_id=row.sample.id, pair=row.pair, cluster=row.cluster, weights=weights, reasoned=row.reasoned)
    items = tuple(sorted(found.values(), key=lambda item: _hash(seed, *item.key)))
    order = {rater: _order(items, mine, rater, repeats, seed) for rater, mine in _dealt(len(items), raters, overlap).items()}
    return Study(created=stamp(), seed=seed, sampling=sampling, items=items, order=order)


def run_name(folder: RunFolder) -> str:
    """MODEL/TASK-KEY, as the folder is called under its folder of runs."""
    path = folder.path.absolute()
    return f"{path.parent.name}/{path.name}"


def name_in(study: Study, folder: RunFolder, there: Collection[tuple[str, str]]) -> str | None:
    """The name under which a study drew rows of this run, whose answers are `there` (row, hash over its texts).

    Its own; or that of a run which is no longer there, and all of whose drawn answers this one has: a folder takes another
    name when its answers are read again, or its model's folder is renamed. None where the study drew nothing of it.
    """
    names = dict.fromkeys(name for item in study.items for name in item.weights)
    own = run_name(folder)
    if own in names:
        return own
    for name in names:
        if not (folder.root / name / "card.json").exists():
            drawn = [item.key for item in study.items if name in item.weights]
            if all(key in there for key in drawn):
                return name
    return None


def to_decide(disputed: Sequence[Item], rater: str, seed: int = 0) -> Study:
    """A study in which one person decides where others disagreed."""
    items = tuple(sorted(disputed, key=lambda item: _hash(seed, *item.key)))
    order = {rater: _order(items, range(len(items)), rater, 0.0, seed)}
    return Study(created=stamp(), seed=seed, sampling=DISAGREEMENT, items=items, order=order, adjudicates=True)


def _hash(seed: int, *what: str) -> str:
    return hashlib.sha256("\0".join((str(seed), *what)).encode()).hexdigest()


def answered(folder: RunFolder) -> list[Row]:
    """The rows that can be judged, in an order that follows from nothing but the seed later on."""
    predictions = folder.predictions()
    clusters = {row["id"]: row["cluster"] for row in folder.samples()}
    return [
        Row(s, pair(s, predictions[s.id]), clusters[s.id], bool((predictions[s.id].reasoning or "").strip()))
        for s in folder.questions()
        if s.id in predictions and predictions[s.id].finish != "error"
    ]


def _chosen(folder: RunFolder, rows: int, sampling: str, seed: int) -> list[tuple[Row, float]]:
    """The rows drawn from a run, each with the number of rows that it stands for."""
    there = sorted(answered(folder), key=lambda row: _hash(seed, row.sample.id))
    if not there:
        raise UserError(f"{folder.path}: has no answers to judge", hint="run its own command again")
    kind, _, name = sampling.partition(":")
    if sampling == UNIFORM:
        return [(row, len(there) / min(rows, len(there))) for row in there[:rows]]
    if kind == STRATIFIED and name:
        return _stratified(folder, there, rows, name)
    if sampling == DISAGREEMENT:
        disputed = _disputed(folder)
        return [(row, 1.0) for row in there if row.sample.id in disputed][:rows]
    raise UserError(f"--sampling {sampling}: no such design", hint=f"{UNIFORM}, {STRATIFIED}:SLICE or {DISAGREEMENT}")


def _stratified(folder: RunFolder, there: Sequence[Row], rows: int, name: str) -> list[tuple[Row, float]]:
    strata: dict[str, list[Row]] = defaultdict(list)
    for row in there:
        strata[row.sample.slices.get(name, NO_VALUE)].append(row)
    if set(strata) == {NO_VALUE}:
        known = sorted({slice_ for row in there for slice_ in row.sample.slices})
        raise UserError(f"{folder.path}: no slice '{name}'", hint=did_you_mean(name, known))
    out: list[tuple[Row, float]] = []
    left = rows
    for k, own in enumerate(sorted(strata.values(), key=len)):  # what a small one cannot give, the larger ones do
        take = min(len(own), math.ceil(left / (len(strata) - k)))
        left -= take
        out += [(row, len(own) / take) for row in own[:take]]
    return out


def _disputed(folder: RunFolder) -> set[str]:
    """Rows on which two judges of the run differ; people's own words are not looked at."""
    judges = [judge for judge in folder.judges() if not judge[0].startswith("human")]
    if len(judges) < 2:
        raise UserError(
            f"{folder.path}: {len(judges)} judges, and it takes two to disagree", hint="judge it by another one first"
        )
    said: dict[str, set[int]] = defaultdict(set)
    for name, version in judges:
        for sample_id, verdict in folder.verdicts(name, version).items():
            if verdict.final is not None:
                said[sample_id].add(verdict.final)
    return {sample_id for sample_id, finals in said.items() if len(finals) == 2}


def _dealt(count: int, raters: Sequence[str], overlap: float) -> dict[str, list[int]]:
    """Item numbers by rater: the first ones, which are random, for all of them; then each in turn."""
    shared = math.ceil(overlap * count) if len(raters) > 1 else 0
    return {rater: [*range(shared), *range(shared + k, count, len(raters))] for k, rater in enumerate(raters)}


def _order(items: Sequence[Item], mine: Sequence[int], rater: str, repeats: float, seed: int) -> tuple[int, ...]:
    """Questions about one image together, images and what is asked of them in an order of the rater's own; repeats at the end."""
    placed = sorted(mine, key=lambda i: (_hash(seed, rater, items[i].cluster), _hash(seed, rater, *items[i].key)))
    if len(placed) < ENOUGH:
        return tuple(placed)
    count = math.ceil(repeats * len(placed))
    early = sorted(placed[: len(placed) // 3], key=lambda i: _hash(seed, rater, "again", *items[i].key))
    for i in early[:count]:
        late = 2 * len(placed) // 3
        at = late + int(_hash(seed, rater, "where", *items[i].key)[:8], 16) % (len(placed) + 1 - late)
        placed.insert(at, i)
    return tuple(placed)
