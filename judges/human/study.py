"""What people are asked to judge, and what they said: RUNS/.annotations/KEY/.

    study.json              what was drawn from which runs, with which chance, and who gets what in which order; never changes
    labels/RATER.jsonl      append-only, one line for each key that the rater pressed: the whole of what they say about a place

A place is a number in a rater's own order, from 1. Of several lines about one place the last one holds, unless it was undone.
A text that a rater meets twice is a hidden repeat: the second time tells how far they agree with themselves, and counts for
nothing else. Two models that wrote the same text for one question are one item.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from harness.errors import RunError
from harness.records import Record
from harness.runs import append_jsonl, read_jsonl, write_atomic

FOLDER = ".annotations"
#: 1 right (or similar), 0 wrong, or the rater's word that it cannot be judged.
Word = Literal[0, 1, "cannot"]
#: How rows were drawn: uniformly, stratified by a slice, where judges disagree, or by somebody else (an import).
UNIFORM, STRATIFIED, DISAGREEMENT, UNKNOWN = "uniform", "stratified", "disagreement", "unknown"


class Item(Record):
    """One text to judge. `weights`: run (MODEL/TASK-KEY) -> how many of its rows this one stands for."""

    sample_id: str
    #: Hash over question, reference and the model's text (judges.replay.pair).
    pair: str
    cluster: str
    weights: dict[str, float]
    #: Whether the model gave reasoning, so that it is asked about.
    reasoned: bool

    @property
    def key(self) -> tuple[str, str]:
        """What a verdict is about: the same words about another image are another item."""
        return self.sample_id, self.pair


class Study(Record):
    """Items, and each rater's own ones by number, in the order in which they come; one that comes again is a hidden repeat."""

    created: str
    seed: int
    #: uniform, stratified:SLICE, disagreement or unknown.
    sampling: str
    items: tuple[Item, ...]
    order: dict[str, tuple[int, ...]]
    #: Whether its rater decides where others disagree.
    adjudicates: bool = False

    @property
    def random(self) -> bool:
        """Whether its labels stand for all rows, so that a judge can be calibrated by them."""
        return self.sampling.partition(":")[0] in (UNIFORM, STRATIFIED)

    def item(self, rater: str, place: int) -> Item:
        """Raises KeyError, IndexError where the rater has no such place."""
        if place < 1:
            raise IndexError(place)
        return self.items[self.order[rater][place - 1]]

    def repeats(self, rater: str) -> dict[int, int]:
        """Place of a hidden repeat -> the place where the rater met the same text first."""
        first: dict[int, int] = {}
        again = {}
        for place, number in enumerate(self.order[rater], start=1):
            if first.setdefault(number, place) != place:
                again[place] = first[number]
        return again


class Label(Record):
    """One line: all that a rater says about a place from now on; or, with `undo`, that their last line was a slip."""

    place: int
    final: Word | None = None
    reasoning: Word | None = None
    comment: str = ""
    #: Time spent on the place since the line before.
    seconds: float = 0.0
    at: str = ""
    undo: bool = False

    def complete(self, item: Item) -> bool:
        return self.final is not None and (self.reasoning is not None or not item.reasoned)


def stamp() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def standing(lines: Iterable[Label]) -> list[Label]:
    """The lines that were not undone, in order."""
    kept: list[Label] = []
    for line in lines:
        if not line.undo:
            kept.append(line)
        elif kept:
            kept.pop()
    return kept


def by_place(lines: Iterable[Label]) -> dict[int, Label]:
    """What holds of each place."""
    return {line.place: line for line in standing(lines)}


class StudyFolder:
    """A study on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def study(self) -> Study:
        """Raises RunError where it cannot be read."""
        path = self.path / "study.json"
        try:
            return Study.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            why = e.errors()[0]["msg"] if isinstance(e, ValidationError) else e
            raise RunError(f"{path}: {why}", hint="move its folder away to go on without it") from None

    def write(self, study: Study) -> None:
        write_atomic(self.path / "study.json", study.model_dump_json(indent=1) + "\n")

    def labels_path(self, rater: str) -> Path:
        return self.path / "labels" / f"{rater}.jsonl"

    def lines(self, rater: str) -> list[Label]:
        """Every line of a rater. Raises RunError for a damaged one; a torn last one was never confirmed."""
        path = self.labels_path(rater)
        try:
            return [Label.model_validate(row) for row in read_jsonl(path)]
        except ValidationError as e:
            raise RunError(f"{path}: a line is not a label: {e.errors()[0]['msg']}", hint="mend it, or move it away") from None

    def add(self, rater: str, label: Label) -> None:
        """Append and fsync: once this returns, nothing loses it."""
        self.add_all(rater, [label])

    def add_all(self, rater: str, labels: Sequence[Label]) -> None:
        append_jsonl(self.labels_path(rater), labels)


def studies(runs: Path) -> Iterator[tuple[StudyFolder, Study]]:
    """Every study under a folder of runs, the oldest first."""
    found = [StudyFolder(path.parent) for path in (runs / FOLDER).glob("*/study.json")]
    read = [(folder, folder.study) for folder in found]
    yield from sorted(read, key=lambda one: (one[1].created, one[0].path.name))
