"""Which rows two copies of a benchmark share: `harness tasks diff A B`.

Rows are matched by their pictures and their normalised question, never by their ids, so that the hub's copy, the official
archive, the bundle and a peer's copy can be compared. Pictures are the same where their files are, byte for byte; and, among
rows that then have no partner, where they look the same: a copy may have been stored anew, or made smaller. A row that both
sides hold twice is two rows in both.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harness.answers import normalise
from harness.pictures import BadImageError
from harness.records import ImageRef, Sample
from tasks.layouts.choices import lettered

#: Side of the grey thumbnails that are compared, and by how many of 255 levels two of one picture may differ on average. A
#: picture of SLAKE or VQA-RAD and its copy of 224 px differ by up to 1.9; neighbouring slices of one series may, too, by 1.2, so
#: the nearest is taken.
SIDE = 32
LOOKS_SAME = 3.0
#: By what share the ratio of width to height may differ: rounding does that to small pictures.
SAME_SHAPE = 0.03
_PLACE = re.compile(r"<image \d+>")


@dataclass(frozen=True)
class Row:
    """What is compared of a sample."""

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[ImageRef, ...]

    @cached_property
    def asked(self) -> str:
        return normalise(self.question)

    @cached_property
    def accepted(self) -> frozenset[str]:
        return frozenset(normalise(a) for a in self.answers)

    @cached_property
    def files(self) -> tuple[str, ...]:
        return tuple(i.file_sha256 for i in self.images)

    def document(self) -> dict[str, Any]:
        return {"id": self.id, "question": self.question, "answers": self.answers, "images": [i.name for i in self.images]}


def row_of(sample: Sample) -> Row:
    """The row without what a copy may write otherwise: places of pictures, choices under the question, letters of answers."""
    question, reference = _PLACE.sub(" ", sample.question), sample.reference
    if reference.choices and (listed := lettered(question)):
        question = listed[0]
    words = reference.lettered
    return Row(sample.id, question.strip(), tuple(words.get(a.strip("()"), a) for a in reference.answers), sample.images)


@dataclass
class Difference:
    """The rows of two splits: pairs that are in both, and rows of one side alone."""

    #: (A's row, B's row, whether the pictures' files are the same).
    both: list[tuple[Row, Row, bool]] = field(default_factory=list)
    only: tuple[list[Row], list[Row]] = field(default_factory=lambda: ([], []))

    @property
    def answers_differ(self) -> list[tuple[Row, Row]]:
        """Pairs that do not accept the same answers."""
        return [(a, b) for a, b, _ in self.both if a.accepted != b.accepted]

    @property
    def repeats(self) -> tuple[int, int]:
        """How many rows of one side alone ask what a row of the same side, which is in both, asks of the same pictures."""
        known = [{(row.asked, row.files) for row in side} for side in ([a for a, *_ in self.both], [b for _, b, _ in self.both])]
        first, second = (sum((r.asked, r.files) in k for r in rows) for rows, k in zip(self.only, known, strict=True))
        return first, second

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "both": len(self.both),
            "same_files": sum(same for *_, same in self.both),
            "repeats": dict(zip("ab", self.repeats, strict=True)),
            "only_a": [r.document() for r in self.only[0]],
            "only_b": [r.document() for r in self.only[1]],
            "answers_differ": [{"a": a.document(), "b": b.document()} for a, b in self.answers_differ],
        }


def compare(a: Iterable[Sample], b: Iterable[Sample]) -> Difference:
    """The rows of two splits, matched: those of the same files first, then the pictures that look most alike."""
    left, right = [row_of(s) for s in a], [row_of(s) for s in b]
    pairs = [(mine, theirs, True) for mine, theirs in _same_files(left, right)]
    left, right = _rest(pairs, left, right)
    near = [(mine, theirs, False) for mine, theirs in _look_alikes(left, right)]
    return Difference([*pairs, *near], _rest(near, left, right))


def _rest(pairs: list[tuple[Row, Row, bool]], left: list[Row], right: list[Row]) -> tuple[list[Row], list[Row]]:
    taken = {id(row) for a, b, _ in pairs for row in (a, b)}
    return [r for r in left if id(r) not in taken], [r for r in right if id(r) not in taken]


def _grouped(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> dict[Hashable, list[Row]]:
    found: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def _same_files(left: list[Row], right: list[Row]) -> Iterator[tuple[Row, Row]]:
    """One to one; of several rows that ask the same, those of the same answers first."""
    theirs = _grouped(right, lambda r: (r.asked, r.files))
    for key, rows in _grouped(left, lambda r: (r.asked, r.files)).items():
        waiting, late = theirs.get(key, []), []
        for row in rows:
            if equal := next((o for o in waiting if o.accepted == row.accepted), None):
                waiting = [o for o in waiting if o is not equal]
                yield row, equal
            else:
                late.append(row)
        yield from zip(late, waiting, strict=False)


def _look_alikes(left: list[Row], right: list[Row]) -> Iterator[tuple[Row, Row]]:
    """One to one, the nearest first; of equally near ones those of the same answers."""
    theirs = _grouped(right, lambda r: (r.asked, len(r.images)))
    asked = {(r.asked, len(r.images)) for r in left}
    album = _Album(i for key, rows in theirs.items() if key in asked for r in rows for i in r.images)
    near: list[tuple[float, bool, int, Row, Row]] = []
    for row in left:
        for other in theirs.get((row.asked, len(row.images)), []):
            apart = [album.near(i).get(file) for i, file in zip(row.images, other.files, strict=True)]
            if apart and all(a is not None for a in apart):
                near.append((max(a for a in apart if a is not None), row.accepted != other.accepted, len(near), row, other))
    taken: set[int] = set()
    for *_, row, other in sorted(near):
        if not taken & {id(row), id(other)}:
            taken |= {id(row), id(other)}
            yield row, other


class _Album:
    """Pictures, found by what they look like.

    Two thumbnails differ on average by at least as much as their mean levels do, so few have to be compared.
    """

    def __init__(self, images: Iterable[ImageRef]) -> None:
        thumbs = {i.file_sha256: t for i in {i.file_sha256: i for i in images}.values() if (t := _thumb(i))}
        order = sorted(thumbs, key=lambda file: thumbs[file][1].mean())
        self.files = order
        self.shapes = np.array([thumbs[f][0] for f in order])
        self.pixels = np.array([thumbs[f][1] for f in order]).reshape(len(order), SIDE * SIDE)
        self.levels = self.pixels.mean(1)
        self._near: dict[str, dict[str, float]] = {}

    def near(self, image: ImageRef) -> dict[str, float]:
        """The files of the pictures that look the same -> by how many levels they differ, to a thousandth."""
        if image.file_sha256 not in self._near:
            self._near[image.file_sha256] = self._find(image)
        return self._near[image.file_sha256]

    def _find(self, image: ImageRef) -> dict[str, float]:
        if (thumb := _thumb(image)) is None:
            return {}
        shape, pixels = thumb
        level = pixels.mean()
        few = slice(*np.searchsorted(self.levels, [level - LOOKS_SAME, level + LOOKS_SAME]))
        apart = np.abs(self.pixels[few] - pixels).mean(1)
        alike = (apart <= LOOKS_SAME) & (np.abs(self.shapes[few] / shape - 1) <= SAME_SHAPE)
        return {self.files[few][n]: round(float(apart[n]), 3) for n in np.flatnonzero(alike)}


def _thumb(image: ImageRef) -> tuple[float, Any] | None:
    """(width / height, SIDE * SIDE grey levels); None where the picture cannot be read."""
    from PIL import Image

    try:
        full = image.open()
    except BadImageError:
        return None
    small = full.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return full.width / full.height, np.asarray(small, np.float32).ravel()
