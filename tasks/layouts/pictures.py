"""Pictures of a row: paths, bytes, base64, the hub's `{bytes, path}`; and where they stand in its question.

Bytes that a table holds are kept once each, in memory up to KEPT and beyond that in a temporary file, so that a table of
many gigabytes can be read.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from harness.archives import Archive, inside
from harness.data import View
from harness.errors import RowError
from harness.records import BadImageError, ImageRef
from tasks.layouts.cells import BadCell, empty, items, short
from tasks.layouts.rows import text

#: Bytes of pictures that are kept in memory.
KEPT = 64 << 20
#: Characters of a file's name.
LONGEST_NAME = 255
#: A cell of base64 is longer than any path.
SHORTEST_BASE64 = 260
_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(?:;[\w.+=-]+)*;base64,", re.I)
_BASE64 = re.compile(r"[A-Za-z0-9+/=_\-\s]+")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP", b"II+\0")
#: A picture's place in a text: <image>, <image 1>, <image_2>; <|image|>, <|image_1|>, <ImageHere> of other models' prompts.
_PLACE = re.compile(r"<\|?\s*(?:image|img|picture)(?:[\s_\-]*(?:here|placeholder))?[\s_\-]*(\d*)\s*\|?/?>", re.I)
_OTHER = re.compile(r"<\s*(video|audio)\s*/?>", re.I)


@dataclass(frozen=True)
class Spooled(ImageRef):
    """An image whose bytes lie in the temporary file at `path`, from `start` on."""

    start: int = 0
    length: int = 0

    @property
    def content(self) -> bytes:
        assert self.path
        try:
            with open(self.path, "rb") as f:
                f.seek(self.start)
                return f.read(self.length)
        except OSError as e:
            raise BadImageError(f"{self.name}: its temporary copy cannot be read ({e.strerror})") from None


class Pictures:
    """Finds or keeps the pictures of one split."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.held: dict[str, ImageRef] = {}
        #: Whether cells hold pictures as base64; then those of each row by its id, which a later row may name for the same
        #: picture (VLMEvalKit's tables).
        self.inline = False
        self.of_row: dict[str, ImageRef] = {}
        self.names: dict[str, str] = {}
        self.kept = 0
        self.spool: Any = None

    def of(self, value: Any, column: str, where: str) -> Iterator[ImageRef | None]:
        """The pictures of a cell, in order; None for an empty place of a list."""
        for one in items(value, self.view.separator, most=1 << 28):
            if isinstance(one, list):
                yield from self.of(one, column, where)
            else:
                yield None if empty(one) else self.one(one, column, where)

    def one(self, value: Any, column: str, where: str) -> ImageRef:
        if isinstance(value, ImageRef):
            return value
        if isinstance(value, dict):  # the hub's image feature, or an object that names a file
            value = _of_object(value, column)
            if isinstance(value, tuple):
                return self.hold(*value)
        if isinstance(value, bytes):
            return self.hold(value, None)
        name = text(f"{where}: column '{column}'", value)
        if (data := base64_image(name, column)) is not None:
            self.inline = True
            return self.hold(data, None)
        return self.of_row.get(name) or self.find(name, where)

    def hold(self, data: bytes, path: str | None) -> ImageRef:
        """The image of these bytes, named by its path where no other image has that name, else by its content."""
        key = hashlib.sha256(data).hexdigest()
        if key not in self.held:
            name = PurePosixPath(path.replace("\\", "/")).name if path else f"{key[:16]}"
            if self.names.setdefault(name, key) != key:
                name = f"{key[:8]}-{name}"
            self.held[key] = self._keep(name, data)
        return self.held[key]

    def _keep(self, name: str, data: bytes) -> ImageRef:
        if self.kept + len(data) <= KEPT:
            self.kept += len(data)
            return ImageRef(name=name, data=data)
        if self.spool is None:
            self.spool = tempfile.NamedTemporaryFile(prefix="harness-pictures-", delete=False)  # noqa: SIM115
            atexit.register(_remove, self.spool.name, os.getpid())
        start = self.spool.tell()
        try:
            self.spool.write(data)
            self.spool.flush()
        except OSError as e:
            raise RowError(
                f"{self.spool.name}: the pictures of this table do not fit there ({e.strerror}); set TMPDIR to a larger disk"
            ) from None
        return Spooled(name, path=Path(self.spool.name), start=start, length=len(data))

    def find(self, name: str, where: str) -> ImageRef:
        """The picture of a path: in the folder of images; where it is not there but under the root, that."""
        tidy = name.replace("\\", "/").removeprefix("file://")
        if "\n" in tidy or any(len(part) > LONGEST_NAME for part in tidy.split("/")):
            raise RowError(f"{where}: not the name of an image: {short(name)}")
        tried = [(archive, path) for archive, path in self._places(tidy)]
        for _, path in tried:
            if why := inside(path):
                away = "; --images DIR names the folder that it lies in" if "relative" in why else ""
                raise RowError(f"{where}: path '{short(name)}' {why}{away}")
        for archive, path in tried:
            if found := _existing(archive, path, where):
                return archive.image(found, where)
        archive, path = tried[0]
        return archive.image(path, where)

    def _places(self, name: str) -> Iterator[tuple[Archive, str]]:
        """Where a picture of this name may lie, the likeliest first."""
        images, own = self.view.images, self.view.pictures
        held = images.replace("{}", name) if "{}" in images else name if images == "." else f"{images.rstrip('/')}/{name}"
        if own:
            given = _under(own.root, name)
            last = images[images[: images.find("{}")].rfind("/") + 1 :]  # the pattern without the folder before it
            yield own, last.replace("{}", given) if "{}" in images else given
            if given != name:  # an absolute name within the folder that the user gave
                return
            yield own, held
        yield self.view.archive, held
        if held != name and "{}" not in images:
            yield self.view.archive, name


def _existing(archive: Archive, path: str, where: str) -> str | None:
    """The name under which there is such a file; `stack.tif#3` is a frame of one."""
    file, mark, frame = path.rpartition("#")
    if found := archive.existing(path, where):
        return found
    found = archive.existing(file, where) if mark and frame.isdecimal() else None
    return f"{found}#{frame}" if found else None


def _under(root: Path, name: str) -> str:
    """A name that lies under the folder that the user gave, as a relative one."""
    for base in (str(root), os.path.realpath(root)):
        base = base.replace("\\", "/").rstrip("/") + "/"
        if name.startswith(base):
            return name[len(base) :]
    return name


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)


def _of_object(value: dict[Any, Any], column: str) -> Any:
    """(bytes, path) of an image feature, or the path alone."""
    if "bytes" not in value and "path" not in value:
        raise BadCell(f"column '{column}': expected an image's bytes and path, found {short(', '.join(map(str, value)))}")
    data, path = value.get("bytes"), value.get("path")
    if not isinstance(data, bytes | str | None) or not isinstance(path, str | None):
        raise BadCell(f"column '{column}': an image's bytes must be bytes, its path text")
    if isinstance(data, str):
        data = base64_image(data, column)
        if data is None:
            raise BadCell(f"column '{column}': an image's bytes must be bytes or base64")
    return (data, path) if data is not None else path


def base64_image(cell: str, column: str) -> bytes | None:
    """The bytes of a cell that is an image in base64 or a data URL; None for a path. Raises BadCell for a broken one.

    A text longer than a path that is base64 throughout is one, even if what it holds is no image: decoding will say so.
    """
    url = _DATA_URL.match(cell)
    long = len(cell) >= SHORTEST_BASE64 and _BASE64.fullmatch(cell[:4096])
    if not url and not long and not is_base64_image(cell):
        return None
    body = re.sub(r"\s+", "", cell[url.end() :] if url else cell).translate(str.maketrans("-_", "+/"))
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadCell(f"column '{column}': an image in base64 that cannot be decoded ({len(cell)} characters)") from None
    return data


def is_base64_image(cell: Any) -> bool:
    """Whether a text opens as an image in base64 does."""
    if not isinstance(cell, str):
        return False
    url = _DATA_URL.match(cell[:100])
    if not url and len(cell) < 60:
        return False
    head = (cell[url.end() :] if url else cell)[:24]
    try:
        return base64.b64decode(head.translate(str.maketrans("-_", "+/")), validate=True).startswith(_MAGIC)
    except (binascii.Error, ValueError):
        return False


def settle(question: str, slots: list[bool]) -> str:
    """The question with its pictures' places as `harness.prompts` reads them.

    `slots` are the pictures that the row could have, in order, each there or not: "<image 2>" is the second slot. Places that
    only say "the pictures come first, in order" are taken out, because pictures come first anyway. Raises BadCell for a place
    without a picture.
    """
    if other := _OTHER.search(question):
        raise BadCell(f"the question holds {other.group()}, which no model here is shown")
    marks = list(_PLACE.finditer(question))
    if not marks:
        return question
    there = [i for i, filled in enumerate(slots) if filled]
    numbers = [m.group(1) for m in marks]
    if any(numbers) and not all(numbers):
        raise BadCell(f"the question holds {marks[0].group()} and {marks[-1].group()}: places with and without a number")
    if all(numbers):
        order = [int(n) - 1 for n in numbers]
        if lost := next((m.group() for m, i in zip(marks, order, strict=True) if i not in there), None):
            raise BadCell(f"the question holds {lost}, and the row has no such picture ({len(there)} are there)")
        order = [there.index(i) for i in order]
    elif len(marks) == 1 and there:
        order = []
    elif len(marks) == len(there):
        order = list(range(len(there)))
    else:
        raise BadCell(f"the question has places for {len(marks)} pictures, and the row has {len(there)}")
    if not order:  # one place for all of them
        places = "".join(f"<image {n}>" for n in range(1, len(there) + 1))
        question, order = question[: marks[0].start()] + places + question[marks[0].end() :], list(range(len(there)))
    else:
        numbered = iter(order)
        question = _PLACE.sub(lambda _: f"<image {next(numbered) + 1}>", question)
    if order == list(range(len(there))):
        head = re.match(r"(?:\s*<image \d+>)+\s*", question)
        if head and head.group().count("<image") == len(there):
            return question[head.end() :]
    return question
