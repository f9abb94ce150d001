"""The exact judge: all right is exactly 1.0, all wrong exactly 0.0, and nothing in between counts as right."""

import pytest

from harness import plugins
from harness.contracts import JudgeOptions
from harness.errors import UserError
from harness.records import Prediction, Reference, Sample
from harness.scoring.summary import summarise
from judges.exact import ExactJudge, is_correct


def prediction(sample_id: str, answer: str | None, finish: str = "stop") -> Prediction:
    error = "out of memory" if finish == "error" else None
    tokens = {"prompt_tokens": 1, "completion_tokens": 1}
    return Prediction(sample_id=sample_id, text=answer or "", reasoning=None, answer=answer, finish=finish, error=error, **tokens)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Yes", Reference(answers=("yes",)), True),
        ("Yes, there is", Reference(answers=("Yes",)), True),
        ("normal", Reference(answers=("No",)), False),  # a substring XOR elsewhere
        ("no", Reference(answers=("yes",)), False),
        ("lung cancer", Reference(answers=("Lung Cancer",)), True),
        ("lung", Reference(answers=("Lung Cancer",)), False),
        ("Lung Cancer, Pneumonia", Reference(answers=("Lung Cancer",)), False),
        ("CT", Reference(answers=("ct", "computed tomography")), True),
        ("(B) two", Reference(answers=("(B)",), choices=("one", "two")), True),
        ("two", Reference(answers=("B",), choices=("one", "two")), True),
        ("A", Reference(answers=("B",), choices=("one", "two")), False),
        ("", Reference(answers=("yes",)), False),
        (None, Reference(answers=("lung",)), False),
    ],
)
def test_is_correct(answer, reference, right):
    assert is_correct(answer, reference) is right


def pairs(samples: list[Sample], answer) -> list[tuple[Sample, Prediction]]:
    return [(s, prediction(s.id, answer(s))) for s in samples]


def test_all_right_is_one_and_all_wrong_is_zero(slake):
    """Every one of SLAKE's 1,061 references answers itself, and "zebra" answers none."""
    judge = ExactJudge()
    right = summarise(judge.judge(pairs(slake.samples, lambda s: s.reference.answers[0])))
    assert (right["final"], right["n"], right["missing"], right["coverage"]) == (1.0, 1061, 0, 1.0)
    assert summarise(judge.judge(pairs(slake.samples, lambda s: "zebra")))["final"] == 0.0


def test_empty_answer_is_wrong_but_a_failed_prediction_is_missing(slake):
    s = slake.samples[0]
    empty, failed = ExactJudge().judge([(s, prediction(s.id, None)), (s, prediction(s.id, None, "error"))])
    assert (empty.final, empty.missing) == (0, None)
    assert failed.final is None
    assert "out of memory" in failed.missing
    total = summarise([empty, failed])
    assert (total["final"], total["coverage"], total["low"], total["high"]) == (0.0, 0.5, 0.0, 0.5)


def test_judge_takes_no_argument():
    with pytest.raises(UserError, match="takes no argument"):
        plugins.load("judges", "exact")("strict", JudgeOptions())
