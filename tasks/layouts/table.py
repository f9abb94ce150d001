"""Tables by column names: JSONL, JSON, CSV, TSV and parquet, with images as paths or as bytes.

What a column means is in `harness.specs.Columns`. A named column that the table does not have is an error with the nearest
name; a cell that cannot be read makes its row bad, which `--on-bad-row` decides about. Rows are counted from 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from harness.archives import inside
from harness.data import View
from harness.errors import DataError, RowError
from harness.plugins import did_you_mean
from harness.records import ImageRef, Reference, Sample
from harness.specs import Columns
from tasks.layouts.files import KINDS, rows_of
from tasks.layouts.rows import text

#: A question that shows its choices already has a line such as "(A) three", "A. three" or "A) three".
_SHOWN = re.compile(r"^\s*(?:\(A\)|A[.):])\s*\S", re.M)


class BadCell(ValueError):
    """A cell that cannot be read; the message names the column."""


def table(view: View) -> Iterator[Sample]:
    """The rows of every file that the split's pattern matches, in the order of the files' names."""
    files = view.archive.glob(view.split)
    if not files:
        raise DataError(
            f"{view.archive.label(view.split)}: no such file",
            hint=f"split '{view.name}' names it; columns can be read from {', '.join(KINDS)}",
        )
    reader = _Reader(view)
    for file in files:
        yield from reader.read(file)
    reader.finish(files)


class _Reader:
    """One pass over a split's files; remembers the images of bytes, so that one picture is held once."""

    def __init__(self, view: View) -> None:
        self.view, self.columns, self.archive = view, view.columns, view.archive
        self.wanted = _wanted(self.columns)
        self.unseen = dict.fromkeys(self.wanted)
        self.count = 0
        self.images: dict[str, ImageRef] = {}
        self.names: dict[str, str] = {}

    def read(self, file: str) -> Iterator[Sample]:
        rows = rows_of(self.archive, file, self.wanted, optional=_alternatives(self.columns))
        for i, row in enumerate(rows):
            where = f"{self.archive.label(file)}: row {i}"
            number, self.count = self.count, self.count + 1
            for name in [n for n in self.unseen if n in row]:
                del self.unseen[name]
            for name in _required(self.columns):
                if name not in row:
                    raise DataError(f"{where}: no column '{name}'", hint=did_you_mean(name, list(row)))
            name = str(number)
            try:
                if self.columns.split and text(where, row[self.columns.split]) != self.view.name:
                    continue
                if self.columns.id:
                    name = text(f"{where}: column '{self.columns.id}'", row[self.columns.id])
                    if not name:
                        raise BadCell(f"column '{self.columns.id}': empty id")
                sample = self.sample(name, row, where)
            except (BadCell, RowError) as e:
                self.view.reject(name or f"{file} row {i}", str(e) if isinstance(e, RowError) else f"{where}: {e}")
            else:
                yield sample

    def finish(self, files: list[str]) -> None:
        """A column that no JSON row had is as wrong as one that a table's header lacks."""
        for name in self.unseen:
            if self.count and name not in _alternatives(self.columns):
                raise DataError(f"{self.archive.label(files[0])}: no row has a column '{name}'")

    def sample(self, name: str, row: dict[str, Any], where: str) -> Sample:
        c = self.columns
        choices = self.texts(row, c.choices or [], where) if c.choices else ()
        if choices and not 2 <= len(choices) <= 26:
            raise BadCell(
                f"column '{', '.join(c.choices or [])}': {len(choices)} choices, expected 2 to 26 "
                "(a list, a JSON list in a cell, or a cell split at `separator`)"
            )
        answers = self.texts(row, c.answer, where)
        if choices:
            answers = tuple(dict.fromkeys(f"({choice(a, choices, c)})" for a in answers))
        question = text(f"{where}: column '{c.question}'", row[c.question])
        if choices and question and not _SHOWN.search(question):
            question += "".join(f"\n({chr(65 + i)}) {words}" for i, words in enumerate(choices))
        slices = {k: v for k, column in c.slices.items() if (v := text(f"{where}: column '{column}'", row.get(column)))}
        return Sample(
            id=name,
            images=tuple(self.pictures(row, where)),
            question=question,
            reference=Reference(
                answers=answers,
                choices=choices or None,
                reasoning=(text(f"{where}: column '{c.reasoning}'", row.get(c.reasoning)) or None) if c.reasoning else None,
            ),
            slices=slices,
        )

    def texts(self, row: dict[str, Any], columns: Iterable[str], where: str) -> tuple[str, ...]:
        """The texts of one or several cells; empty ones left out."""
        out: list[str] = []
        for column in columns:
            for value in self.parts(row.get(column), column):
                if isinstance(value, list | dict | bytes):
                    raise BadCell(f"column '{column}': expected text, found {type(value).__name__}")
                out.append(text(f"{where}: column '{column}'", value))
        return tuple(t for t in out if t)

    def parts(self, value: Any, column: str) -> list[Any]:
        """A cell as a list: a list as it is, text split at the separator; text that is a JSON list of texts is that list."""
        if value is None:
            return []
        if isinstance(value, list | tuple):
            return list(value)
        if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
            try:
                found = json.loads(value)
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, list) and all(isinstance(x, str) for x in found):  # numbers may be a box: one answer
                return found
        if isinstance(value, str) and self.view.separator:
            return value.split(self.view.separator)
        return [value]

    def pictures(self, row: dict[str, Any], where: str) -> Iterator[ImageRef]:
        for column in self.columns.image or []:
            for value in self.parts(row.get(column), column):
                if isinstance(value, dict):  # the hub's image feature
                    if set(value) != {"bytes", "path"}:
                        raise BadCell(f"column '{column}': expected an image's bytes and path, found {', '.join(value)}")
                    data, path = value["bytes"], value["path"]
                    if not isinstance(data, bytes | None) or not isinstance(path, str | None):
                        raise BadCell(f"column '{column}': an image's bytes must be bytes, its path text")
                    value = self.held(data, path) if data is not None else path
                if isinstance(value, bytes):
                    value = self.held(value, None)
                if isinstance(value, ImageRef):
                    yield value
                elif name := text(f"{where}: column '{column}'", value):
                    yield self.archive.image(self.path(name, where), where)

    def held(self, data: bytes, path: str | None) -> ImageRef:
        """The image of these bytes, named by its path where no other image has that name, else by its content."""
        key = hashlib.sha256(data).hexdigest()
        if key not in self.images:
            name = PurePosixPath(path).name if path else f"{key[:16]}"
            if self.names.setdefault(name, key) != key:
                name = f"{key[:8]}-{name}"
            self.images[key] = ImageRef(name=name, data=data)
        return self.images[key]

    def path(self, name: str, where: str) -> str:
        """The image's path: in the folder of images; where it is not there but under the root, that."""
        if why := inside(name):
            raise RowError(f"{where}: path '{name}' {why}")
        images = self.view.images
        if "{}" in images:
            whole, (file, mark, frame) = images.replace("{}", name), name.rpartition("#")
            if mark and frame.isdecimal() and not self.archive.locate(whole, where):
                return f"{images.replace('{}', file)}#{frame}"
            return whole
        if images == ".":
            return name
        held = f"{images.rstrip('/')}/{name}"
        found = [self.archive.locate(self.archive.frame_of(n, where)[0], where) for n in (held, name)]
        return name if found[1] and not found[0] else held


def _wanted(c: Columns) -> list[str]:
    """Every column that is read."""
    given = [c.id, *(c.image or []), c.question, *c.answer, *(c.choices or []), c.reasoning, c.split, *c.slices.values()]
    return list(dict.fromkeys(name for name in given if name))


def _alternatives(c: Columns) -> set[str]:
    """Columns of which one alone has to be there: those of a list."""
    return {name for names in (c.image, c.answer, c.choices) if names and len(names) > 1 for name in names}


def _required(c: Columns) -> list[str]:
    """Columns that every row has, even if the cell is empty. JSON rows may leave out the others where they have none."""
    single = [names[0] for names in (c.image, c.answer) if names and len(names) == 1]
    return [name for name in [c.id, c.question, c.split, *single] if name]


def choice(answer: str, choices: tuple[str, ...], c: Columns) -> str:
    """The letter of the choice that an answer names. Raises BadCell when it names none, or, read otherwise, another one.

    >>> choice("(B)", ("one", "two"), Columns()), choice("two", ("one", "two"), Columns())
    ('B', 'B')
    """
    letters = [chr(65 + i) for i in range(len(choices))]
    bare = re.fullmatch(r"\(?([A-Za-z])[.):]?", answer)
    words = [i for i, x in enumerate(choices) if x.lower() == answer.lower()]
    number = int(answer) if re.fullmatch(r"\d{1,3}", answer) else None
    readings: dict[str, int | None] = {
        "letter": ord(bare.group(1).upper()) - 65 if bare else None,
        "words": words[0] if len(words) == 1 else None,
        "index": number,
        "number": number - 1 if number is not None else None,
    }
    allowed = ("letter", "words", "index") if c.answer_as == "auto" else (c.answer_as,)
    found = {k: i for k in allowed if (i := readings[k]) is not None and 0 <= i < len(letters)}
    column = ", ".join(c.answer)
    if list(found) == ["index"] and c.answer_as == "auto":
        raise BadCell(f"column '{column}': '{answer}' may count the choices from 0 or from 1; set answer_as: index or number")
    if not found:
        raise BadCell(f"column '{column}': '{answer}' names none of the choices {', '.join(choices)}")
    if len(set(found.values())) > 1:
        said = ", ".join(f"{k}: ({letters[i]})" for k, i in found.items())
        raise BadCell(f"column '{column}': '{answer}' can be read as {said}; set answer_as")
    return letters[next(iter(found.values()))]
