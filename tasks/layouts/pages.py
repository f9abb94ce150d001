"""A parquet file's column of large values, one at a time, however large its pages are.

pyarrow holds a page up to three times while it decodes it, and a writer may put the first thousand pictures of a table into one
page: its dictionary. Here a page is unpacked as it is read, and of a dictionary those values are kept, in a temporary file, that
were asked for or passed on the way. https://parquet.apache.org/docs/file-format/ has the format.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

#: A column is read here where its values are larger than this on average, and a row group holds more than LARGE of it.
LARGE_VALUE = 32 << 10
LARGE = 64 << 20
#: Encodings and codecs that are read; columns with others are left to pyarrow.
_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_CODECS = {"UNCOMPRESSED": None, "SNAPPY": "snappy", "GZIP": "gzip", "ZSTD": "zstd", "BROTLI": "brotli"}
_PLAIN = 0
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
#: How far back a copy in Snappy may point: its writers work on blocks of 64 KiB.
_WINDOW = 1 << 20


def is_large(column: Any) -> bool:
    """Whether a column chunk (pyarrow's metadata) is better read here, and can be."""
    return (
        column.physical_type == "BYTE_ARRAY"
        and column.total_uncompressed_size > max(LARGE, LARGE_VALUE * column.num_values)
        and set(column.encodings) <= _ENCODINGS
        and column.compression in _CODECS
    )


def values(path: Path, column: Any, levels: int, repeated: bool = False) -> Iterator[bytes | None]:
    """The values of a column chunk, None where there is none: one for each row or, of a `repeated` one, for each item of the
    lists, and one for a list without items. `levels` is the column's greatest definition level.
    """
    start = min(x for x in (column.dictionary_page_offset, column.data_page_offset) if x)
    codec = _CODECS[column.compression]
    dictionary: Iterator[bytes] | _Kept | None = None
    with path.open("rb") as file:
        file.seek(start)
        while file.tell() < start + column.total_compressed_size:
            header = _header(file)
            body, end = file.tell(), file.tell() + header[3]
            if header[1] == _DICTIONARY:
                dictionary = _Kept(path, body, header, codec)
            elif header[1] in (_DATA, _DATA_V2):
                yield from _page(file, header, codec, levels, repeated, dictionary)
            file.seek(end)


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _page(
    file: IO[bytes], header: dict[int, Any], codec: str | None, levels: int, repeated: bool, dictionary: Any
) -> Iterator[bytes | None]:
    about = header[5] if header[1] == _DATA else header[8]
    count, width = about[1], levels.bit_length()
    if header[1] == _DATA:
        encoding, left, packed = about[2], header[2], b""
        source = _unpacked(file, header[3], codec)
        for _ in range(repeated + bool(levels)):  # where lists begin, which their other columns say too; then the levels
            packed = source.read(int.from_bytes(source.read(4), "little"))
            left -= 4 + len(packed)
    else:  # levels come first and are not compressed
        encoding, apart = about[4], about[5] + about.get(6, 0)
        file.read(about.get(6, 0))
        packed = file.read(about[5])
        source, left = _unpacked(file, header[3] - apart, codec if about.get(7, True) else None), header[2] - apart
    there = [level == levels for level in _runs(packed, width, count)] if levels else [True] * count
    if encoding == _PLAIN:
        found: Iterator[bytes] = _plain(source)
    else:
        indices = source.read(left)
        found = (dictionary[i] for i in _runs(indices[1:], indices[0], sum(there)))
    for filled in there:
        yield next(found) if filled else None


def _plain(source: _Reads) -> Iterator[bytes]:
    """Values, each after its length."""
    while size := source.read(4):
        yield source.read(int.from_bytes(size, "little"))


class _Kept:
    """A dictionary's values by number, unpacked as far as they were asked for."""

    def __init__(self, path: Path, body: int, header: dict[int, Any], codec: str | None) -> None:
        self.file = path.open("rb")
        self.file.seek(body)
        self.rest = _plain(_unpacked(self.file, header[3], codec))
        self.spool = tempfile.TemporaryFile(prefix="harness-pages-")  # noqa: SIM115
        self.starts = [0]

    def __getitem__(self, number: int) -> bytes:
        while len(self.starts) <= number + 1:
            value = next(self.rest)
            self.spool.seek(self.starts[-1])
            self.spool.write(value)
            self.starts.append(self.starts[-1] + len(value))
            if len(self.starts) == number + 2:
                return value
        self.spool.seek(self.starts[number])
        return self.spool.read(self.starts[number + 1] - self.starts[number])

    def __del__(self) -> None:
        self.file.close()
        self.spool.close()


# -- how bytes are packed ---------------------------------------------------------------------------------------------------


def _unpacked(file: IO[bytes], size: int, codec: str | None) -> _Reads:
    """The next `size` bytes of a file, unpacked as they are read."""
    part = io.BufferedReader(_Part(file, size), 1 << 16)
    if codec is None:
        return part
    if codec == "snappy":
        return _Snappy(part)
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(part, mode="r"), codec)  # type: ignore[no-any-return]


class _Part(io.RawIOBase):
    """So many bytes of a file from where it stands."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left = file, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self.file.read(min(len(buffer), self.left))
        buffer[: len(found)] = found
        self.left -= len(found)
        return len(found)


class _Snappy:
    """Snappy's raw format: literals, and copies of what came before. Raises ValueError for what is none."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source = source
        self.left = _varint(source)
        self.seen = bytearray()
        self.at = 0

    def read(self, size: int) -> bytes:
        while len(self.seen) - self.at < size and self.left:
            before = len(self.seen)
            self._element()
            self.left -= len(self.seen) - before
        found = bytes(self.seen[self.at : self.at + size])
        self.at += len(found)
        if self.at > 2 * _WINDOW:
            del self.seen[: self.at - _WINDOW]
            self.at = _WINDOW
        return found

    def _element(self) -> None:
        tag = self.source.read(1)[0]
        kind, length = tag & 3, (tag >> 2) + 1
        if kind == 0:
            if length > 60:
                length = int.from_bytes(self.source.read(length - 60), "little") + 1
            self.seen += self.source.read(length)
            return
        if kind == 1:
            length, back = 4 + (tag >> 2 & 7), (tag >> 5) << 8 | self.source.read(1)[0]
        else:
            back = int.from_bytes(self.source.read(2 if kind == 2 else 4), "little")
        if not 0 < back <= len(self.seen):
            raise ValueError("a Snappy page that points before its window")
        last = self.seen[-back : len(self.seen) - back + length]
        self.seen += (last * (length // len(last) + 1))[:length]  # a copy may run into itself


def _runs(packed: bytes, width: int, count: int) -> list[int]:
    """`count` numbers of `width` bits: runs of one number, and groups of eight packed side by side."""
    source, found = io.BytesIO(packed), list[int]()
    mask = (1 << width) - 1
    while len(found) < count and width:
        head = _varint(source)
        if head & 1:
            size = head >> 1
            bits = int.from_bytes(source.read(size * width), "little")
            found += [bits >> width * i & mask for i in range(min(size * 8, count - len(found)))]
        else:
            found += [int.from_bytes(source.read((width + 7) // 8), "little")] * (head >> 1)
    return found[:count] if width else [0] * count


def _varint(source: IO[bytes]) -> int:
    found = shift = 0
    while True:
        byte = source.read(1)[0]
        found |= (byte & 127) << shift
        if byte < 128:
            return found
        shift += 7


def _header(source: IO[bytes]) -> dict[int, Any]:
    """A struct in Thrift's compact protocol: {field: value}."""
    found: dict[int, Any] = {}
    field = 0
    while head := source.read(1)[0]:
        field = field + (head >> 4) if head >> 4 else _zigzag(source)
        found[field] = _thrift(source, head & 15)
    return found


def _thrift(source: IO[bytes], kind: int) -> Any:
    if kind in (1, 2):
        return kind == 1
    if kind in (3, 7):
        return source.read(1 if kind == 3 else 8)
    if kind in (4, 5, 6):
        return _zigzag(source)
    if kind == 8:
        return source.read(_varint(source))
    if kind == 12:
        return _header(source)
    raise ValueError(f"a page header of an unknown kind ({kind})")


def _zigzag(source: IO[bytes]) -> int:
    number = _varint(source)
    return number >> 1 ^ -(number & 1)
