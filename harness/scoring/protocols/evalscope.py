"""evalscope's rules: its SLAKE adapter and its reader of choices."""

from __future__ import annotations

import re

from harness.records import Prediction, Sample
from harness.scoring.protocols.plain import correct
from harness.scoring.protocols.protocol import Protocol, Rule
from harness.scoring.protocols.texts import equal_in, evalscope_form

_LINE = re.compile(r"ANSWER:\s*(.*)", re.I)
_MARK = re.compile(r"ANSWER\s*:\s*\**\s*[(\[（【]?\s*([A-Za-z])(?![A-Za-z])", re.I)


def _line(prediction: Prediction, sample: Sample) -> str:
    """What stands after the last "ANSWER:" on its line; without one, the text."""
    found = _LINE.findall(prediction.text)
    return found[-1].strip().strip("\"'") if found else prediction.text


def _letter(prediction: Prediction, sample: Sample) -> str:
    """The letter after the last "ANSWER:" that has one; without one, the text's last capital, where that is a choice's letter."""
    choices, text = sample.reference.lettered, prediction.text
    if marked := [m for m in _MARK.findall(text) if m in choices]:
        return str(marked[-1])
    words = evalscope_form(text)
    if named := next((letter for letter, said in choices.items() if evalscope_form(said) == words), ""):
        return named
    capital = next((c for c in reversed(text) if c.isupper()), "")
    return capital if capital in choices else ""


_FORM = Rule(_line, equal_in(evalscope_form))
ENTRIES = [
    Protocol(
        name="evalscope",
        rule="What follows the last 'ANSWER:', else the whole text, equals the reference in lower case, without punctuation, "
        "brackets and articles, numbers as digits, synonyms of yes and no as one. Choices: the letter after the last 'ANSWER:', "
        "else the last capital letter.",
        source="modelscope/evalscope, benchmarks/slake/utils.py @76467d2; utils/multi_choices.py @1617436",
        yesno=_FORM,
        open=_FORM,
        choice=Rule(_letter, correct),
        prompt="Answer the question with a single word or phrase in English. The last line of your response must be of the form "
        '"ANSWER: <answer>" (without quotes).',
        quirks=(
            '"none" is 0.',
            "Without 'ANSWER:' the last capital letter of a text is its choice, if it is one: the A of MRA.",
            "Mended: a choice may be named by its words.",
        ),
        differs="Sentences are wrong unless they end in 'ANSWER: ...'; articles and numbers in words are forgiven.",
    ),
]
