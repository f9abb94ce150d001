"""What a protocol is: a public rule by which answers become a number, in parts that can be exchanged one by one.

    mark = find("llava-med").mark(prediction, sample)       # Mark(read="yes", value=1.0, weight=1.0, counted=True)
    score([mark, ...])                                      # a Fraction: the number that the source would print, as a share

Every number has three parts. *Rows*: which rows count, and how often. *Reading*: what is taken of the model's text. *Rule*:
what that is worth beside the reference, from 0 to 1. Whoever exchanges one part at a time sees what each of them does
(leaderboard/explain.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from harness.records import Prediction, Reference, Sample


class Counting(NamedTuple):
    """How a row enters the score: its value times `weight` is added up, and divided by the number of rows that are `counted`."""

    weight: float = 1.0
    counted: bool = True


ONCE, NOT_AT_ALL = Counting(), Counting(0.0, False)


class Mark(NamedTuple):
    """One answer under one protocol: what was read, its value in [0, 1], and how the row is counted."""

    read: str
    value: float
    counting: Counting


@dataclass(frozen=True)
class Rule:
    """How questions of one kind are scored: `read` takes a text of the prediction, `compare` gives its worth in [0, 1]."""

    read: Callable[[Prediction, Sample], str]
    compare: Callable[[str, Sample], float]


@lru_cache(maxsize=8192)
def _kind(reference: Reference) -> Literal["yesno", "open", "choice"]:
    """Kept, as every protocol asks it of every row."""
    return reference.kind


@dataclass(frozen=True)
class Protocol:
    """A rule of a public harness or paper. The texts are shown to people: plain sentences."""

    name: str
    #: How it reads and compares, in a sentence or two.
    rule: str
    #: Repository, file and commit, or the paper, that it was read from.
    source: str
    yesno: Rule
    open: Rule
    choice: Rule
    #: What surprises, and what was mended or could not be known.
    quirks: tuple[str, ...] = ()
    #: What it gives otherwise than the judge `exact`.
    differs: str = ""
    #: What the source adds to the question, where that is known.
    prompt: str = ""
    #: Whether a value may lie between 0 and 1.
    fractional: bool = False
    #: How a row is counted, from what was read and its value.
    count: Callable[[Sample, str, float], Counting] = lambda sample, read, value: ONCE
    #: Raised whenever a value could change.
    version: int = 1

    @property
    def as_is(self) -> bool:
        """Whether it repeats a known fault of its source."""
        return self.name.partition("/")[0].endswith("-asis")

    def rule_of(self, sample: Sample) -> Rule:
        return {"yesno": self.yesno, "open": self.open, "choice": self.choice}[_kind(sample.reference)]

    def read(self, prediction: Prediction, sample: Sample) -> str:
        """What is taken of the model's text."""
        return self.rule_of(sample).read(prediction, sample)

    def compare(self, read: str, sample: Sample) -> float:
        """What that is worth. An empty reading is worth nothing, but where the source is repeated as it is."""
        return self.rule_of(sample).compare(read, sample) if read.strip() or self.as_is else 0.0

    def mark(self, prediction: Prediction, sample: Sample) -> Mark:
        """The answer's mark; a row without an answer to compare with counts under no rule."""
        if not sample.reference.answers:
            return Mark("", 0.0, NOT_AT_ALL)
        read = self.read(prediction, sample)
        value = self.compare(read, sample)
        return Mark(read, value, self.count(sample, read, value))


def score(marks: Iterable[Mark]) -> Fraction | None:
    """The score of a run, without rounding; None where no row counts. It can pass 1 where a source counts rows twice."""
    marks = list(marks)
    counted = sum(m.counting.counted for m in marks)
    return sum((Fraction(m.value) * Fraction(m.counting.weight) for m in marks), Fraction()) / counted if counted else None


def closed(sample: Sample) -> bool:
    """Whether the data call the question closed; where they say nothing, whether it is to be answered by yes or no."""
    told = sample.slices.get("answer_type", "").strip().upper()
    return told == "CLOSED" if told in ("OPEN", "CLOSED") else _kind(sample.reference) == "yesno"


#: NAME/answer reads the answer alone that the harness takes out of a text: what is left of a reasoning model's.
ANSWER = "answer"
#: NAME/PART counts only such rows: papers often print one of them, and call it by the benchmark's name.
PARTS: dict[str, tuple[str, Callable[[Sample], bool]]] = {
    "closed": ("rows that the data call closed (without such a mark, yes/no rows)", closed),
    "open": ("rows that are not closed", lambda sample: not closed(sample)),
    "yesno": ("rows to be answered by yes or no", lambda sample: sample.reference.kind == "yesno"),
}


def part_of(protocol: Protocol, part: str) -> Protocol:
    """The protocol, counting only the rows of one of PARTS, or reading the answer alone."""
    if part == ANSWER:
        rules: dict[str, Any] = {kind: _of_answer(getattr(protocol, kind)) for kind in ("yesno", "open", "choice")}
        rule = f"{protocol.rule} Only the answer is read, without thinking and tags."
        return replace(protocol, name=f"{protocol.name}/{part}", rule=rule, **rules)
    what, holds = PARTS[part]

    def count(sample: Sample, read: str, value: float) -> Counting:
        return protocol.count(sample, read, value) if holds(sample) else NOT_AT_ALL

    rule = f"{protocol.rule} Only {what} count."
    return replace(protocol, name=f"{protocol.name}/{part}", rule=rule, count=count)


def _of_answer(rule: Rule) -> Rule:
    return replace(rule, read=lambda p, s: rule.read(p.model_copy(update={"text": p.said or ""}), s))


def best(worth: Callable[[str, str], float]) -> Callable[[str, Sample], float]:
    """A comparison with the nearest of the acceptable answers, from one of (what was read, acceptable answer)."""
    return lambda read, sample: max((float(worth(read, a)) for a in sample.reference.answers), default=0.0)
