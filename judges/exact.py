"""Exact judge (`--judge exact`): offline, deterministic, strict.

harness/scoring/exact.py says how strict. A model that gave no readable answer is wrong (0), not missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness import answers
from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.records import Prediction, Sample, Verdict
from harness.scoring.exact import is_correct


class ExactJudge(Judge):
    """Fulfils harness.contracts.Judge."""

    name = "exact"
    #: What it takes as right is what the reader reads.
    version = str(answers.VERSION)

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterable[Verdict]:
        for sample, prediction in pairs:
            yield Verdict(sample_id=sample.id, judge=self.name, final=1 if is_correct(prediction.answer, sample.reference) else 0)


def create(argument: str, options: JudgeOptions) -> ExactJudge:
    """The factory behind `--judge exact`."""
    if argument:
        raise UserError(f"--judge exact:{argument}: this judge takes no argument", hint="use --judge exact")
    return ExactJudge()
