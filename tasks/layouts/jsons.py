"""JSON lines, and JSON files: a list of rows, or an object that holds such lists by split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from harness.archives import Archive
from harness.errors import DataError
from tasks.layouts.cells import short
from tasks.layouts.delimited import not_text, open_text

#: What splits are called; a list under one of these is never taken for another split.
SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "testmini", "eval"}


_ONE_A_LINE = "each line holds one JSON object, as json.dumps(row) writes it (a dict as Python prints it is none)"


def lines(archive: Archive, file: str, encoding: str | None) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one on each line."""
    label = archive.label(file)
    with open_text(archive, file, encoding) as text:
        try:
            for n, line in enumerate(text, start=1):
                if line.strip():
                    yield _object(label, n, line)
        except UnicodeError as e:
            raise not_text(label, e, encoding) from None


def _object(label: str, n: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{label}: line {n}: not JSON ({short(e, 120)})", hint=_ONE_A_LINE) from None
    if not isinstance(row, dict):
        raise DataError(f"{label}: line {n}: expected an object, found {type(row).__name__}")
    return row


def has_lines(archive: Archive, file: str, encoding: str | None) -> bool:
    """Whether a file has an object on each line, whatever its ending says."""
    named = not file.lower().endswith(".json")
    with open_text(archive, file, encoding) as text:
        try:
            first = next((line for line in text if line.strip()), "")
            if named:
                return first.lstrip()[:1] != "["
            return isinstance(json.loads(first), dict) and any(line.strip() for line in text)
        except (ValueError, RecursionError):  # no text, or no JSON: reading it says so
            return named


def tree(archive: Archive, file: str, encoding: str | None) -> Any:
    """What a JSON file holds."""
    label = archive.label(file)
    with open_text(archive, file, encoding) as text:
        try:
            return json.load(text)
        except UnicodeError as e:
            raise not_text(label, e, encoding) from None
        except (ValueError, RecursionError) as e:  # ValueError: also a number of thousands of digits
            raise DataError(f"{label}: not JSON ({short(e, 120)})") from None


def lists(value: Any, path: str = "") -> dict[str, list[dict[str, Any]]]:
    """Every list of rows within an object, by its dotted path: {"Atlas.test": [...]}."""
    if not isinstance(value, dict):
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for key, inner in value.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(inner, list) and all(isinstance(r, dict) for r in inner):
            found[here] = inner
        elif isinstance(inner, dict) and here.count(".") < 3:
            found |= lists(inner, here)
    return found


def rows(archive: Archive, file: str, part: str, split: str, encoding: str | None) -> list[dict[str, Any]]:
    """The rows of a JSON file. Of an object with several lists the one named by `part` (FILE#PART), else by the split."""
    label, value = archive.label(file), tree(archive, file, encoding)
    if isinstance(value, list):
        if part:
            raise DataError(f"{label}: a list of rows, which has no part '{part}'")
        if bad := next(((i, r) for i, r in enumerate(value) if not isinstance(r, dict)), None):
            raise DataError(f"{label}: row {bad[0]}: expected an object, found {type(bad[1]).__name__}")
        return value
    if not isinstance(value, dict):
        raise DataError(f"{label}: expected a list of rows, found {type(value).__name__}")
    found = lists(value)
    wanted = part or split
    if wanted in found:
        return found[wanted]
    named = ", ".join(f"{file}#{k} ({len(v)} rows)" for k, v in list(found.items())[:8])
    if part:
        raise DataError(f"{label}: no list of rows at '{part}'", hint=f"found: {named or 'none'}")
    if len(found) == 1 and next(iter(found)).rpartition(".")[2].lower() not in SPLITS:
        return next(iter(found.values()))
    if found:
        raise DataError(
            f"{label}: expected a list of rows; found an object of several, none of split '{split}'", hint=f"name one: {named}"
        )
    if value and (all(isinstance(v, list) for v in value.values()) or all(isinstance(v, dict) for v in value.values())):
        raise DataError(
            f"{label}: expected a list of rows; found an object by column or by id ({short(', '.join(value), 60)})",
            hint='write a list of objects: in pandas df.to_json(file, orient="records")',
        )
    raise DataError(f"{label}: expected a list of rows, found an object ({short(', '.join(value), 60) or 'empty'})")
