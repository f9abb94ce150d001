"""VLMEvalKit's rules without an LLM: exact matching of choices, yes/no and short answers."""

from __future__ import annotations

import re

from harness.records import Prediction, Sample
from harness.scoring.protocols.plain import correct
from harness.scoring.protocols.protocol import Protocol, Rule
from harness.scoring.protocols.texts import equal_in, polar_word, vqa_words, whole

_SOURCE = (
    "open-compass/VLMEvalKit, vlmeval/utils/matching_util.py @18fc37a; "
    "vlmeval/dataset/utils/yorn.py @0c7163c and vqa_eval.py @0a04a1d"
)
_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
#: A letter of a longer text counts among its last words, or after "answer is" (pull requests 1175 and 1552).
_LAST = 5
_SAYS = re.compile(r"answer\s+is\s+\**\(?([A-Z])\b", re.I)


def _letters(text: str, sample: Sample) -> list[str]:
    """The choices' letters that stand as words in a text, each once."""
    words = text.translate(_SIGNS).split()
    return [letter for letter in sample.reference.lettered if letter in words]


def _by_words(text: str, sample: Sample) -> str:
    """The only choice whose words occur in the text."""
    choices = {letter: words.lower() for letter, words in sample.reference.lettered.items()}
    named = [letter for letter, words in choices.items() if words in text.lower()]
    return named[0] if len(named) == 1 else ""


def _letter(prediction: Prediction, sample: Sample) -> str:
    """The only letter at the end of the text or after "answer is"; else the choice whose words the text is, or has in it."""
    text = prediction.text.strip()
    choices = sample.reference.lettered
    if whole := next((letter for letter, words in choices.items() if words.lower().strip() == text.lower()), ""):
        return whole
    words = text.translate(_SIGNS).split()
    found = _letters(text, sample)
    if len(found) == 1 and words.index(found[0]) >= len(words) - _LAST and (found != ["A"] or len(words) <= 3):
        return found[0]
    if said := [m.group(1).upper() for m in _SAYS.finditer(text) if m.group(1).upper() in choices]:
        return said[-1]
    short = len(text) <= 2 * sum(map(len, choices.values()))
    return _by_words(text, sample) if short else ""


def _letter_as_is(prediction: Prediction, sample: Sample) -> str:
    """The only letter that stands anywhere as a word, the article A and "Company B" among them."""
    found = _letters(prediction.text, sample)
    return found[0] if len(found) == 1 else _by_words(prediction.text, sample)


_YESNO = Rule(lambda p, s: polar_word(p.text), equal_in(vqa_words))
_OPEN = Rule(whole, equal_in(vqa_words))
ENTRIES = [
    Protocol(
        name="vlmevalkit",
        rule="Yes/no: the one of the two words that occurs. Open: equal in the VQA evaluator's form. Choices: the only letter "
        "among the last words, else the only choice whose words occur.",
        source=_SOURCE,
        yesno=_YESNO,
        open=_OPEN,
        choice=Rule(_letter, correct),
        quirks=(
            "It asks an LLM about answers that it cannot match; here they are wrong.",
            "Mended: the article A and a letter in the middle of a text are no choice.",
            "Mended: a text that is the words of a choice is that choice.",
        ),
        differs="Sentences are wrong answers to open questions; a no anywhere in a yes/no answer counts.",
    ),
    Protocol(
        name="vlmevalkit-asis",
        rule="The same, but the only letter that stands anywhere in the text as a word is the choice.",
        source=_SOURCE,
        yesno=_YESNO,
        open=_OPEN,
        choice=Rule(_letter_as_is, correct),
        quirks=('"A fracture is seen" chooses A, and "the gain for Company B" chooses B (pull request 1175).',),
        differs="Texts without an answer are given one by their articles.",
    ),
]
