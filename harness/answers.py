"""Reading a model's text: reasoning and answer, choice letters, yes/no, scores, normal forms.

Each reader returns None when the text does not say, never a guess: "normal" is not "no", and a text that
names two letters names none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

#: Raised whenever `read` could take something else from the same text; a run's stored answers are all of one version.
VERSION = 2

_THINK = re.compile(r"<think>(.*?)</think>", re.S | re.I | re.A)
_OPEN = re.compile(r"<think>", re.I | re.A)
_CLOSE = re.compile(r"</think>", re.I | re.A)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.S | re.I | re.A)
_TAG = re.compile(r"</?(?:think|answer)>", re.I | re.A)


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
    end = max(_CLOSE.finditer(text), key=re.Match.start, default=None)
    opening = _OPEN.search(text)
    if think := _THINK.search(text):
        reasoning: str | None = think.group(1).strip()
    elif end:  # the chat template already opened the tag
        reasoning = text[: end.start()].strip()
    elif opening:
        reasoning = re.split(r"<answer>", text[opening.end() :], flags=re.I | re.A)[0].strip()
    else:
        reasoning = None

    outside = _CLOSE.split(_THINK.sub("", text))[-1]
    blocks = _ANSWER.findall(outside)
    if blocks:
        answer: str | None = next((b.strip() for b in reversed(blocks) if b.strip()), None)
    elif end:
        answer = text[end.end() :].strip()
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
#: Opens the reason for what was just stated: "B because ...", but not "A as well as B".
_WHY = r"(?:because|since|as(?!\s+(?:well|such)\b))\b(?!-)"
_STOP = rf"(?=\s*(?:$|[.,;:!?)\"'*]|[-–—]\s)|\s+{_WHY})"
_LEAD = re.compile(rf"[(\[]*(?:(yes)\b(?![-–—]\w)|(no)\b{_STOP}|(no)\s+(?:it|there|this|that|these|they|the)\b)")
_SAYS = re.compile(rf"(?<!no )\banswer\s*(?:is|:)\s*[\"'*(]*(yes|no)\b{_STOP}")
_BARE = re.compile(rf"\byes\b|\bno\b{_STOP}")


def yes_no(text: str | None) -> Literal["yes", "no"] | None:
    """The yes or no that a text opens with or states as its answer, else None.

    "Yes, there is no fracture" is yes, "No because the lungs are clear" is no; "normal", "no idea" and "there is no
    fracture" say neither, and a text that says both says neither.
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
    r"\b(?:(?:answer|option|choice)\s*(?:is|:|=)|choose|pick|select|go\s+with)\s*(?:option\s+)?"
    r"([\"'*(]*)\b([A-Z])\b([\"'*)]*)(.{0,12})",
    re.I | re.S,
)
#: What may follow a stated letter; before a noun it is an article ("Answer: A dog").
_ENDS = re.compile(rf"\s*(?:[.,;:!?\n]|$)|\s+{_WHY}", re.I)
_PLAIN = re.compile(
    r"(?:\b(?:option|choice|answer)\s+|\A)[\"'*(]*([A-Z])[)*\"']*\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    rf"|\A[\"'*(]*([A-Z])[)*\"']*\s+{_WHY}"
    r"|\\boxed\{\s*(?:\\text\{)?\(?([A-Z])\)?\s*\}",
    re.I,
)
_LABEL = re.compile(r"(?:the\s+)?(?:final\s+)?(?:answer|option|choice)\s+(?=[\"'*(]*[A-Z]\b)", re.I)
_ALONE = re.compile(r"[\W_]*([A-Z])[\W_]*", re.I)
_OPENS = re.compile(r"[\"'*(]*([A-Z])(?:[)*\"']+|\s*[.:])[.:,]?\s+(\S.*)", re.I | re.S)


def letter(text: str | None, choices: Sequence[str]) -> str | None:
    """The choice letter ("A", "B", ...) that a text names, or None when it names none or several.

    Read in this order: a stated letter ("The answer is (B)", "B because ...", "Option B is correct", a letter alone on the
    first line), a text that is a letter ("B."), a letter that opens the text ("b) two"), a marked one ("**B**"), a
    choice's own words. An article ("a dog") is not the letter A, a choice that is denied ("not (B)") is not chosen, and a
    text that lists the choices names none of them.
    """
    if not text or not text.strip():
        return None
    stripped = text.strip()
    if label := _LABEL.match(stripped):
        stripped = stripped[label.end() :]
    valid = {chr(65 + i) for i, c in enumerate(choices) if c}  # an empty one is a gap, whose letter names nothing

    def only(found: Iterable[str]) -> str | None:
        named = {x.upper() for x in found}
        return named.pop() if len(named) == 1 and named <= valid else None

    stated = _stated(stripped)
    if stated:
        return only(stated)
    if alone := _ALONE.fullmatch(stripped):
        return only([alone.group(1)])
    words = normalise(stripped)
    by_words = [chr(65 + i) for i, c in enumerate(choices) if c and normalise(c) == words]
    if by_words:
        return only(by_words)
    inside = [chr(65 + i) for i, c in enumerate(choices) if c and re.search(rf"(?<!\w){re.escape(normalise(c))}(?!\w)", words)]
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


def _stated(text: str) -> list[str]:
    """The letters that a text says are its answer, in so many words."""
    found = []
    for opening, name, closing, rest in ((m.groups()) for m in _STATED.finditer(text) if not _denied(text, m.start())):
        if (opening and closing) or not rest or _ENDS.match(rest):
            found += [name, *re.findall(r"^\W*(?:or|and)\W+([A-Z])\b", rest, re.I)]
    found += [next(filter(None, m.groups())) for m in _PLAIN.finditer(text) if not _denied(text, m.start())]
    lines = text.splitlines()
    if len(lines) > 1 and _ALONE.fullmatch(lines[0]):
        found += [m.group(1) for line in lines if (m := _ALONE.fullmatch(line))]
    return found


def _denied(text: str, start: int) -> bool:
    """Whether the clause up to `start` denies what comes: "I would not choose"."""
    return _DENIED.search(re.split(r"[.,;:!?\n]", text[:start])[-1]) is not None


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
