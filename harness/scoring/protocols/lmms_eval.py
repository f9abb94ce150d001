"""lmms-eval's rules: its SLAKE task, its reader of choices, and its CV-Bench task's."""

from __future__ import annotations

import re

from harness.records import Prediction, Sample
from harness.scoring.protocols.plain import correct
from harness.scoring.protocols.protocol import Protocol, Rule
from harness.scoring.protocols.texts import equal_in, lmms_form, whole

_BOX = re.compile(r"<answer\b[^<>]*>(.*?)(?:</answer\s*>|\Z)|\\boxed\s*\{([^{}]*)\}", re.I | re.S)
_SAYS = re.compile(r"(?<!\w)(?:(?:answer|option|choice) ?(?:is\b|[:：=])|i (?:choose|select|pick)\b)", re.I)
#: A letter with what may stand around it; not the first letter of a word, and not one of two ("A or B").
_LABEL = re.compile(
    r"[\s:：=,;]*(?:option\b|choice\b)?[\s(\[{*_`\"'$]*([A-Za-z])(?![\w'’]|-\w)"
    r"(?![\s)\]}*_`\"'$.]*(?:or|and|/|&|,)\s*\(?[A-Za-z]\b)",
    re.I,
)
_IN_BRACKETS = re.compile(r"(?<!\w)\(\s*([A-Za-z])\s*\)(?!\w)")
_LABELLED = re.compile(r"(?<!\w)([A-Z])[.):](?=\s|$)")
_ALONE = re.compile(r"^[\s(\[*_`\"']*([A-Z])[\s)\]*_`\"'.!,:;]*$", re.M)


def _letter(prediction: Prediction, sample: Sample) -> str:
    """The letter in the last answer tags or box, after the last "answer is", or the only one that stands as a label."""
    choices = sample.reference.lettered
    text = re.sub(r"\n\s*", "\n", re.sub(r"[^\S\n]+", " ", prediction.text)).strip()
    if boxes := list(_BOX.finditer(text)):
        text = boxes[-1].group(1) or boxes[-1].group(2) or ""
    says = list(_SAYS.finditer(text))
    if says or boxes:
        found = _LABEL.match(text, says[-1].end() if says else 0)
        letters = {found.group(1).upper()} if found else set()
    else:
        letters = {m.group(1).upper() for form in (_IN_BRACKETS, _LABELLED, _ALONE) for m in form.finditer(text)}
    if len(letters) == 1 and letters <= choices.keys():
        return letters.pop()
    return next((letter for letter, words in choices.items() if lmms_form(words) == lmms_form(text)), "")


def _first_letter(prediction: Prediction, sample: Sample) -> str:
    """The first letter of the text, brackets and blanks before it passed over: "The answer is (B)" is T."""
    found = re.match(r"[(\s]*([A-Za-z])", prediction.text.strip())
    return found.group(1).upper() if found else ""


_FORM = Rule(whole, equal_in(lmms_form))
ENTRIES = [
    Protocol(
        name="lmms-eval",
        rule="Text and reference are equal in lower case, without punctuation and what stands in brackets; synonyms of yes and "
        "no are one. Choices: the letter in answer tags, after 'answer is', or the only one that stands as a label.",
        source="EvolvingLMMs-Lab/lmms-eval, tasks/slake/utils.py @65ef07d; tasks/_task_utils/mcq_extract.py @00a12d4",
        yesno=_FORM,
        open=_FORM,
        choice=Rule(_letter, correct),
        prompt="Answer the question using a single word or phrase.",
        quirks=(
            "The reader of choices is rebuilt from its description, without its Korean and Japanese forms.",
            "Mended: a choice may be named by its words.",
        ),
        differs="Sentences are wrong; what stands in brackets is forgiven.",
    ),
    Protocol(
        name="lmms-eval-cv-bench-asis",
        rule="The same, but of choices the first letter of the text is taken, whatever the word.",
        source="EvolvingLMMs-Lab/lmms-eval, tasks/cv_bench/utils.py @9328c2f",
        yesno=_FORM,
        open=_FORM,
        choice=Rule(_first_letter, lambda read, sample: float(read != "" and correct(read, sample))),
        quirks=('"The answer is (B)" is T, "Answer: B" is A, "**B**" is nothing.',),
        differs="Only a text that begins with the letter can be right.",
    ),
]
