"""LLaVA-Med's rule (Li et al. 2023): closed questions by the words yes and no, open ones by the recall of the reference."""

from __future__ import annotations

from collections import Counter

from harness.records import Prediction, Sample
from harness.scoring.protocols.plain import BORROWED, EXACT
from harness.scoring.protocols.protocol import NOT_AT_ALL, ONCE, Counting, Protocol, Rule, best, closed
from harness.scoring.protocols.texts import equal_in, polar_word, vqa_form, vqa_words, whole

_SOURCE = "microsoft/LLaVA-Med, llava/eval/run_eval.py and eval_metrics/ @ad758b6"


def recall(read: str, answer: str) -> float:
    """The share of the reference's words that occur in the text.

    >>> recall("fluid in the left lung", "left lung"), recall("lung lung", "left lung")
    (1.0, 0.5)
    """
    right = Counter(vqa_words(answer).split())
    return (Counter(vqa_words(read).split()) & right).total() / right.total() if right else 0.0


def _contains(read: str, answer: str) -> bool:
    """Whether the reference's words stand in the text, one after the other."""
    return f" {vqa_words(answer)} " in f" {vqa_words(read)} "


def _open(read: str, sample: Sample) -> float:
    return best(_contains if closed(sample) else recall)(read, sample)


def _recall_as_is(read: str, answer: str) -> float:
    """As printed: a word counts as often as the *text* has it, so that repeating a right word drowns the missing ones."""
    given, right = Counter(vqa_form(read).split()), Counter(vqa_form(answer).split())
    found = sum(n for word, n in given.items() if word in right)
    missed = sum(n for word, n in right.items() if word not in given)
    return found / (found + missed) if found else 0.0


def _read_as_is(prediction: Prediction, sample: Sample) -> str:
    """Of a closed question nothing, unless the letters "yes" or "no" occur anywhere ("normal", "note")."""
    text = vqa_form(prediction.text)
    return "" if closed(sample) and "yes" not in text and "no" not in text else prediction.text


def _compare_as_is(read: str, sample: Sample) -> float:
    if closed(sample):
        return best(lambda text, answer: bool(text) and vqa_form(answer) in vqa_form(text))(read, sample)
    return best(_recall_as_is)(read, sample)


def _count_as_is(sample: Sample, read: str, value: float) -> Counting:
    """A closed answer with "yes" or "no" in it that is wrong is put into no list: it is not counted at all."""
    return NOT_AT_ALL if closed(sample) and read and not value else ONCE


_AS_IS = Rule(_read_as_is, _compare_as_is)
ENTRIES = [
    Protocol(
        name="llava-med",
        rule="Closed: the text has the word yes or the word no (not both), and it is the reference's; other closed answers have "
        "to stand in the text. Open: the share of the reference's words that occur in the text.",
        source=_SOURCE,
        yesno=Rule(lambda p, s: polar_word(p.text), equal_in(vqa_words)),
        open=Rule(whole, _open),
        choice=EXACT,
        fractional=True,
        quirks=(
            "The source prints closed accuracy and open recall apart (/closed, /open); over all rows it is their mean by rows.",
            "Its open accuracy needs candidate.json, which was never published; later papers print the recall (Med-MoE issue 2).",
            "Mended: words instead of letters, wrong answers are counted, a repeated word counts once.",
            BORROWED,
        ),
        differs="A long text can hold every word of the reference; the word no anywhere in a sentence is the answer no.",
    ),
    Protocol(
        name="llava-med-asis",
        rule="Closed: right where the letters yes or no occur anywhere and the reference does too. Open: recall, by the text's "
        "own count of the shared words.",
        source=_SOURCE,
        yesno=_AS_IS,
        open=_AS_IS,
        choice=_AS_IS,
        fractional=True,
        count=_count_as_is,
        quirks=(
            '"normal" and "note" are the answer no; a text with yes and no in it is always right (issue 12).',
            "A wrong answer with yes or no in it is not counted at all, so that hardly anything is wrong.",
            "Closed questions that are not yes/no are wrong even where the answer is right (issue 113).",
            "Choices are read as open answers: the letter A is an article and is lost.",
        ),
        differs="Closed scores are far too high, and too low where answers are not yes or no.",
    ),
]
