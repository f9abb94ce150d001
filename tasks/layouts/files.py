"""Rows of a file by its ending: .jsonl, .json, .csv, .tsv, .parquet, .arrow. Large files are read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.archives import Archive, captured
from harness.errors import DataError
from harness.plugins import did_you_mean
from tasks.layouts import cells, delimited, jsons, parquet

KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_ALSO = {".ndjson": ".jsonl", ".txt": ".csv", ".feather": ".arrow", ".pq": ".parquet"}
#: Kinds that cannot be read, and the way out.
_OTHERS = {
    (".xlsx", ".xls", ".ods"): "save the sheet as CSV (UTF-8)",
    (".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"): "unpack it first",
    (".pkl", ".pickle", ".npy", ".npz", ".pt", ".mat"): "it may run code or needs its own program; write it as JSONL or parquet",
    (".sqlite", ".db", ".xml", ".h5", ".hdf5"): "write it as JSONL, CSV or parquet",
}
#: Rows that are held at a time: a batch of images is there twice while it is converted.
_BATCH = 32


def split_part(name: str, archive: Archive) -> tuple[str, str]:
    """("rows.json", "test") of "rows.json#test": a list within a JSON file."""
    file, mark, part = name.rpartition("#")
    return (file, part) if mark and name not in archive and file.lower().endswith(".json") else (name, "")


def parts_of(archive: Archive, file: str, part: str, encoding: str | None) -> dict[str, dict[str, str]]:
    """The lists of a JSON file that `part` names -> what each `{name}` in it stands for: {"Atlas.test": {"subset": "Atlas"}}.

    Raises DataError where a pattern fits none.
    """
    if not any(c in part for c in "*?{"):
        return {part: {}}
    held = list(jsons.lists(jsons.tree(archive, file, encoding)))
    if found := {key: values for key in held if (values := captured(_dotted(part), _dotted(key))) is not None}:
        return found
    raise DataError(f"{archive.label(file)}: no list of rows at '{part}'", hint=f"found: {', '.join(held[:8]) or 'none'}")


def _dotted(path: str) -> str:
    return path.replace(".", "/")  # so that * stays within one name


def rows_of(
    archive: Archive, name: str, columns: Sequence[str], *, split: str = "test", encoding: str | None = None
) -> Iterator[dict[str, Any]]:
    """The file's rows, with at least their `columns` (paths, see cells.py); all of them where none is named.

    Raises DataError naming file and line or row, and a column that no row has, before any row comes.
    """
    file, part = split_part(name, archive)
    kind = kind_of(file)
    label = archive.label(file)
    if kind is None:
        hint = next((way for ends, way in _OTHERS.items() if file.lower().endswith(ends)), f"one of {', '.join(KINDS)}")
        raise DataError(f"{label}: not a kind of file that can be read", hint=hint)
    if kind in (".json", ".jsonl") and not part and jsons.has_lines(archive, file, encoding):
        _check_seen(label, jsons.lines(archive, file, encoding), columns)
        return jsons.lines(archive, file, encoding)
    if kind in (".json", ".jsonl"):
        rows = jsons.rows(archive, file, part, split, encoding)
        _check_seen(label, iter(rows), columns)
        return iter(rows)
    if kind in (".csv", ".tsv"):
        found = delimited.rows(archive, file, encoding)
        _require(label, list(next(found)), columns)
        return found
    return _columnar(archive, file, kind, columns)


def kind_of(file: str) -> str | None:
    """The kind of a file by its ending."""
    ending = Path(file.lower()).suffix
    return ending if ending in KINDS else _ALSO.get(ending)


def by_columns(file: str) -> bool:
    """Whether single columns of a file can be read."""
    return kind_of(file) in (".parquet", ".arrow")


def header(
    archive: Archive, file: str, rows: int = 200, *, split: str = "test", encoding: str | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """(column names, the first rows) of a file."""
    found: list[dict[str, Any]] = []
    for row in rows_of(archive, file, [], split=split, encoding=encoding):
        found.append(row)
        if len(found) == rows:
            break
    return list(dict.fromkeys(k for r in found for k in r)), found


def no_column(where: str, name: str, have: Sequence[str]) -> DataError:
    """A column that is not there, with the nearest one that is."""
    return DataError(f"{where}: no column '{name}'", hint=did_you_mean(name, list(have)))


def _require(label: str, have: list[str], columns: Sequence[str]) -> None:
    for name in columns:
        if cells.missing(name, have):
            raise no_column(label, name, have)


def _check_seen(label: str, rows: Iterator[dict[str, Any]], columns: Sequence[str]) -> None:
    """Each column is in one row at least: what some rows leave out is no error, what all do is.

    Looks as far ahead as it takes, so that `--limit` finds the same as a whole reading.
    """
    unseen = dict.fromkeys(columns)
    have: dict[str, None] = {}
    for row in rows if unseen else ():
        for name in [n for n in unseen if cells.pick(row, n) is not cells.MISSING]:
            del unseen[name]
        if not unseen:
            return
        have |= dict.fromkeys(paths(row))
    if have and unseen:
        name = next(iter(unseen))
        raise DataError(f"{label}: no row has a column '{name}'", hint=did_you_mean(name, list(have)))


def paths(row: dict[str, Any], depth: int = 2) -> Iterator[str]:
    """The names in a row, dotted within objects."""
    for key, value in row.items():
        yield str(key)
        if isinstance(value, dict) and depth:
            yield from (f"{key}.{inner}" for inner in paths(value, depth - 1))


def _columnar(archive: Archive, file: str, kind: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa

    label = archive.label(file)
    try:
        source = archive.stream(file)
        schema, rows = parquet.opened(source, _BATCH) if kind == ".parquet" else _arrow(source)
        have = list(schema.names)
        for name in columns:
            if cells.missing(name, have) or not _nested(schema, name, have):
                raise no_column(label, name, list(_paths_of(schema)))
        yield from rows(cells.tops(columns, have))
    except (pa.ArrowException, OSError, ValueError) as e:  # ValueError: text that is not UTF-8
        raise DataError(f"{label}: cannot be read as {kind.removeprefix('.')} ({str(e).splitlines()[0][:200]})") from None


def _paths_of(schema: Any) -> Iterator[str]:
    for field in schema:
        yield field.name
        if hasattr(field.type, "fields") and field.type.num_fields:
            yield from (f"{field.name}.{inner.name}" for inner in field.type.fields)


def _nested(schema: Any, path: str, have: Sequence[str]) -> bool:
    """Whether the type of a column has the field that a dotted path names; of text and lists only reading can tell."""
    import pyarrow as pa

    if cells.alike(path, have):
        return True
    for one in [path] if path in have else [p.strip() for p in path.split(" | ")]:
        for top in cells.tops([one], have):
            rest, kind = one[len(top) + 1 :], schema.field(top).type
            while pa.types.is_list(kind) or pa.types.is_large_list(kind):
                kind = kind.value_type
            if (
                not rest
                or not pa.types.is_struct(kind)
                or rest.split(".")[0] in [f.name for f in kind.fields]
                or rest[0].isdecimal()
            ):
                return True
    return False


def _arrow(source: Any) -> tuple[Any, Any]:
    import pyarrow as pa

    handle = pa.memory_map(str(source)) if isinstance(source, Path) else source
    try:
        reader = pa.ipc.open_file(handle)
        found = (reader.get_batch(i) for i in range(reader.num_record_batches))
    except pa.ArrowInvalid:  # what `datasets` writes is a stream
        handle.seek(0)
        reader = pa.ipc.open_stream(handle)
        found = iter(reader)

    def rows(columns: list[str]) -> Iterator[dict[str, Any]]:
        for batch in found:
            narrow = batch.select(columns) if columns else batch
            for i in range(0, narrow.num_rows, _BATCH):
                yield from narrow.slice(i, _BATCH).to_pylist()

    return reader.schema, rows
