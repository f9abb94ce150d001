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
        ("<think>I will use <answer> tags</think><answer>yes</answer>", "I will use <answer> tags", "yes"),
        ("<answer>yes</answer><answer></answer>", None, "yes"),
        ("<answer>yes</answer><think>because</think>", "because", "yes"),
        ("<think>the <answer>no</answer> is inside</think>", "the <answer>no</answer> is inside", None),
        ("<THINK>a</THINK><ANSWER>b</ANSWER>", "a", "b"),
        # a letter that is longer in lower case shifts nothing
        ("İİİİİİİİİİİİ</think>left lung", "İİİİİİİİİİİİ", "left lung"),
        ("İİİİ <think>cut off", "cut off", None),
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
        ("A) one\nB) two\nThe answer is B.", "B"),
        ("A. one B. two\nAnswer: B", "B"),
        ("The answer is (B), not (A).", "B"),
        ("A, B", None),
        ("A: one, B: two", None),
        ("A. one\nB. two", None),
        ("A. or B.", None),
        ("Answer: A dog", None),
        ("Answer: A or B", None),
        ("The answer is not (B)", None),
        ("(A) is wrong", None),
        ("Option A is incorrect, so it is the dog", None),
        ("It is not two", None),
        ("A: two", None),
        ("Z", None),
        ("", None),
        (None, None),
        ("The answer is B because the depth is smaller", "B"),
        ("B because", "B"),
        ("B since A is wrong", "B"),
        ("Option B is correct", "B"),
        ("(B) is the right one", "B"),
        ("I choose B", "B"),
        ("I'd go with (B).", "B"),
        ("Answer B", "B"),
        ("B\n\nExplanation: A is wrong", "B"),
        (r"\boxed{B}", "B"),
        (r"So it is \boxed{\text{B}}.", "B"),
        ("I would not choose B", None),
        ("I don't think option B is correct", None),
        (r"It is not \boxed{B}", None),
        ("I choose a dog", None),
        ("Answer a dog", None),
        ("A as well as B", None),
        ("A\nB", None),
        ("A\nbut the answer is B", None),
        (r"\boxed{A} or \boxed{B}", None),
    ],
)
def test_letter(text, letter):
    assert answers.letter(text, AB) == letter


def test_letter_among_numbers():
    assert answers.letter("(C)", ABCD) == "C"
    assert answers.letter("2", ABCD) == "C"
    assert answers.letter("There are 12 of them", ABCD) is None
    assert answers.letter("Answer: I don't know", [str(i) for i in range(10)]) is None
    assert answers.letter("There is no pneumonia", ("pneumonia", "oedema")) is None


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Yes", "yes"),
        ("No.", "no"),
        ("yes, there is no fracture", "yes"),
        ("No, yes would be wrong", None),
        ("No, it is not", "no"),
        ("No it is not", "no"),
        ("Yes it is", "yes"),
        ("Yes - clearly", "yes"),
        ("The answer is no", "no"),
        ("Answer: **Yes**", "yes"),
        ("normal", None),  # MedEvalKit counts "normal" as no
        ("There is no fracture", None),
        ("yes and no", None),
        ("yes or no", None),
        ("nothing", None),
        ("No idea", None),
        ("No answer", None),
        ("No way to tell", None),
        ("No image provided", None),
        ("no one knows", None),
        ("no-contrast CT", None),
        ("I cannot answer: no image", None),
        ("The answer is no longer clear", None),
        ("no answer is no", None),
        ("Yes. No.", None),
        ("yes!no", None),
        ("Yes, or no", None),
        ("yesterday", None),
        ("No because the lungs are clear", "no"),
        ("No, since the heart is normal", "no"),
        ("The answer is yes because no fracture", "yes"),
        ("(No)", "no"),
        ("No as such", None),
        ("(no fracture)", None),
        ("No because yes", None),
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
        ("**Score:** 1", 1),
        ("Score: 1/5", None),
        ("Score: 1 out of 10", None),
        ("Score: 1 or 0", None),
        ("Score: 1e5", None),
        ("Score: 1,5", None),
        ("Score: 0-1", None),
        ("The score is 0 to 1", None),
        ("I cannot give a score: 0 and 1 are both possible", None),
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
