"""Why two numbers for the same answers differ, split into parts that add up to the difference.

    found = explain(Path("runs/tiny/slake-1a2b3c4d"), find("medevalkit"))
    [(p.what, p.value) for p in found.parts]      # rows, reading, rule; with prompt and rest where they are known

One part is exchanged after the other: first which rows count, then reading and rule, in that order of the two in which fewer
answers change. What a part changes is the score after its exchange less the score before, so the parts' sum is the whole
difference, without rounding.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Literal

from harness.errors import UserError
from harness.records import Record
from harness.runs import RunFolder
from harness.scoring.protocols import ANSWER, PROTOCOLS, Counting, Mark, Protocol, find
from harness.shown import cluster_of
from leaderboard.rescored import Answered, Scored
from leaderboard.stats import scoring_difference, scoring_interval

What = Literal["prompt", "rows", "reading", "rule", "rest"]


class Flip(Record):
    """A row that a part changes: what was read and what it was worth, before and after.

    For rows it is how often the row is counted: -1 where it is not, and its weight.
    """

    id: str
    question: str
    reference: str
    text: str
    read_before: str
    read_after: str
    before: float
    after: float


class Part(Record):
    """What one exchange changes, as a difference of scores, and its 95 % interval where there is one.

    `exact` is the value without rounding, as a fraction.
    """

    what: What
    value: float
    exact: str
    low: float | None = None
    high: float | None = None
    #: Rows that the exchange gives more, and less.
    gain: int = 0
    lose: int = 0
    flips: tuple[Flip, ...] = ()


class Explanation(Record):
    """Two numbers for the answers of a run, as shares, and the parts of their difference."""

    run: str
    model: str
    task: str
    split: str
    prompt: str
    start: str
    against: str
    #: Rows asked and answered; rows that each side counts; what intervals are clustered by, and how many of it.
    asked: int
    n: int
    counted_start: int
    counted_against: int
    clusters: int
    clustered_by: str
    score_start: float
    score_against: float
    #: The interval of the protocol's own score, where it is a share.
    against_low: float | None
    against_high: float | None
    #: The number that was printed elsewhere, where one was given.
    published: float | None = None
    #: From the start to the protocol (to what was published, where that is given). The interval is of the former alone.
    difference: float
    exact: str
    low: float | None
    high: float | None
    p: float | None
    p_method: str | None
    parts: tuple[Part, ...]
    #: What the source adds to the question, where that is known.
    asks: str = ""


class Distance(Record):
    """A protocol's score of a run, and how far from a printed number it is."""

    protocol: str
    score: float
    low: float | None
    high: float | None
    distance: float


def explain(
    run: Path,
    against: Protocol,
    start: Protocol = PROTOCOLS["exact"],
    *,
    asked: Path | None = None,
    published: Fraction | None = None,
) -> Explanation:
    """Splits the difference between `start` and `against` on a run's answers; `published` is a share printed elsewhere.

    `asked` is a run of the same model on the same rows with another prompt: then what the prompt changes comes first. Raises
    UserError where a protocol counts no row of the run, or `asked` is no such run; RunError for a damaged run.
    """
    first = Answered.of(RunFolder(run))
    then = _same_rows(first, Answered.of(RunFolder(asked))) if asked else first
    began, theirs = first.scored(start), then.scored(against)
    for protocol, scored in ((start, began), (against, theirs)):
        if scored.score is None:
            raise UserError(f"{run}: protocol {protocol.name} counts none of its {len(first.samples)} answers")
    steps = _steps(start, against, then, began, theirs, prompted=asked is not None)
    befores = [began, *(after for _, after in steps[:-1])]
    parts = [_part(what, before, after, then) for before, (what, after) in zip(befores, steps, strict=True)]
    interval = scoring_interval(theirs.rows, then.clusters)
    whole = scoring_difference(theirs.rows, began.rows, then.clusters)
    end = theirs.sure if published is None else published
    if published is not None:
        parts.append(Part(what="rest", value=float(published - theirs.sure), exact=str(published - theirs.sure)))
    card = first.card
    return Explanation(
        run=str(run), model=card.model.name, task=card.data.task, split=card.data.split, prompt=card.prompt,
        start=start.name, against=against.name, asked=first.asked, n=len(first.samples),
        counted_start=_counted(began), counted_against=_counted(theirs),
        clusters=len(set(then.clusters)), clustered_by=cluster_of(card.data),
        score_start=float(began.sure), score_against=float(theirs.sure),
        against_low=interval.low if interval else None, against_high=interval.high if interval else None,
        published=None if published is None else float(published),
        difference=float(end - began.sure), exact=str(end - began.sure),
        low=whole.low if whole else None, high=whole.high if whole else None,
        p=whole.p if whole else None, p_method=whole.p_method if whole else None,
        parts=tuple(parts), asks=against.prompt,
    )  # fmt: skip


def nearest(run: Path, published: Fraction) -> list[Distance]:
    """Each protocol's score of a run, of its closed and open rows, and of the answers without thinking; the nearest first.

    Raises as `explain` does.
    """
    answered = Answered.of(RunFolder(run))
    out = []
    for name in (name for name, p in PROTOCOLS.items() if not p.as_is):
        tried = {
            label: answered.scored(find(label)) for label in (name, *(f"{name}/{part}" for part in ("closed", "open", ANSWER)))
        }
        for label, scored in tried.items():
            same = label != name and _points(scored) == _points(tried[name])
            if same or not _counted(scored):
                continue
            interval = scoring_interval(scored.rows, answered.clusters)
            limits = {"low": interval.low if interval else None, "high": interval.high if interval else None}
            distance = float(published - scored.sure)
            out.append(Distance(protocol=label, score=float(scored.sure), distance=distance, **limits))
    return sorted(out, key=lambda d: abs(d.distance))


def _points(scored: Scored) -> list[tuple[float, Counting]]:
    return [(m.value, m.counting) for m in scored.marks]


def _counted(scored: Scored) -> int:
    return sum(m.counting.counted for m in scored.marks)


def _steps(
    start: Protocol, against: Protocol, then: Answered, began: Scored, theirs: Scored, *, prompted: bool
) -> list[tuple[What, Scored]]:
    """The answers' marks after each exchange, from `start`'s to the other protocol's."""
    held = then.scored(start) if prompted else began
    rows = list(zip(held.marks, theirs.marks, then.samples, strict=True))
    counted = Scored([Mark(ours.read, ours.value, other.counting) for ours, other, _ in rows])
    read = Scored([Mark(other.read, start.compare(other.read, s), other.counting) for _, other, s in rows])
    ruled = Scored([Mark(ours.read, against.compare(ours.read, s), other.counting) for ours, other, s in rows])
    exchanged: list[tuple[What, Scored]] = [("prompt", held), ("rows", counted)]
    first = exchanged if prompted else exchanged[1:]
    by_reading: list[tuple[What, Scored]] = [("reading", read), ("rule", theirs)]
    by_rule: list[tuple[What, Scored]] = [("rule", ruled), ("reading", theirs)]
    moved = [_moves(counted, middle) + _moves(middle, theirs) for middle in (read, ruled)]
    reading_first = moved[0] < moved[1] or (moved[0] == moved[1] and start.name < against.name)  # the way back is the same
    return [*first, *(by_reading if reading_first else by_rule)]


def _moves(before: Scored, after: Scored) -> int:
    """How many answers that count are worth something else."""
    return sum(a.value != b.value and b.counting.counted for a, b in zip(before.marks, after.marks, strict=True))


def _part(what: What, before: Scored, after: Scored, on: Answered) -> Part:
    change = after.sure - before.sure
    found = scoring_difference(after.rows, before.rows, on.clusters)
    flips = []
    for i, (a, b) in enumerate(zip(before.marks, after.marks, strict=True)):
        had, has = _worth(what, a), _worth(what, b)
        if had != has and (what == "rows" or b.counting.counted):
            s = on.samples[i]
            flips.append(
                Flip(
                    id=s.id, question=s.question, reference=" / ".join(s.reference.answers), text=on.predictions[i].text,
                    read_before=a.read, read_after=b.read, before=had, after=has,
                )
            )  # fmt: skip
    gain = sum(f.after > f.before for f in flips)
    limits = {"low": found.low, "high": found.high} if found else {}
    return Part(
        what=what, value=float(change), exact=str(change), gain=gain, lose=len(flips) - gain, flips=tuple(flips), **limits
    )


def _worth(what: What, mark: Mark) -> float:
    """What a part can change of a row: how often it is counted, or what it is worth."""
    if what == "rows":
        return mark.counting.weight if mark.counting.counted else -1.0
    return mark.value


def _same_rows(a: Answered, b: Answered) -> Answered:
    """`b`, in a's order. Raises UserError where it is not the same model on the same rows."""
    for what, ours, theirs in (
        ("rows", a.card.data.fingerprint, b.card.data.fingerprint),
        ("model", a.card.model.weights_sha256 or a.card.model.name, b.card.model.weights_sha256 or b.card.model.name),
        ("answered rows", {s.id for s in a.samples}, {s.id for s in b.samples}),
    ):
        if ours != theirs:
            raise UserError(
                f"{a.folder.path} and {b.folder.path} are not of the same {what}",
                hint="--asked takes a run of the same model on the same rows, with another prompt",
            )
    place = {s.id: i for i, s in enumerate(b.samples)}
    order = [place[s.id] for s in a.samples]
    return Answered(b.folder, b.card, a.samples, tuple(b.predictions[i] for i in order), a.clusters, b.asked)
