"""Reading a model's text: reasoning and answer, choice letters, yes/no, scores, normal forms.

Each reader returns None when the text does not say, never a guess: "normal" is not "no", and a text that
names two letters names none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
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

    The last non-empty `<answer>` block outside the reasoning counts (a model that corrects itself means its last word),
    closed or cut off. Without one, the answer is what follows `</think>`, or the whole text when there are no tags at
    all. A text cut off inside `<think>` has no answer.
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

    outside = _THINK.sub("", text)
    if "</think>" in outside.lower():
        outside = outside[outside.lower().rfind("</think>") + len("</think>") :]
    blocks = _ANSWER.findall(outside)
    if blocks:
        answer: str | None = next((b.strip() for b in reversed(blocks) if b.strip()), None)
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
_STOP = r"(?=\s*(?:$|[.,;:!?)\"'*]|[-–—]\s))"
_LEAD = re.compile(rf"(?:(yes)\b(?![-–—]\w)|(no)\b{_STOP}|(no)\s+(?:it|there|this|that|these|they|the)\b)")
_SAYS = re.compile(rf"(?<!no )\banswer\s*(?:is|:)\s*[\"'*(]*(yes|no)\b{_STOP}")
_BARE = re.compile(rf"\byes\b|\bno\b{_STOP}")


def yes_no(text: str | None) -> Literal["yes", "no"] | None:
    """The yes or no that a text opens with or states as its answer, else None.

    "Yes, there is no fracture" is yes; "normal", "no idea" and "there is no fracture" say neither, and a text that says
    both says neither.
    """
    if not text:
        return None
    t = normalise(text)
    lead = _LEAD.match(t)
    said = {next(filter(None, lead.groups()))} if lead else set()
    said |= set(_SAYS.findall(t))
    # "no" before a noun ("no fracture") is not an answer; "yes" anywhere else, or a bare "no", contradicts
    if len(said) != 1 or {m.group() for m in _BARE.finditer(t)} - said:
        return None
    return _YES_NO[said.pop()]


_DENIED = re.compile(r"\b(?:not|no|nor|neither|never|none|cannot|incorrect|wrong|except|without|rather)\b|n't\b", re.I)
_MARKED = re.compile(r"\(([A-Z])\)|\*\*\(?([A-Z])\)?[.:)]?\*\*", re.I)
_STATED = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|:|=)\s*(?:option\s+)?([\"'*(]*)([A-Z])\b([\"'*)]*)(.{0,12})", re.I | re.S
)
_ALONE = re.compile(r"[\W_]*([A-Z])[\W_]*", re.I)
_OPENS = re.compile(r"[\"'*(]*([A-Z])(?:[)*\"']+|\s*[.:])[.:,]?\s+(\S.*)", re.I | re.S)


def letter(text: str | None, choices: Sequence[str]) -> str | None:
    """The choice letter ("A", "B", ...) that a text names, or None when it names none or several.

    Read in this order: a stated letter ("The answer is (B)"), a text that is a letter ("B."), a letter that opens the text
    ("b) two"), a marked one ("**B**"), a choice's own words. An article ("a dog") is not the letter A, a choice that is
    denied ("not (B)") is not chosen, and a text that lists the choices names none of them.
    """
    if not text or not text.strip():
        return None
    stripped = text.strip()
    valid = {chr(65 + i) for i in range(len(choices))}

    def only(found: Iterable[str]) -> str | None:
        named = {x.upper() for x in found}
        return named.pop() if len(named) == 1 and named <= valid else None

    stated = []
    for opening, name, closing, rest in _STATED.findall(stripped):
        if (opening and closing) or not rest or re.match(r"\s*(?:[.,;:!?\n]|$)", rest):
            stated += [name, *re.findall(r"^\W*(?:or|and)\W+([A-Z])\b", rest, re.I)]
    if stated:
        return only(stated)
    if alone := _ALONE.fullmatch(stripped):
        return only([alone.group(1)])
    words = normalise(stripped)
    by_words = [chr(65 + i) for i, c in enumerate(choices) if normalise(c) == words]
    if by_words:
        return only(by_words)
    inside = [chr(65 + i) for i, c in enumerate(choices) if re.search(rf"(?<!\w){re.escape(normalise(c))}(?!\w)", words)]
    if opens := _OPENS.fullmatch(stripped):
        name, rest = opens.group(1).upper(), opens.group(2)
        others = {m.upper() for m in re.findall(r"(?<!\w)\(?([A-Z])(?!\w)", rest)} & valid - {name}
        contradicted = inside and name not in inside
        return None if others or contradicted or (not inside and _DENIED.search(rest)) else only([name])
    if _DENIED.search(stripped):
        return None
    if marked := ["".join(m) for m in _MARKED.findall(stripped)]:
        return only(marked)
    return only(inside)


_AFTER = r"(?!\s*(?:/|[-–—]|to\b|or\b|and\b|out\b|of\b|[.,]?\d|e\d|%))"
_SCORE = re.compile(rf"\bscore\b[\"'*]*\s*(?:is|:|=)?[\"'*]*\s*[\"'*]*(\d+(?:\.\d+)?){_AFTER}", re.I)


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
