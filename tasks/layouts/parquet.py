"""Parquet rows, a few at a time; columns of large values are read apart from the others, a value at a time (pages.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from tasks.layouts import pages

Row = dict[str, Any]


def opened(source: Path | IO[bytes], batch: int) -> tuple[Any, Callable[[Sequence[str]], Iterator[Row]]]:
    """(the Arrow schema, the rows of some top-level columns, all of them where none is named)."""
    from pyarrow.parquet import ParquetFile

    # pages as they are needed: with pre_buffer a whole row group would be in memory, however large it is
    file = ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)

    def rows(columns: Sequence[str]) -> Iterator[Row]:
        wanted = list(columns) or list(file.schema_arrow.names)
        large = [_large(file, group, wanted) if isinstance(source, Path) else {} for group in range(file.num_row_groups)]
        if not any(large):
            yield from _plain(file, batch, wanted, range(file.num_row_groups))
            return
        assert isinstance(source, Path)
        for group, apart in enumerate(large):
            yield from _group(file, source, batch, group, wanted, apart) if apart else _plain(file, batch, wanted, [group])

    return file.schema_arrow, rows


def _plain(file: Any, batch: int, columns: list[str], groups: Sequence[int]) -> Iterator[Row]:
    for found in file.iter_batches(batch_size=batch, row_groups=list(groups), columns=columns):
        yield from found.to_pylist()


def _leaves(file: Any, columns: list[str]) -> dict[int, list[str]]:
    """The columns that hold values, by number -> the way to each: ["image", "bytes"]."""
    named = {n: file.schema.column(n).path for n in range(len(file.schema))}
    ways = {n: [path] if path in file.schema_arrow.names else path.split(".") for n, path in named.items()}
    return {n: way for n, way in ways.items() if way[0] in columns}


def _large(file: Any, group: int, columns: list[str]) -> dict[int, list[str]]:
    """Those of a row group that are better read a value at a time.

    Of lists those of objects whose other fields say how many there are; others are left to pyarrow.
    """
    meta, leaves = file.metadata.row_group(group), _leaves(file, columns)
    large = {n: way for n, way in leaves.items() if pages.is_large(meta.column(n))}
    others = [way[:-1] for n, way in leaves.items() if n not in large]
    depth = {n: file.schema.column(n).max_repetition_level for n in large}
    return {n: way for n, way in large.items() if not depth[n] or (depth[n] == 1 and len(way) == 4 and way[:-1] in others)}


def _group(file: Any, path: Path, batch: int, group: int, columns: list[str], apart: dict[int, list[str]]) -> Iterator[Row]:
    meta = file.metadata.row_group(group)
    others = [".".join(way) for n, way in _leaves(file, columns).items() if n not in apart]
    rows = _plain(file, batch, others, [group]) if others else ({} for _ in range(meta.num_rows))
    feeds = [(way, _values(file, path, group, n), file.schema.column(n).max_repetition_level) for n, way in apart.items()]
    for row in rows:
        for way, feed, repeated in feeds:
            if repeated:
                for item in row[way[0]] or [None]:
                    value = next(feed)
                    if item is not None:
                        item[way[-1]] = value
            else:
                _put(row, way, next(feed))
        yield row


def _values(file: Any, path: Path, group: int, number: int) -> Iterator[Any]:
    column = file.schema.column(number)
    chunk = file.metadata.row_group(group).column(number)
    found = pages.values(path, chunk, column.max_definition_level, bool(column.max_repetition_level))
    text = column.logical_type.type == "STRING"
    return (value.decode() if text and value is not None else value for value in found)


def _put(row: Row, way: list[str], value: Any) -> None:
    """Puts a value at its place. An object that the other columns say is missing stays so."""
    for name in way[:-1]:
        inner = row.setdefault(name, None if value is None else {})
        if inner is None:
            return
        row = inner
    row[way[-1]] = value
