"""Rows of a file by its ending: .jsonl, .json, .csv, .tsv, .parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Set
from typing import Any

from harness.archives import Archive
from harness.errors import DataError
from harness.plugins import did_you_mean
from tasks.layouts.rows import json_rows

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def rows_of(archive: Archive, file: str, columns: list[str], optional: Set[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """The file's rows, at least their `columns`. Raises DataError naming file and line or row, and a missing column.

    A table with a header must have every column but the `optional` ones; a JSON row may lack some.
    """
    kind = next((k for k in KINDS if file.lower().endswith(k)), None)
    if kind is None:
        raise DataError(f"{archive.label(file)}: not a kind of file that can be read", hint=f"one of {', '.join(KINDS)}")
    if kind == ".jsonl":
        return _jsonl(archive, file)
    if kind == ".json":
        return iter(json_rows(archive, file))
    if kind == ".parquet":
        return _parquet(archive, file, columns, optional)
    return _csv(archive, file, "\t" if kind == ".tsv" else ",", columns, optional)


def header(archive: Archive, file: str, rows: int = 200) -> tuple[list[str], list[dict[str, Any]]]:
    """(column names, the first rows) of a file."""
    found: list[dict[str, Any]] = []
    for row in rows_of(archive, file, []):
        found.append(row)
        if len(found) == rows:
            break
    return list(dict.fromkeys(k for r in found for k in r)), found


def _check_header(label: str, have: list[str], columns: list[str], optional: Set[str]) -> None:
    for name in columns:
        if name not in have and name not in optional:
            raise DataError(f"{label}: no column '{name}'", hint=did_you_mean(name, have))


def _jsonl(archive: Archive, file: str) -> Iterator[dict[str, Any]]:
    for n, line in enumerate(archive.text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise DataError(f"{archive.label(file)}: line {n}: not JSON ({e})") from None
        if not isinstance(row, dict):
            raise DataError(f"{archive.label(file)}: line {n}: expected an object, found {type(row).__name__}")
        yield row


def _csv(archive: Archive, file: str, delimiter: str, columns: list[str], optional: Set[str]) -> Iterator[dict[str, Any]]:
    label = archive.label(file)
    csv.field_size_limit(1 << 27)
    reader = csv.DictReader(io.StringIO(archive.text(file), newline=""), delimiter=delimiter, strict=True)
    try:
        have = list(reader.fieldnames or [])
        if len(set(have)) != len(have):
            raise DataError(f"{label}: two columns of one name: {', '.join(sorted({h for h in have if have.count(h) > 1}))}")
        _check_header(label, have, columns, optional)
        for i, row in enumerate(reader):
            if None in row or None in row.values():
                cells = len(have) + len(row.get(None) or ()) - sum(v is None for v in row.values())
                raise DataError(
                    f"{label}: row {i} (line {reader.line_num}): {cells} cells under {len(have)} columns",
                    hint="a cell that holds the separator or a line break must stand in double quotes",
                )
            yield row
    except csv.Error as e:
        raise DataError(f"{label}: line {reader.line_num}: not CSV ({e})") from None


def _parquet(archive: Archive, file: str, columns: list[str], optional: Set[str]) -> Iterator[dict[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    label = archive.label(file)
    try:
        table = ParquetFile(archive.stream(file))
        have = table.schema_arrow.names
        _check_header(label, have, columns, optional)
        # few rows at a time: a batch of images is held twice while it is converted
        for batch in table.iter_batches(batch_size=64, columns=[c for c in columns if c in have] or None):
            yield from batch.to_pylist()
    except (ArrowException, OSError, ValueError) as e:  # ValueError: text that is not UTF-8
        raise DataError(f"{label}: cannot be read as parquet ({str(e).splitlines()[0]})") from None
