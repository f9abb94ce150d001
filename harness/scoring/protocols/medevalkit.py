"""MedEvalKit's rules (the Lingshu report's harness), without its LLM judge, and what its totals do with one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from harness.records import Prediction, Sample
from harness.scoring.metrics import right_letter
from harness.scoring.protocols.plain import EXACT, correct
from harness.scoring.protocols.protocol import NOT_AT_ALL, ONCE, Counting, Protocol, Rule, best, closed
from harness.scoring.protocols.texts import equal_in, polar_word

_SOURCE = (
    "alibaba-damo-academy/MedEvalKit, utils/VQA_RAD/VQA_RAD.py @564d279, utils/SLAKE/SLAKE.py @9b12e3b; "
    "utils/utils.py in the copy blackkiring/MedEvalKit @f60b5be"
)
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_CUES = (
    "**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:", "final answer", "final answer is",
)  # fmt: skip


def _stated(prediction: Prediction) -> str:
    """What is boxed or stands in answer tags, else the text; of that, what follows the last "answer:" or "answer is".

    In lower case.
    """
    text = prediction.text
    if boxed := _BOXED.findall(text):
        text = boxed[-1]
    elif tagged := re.findall(r"<answer>(.*?)</answer>", text, re.S):
        text = " ".join(tagged).strip() or text
    text = text.lower().strip()
    for cue in _CUES:
        text = text.rpartition(cue)[2]
    return text


def _flat(text: str) -> str:
    return text.replace("\n", "").replace(".", "")


def _either_letters(text: str) -> str:
    """The yes or no of which the letters occur, where only one of the two does."""
    found = [word for word in ("yes", "no") if word in text]
    return found[0] if len(found) == 1 else ""


def _equal(read: str, sample: Sample) -> float:
    """Of closed questions without full stops."""
    if closed(sample):
        return best(lambda text, answer: _flat(text).strip() == _flat(answer.lower()).strip())(read, sample)
    return best(lambda text, answer: text == answer.lower().strip())(read, sample)


def _equal_as_is(read: str, sample: Sample) -> float:
    if closed(sample):
        return best(lambda text, answer: _flat(text) == answer.lower())(read, sample)
    return best(lambda text, answer: text == answer.lower())(read, sample)


def _letter(prediction: Prediction, sample: Sample, *, tidy: bool) -> str:
    """The letter, the choice's words, or else the choice whose characters are most like the text's (difflib)."""
    choices = {letter: words.lower().strip() for letter, words in sample.reference.lettered.items()}
    letters = {letter.lower(): letter for letter in choices}
    paragraphs = prediction.text.lower().split("\n\n")
    for alone in (paragraphs[0], paragraphs[-1].partition(".")[0]):
        if alone.strip() in letters:
            return letters[alone.strip()]
    text = _stated(prediction).strip().replace("\n", "")
    opening = text.partition(".")[0].rpartition(":")[2]
    opening = opening.strip() if tidy else opening
    if opening in letters:
        return letters[opening]
    if opening in {a.strip().lower() for a in sample.reference.answers}:  # as the reference is written: "(B)"
        return right_letter(sample.reference) or ""
    for letter, words in choices.items():
        if words in ((opening, text) if tidy else (opening,)):
            return letter
    alike = {letter: difflib.SequenceMatcher(None, words, text).ratio() for letter, words in choices.items()}
    nearest = max(alike, key=alike.__getitem__)
    return nearest if not tidy or alike[nearest] > 0 else ""


def set_f1(read: str, answer: str) -> float:
    """F1 of two sets of words, cut at blanks.

    >>> round(set_f1("the left lung", "left lung"), 3)
    0.8
    """
    given, right = set(read.lower().split()), set(answer.lower().split())
    common = len(given & right)
    return 2 * common / (len(given) + len(right)) if common else 0.0


def _set_recall(read: str, answer: str) -> float:
    given, right = set(read.lower().split()), set(answer.lower().split())
    return len(given & right) / len(right) if right else 0.0


def _not_closed(sample: Sample, read: str, value: float) -> Counting:
    return NOT_AT_ALL if closed(sample) else ONCE


def _closed_weighs(weight: float, is_closed: Callable[[Sample], bool]) -> Callable[[Sample, str, float], Counting]:
    return lambda sample, read, value: Counting(weight) if is_closed(sample) else ONCE


_YESNO_AS_IS = Rule(lambda p, s: _either_letters(_flat(_stated(p))), best(lambda read, answer: read == answer.lower().strip()))
_OPEN_AS_IS = Rule(lambda p, s: _stated(p), _equal_as_is)
_CHOICE_AS_IS = Rule(lambda p, s: _letter(p, s, tidy=False), correct)
_YESNO = Rule(lambda p, s: polar_word(_stated(p).strip().rstrip(".")), equal_in(lambda text: text.lower().strip()))
_OPEN = Rule(lambda p, s: _stated(p).strip(), _equal)
_CHOICE = Rule(lambda p, s: _letter(p, s, tidy=True), correct)
_FAULTS = (
    '"normal" is the answer no: letters are looked for, not words.',
    'What follows "Answer:" begins with a blank, so that "Answer: CT" is not CT.',
    "An empty answer to a choice question is the first choice.",
)
_JUDGED = "With the judge on, the LLM's word on open rows is needed; here the rule without a judge stands in for it."
_PARTLY = "Choices: a text that names none is taken for the choice whose characters it is most like, whatever it says."

ENTRIES = [
    Protocol(
        name="medevalkit",
        rule="What is boxed, tagged or follows the last 'answer is' counts. Yes/no: the one of the two words that occurs. "
        "Other: equal in lower case (closed ones without full stops). Choices: letter, words, or the most similar choice.",
        source=_SOURCE,
        yesno=_YESNO,
        open=_OPEN,
        choice=_CHOICE,
        quirks=(
            "On VQA-RAD and Path-VQA its closed rows are the yes/no rows (/yesno), on SLAKE those marked CLOSED (/closed).",
            "The Lingshu report's numbers have an LLM judge on open rows (issue 12); this is the rule without it.",
            "An open answer with a full stop at its end is wrong.",
            _PARTLY,
            "Mended: words instead of letters, blanks around what is read are ignored, an empty answer is no choice.",
        ),
        differs="Sentences are wrong unless they say 'answer is'; a no anywhere in a yes/no answer counts.",
    ),
    Protocol(
        name="medevalkit-asis",
        rule="The same with its faults, row by row.",
        source=_SOURCE,
        yesno=_YESNO_AS_IS,
        open=_OPEN_AS_IS,
        choice=_CHOICE_AS_IS,
        quirks=_FAULTS,
        differs="Answers in sentences lose, and words that have the letters n and o in them win.",
    ),
    Protocol(
        name="medevalkit-slake-asis",
        rule="Its total on SLAKE with the judge on: closed rows that are right are counted twice.",
        source=_SOURCE,
        yesno=_YESNO_AS_IS,
        open=_OPEN_AS_IS,
        choice=_CHOICE_AS_IS,
        count=_closed_weighs(2.0, closed),
        quirks=("An all-correct run scores more than 1 (issue 30).", _JUDGED, *_FAULTS),
        differs="The more closed rows, the more the score passes the truth.",
    ),
    Protocol(
        name="medevalkit-rad-asis",
        rule="Its total on VQA-RAD and Path-VQA with the judge on, before it was mended: closed rows are set to 0.",
        source="alibaba-damo-academy/MedEvalKit issue 30 (October 2025)",
        yesno=_YESNO_AS_IS,
        open=_OPEN_AS_IS,
        choice=_CHOICE_AS_IS,
        count=_closed_weighs(0.0, lambda sample: sample.reference.kind == "yesno"),
        quirks=("An all-correct run scores the share of its open rows; all-correct closed rows score 0.", _JUDGED, *_FAULTS),
        differs="Closed rows can only be wrong.",
    ),
    Protocol(
        name="medevalkit-f1",
        rule="F1 of the two sets of words, over rows that are not closed.",
        source=_SOURCE,
        yesno=_YESNO,
        open=Rule(lambda p, s: _stated(p).strip(), best(set_f1)),
        choice=EXACT,
        fractional=True,
        count=_not_closed,
        quirks=("Words are cut at blanks, so that a full stop makes another word.",),
        differs="Closed rows do not count, and a part of an answer counts as a part.",
    ),
    Protocol(
        name="medevalkit-f1-asis",
        rule="What it prints as F1 is the recall: F1, precision and recall are returned in one order and unpacked in another.",
        source=_SOURCE,
        yesno=_YESNO_AS_IS,
        open=Rule(lambda p, s: _stated(p), best(_set_recall)),
        choice=EXACT,
        fractional=True,
        count=_not_closed,
        quirks=("calculate_f1 returns (F1, precision, recall); its caller unpacks (precision, recall, F1).",),
        differs="Long texts score as well as short ones.",
    ),
]
