"""What the readers share: JSON rows with their row numbers, and fields that must be there.

A field that no row can do without is a DataError, which ends the reading; a value that is not text is a RowError, which a
reader hands to `View.reject`.
"""

from __future__ import annotations

import json
from typing import Any

from harness.archives import Archive
from harness.errors import DataError, RowError
from harness.plugins import did_you_mean


def json_rows(archive: Archive, name: str) -> list[dict[str, Any]]:
    """The rows of a JSON file that is a list of objects. Raises DataError naming the file and, where it can, line or row."""
    try:
        rows = json.loads(archive.text(name))
    except (ValueError, RecursionError) as e:  # ValueError: also a number of thousands of digits
        raise DataError(f"{archive.label(name)}: not JSON ({e})") from None
    if not isinstance(rows, list):
        raise DataError(f"{archive.label(name)}: expected a list of rows, found {type(rows).__name__}")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{archive.label(name)}: row {i}: expected an object, found {type(row).__name__}")
    return rows


def fields(where: str, row: dict[str, Any], *names: str) -> list[Any]:
    """The row's values of these fields. Raises DataError with the nearest name that the row has."""
    for name in names:
        if name not in row:
            raise DataError(f"{where}: no field '{name}'", hint=did_you_mean(name, list(row)))
    return [row[n] for n in names]


def texts(where: str, row: dict[str, Any], *names: str) -> list[str]:
    """The row's fields as text, stripped. Numbers become text; None becomes ""; anything else raises RowError."""
    return [text(f"{where}: field '{n}'", v) for n, v in zip(names, fields(where, row, *names), strict=True)]


def text(where: str, value: Any) -> str:
    """One value as stripped text: 3 and 3.0 are "3", True is "true", None is "". Raises RowError for anything else."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise RowError(f"{where}: not valid Unicode (half of a surrogate pair)")
        return value.strip()
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return "" if value != value else str(value)  # NaN is how pandas writes an empty cell
    raise RowError(f"{where}: expected text, found {type(value).__name__}")


def name_of(row: dict[str, Any], key: str, otherwise: str) -> str:
    """The id of a row that cannot be used, to report it by; `otherwise` where that cannot be read either."""
    try:
        return text(key, row.get(key)) or otherwise
    except RowError:
        return otherwise
