"""The exact judge: offline, deterministic, strict.

A choice question is right when the letter read from the answer is the reference's; a yes/no question when the yes
or no read is; any other when the normalised answer equals one of the normalised reference answers. No substring and no
similarity counts. A model that gave no readable answer is wrong (0), not missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness import answers
from harness.errors import UserError
from harness.records import Prediction, Reference, Sample, Verdict


def is_correct(answer: str | None, reference: Reference) -> bool:
    """Whether `answer` matches `reference` exactly, read in the reference's own kind."""
    if not answer or not answer.strip():
        return False
    if reference.kind == "choice":
        choices = reference.choices or ()
        right = {answers.letter(a, choices) for a in reference.answers}
        return answers.letter(answer, choices) in right - {None}
    if reference.kind == "yesno":
        return answers.yes_no(answer) in {answers.yes_no(a) for a in reference.answers}
    return answers.normalise(answer) in {answers.normalise(a) for a in reference.answers}


class ExactJudge:
    """Fulfils harness.contracts.Judge."""

    name = "exact"
    version = "1"

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterable[Verdict]:
        for sample, prediction in pairs:
            if prediction.finish == "error":
                yield Verdict(sample_id=sample.id, judge=self.name, final=None, missing=f"no prediction: {prediction.error}")
            else:
                yield Verdict(
                    sample_id=sample.id, judge=self.name, final=1 if is_correct(prediction.answer, sample.reference) else 0
                )


def create(argument: str = "") -> ExactJudge:
    """The factory behind `--judge exact`."""
    if argument:
        raise UserError(f"--judge exact:{argument}: this judge takes no argument", hint="use --judge exact")
    return ExactJudge()
