"""Choices as data spell them, and the letter of the one that an answer names.

A choice keeps its letter: an empty cell is a gap ("") that no prompt shows and no answer may name. Labels within the words
("B: Focal uptake", "(B) ...", "2. ...") are taken off only where every choice of the row has its own, in order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.columns import Columns
from tasks.layouts.cells import BadCell, empty, literal, short, texts

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PREFIX = re.compile(
    r"\s*([(\[（【]?)\s*(?:(?:option|choice)\s+)?([A-Za-z]|\d{1,2})\s*"
    r"([)\]）】]\s*[.:：]?|[.:：、．](?!\d)|\s[-–—](?=\s))(.*)",
    re.S | re.I,
)
_KEY = re.compile(r"(?:option|choice|opt|op|answer|ans)?[\s_.\-]*([A-Za-z]|\d{1,2})", re.I)
_BARE = re.compile(r"[(\[（]?\s*(?:(?:option|choice)\s+)?([A-Za-z])\s*[)\]）]?\s*[.:：]?", re.I)
#: What the parts of an object for one choice are called.
_LABELS = {"label", "labels", "key", "keys", "letter", "letters", "id", "option", "index"}
_WORDS = {"text", "texts", "value", "values", "content", "words", "choice", "choices", "answer", "name"}


@dataclass(frozen=True)
class Choices:
    """`words` by place, "" for a gap; `labels` as the data give them (A, B ... or 1, 2 ...), () where they give none."""

    words: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def shown(self) -> str:
        """The lines that a question shows."""
        return "".join(f"\n({LETTERS[i]}) {words}" for i, words in enumerate(self.words) if words)


def fold(words: str) -> str:
    """Words as they are compared: without case, outer blanks and a full stop at the end."""
    return " ".join(unicodedata.normalize("NFKC", words).casefold().split()).rstrip(".。")


def read(cells: Sequence[Any], column: str, separator: str | None, where: str) -> Choices | None:
    """The choices of one cell that holds them all, or of one cell for each. None where all are empty.

    Raises BadCell for what is no set of choices: fewer than two, more than 26, two that are the same.
    """
    if all(empty(c) for c in cells):
        return None
    if len(cells) > 1:
        found = Choices(tuple(texts(cells, column, where)))
    else:
        found = _cell(cells[0], column, separator, where)
        if not any(found.words):
            return None
    return check(_stripped(found), column)


def check(found: Choices, column: str) -> Choices:
    """The choices without gaps at their end."""
    words = found.words
    while words and not words[-1]:
        words = words[:-1]
    told = [w for w in words if w]
    if len(told) < 2 or len(words) > len(LETTERS):
        raise BadCell(
            f"column '{column}': {len(told)} choices, expected 2 to 26 (a list or an object in the cell, a cell split at "
            "`separator`, or one column for each)"
        )
    places: dict[str, int] = {}
    for i, w in enumerate(words):
        if w and (first := places.setdefault(fold(w) or w, i)) != i:
            raise BadCell(f"column '{column}': choices ({LETTERS[first]}) and ({LETTERS[i]}) are the same: {short(w)}")
    return Choices(words, found.labels[: len(words)])


def _cell(value: Any, column: str, separator: str | None, where: str) -> Choices:
    if isinstance(value, str):
        spelt = literal(value)
        if spelt is not None:
            value = spelt
        elif value.lstrip()[:1] in ("[", "{"):
            raise BadCell(f"column '{column}': cannot be read as a list or an object: {short(value)}")
        elif separator and separator in value:
            value = value.split(separator)
        elif (found := lettered(value)) and not found[0].strip():
            return Choices(found[1])
        else:
            value = [value]
    if isinstance(value, dict):
        return _object(value, column, where) if value else Choices(())
    if isinstance(value, list | tuple) and value and all(isinstance(v, dict) for v in value):
        return _objects(list(value), column, where)
    return Choices(tuple(texts(value if isinstance(value, list | tuple) else [value], column, where)))


def _object(value: dict[Any, Any], column: str, where: str) -> Choices:
    """{"A": "CT", "B": "MRI"}, {"1": ...}, {"label": ["A", "B"], "text": [...]}."""
    lists = {str(k).lower(): v for k, v in value.items() if isinstance(v, list | tuple)}
    if len(lists) == len(value):
        label, words = (next((lists[k] for k in lists if k in known), None) for known in (_LABELS, _WORDS))
        if words is not None and (label is None or len(label) == len(words)):
            return _labelled(label or list(LETTERS[: len(words)]), words, column, where)
    return _labelled(list(value), list(value.values()), column, where)


def _objects(value: list[dict[Any, Any]], column: str, where: str) -> Choices:
    """[{"key": "A", "value": "CT"}, ...], [{"A": "CT"}, {"B": "MRI"}], [{"text": "CT"}, ...]."""
    if all(len(v) == 1 and _KEY.fullmatch(str(next(iter(v)))) for v in value):
        return _labelled([next(iter(v)) for v in value], [next(iter(v.values())) for v in value], column, where)
    words = next((k for k in value[0] if str(k).lower() in _WORDS), None)
    label = next((k for k in value[0] if str(k).lower() in _LABELS and k != words), None)
    if words is None or any(set(v) != set(value[0]) for v in value):
        raise BadCell(
            f"column '{column}': choices are objects of {short(', '.join(map(str, value[0])))}; expected label and text"
        )
    told = [v[words] for v in value]
    return _labelled([v[label] for v in value], told, column, where) if label else Choices(tuple(texts(told, column, where)))


def _labelled(labels: Sequence[Any], words: Sequence[Any], column: str, where: str) -> Choices:
    """Choices by label, each at its own place; a letter that is left out is a gap."""
    found = [m.group(1).upper() if (m := _KEY.fullmatch(str(k).strip())) else None for k in labels]
    told = dict(zip(found, texts(words, column, where), strict=True))
    if None in told or len(told) != len(words):
        raise BadCell(
            f"column '{column}': choices are named {short(', '.join(map(str, labels)))}; expected A, B, C ... or 1, 2, 3 ..."
        )
    keys = [k for k in found if k is not None]
    if all(k.isdecimal() for k in keys):
        first = min(int(k) for k in keys)
        places = {k: int(k) - first for k in keys}
        if first > 1 or sorted(places.values()) != list(range(len(keys))):
            raise BadCell(f"column '{column}': choices are numbered {', '.join(keys)}; expected 0, 1, 2 ... or 1, 2, 3 ...")
        ordered = sorted(keys, key=int)
        return Choices(tuple(told[k] for k in ordered), tuple(ordered))
    if any(k.isdecimal() for k in keys):
        raise BadCell(f"column '{column}': choices are named {', '.join(keys)}, letters and numbers at once")
    count = max(LETTERS.index(k) for k in keys) + 1
    return Choices(tuple(told.get(k, "") for k in LETTERS[:count]), tuple(LETTERS[:count]))


def _stripped(found: Choices) -> Choices:
    """Without the labels within the words, where each choice has its own, in order and in one style."""
    parts = [(i, _PREFIX.fullmatch(w)) for i, w in enumerate(found.words) if w]
    if any(m is None for _, m in parts):
        return found
    given = [(i, m.group(1), m.group(2), m.group(3).strip(), m.group(4).strip()) for i, m in parts if m]
    if len({(opening, closing) for _, opening, _, closing, _ in given}) != 1 or not any(rest for *_, rest in given):
        return found
    labels = [label for _, _, label, _, _ in given]
    for alphabet in (LETTERS, LETTERS.lower(), [str(i) for i in range(1, 27)], [str(i) for i in range(26)]):
        if all(label == alphabet[i] for (i, *_), label in zip(given, labels, strict=True)):
            words = [""] * len(found.words)
            for i, *_, rest in given:
                words[i] = rest
            return Choices(tuple(words), found.labels or tuple(x.upper() for x in alphabet[: len(words)]))
    return found


# -- the answer --------------------------------------------------------------------------------------------------------


def choice(answer: str, choices: Choices, c: Columns) -> str:
    """The letter of the choice that an answer names. Raises BadCell when it names none, or, read otherwise, another one.

    >>> one = Choices(("one", "two"))
    >>> choice("(B)", one, Columns()), choice("two", one, Columns()), choice("B. two", one, Columns())
    ('B', 'B', 'B')
    """
    words = {fold(w): i for i, w in enumerate(choices.words) if w}
    bare = _BARE.fullmatch(answer)
    number = int(answer) if re.fullmatch(r"\d{1,3}", answer) else None
    labels = [x for x in choices.labels if x.isdecimal()]
    readings: dict[str, int | None] = {
        "letter": LETTERS.index(bare.group(1).upper()) if bare else None,
        "label within the words": _within(choices).get(bare.group(1).upper()) if bare else None,
        "label": labels.index(answer) if answer in labels else None,
        "words": words.get(fold(answer)),
        "index": number,
        "number": number - 1 if number is not None else None,
    }
    if c.choices and len(c.choices) > 1:  # one column for each: the answer may be the name of one
        readings["column"] = next((i for i, name in enumerate(c.choices) if _plain(name) == _plain(answer)), None)
    column = ", ".join(c.answer)
    if c.answer_as in ("auto", "words", "letter") and (labelled := _PREFIX.fullmatch(answer)) and labelled.group(4).strip():
        readings["letter and words"] = _agreed(labelled, words, choices, column, answer)
    allowed = {
        "auto": ("letter", "label within the words", "label", "words", "letter and words", "column", "index"),
        "letter": ("letter", "letter and words", "column"),
        "words": ("words", "letter and words"),
    }.get(c.answer_as, (c.answer_as,))
    found = {k: i for k in allowed if (i := readings.get(k)) is not None and 0 <= i < len(choices.words)}
    if c.answer_as == "auto" and "label" in found:
        found.pop("index", None)  # the data say what their numbers count
    if list(found) == ["index"] and c.answer_as == "auto":
        raise BadCell(f"column '{column}': '{answer}' may count the choices from 0 or from 1; set answer_as: index or number")
    if not found:
        named = short(", ".join(f"({LETTERS[i]}) {w}" for i, w in enumerate(choices.words) if w), 120)
        raise BadCell(f"column '{column}': '{short(answer)}' names none of the choices {named}")
    if len(set(found.values())) > 1:
        said = ", ".join(f"{k}: ({LETTERS[i]})" for k, i in found.items())
        raise BadCell(f"column '{column}': '{short(answer)}' can be read as {said}; set answer_as")
    place = next(iter(found.values()))
    if not choices.words[place]:
        raise BadCell(f"column '{column}': '{short(answer)}' names choice ({LETTERS[place]}), which is empty")
    return LETTERS[place]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def named(answer: str) -> bool:
    """Whether an answer is a letter alone, as only choices have them."""
    return bool(re.fullmatch(r"[(\[]?[A-H][)\].]?", answer))


def _within(choices: Choices) -> dict[str, int]:
    """Label -> place, where all words begin with the letters of the places, but not in their order: "B: Focal", "A: Diffuse"."""
    parts = {i: _PREFIX.fullmatch(w) for i, w in enumerate(choices.words) if w}
    found = {m.group(2).upper(): i for i, m in parts.items() if m and m.group(4).strip()}
    return found if len(found) == len(parts) and set(found) == {LETTERS[i] for i in parts} else {}


def _agreed(labelled: re.Match[str], words: dict[str, int], choices: Choices, column: str, answer: str) -> int | None:
    """The place that "B: Focal uptake" names, where the label and the words are of one choice."""
    label, rest = labelled.group(2).upper(), labelled.group(4).strip()
    place = words.get(fold(rest))
    if place is None or fold(answer) in words:
        return None
    names = (
        {LETTERS[place], *choices.labels[place : place + 1]} if not label.isdecimal() else set(choices.labels[place : place + 1])
    )
    if label not in names:
        raise BadCell(f"column '{column}': '{short(answer)}': the words are those of choice ({LETTERS[place]})")
    return place


# -- choices within a text ------------------------------------------------------------------------------------------------

#: A label at the start of a line, or anywhere in one: its style, and how it is found.
_STYLES = [
    re.compile(r"(?m)^[ \t]*[*_]{0,2}[(\[（]([A-Z])[)\]）][*_]{0,2}[.:]?[ \t]*"),
    re.compile(r"(?m)^[ \t]*[*_]{0,2}([A-Z])[.)\]:：、．][*_]{0,2}[ \t]*"),
    re.compile(r"(?m)^[ \t]*[(\[（]([a-z])[)\]）][.:]?[ \t]*"),
    re.compile(r"(?m)^[ \t]*([a-z])[.)\]][ \t]+"),
    re.compile(r"(?<![\w(])[(\[（]([A-Z])[)\]）][.:]?[ \t]*"),
    re.compile(r"(?<![\w(.])([A-Z])[)][ \t]*"),
    re.compile(r"(?<![\w(.])([A-Z])[:：][ \t]*"),
    re.compile(r"(?<![\w(.])([A-Z])[.、．][ \t]+"),
    re.compile(r"(?<![\w(])[(（]([a-z])[)）][ \t]*"),
]


#: What may follow the last choice in its line: "Answer with the option's letter directly."
_INSTRUCTION = re.compile(
    r"\s+(?=(?:Please|Answer|Respond|Reply|Choose|Select|Pick|Provide|Output|Return|Give|Only|Just)\b"
    r"[^.\n]*\b(?:letters?|options?|choices?|answers?|directly)\b)"
)


def lettered(question: str) -> tuple[str, tuple[str, ...]] | None:
    """(what comes before, the choices) of a text that lists lettered choices from A on; None where it lists none.

    The longest list counts, of two the later: "In (A) and (B), ... (A) CT (B) MRI (C) X-ray" lists three.

    >>> lettered("Which?\\nA. CT\\nB. MRI")
    ('Which?\\n', ('CT', 'MRI'))
    """
    best: tuple[int, int, str, tuple[str, ...]] | None = None
    for style in _STYLES:
        marks = [(m.group(1).upper(), m.start(), m.end()) for m in style.finditer(question)]
        for at, (letter, start, _) in enumerate(marks):
            if letter != "A":
                continue
            run = [marks[at]]
            for mark in marks[at + 1 :]:
                if mark[0] == LETTERS[len(run) % 26] and len(run) < 26:
                    run.append(mark)
                elif mark[0] == "A":
                    break
            if len(run) < 2:
                continue
            ends = [*(s for _, s, _ in run[1:]), len(question)]
            words = [question[e:end] for (_, _, e), end in zip(run, ends, strict=True)]
            words[-1] = _INSTRUCTION.split(words[-1].split("\n")[0])[0]
            found = tuple(w.strip().strip(",;").strip() for w in words)
            if all(found) and (best is None or (len(run), start) > best[:2]):
                best = (len(run), start, question[:start], found)
    return (best[2], best[3]) if best else None


def shows(question: str, choices: Choices) -> bool:
    """Whether a question lists these very choices already, each under its letter.

    Raises BadCell where it lists them under other letters: what is right there would be wrong here.
    """
    found = lettered(question)
    if not found:
        return False
    told = found[1]
    if [fold(w) for w in told] != [fold(w) for w in choices.words] and {fold(w) for w in told} == {
        fold(w) for w in choices.words if w
    }:
        listed = ", ".join(f"({LETTERS[i]}) {w}" for i, w in enumerate(told))
        raise BadCell(
            f"the question lists the choices under other letters than their columns: {short(listed, 120)}; "
            "take them out of the question, or name choices_in: question instead of the columns"
        )
    last = len(choices.words) - 1
    return len(told) >= len(choices.words) and all(
        not w or fold(told[i]) == fold(w) or (i == last and fold(told[i]).startswith(fold(w)))
        for i, w in enumerate(choices.words)
    )
