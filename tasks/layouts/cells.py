"""One model of columns: where a value lies in a row, and what a cell's text spells.

`name`                the column of that name
`qa.question`         a field of an object in a column, also of each object of a list, or `turns.0.text` by number
`filename | image`    the first of these that the row fills
`image_*`, `[A-Z]`    every column of this form, in order (image_2 before image_10); their values are a list
`{findings} {age}`    a text written from several columns (for questions and answers)

Nothing here guesses: a path that leads nowhere is MISSING, and the caller says so.
"""

from __future__ import annotations

import ast
import fnmatch
import io
import json
import re
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from tasks.layouts.rows import text

MISSING: Final = object()
#: A cell longer than this spells no list of answers or choices.
MOST_LITERAL = 20_000
#: Brackets within brackets.
MOST_DEPTH = 20
_FIELD = re.compile(r"\{([^{}]+)\}")
_PATTERN = re.compile(r"[*?\[]")


class BadCell(ValueError):
    """A cell that cannot be read; the message names the column."""


def short(value: Any, most: int = 80) -> str:
    """A cell as a message shows it: one line, not the whole of it."""
    line = " ".join(str(value)[: 4 * most].split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def names(column: str) -> list[str]:
    """The paths that a column of a spec stands for: one, or those of a template."""
    return _FIELD.findall(column) or [column]


def tops(paths: Iterable[str], have: Iterable[str]) -> list[str]:
    """Which of the columns that a table has are needed to read these paths."""
    known = set(have)
    found = (alike(one, known) or [_top(one, known) or ""] for path in paths for one in _alternatives(path, known))
    return list(dict.fromkeys(top for columns in found for top in columns if top))


def missing(path: str, have: Iterable[str]) -> bool:
    """Whether a table with these column names (dotted where they are nested) lacks a path."""
    known = set(have)
    return not any(alike(one, known) or _top(one, known) for one in _alternatives(path, known))


def alike(path: str, have: Iterable[str]) -> list[str]:
    """The columns that a pattern (`image_*`, `[A-Z]`) stands for, by their letters and numbers; none for a plain name.

    >>> alike("image_*", ["image_10", "image_2", "imaging"]), alike("image", ["image"])
    (['image_2', 'image_10'], [])
    """
    if not _PATTERN.search(path) or path in have:
        return []
    found = [name for name in have if fnmatch.fnmatchcase(name, path)]
    return sorted(found, key=lambda name: [part.zfill(9) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])


def _alternatives(path: str, known: Iterable[str]) -> list[str]:
    return [path] if path in known else [p.strip() for p in path.split(" | ")]


def _top(path: str, known: set[str]) -> str | None:
    parts = path.split(".")
    return next((top for n in range(len(parts), 0, -1) if (top := ".".join(parts[:n])) in known), None)


def pick(row: dict[str, Any], path: str) -> Any:
    """The value at a path; of alternatives the first that is filled. MISSING where the row has no such place.

    A pattern's columns are a list, with an empty place for each that the row leaves empty before its last filled one.
    """
    found = MISSING
    for one in _alternatives(path, row):
        value = _several(row, columns) if (columns := alike(one, row)) else _follow(row, one)
        if value is not MISSING and (found is MISSING or empty(found)):
            found = value
    return found


def _several(row: dict[str, Any], columns: Sequence[str]) -> list[Any]:
    values = [row[name] for name in columns]
    while values and empty(values[-1]):
        values.pop()
    return values


def _follow(value: Any, path: str) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        value = literal(value)
    if isinstance(value, list):
        head, _, rest = path.partition(".")
        if head.isdecimal():
            inner = value[int(head)] if int(head) < len(value) else MISSING
            return _follow(inner, rest) if rest and inner is not MISSING else inner
        found = [_follow(v, path) for v in value]
        return [v for v in found if v is not MISSING] if any(v is not MISSING for v in found) else MISSING
    if not isinstance(value, dict):
        return MISSING
    if path in value:
        return value[path]
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        if (head := ".".join(parts[:n])) in value:
            return _follow(value[head], ".".join(parts[n:]))
    return MISSING


#: How an empty cell of pandas looks once it was made a text.
_NOTHING = ("", "nan", "<na>")


def empty(value: Any) -> bool:
    """None, blank text, an empty list or object, and the NaN that pandas writes for an empty cell, also as text."""
    if value is None or value is MISSING:
        return True
    if isinstance(value, str):
        return not value.strip() or (len(value) < 20 and value.strip().lower() in _NOTHING)
    if isinstance(value, list | tuple | dict | bytes):
        return len(value) == 0
    return isinstance(value, float) and value != value


def written(row: dict[str, Any], column: str, where: str) -> str:
    """The text of a column, or of a template. A template's line whose fields are all empty is left out.

    In a template a list of texts (an abstract's paragraphs) is written line by line.
    """
    if not (fields := _FIELD.findall(column)):
        return scalar(row, column, where)
    values = {f: _lines(row, f, where) for f in fields}
    lines = []
    for line in column.split("\n"):
        here = _FIELD.findall(line)
        if not here or any(values[f] for f in here):
            lines.append(_FIELD.sub(lambda m: values[m.group(1)], line))
    return "\n".join(lines).strip() if any(values.values()) else ""


def _lines(row: dict[str, Any], path: str, where: str) -> str:
    value = pick(row, path)
    if not isinstance(value, list):
        return scalar(row, path, where)
    return "\n".join(told for told in texts(value, path, where) if told)


def scalar(row: dict[str, Any], path: str, where: str) -> str:
    """One cell as text. Raises RowError for what is no single text."""
    value = pick(row, path)
    return "" if value is MISSING or (isinstance(value, str) and empty(value)) else text(f"{where}: column '{path}'", value)


# -- literals -------------------------------------------------------------------------------------------------------------


def literal(cell: str, most: int = MOST_LITERAL) -> list[Any] | dict[Any, Any] | None:
    """The list or object that a text spells in JSON, as Python prints it, or as NumPy does; None where it spells none.

    >>> literal('{"A": "CT"}'), literal("['T1', \\"Hodgkin's\\"]"), literal("['CT' 'MRI']"), literal("[see note]")
    ({'A': 'CT'}, ['T1', "Hodgkin's"], ['CT', 'MRI'], None)
    """
    t = cell.strip()
    if array := re.fullmatch(r"(?:np\.)?array\((.*?)(?:,\s*dtype=\w+)?\)", t, re.S):
        t = array.group(1).strip()
    if t[:1] + t[-1:] not in ("[]", "{}", "()") or len(t) > most or _depth(t) > MOST_DEPTH:
        return None
    reads: list[Callable[[str], Any]] = [_json, _numpy, _python]
    for read in reads:
        value = read(t)
        if isinstance(value, tuple):
            value = list(value)
        if isinstance(value, list | dict):
            return value
    return None


def _depth(t: str) -> int:
    deepest = depth = 0
    for c in t:
        if c in "[{(":
            depth += 1
            deepest = max(deepest, depth)
        elif c in "]})":
            depth -= 1
    return deepest


def _json(t: str) -> Any:
    try:
        return json.loads(t)
    except (ValueError, RecursionError):
        return None


def _python(t: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\d" in a text
        try:
            return ast.literal_eval(t)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None


def _numpy(t: str) -> list[str] | None:
    """['CT' 'MRI']: Python would read two texts side by side as one."""
    if not (t.startswith("[") and re.search(r"['\"]\s+['\"]", t)):
        return None
    try:
        tokens = [k for k in tokenize.generate_tokens(io.StringIO(t).readline) if k.string.strip()]
    except (tokenize.TokenError, SyntaxError):
        return None
    kinds = [k.type for k in tokens[1:-1]]
    if not kinds or any(k != tokenize.STRING for k in kinds):
        return None
    found = [_python(k.string) for k in tokens[1:-1]]
    return found if all(isinstance(x, str) for x in found) else None


def items(value: Any, separator: str | None, most: int = MOST_LITERAL) -> list[Any]:
    """A cell as a list: a list as it is, a text that spells a list of texts, text split at the separator, else itself."""
    if value is None or value is MISSING:
        return []
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str):
        found = literal(value, most) if value.lstrip()[:1] in ("[", "(", "a", "n") else None
        if isinstance(found, list) and all(isinstance(x, str) for x in found):  # numbers may be a box: one answer
            return found
        if separator:
            return value.split(separator)
    return [value]


def texts(values: Iterable[Any], column: str, where: str) -> Iterator[str]:
    """The texts of a cell's items, empty ones and places that the row leaves out as "". Raises BadCell for what is no text."""
    for value in values:
        if isinstance(value, list | dict | bytes):
            raise BadCell(f"column '{column}': expected text, found {type(value).__name__}")
        yield "" if value is MISSING or (isinstance(value, str) and empty(value)) else text(f"{where}: column '{column}'", value)
