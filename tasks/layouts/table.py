"""Tables by column names: JSONL, JSON, CSV, TSV, parquet and Arrow, with images as paths, bytes or base64.

What a column means is in `harness.columns.Columns`; how it is found in a row, in cells.py. A named column that the table does
not have is an error with the nearest name; a cell that cannot be read makes its row bad, which `--on-bad-row` decides about.
Rows are counted from 0.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from harness.archives import captured
from harness.columns import Columns
from harness.data import POLAR, View, question_word
from harness.errors import DataError, RowError
from harness.records import ImageRef, Reference, Sample
from tasks.layouts import cells, choices, rubrics, yesno
from tasks.layouts.cells import BadCell, short
from tasks.layouts.choices import Choices
from tasks.layouts.files import KINDS, parts_of, rows_of, split_part
from tasks.layouts.pictures import Pictures, settle
from tasks.layouts.turns import Exchange, exchange, split_reasoning


def files_of(view: View) -> dict[str, dict[str, str]]:
    """The files of a split, in the order of their names -> the columns that their names give (`{subject}/test.csv`).

    Raises DataError where there is none.
    """
    file, part = split_part(view.split, view.archive)
    found = {f: captured(file, f) or {} for f in view.archive.glob(file)}
    if part:
        lists = {f: parts_of(view.archive, f, part, view.encoding) for f in found}
        found = {f"{f}#{p}": found[f] | given for f, parts in lists.items() for p, given in parts.items()}
    if not found:
        raise DataError(
            f"{view.archive.label(view.split)}: no such file",
            hint=f"split '{view.name}' names it; columns can be read from {', '.join(KINDS)}",
        )
    return found


def table(view: View) -> Iterator[Sample]:
    """The rows of every file that the split's pattern matches, in the order of the files' names."""
    reader = _Reader(view, files_of(view))
    for file in reader.files:
        yield from reader.read(file)
    if any(form.lower() not in yesno.PLAIN for form in reader.spelt):
        said = ", ".join(f"{form} {n}" for form, n in reader.spelt.most_common())
        view.notes.append(f"split {view.name}: answers read as yes or no: {said}")


def wanted(c: Columns) -> list[str]:
    """Every path that is read."""
    asked = [] if c.messages or c.ask else [c.question]
    answers = [] if (c.messages or c.rubric) and "answer" not in c.model_fields_set else c.answer
    given = [c.id, *(c.image or []), c.messages, *asked, *answers, *(c.choices or []), c.reasoning, c.rubric, c.split, c.cluster]
    return list(dict.fromkeys(path for column in [*given, *c.slices.values()] if column for path in cells.names(column)))


class _Reader:
    """One pass over a split's files."""

    def __init__(self, view: View, files: dict[str, dict[str, str]]) -> None:
        self.view, self.columns, self.archive, self.files = view, view.columns, view.archive, files
        self.wanted = wanted(self.columns)
        self.count = 0
        self.pictures = Pictures(view)
        #: How the answers were spelt that say yes or no.
        self.spelt: Counter[str] = Counter()

    def rows(self, file: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        given = self.files[file]
        held = [column for column in columns if column not in given]
        rows = rows_of(self.archive, file, held, split=self.view.name, encoding=self.view.encoding)
        return (row | given for row in rows) if given else rows

    def read(self, file: str) -> Iterator[Sample]:
        for i, row in enumerate(self.rows(file, self.wanted)):
            where = f"{self.archive.label(file)}: row {i}"
            number, self.count = self.count, self.count + 1
            name = str(number)
            try:
                if self.columns.split and cells.scalar(row, self.columns.split, where) != self.view.name:
                    continue
                if self.columns.id:
                    name = cells.scalar(row, self.columns.id, where)
                    if not name:
                        raise BadCell(f"column '{self.columns.id}': empty id")
                sample = self.sample(name, row, where)
            except (BadCell, RowError) as e:
                why = str(e) if isinstance(e, RowError) else f"{where}: {e}"
                self.view.reject(short(name) or f"{file} row {i}", why)
            else:
                yield sample

    def sample(self, name: str, row: dict[str, Any], where: str) -> Sample:
        c = self.columns
        said = exchange(cells.pick(row, c.messages), c.messages, where, earlier=c.earlier_turns) if c.messages else None
        question = said.question if said else c.ask or cells.written(row, c.question, where)
        found = self.choices(row, question, where)
        rubric = rubrics.read(cells.pick(row, c.rubric), c.rubric) if c.rubric else ()
        named = not rubric or "answer" in c.model_fields_set
        answers, reasoning = self.answers(row, said, found, where) if named else ((), None)
        if found and question and not choices.shows(question, found):
            question += found.shown()
        slots = self.slots(row, said, where)
        images = tuple(i for slot in slots for i in slot)
        if self.pictures.inline and len(images) == 1:
            self.pictures.of_row[name] = images[0]
        return Sample(
            id=name,
            images=images,
            question=settle(question, [bool(slot) for slot in slots]),
            system=said.system if said else None,
            history=said.history if said else (),
            reference=Reference(answers=answers, choices=found.words if found else None, reasoning=reasoning, rubric=rubric),
            slices=self.slices(row, where),
            group=self.group(row, where),
        )

    # -- what a row holds ---------------------------------------------------------------------------------------------

    def choices(self, row: dict[str, Any], question: str, where: str) -> Choices | None:
        c = self.columns
        if c.choices_in:
            if (found := choices.lettered(question)) is None:
                raise BadCell(f"choices_in: no lettered choices in the question: {short(question)}")
            return choices.check(Choices(found[1]), c.question)
        if not c.choices:
            return None
        values = [cells.pick(row, column) for column in c.choices]
        if len(c.choices) == 1 and (columns := cells.alike(c.choices[0], row)):
            values = [{name: row[name] for name in columns}]  # by name, so that a column that the row leaves out is a gap
        return choices.read(values, ", ".join(c.choices), self.view.separator, where)

    def answers(
        self, row: dict[str, Any], said: Exchange | None, found: Choices | None, where: str
    ) -> tuple[tuple[str, ...], str | None]:
        """(acceptable answers, reasoning)."""
        c = self.columns
        if said and "answer" not in c.model_fields_set:
            told, reasoning = [said.answer or ""], said.reasoning
        else:
            told, reasoning = list(self.texts(row, where)), None
        if len(told) == 1 and not reasoning:
            reasoning, told[0] = split_reasoning(told[0])
        if c.reasoning:
            reasoning = cells.written(row, c.reasoning, where) or None
        told = [t for t in told if t]
        if c.choices and not found and c.answer_as in ("auto", "letter") and (letter := next(filter(choices.named, told), None)):
            raise BadCell(f"column '{', '.join(c.choices)}': empty, and the answer '{letter}' names a choice")
        if found:
            told = [f"({choices.choice(a, found, c)})" for a in told]
        return tuple(dict.fromkeys(told)), reasoning

    def texts(self, row: dict[str, Any], where: str) -> Iterator[str]:
        """The texts of the answer's cells, yes and no in their own words."""
        for column in self.columns.answer:
            if cells.names(column) != [column]:
                yield cells.written(row, column, where)
                continue
            for value in cells.items(cells.pick(row, column), self.view.separator):
                told = next(iter(cells.texts([value], column, where)))
                yield self.polar(row, value, told) if told else told

    def polar(self, row: dict[str, Any], value: Any, told: str) -> str:
        """An answer such as True, "Y" or 1 as yes or no, where the column holds nothing else."""
        said, c = yesno.reading(value), self.columns
        if said is None and c.answer_as == "yesno":
            raise BadCell(f"column '{', '.join(c.answer)}': '{short(told)}' is neither yes nor no")
        if said is None or c.answer_as not in ("auto", "yesno") or self.asks_choice(row):
            return told
        plain = yesno.spelt(value) in yesno.PLAIN
        if not plain and c.answer_as == "auto" and not isinstance(value, bool) and not self.only_polar:
            return told
        self.spelt[told] += 1
        return told if plain else said

    def asks_choice(self, row: dict[str, Any]) -> bool:
        c = self.columns
        return bool(c.choices_in) or any(not cells.empty(cells.pick(row, x)) for x in c.choices or [])

    @functools.cached_property
    def only_polar(self) -> bool:
        """Whether every answer in the split's files is a yes or a no, read through once.

        Where some are 1 or 0 their questions have to be such that yes or no answers them: "How many?" may be answered by 1. T
        may be the letter of a choice.
        """
        c = self.columns
        needed = [
            p
            for column in [*c.answer, *([] if c.ask or c.messages else [c.question]), *(c.choices or [])]
            for p in cells.names(column)
        ]
        for file in self.files:
            for row in self.rows(file, needed):
                if self.asks_choice(row):
                    continue
                for column in c.answer:
                    for value in cells.items(cells.pick(row, column), self.view.separator):
                        if cells.empty(value):
                            continue
                        if isinstance(value, list | dict | bytes) or yesno.reading(value) is None:
                            return False
                        if not self._may_be_polar(row, yesno.spelt(value)):
                            return False
        return True

    def _may_be_polar(self, row: dict[str, Any], spelt: str) -> bool:
        """Whether 1, or a single letter, can be an answer of yes or no to the row's question."""
        c = self.columns
        try:
            asked = c.ask or ("" if c.messages else cells.written(row, c.question, ""))
        except (BadCell, RowError):
            return False
        if spelt in yesno.NUMBERS:
            return question_word(asked) in POLAR
        return len(spelt) > 1 or choices.lettered(asked) is None

    def slots(self, row: dict[str, Any], said: Exchange | None, where: str) -> list[list[ImageRef]]:
        """The pictures that the row could have, each there or not: an item of a list, or a column of several."""
        c = self.columns
        slots: list[list[ImageRef]] = []
        if said and said.pictures:
            slots = [[self.pictures.one(p, c.messages or "", where)] for p in said.pictures]
        columns = c.image or []
        for column in columns:
            value = cells.pick(row, column)
            found = [[one] if one else [] for one in self.pictures.of(value, column, where)]
            slots += found if len(columns) == 1 else [[one for place in found for one in place]]
        if columns and not c.images_optional and not any(slots):
            raise BadCell(
                f"column '{', '.join(columns)}': no image; images_optional: true (under columns) asks such rows without one"
            )
        return slots

    def slices(self, row: dict[str, Any], where: str) -> dict[str, str]:
        return {k: v for k, column in self.columns.slices.items() if (v := cells.scalar(row, column, where))}

    def group(self, row: dict[str, Any], where: str) -> str | None:
        """The row's patient or study. Hashed: a run folder tells which rows belong together, and no more."""
        if not (column := self.columns.cluster):
            return None
        if not (value := cells.written(row, column, where)):
            raise BadCell(f"column '{column}': empty, and every row needs its {self.columns.cluster_noun}")
        digest = hashlib.sha256(value.encode()).hexdigest()[:12]
        return f"{re.sub(r'[^a-z0-9]+', '-', str(self.columns.cluster_noun))}:{digest}"
