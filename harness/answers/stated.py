"""The short answer that a text states, for questions that are neither yes/no nor choices.

short("The final answer is \\boxed{CT}.")               # "CT"
short("CT. The image shows a cross-section.")           # "CT"
short("Pneumonia in the left lung")                     # as it is
"""

from __future__ import annotations

import re

from harness.answers.forms import BOX, END_BOX, HEDGE, LEAD, concluded, excerpt, normalise, plain
from harness.answers.polarity import corrects

_ONES = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {word: str(i) for i, word in enumerate(f"{_ONES} {_TEENS}".split())}
for _i, _ten in enumerate(_TENS.split(), 2):
    _NUMBERS |= {_ten: f"{_i}0"} | {f"{_ten} {one}": f"{_i}{digit}" for digit, one in enumerate(_ONES.split()[1:], 1)}
#: A hyphen that could be a blank ("x-ray", not "-5" or "5-10").
_HYPHEN = re.compile(r"(?<=[^\W\d])-(?=\w)|(?<=\w)-(?=[^\W\d])")
#: The blank between a number and its unit.
_UNIT = re.compile(r"(?<=\d) (?=(?:[µμnmckd]?m|[µμmk]?g|[mcd]?l|hu|mmhg|bpm|k?hz|k?v|ma|°|°c)\b)")
#: What is longer, in characters, is no short answer.
_LONG = 300
_OPENS = re.compile(r"(?:(?:it|this|that|there|these|they)(?: is| are|'s|'re) )?(?:(?:a|an|the) )?(?=\S)")
_BOXED = re.compile(f"{BOX}([^{BOX}{END_BOX}]*){END_BOX}")
_CUE = re.compile(
    r"\b(?:answer|response|conclusion|diagnosis)(?: to (?:the|this|your) question)?(?: ?(?:\bis\b|\bwould be\b|[:=]| -+ ))+\s*"
    r"|(?:答案|回答)(?:应该|应|應該)?(?:[是为為:]| )+\s*",
    re.I,
)
_END = re.compile(r"\n|[;!?]|\.(?!\w)| -+ |(?<!^) (?:because|since)\b|\Z", re.I)
_STOPS = re.compile(r"[\n.;:!?,]")
_CONTRADICTS = re.compile(r"(?:or|and|no|not|but|however|alternatively|also|possibly|maybe|perhaps|yes)\b", re.I)
#: A second sentence that takes the first one back.
_DENIES = re.compile(
    r"(?:this|it|that|which)\b[^.;!?\n]*(?:\b(?:not|no|never|excluded|ruled out|unlikely|absent|wrong|incorrect|false)\b|n't\b)",
    re.I,
)
_TAKES_BACK = re.compile(r"(?:no|yes)\b *,", re.I)
_NOT = re.compile(r"\b(?:not|no|never|neither|nor|without)\b|n't\b|[不没沒無无]", re.I)
_LABEL = re.compile(r"(?:explanation|reason|reasoning|rationale|justification|because|since)\b|解释|理由|原因", re.I)


def opened(text: str) -> str:
    """The normal form without a leading article or "it is"."""
    text = normalise(text)
    return text[m.end() :] if (m := _OPENS.match(text)) else text


def bare(text: str) -> str:
    """The same, a number in words as digits, "x-ray" as "x ray" and "5 cm" as "5cm": what two texts are compared by."""
    text = _UNIT.sub("", _HYPHEN.sub(" ", opened(text)))
    return _NUMBERS.get(text, text)


def short(text: str) -> str:
    """The answer that a text states: what is boxed, what follows "the answer is", or what stands before an explanation.

    Where it states none, or several that differ, the text itself.
    """
    words = concluded(plain(excerpt(text)))
    for found in ([_boxed(words, m) for m in _BOXED.finditer(words)], _stated(words)):
        if found:
            return found[-1] if len({bare(f) for f in found}) == 1 else text
    end = _END.search(words)
    first, rest = (words[: end.start()], words[end.start() :].lstrip(" .;!?-\n")) if end else (words, "")
    explains = _LABEL.match(rest) or (len(rest.split()) > 3 and not _CONTRADICTS.match(rest) and not corrects(rest))
    explains = explains and not _DENIES.match(rest)
    return first if rest and explains and not first.isspace() and first else text


def _boxed(words: str, box: re.Match[str]) -> str:
    """What stands in a box; with the words before it in the clause, where they deny it."""
    clause = _STOPS.split(words[max(0, box.start() - 200) : box.start()])[-1]
    return clause + box.group(1) if _NOT.search(clause) else box.group(1)


def _stated(words: str) -> list[str]:
    """What follows each "the answer is", up to the end of the sentence."""
    out = []
    for m in _CUE.finditer(words):
        before = words[max(0, m.start() - 200) : m.start()]
        clause = _STOPS.split(before)[-1].strip()
        if LEAD.fullmatch(clause) and not HEDGE.search(clause):
            end = _END.search(words, m.end())
            rest = words[end.start() :].lstrip(" .;!?-\n") if end else ""
            if end and (_TAKES_BACK.match(rest) or corrects(rest) or _DENIES.match(rest)):
                end = None  # "The answer is CT. No, MRI."
            out.append(words[m.end() : end.start() if end else None].strip())
    return [o for o in out if 0 < len(o) <= _LONG]
