"""Reading a model's text: reasoning and answer, choice letters, yes/no, scores, normal forms.

Each reader returns None when the text does not say, never a guess: "normal" is not "no", and a text that
names two letters names none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

_THINK = re.compile(r"<think>(.*?)</think>", re.S | re.I)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.S | re.I)
_TAG = re.compile(r"</?(?:think|answer)>", re.I)


class Reading(NamedTuple):
    """What a text says: `reasoning` and `answer` are None where it holds none."""

    reasoning: str | None
    answer: str | None


def read(text: str) -> Reading:
    """Split a completion into reasoning and answer.

    The last `<answer>` block counts (a model that corrects itself means its last word), closed or cut off.
    Without one, the answer is what follows `</think>`, or the whole text when there are no tags at all.
    A text cut off inside `<think>` has no answer.
    """
    lowered = text.lower()
    end = lowered.rfind("</think>")
    think = _THINK.search(text)
    if think:
        reasoning: str | None = think.group(1).strip()
    elif end >= 0:  # the chat template already opened the tag
        reasoning = text[:end].strip()
    elif "<think>" in lowered:
        reasoning = re.split(r"<answer>", text[lowered.index("<think>") + 7 :], flags=re.I)[0].strip()
    else:
        reasoning = None

    blocks = _ANSWER.findall(text)
    if blocks:
        answer: str | None = blocks[-1].strip()
    elif end >= 0:
        answer = text[end + len("</think>") :].strip()
    elif reasoning is not None:
        answer = None
    else:
        answer = _TAG.sub("", text).strip()
    return Reading(reasoning or None, answer or None)


_EDGE = " \t\n\r\"'`*_.,;:!?"


def normalise(text: str) -> str:
    """Lower case, NFKC, single blanks, no quotes, markdown or punctuation at either end."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*,\s*", ", ", text)
    return text.strip(_EDGE)


_YES_NO: dict[str, Literal["yes", "no"]] = {"yes": "yes", "no": "no"}


def yes_no(text: str | None) -> Literal["yes", "no"] | None:
    """The yes or no that a text opens with or states as its answer, else None.

    "Yes, there is no fracture" is yes; "normal" and "there is no fracture" say neither; "yes and no" neither.
    """
    if not text:
        return None
    t = normalise(text)
    stated = re.findall(r"\banswer\s*(?:is|:)\s*[\"'*(]*(yes|no)\b", t)
    lead = re.match(r"(yes|no)\b(\s*[,.;:!)\-–—]|$)?", t)
    if lead and lead.group(2) is not None and (not stated or set(stated) == {lead.group(1)}):
        return _YES_NO[lead.group(1)]
    words = set(re.findall(r"\b(yes|no)\b", t))
    if len(words) != 1:
        return None
    if lead or stated:
        return _YES_NO[words.pop()]
    return None


_MARKED = re.compile(r"\(([A-Z])\)|\*\*\(?([A-Z])\)?[.:)]?\*\*", re.I)
_STATED = re.compile(r"\b(?:answer|option|choice)\b\s*(?:is|:|=)?\s*[\"'*(]*([A-Z])(?![A-Za-z'])", re.I)
_ALONE = re.compile(r"^[\s\"'*(]*([A-Z])[\s\"'*)]*(?:[.:,)]|$|\n)", re.I)


def letter(text: str | None, choices: Sequence[str]) -> str | None:
    """The choice letter ("A", "B", ...) that a text names, or None when it names none or several.

    Read in this order: a letter that opens the text ("B.", "(b) two"), a stated one ("The answer is (B)"), a
    marked one ("**B**", "(B)"), a choice's own words. An article ("a dog") is not the letter A.
    """
    if not text:
        return None
    valid = {chr(65 + i) for i in range(len(choices))}

    def only(found: list[str]) -> str | None:
        named = {x.upper() for x in found} & valid
        return named.pop() if len(named) == 1 else None

    stripped = text.strip()
    marked = ["".join(m) for m in _MARKED.findall(stripped)]
    stated = [m for m in _STATED.findall(stripped) if m.isupper() or m.lower() not in ("a", "i")]
    if len({x.upper() for x in marked + stated} & valid) > 1:
        return only(stated) if len({x.upper() for x in stated} & valid) == 1 else None
    if alone := _ALONE.match(stripped):
        return only([alone.group(1)])
    if found := only(stated) or only(marked):
        return found
    words = normalise(stripped)
    exact = [chr(65 + i) for i, c in enumerate(choices) if normalise(c) == words]
    if exact:
        return only(exact)
    inside = [chr(65 + i) for i, c in enumerate(choices) if re.search(rf"(?<!\w){re.escape(normalise(c))}(?!\w)", words)]
    return only(inside) if len(inside) == 1 else None


_SCORE = re.compile(r"\bscore\b[\"'*]*\s*(?:is|:|=)?\s*[\"'*]*(\d+(?:\.\d+)?)", re.I)


def score(text: str | None) -> Literal[0, 1] | None:
    """The 0 or 1 that a judge states as its score; None for prose, other numbers or contradictions.

    "Score: 0. Reason 1: wrong side" is 0; "I cannot judge this" is None, never 0.
    """
    if not text:
        return None
    if (bare := text.strip(_EDGE)) in ("0", "1"):
        return int(bare)  # type: ignore[return-value]
    stated = {float(x) for x in _SCORE.findall(text)}
    if stated == {0.0} or stated == {1.0}:
        return int(stated.pop())  # type: ignore[return-value]
    return None
