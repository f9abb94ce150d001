"""Reading a model's text. The strings that other harnesses misread (each named) are here with what they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import answers

AB = ("one", "two")
ABCD = ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>It is a CT.</think><answer>yes</answer>", "It is a CT.", "yes"),
        ("<think>a</think>\n <answer> Lung Cancer </answer>\n", "a", "Lung Cancer"),
        ("already open</think><answer>no</answer>", "already open", "no"),
        ("<think>a</think> the answer follows", "a", "the answer follows"),
        ("<think>cut off in the middle of", "cut off in the middle of", None),
        ("<answer>yes", None, "yes"),
        ("<answer>first</answer> no, wait <answer>second</answer>", None, "second"),
        ("<think>a</think><answer></answer>", "a", None),
        ("<answer>  </answer>", None, None),
        ("Pneumonia", None, "Pneumonia"),
        ("", None, None),
        ("   ", None, None),
        ("<THINK>a</THINK><ANSWER>b</ANSWER>", "a", "b"),
    ],
)
def test_read(text, reasoning, answer):
    assert answers.read(text) == (reasoning, answer)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B)", "B"),  # lmms-eval CV-Bench reads T
        ("Answer: B", "B"),  # lmms-eval CV-Bench reads A
        ("**B**", "B"),  # lmms-eval CV-Bench reads nothing
        ("B", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("b) two", "B"),
        ("B: two", "B"),
        ("two", "B"),
        ("It is two.", "B"),
        ("The correct option is **(A)**.", "A"),
        ("Answer: (A) one", "A"),
        ("A or B", None),
        ("(A) and (B)", None),
        ("one or two", None),
        ("There is a dog", None),
        ("I think so", None),
        ("Z", None),
        ("", None),
        (None, None),
    ],
)
def test_letter(text, letter):
    assert answers.letter(text, AB) == letter


def test_letter_among_numbers():
    assert answers.letter("(C)", ABCD) == "C"
    assert answers.letter("2", ABCD) == "C"
    assert answers.letter("There are 12 of them", ABCD) is None


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("yes, there is no fracture", "yes"),
        ("No, yes would be wrong", "no"),
        ("The answer is no", "no"),
        ("Answer: **Yes**", "yes"),
        ("normal", None),  # MedEvalKit counts "normal" as no
        ("There is no fracture", None),
        ("yes and no", None),
        ("yes or no", None),
        ("nothing", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_yes_no(text, reading):
    assert answers.yes_no(text) == reading


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 0. Reason 1: wrong side", 0),  # lmms-eval reads 1
        ("I cannot judge this", None),  # lmms-eval reads 0
        ("1", 1),
        ("0.", 0),
        ("score is 1", 1),
        ('"score": 1', 1),
        ("Score: 0.5", None),
        ("Score: 2", None),
        ("Score: 1 ... final score: 0", None),
        ("10", None),
        ("", None),
        (None, None),
    ],
)
def test_score(text, score):
    assert answers.score(text) == score


def test_normalise():
    assert answers.normalise("  **Lung  Cancer.** ") == "lung cancer"
    assert answers.normalise("Atelectasis,Mass") == answers.normalise("atelectasis , mass")
    assert answers.normalise("T２") == "t2"


@given(st.text(max_size=300))
def test_readers_never_raise(text):
    reading = answers.read(text)
    assert reading.answer is None or reading.answer.strip()
    assert answers.yes_no(text) in ("yes", "no", None)
    assert answers.letter(text, AB) in ("A", "B", None)
    assert answers.score(text) in (0, 1, None)


@given(st.sampled_from(["yes", "no"]), st.sampled_from(["", ".", "!", ", clearly", " - see the left lobe"]))
def test_yes_no_survives_what_follows(word, tail):
    assert answers.yes_no(word.capitalize() + tail) == word
