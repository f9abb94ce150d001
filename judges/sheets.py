"""Reading verdicts of people from a file, as a spreadsheet writes it: CSV with commas, semicolons or tabs, in UTF-8 or UTF-16,
JSON lines, or Label Studio's JSON. What could be read in two ways is refused, with its row.

    for line, cells in rows(Path("ward.csv")): ...
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.plugins import did_you_mean
from judges import label_studio

COLUMNS = ("sample_id", "final", "reasoning", "annotator", "comment", "text", "pair")
NEEDED = ("sample_id", "final")
#: Columns that say which row a verdict is about: a guessed letter in them could be another row's.
_NAMING = ("sample_id", "text", "pair")
_CSV = (".csv", ".tsv", ".txt", ".tab")
_NUMBER = re.compile(r"\+?0*([01])(?:[.,]0*)?")
#: What people write for 1 and 0, and how spreadsheets write true and false: English, German, French, Spanish, Italian,
#: Portuguese, Dutch.
_TRUE = ("right", "correct", "true", "wahr", "vrai", "verdadero", "vero", "verdadeiro", "waar")
_FALSE = ("wrong", "incorrect", "false", "falsch", "faux", "falso", "onwaar")


#: How a person says that a row cannot be judged.
CANNOT = ("cannot", "cannot judge", "c")


def score(cell: str) -> int | None:
    """The 0 or 1 that a cell says: as a number, or as a spreadsheet's true and false; None for an empty one. Raises ValueError.

    >>> score("1,0"), score("FALSCH"), score(" ")
    (1, 0, None)
    """
    said = cell.strip(" \t\r\n\u00a0'").lower()
    if not said:
        return None
    if number := _NUMBER.fullmatch(said):
        return int(number[1])
    if said in _TRUE or said in _FALSE:
        return int(said in _TRUE)
    raise ValueError(f"'{cell.strip()[:40]}' is not 0, 1 or nothing")


def inert(text: str) -> str:
    """The text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, cells by column) of each row with anything in it. Raises UserError naming file and line."""
    text, guessed = _text(path)
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        yield from _label_studio(path, text)
        return
    is_csv = path.suffix.lower() in _CSV or (path.suffix.lower() not in (".jsonl", ".json") and not text.lstrip().startswith("{"))
    for line, row in _csv(path, text) if is_csv else _json(path, text):
        if guessed and not all(str(row.get(c) or "").isascii() for c in _NAMING):
            raise UserError(f"{path}:{line}: not in UTF-8, and its name has a letter that could be another", hint=_AS_UTF8)
        yield line, row


_AS_UTF8 = "save it as 'CSV UTF-8'"


def _text(path: Path) -> tuple[str, bool]:
    """The file's text, and whether its encoding was guessed: one byte a letter, as older spreadsheets write it."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"--judge human:{path}: cannot be read: {e}", hint="a CSV or JSONL file in UTF-8") from None
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{path}: a workbook, not a CSV", hint=f"open it and {_AS_UTF8}")
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((e for mark, e in marks.items() if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:1000]:
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        return data.decode(encoding or "utf-8-sig"), False  # spreadsheets write a mark first
    except UnicodeDecodeError as e:
        if encoding is None:
            try:
                return data.decode("cp1252"), True
            except UnicodeDecodeError:
                pass
        raise UserError(f"--judge human:{path}: cannot be read: {e}", hint=_AS_UTF8) from None


def _csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(10_000_000)
    said = re.match(r"\s*sep=(.)\r?\n", text)  # Excel's own word on what separates
    separator = said[1] if said else _separator(path, text)
    start = text[: said.end()].count("\n") if said else 0
    reader = csv.reader(io.StringIO(text[said.end() if said else 0 :], newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            line = start + reader.line_num
            if not any(c.strip() for c in cells):
                continue
            if header is None:
                header = _header(path, line, cells)
                continue
            if extra := [c for c in cells[len(header) :] if c.strip()]:
                raise UserError(
                    f"{path}:{line}: more cells than columns: '{extra[0][:40]}'",
                    hint=f"a text with '{separator}' or a line break in it has to stand in quotes",
                )
            yield line, dict(zip(header, cells, strict=False))
    except csv.Error as e:
        raise UserError(f"{path}:{start + reader.line_num}: {e}", hint="is a quote missing?") from None
    if header is None:
        _header(path, 1, [])


def _separator(path: Path, text: str) -> str:
    """What stands between the names of the columns that must be there."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    found = [s for s in ",;\t|" if set(NEEDED) <= {_name(c) for c in next(csv.reader([first], delimiter=s), [])}]
    return found[0] if found else max(",;\t|", key=first.count)


def _name(cell: str) -> str:
    return re.sub(r"[\s_-]+", "_", cell.strip(" \t\u00a0\ufeff").lower())


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    names = [_name(c) for c in cells]
    for needed in NEEDED:
        if needed not in names:
            raise UserError(f"{path}:{line}: no column '{needed}'", hint=did_you_mean(needed, [c.strip() for c in cells]))
    if twice := [n for n in COLUMNS if names.count(n) > 1]:
        raise UserError(f"{path}:{line}: two columns are called '{twice[0]}'", hint="take one away")
    return names


def _label_studio(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the annotation, its cells)."""
    try:
        yield from enumerate(label_studio.flat(json.loads(text)), start=1)
    except (ValueError, TypeError, AttributeError, KeyError) as e:
        raise UserError(f"{path}: not Label Studio's JSON: {e}", hint="export it as JSON or JSON-MIN") from None


def _json(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for n, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{n}: not a JSON object", hint="a .csv file, or JSON lines")
            yield n, row
