"""Runs scored again by protocols (harness/scoring/protocols), from their stored texts: no model is needed.

answered = Answered.of(RunFolder(path))
answered.scored(find("llava-med")).score      # a Fraction
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from harness.errors import UserError
from harness.records import Prediction, RunCard, Sample
from harness.runs import RunFolder
from harness.scoring.protocols import Mark, Protocol, score
from leaderboard.stats import Scoring


@dataclass(frozen=True, eq=False)
class Scored:
    """Every answered row's mark, in the run's order."""

    marks: Sequence[Mark]

    @cached_property
    def score(self) -> Fraction | None:
        """Without rounding; None where no row counts."""
        return score(self.marks)

    @property
    def sure(self) -> Fraction:
        """The score, where it is known that rows count."""
        assert self.score is not None, "no row counts"
        return self.score

    @cached_property
    def rows(self) -> Scoring:
        """The same as arrays, for intervals."""
        counted = np.array([m.counting.counted for m in self.marks], dtype=np.float64)
        points = np.array([m.value * m.counting.weight for m in self.marks], dtype=np.float64)
        return Scoring(points * counted, counted)


@dataclass(frozen=True, eq=False)
class Answered:
    """The rows of a run that have an answer: as every judge, a protocol leaves out predictions that failed."""

    folder: RunFolder
    card: RunCard
    samples: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]
    #: What each row's interval is clustered by.
    clusters: tuple[str, ...]
    #: Rows asked, answered or not.
    asked: int

    @classmethod
    def of(cls, folder: RunFolder) -> Answered:
        """Raises RunError for a damaged run, UserError for one without a single answer."""
        said = folder.predictions()
        samples = folder.questions()
        clusters = {row["id"]: row["cluster"] for row in folder.samples()}
        kept = [s for s in samples if s.id in said and said[s.id].finish != "error"]
        if not kept:
            raise UserError(f"{folder.path}: no row has an answer", hint="run its own command again")
        return cls(
            folder, folder.card(), tuple(kept), tuple(said[s.id] for s in kept), tuple(clusters[s.id] for s in kept), len(samples)
        )

    def scored(self, protocol: Protocol) -> Scored:
        return Scored([protocol.mark(p, s) for s, p in zip(self.samples, self.predictions, strict=True)])
