"""CSV and TSV: the separator is seen from the header, text is UTF-8 (or UTF-16, which shows) unless the spec names another."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.archives import Archive
from harness.errors import DataError

SEPARATORS = (",", "\t", ";", "|")
_QUOTES = (
    'a cell that begins with a double quote ends with one, and quotes within it are doubled: """Normal"" study?"; in Python, '
    "csv.reader(file, delimiter=..., quoting=csv.QUOTE_NONE) reads a file without quoting, and csv.writer writes it anew"
)


def open_text(archive: Archive, file: str, encoding: str | None) -> IO[str]:
    """A file's text, read as it is asked for. A byte order mark decides; without one it is `encoding`, else UTF-8."""
    source = archive.stream(file)
    stream = open(source, "rb") if isinstance(source, Path) else source  # noqa: SIM115
    head = stream.read(4)
    stream.seek(0)
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    # letters, each with a zero byte
    bare = "utf-16-le" if head[1::2] == b"\0\0" else "utf-16-be" if head[::2] == b"\0\0" else "utf-8"
    found = next((name for mark, name in marks.items() if head.startswith(mark)), encoding or bare)
    return io.TextIOWrapper(stream, encoding=found, newline="")


def not_text(label: str, e: UnicodeError, encoding: str | None) -> DataError:
    """What to do about bytes that are no text."""
    what = encoding or "UTF-8"
    at = f" ({e.reason} at byte {e.start} of a block)" if isinstance(e, UnicodeDecodeError) else f" ({e})"
    return DataError(
        f"{label}: not {what} text{at}",
        hint="save it as UTF-8, or name what it is beside `splits`: encoding: latin-1 (or cp1252, gbk, utf-16)",
    )


def rows(archive: Archive, file: str, encoding: str | None) -> Iterator[dict[str, Any]]:
    """The rows by column name; the first item is the header as {name: None}."""
    label = archive.label(file)
    csv.field_size_limit(1 << 28)
    with open_text(archive, file, encoding) as text:
        try:
            separator = _separator(text, file)
            reader = csv.DictReader(text, delimiter=separator, strict=True)
            have = list(reader.fieldnames or [])
            if len(set(have)) != len(have):
                twice = sorted({h or "(no name)" for h in have if have.count(h) > 1})
                raise DataError(f"{label}: two columns of one name: {', '.join(twice)}")
            yield dict.fromkeys(have)
            for i, row in enumerate(reader):
                if None in row or None in row.values():
                    cells = len(have) + len(row.get(None) or ()) - sum(v is None for v in row.values())
                    raise DataError(
                        f"{label}: row {i} (line {reader.line_num}): {cells} cells under {len(have)} columns",
                        hint="a cell that holds the separator or a line break must stand in double quotes",
                    )
                if separator == "\t" and any("\n" in cell and "\t" in cell for cell in row.values()):
                    raise DataError(
                        f"{label}: row {i} (up to line {reader.line_num}): a cell runs over lines and tabs", hint=_QUOTES
                    )
                yield row
        except csv.Error as e:
            raise DataError(f"{label}: line {reader.reader.line_num}: not CSV ({e})", hint=_QUOTES) from None
        except UnicodeError as e:
            raise not_text(label, e, encoding) from None


def _separator(text: IO[str], file: str) -> str:
    """The separator that makes most columns of the header; of two the file's own. Leaves `text` at the header."""
    first = text.readline()
    start = 0
    if told := re.fullmatch(r'"?sep=(.)"?\s*', first):  # Excel's own line
        start = len(first)
        text.seek(0)
        text.readline()
        return told.group(1)
    text.seek(start)
    own = "\t" if file.lower().endswith(".tsv") else ","
    bare = re.sub(r'"[^"]*"', "", first)
    return max(SEPARATORS, key=lambda s: (bare.count(s), s == own))
