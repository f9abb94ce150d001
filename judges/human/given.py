"""One person's word on one row, and reading such words from a file: CSV, JSON lines, or Label Studio's JSON.

Columns: sample_id and final (0, 1 or empty); where given also reasoning, annotator, comment, and pair (a hash over question,
reference and the model's text, which `harness judges sheet` writes) or text: a verdict never counts for another text. One person
who says two things of one row is asked which holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator

from harness.errors import UserError
from harness.records import Record
from judges import sheets
from judges.sheets import COLUMNS

Score = Literal[0, 1] | None


class Given(Record):
    """One person's word on one row."""

    sample_id: str
    final: Score = None
    reasoning: Score = None
    annotator: str = ""
    comment: str = ""
    text: str | None = None
    pair: str | None = None
    #: Whether they say that the row cannot be judged.
    cannot: bool = False

    @field_validator("final", "reasoning", mode="before")
    @classmethod
    def _score(cls, value: Any) -> Any:
        if isinstance(value, str):
            return sheets.score(value)
        if type(value) is float and value in (0, 1):
            return int(value)
        if type(value) is not int and value is not None:
            raise ValueError("expected 0, 1 or nothing")
        return value


def read(path: Path) -> Iterator[Given]:
    """The file's rows. Raises UserError naming file, line and column, and where one person says two things of one row."""
    seen: dict[tuple[str, str], list[tuple[int, Given]]] = {}
    for n, row in sheets.rows(path):
        if not str(row.get("sample_id") or "").strip():
            raise UserError(f"{path}:{n}: no sample_id", hint=f"the columns are {', '.join(COLUMNS)}")
        cells = {k: v for k, v in row.items() if k in COLUMNS and v not in (None, "")}
        for name in ("sample_id", "annotator"):
            if isinstance(cells.get(name), str):
                cells[name] = cells[name].strip()
        unable = [k for k in ("final", "reasoning") if str(cells.get(k)).strip().lower() in sheets.CANNOT]
        cells = {k: v for k, v in cells.items() if k not in unable} | {
            "cannot": "final" in unable or row.get("cannot") in (1, "1")
        }
        try:
            given = Given.model_validate(cells)
        except ValidationError as e:
            first = e.errors()[0]
            said = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path}:{n}: column '{first['loc'][0]}': {said}", hint="0, 1 or empty") from None
        earlier = seen.setdefault((given.sample_id, given.annotator), [])
        about = given.pair or given.text
        # a line that does not say which text it is about is about all of them
        same = [(line, other) for line, other in earlier if None in (about, held := other.pair or other.text) or held == about]
        for (line, before), column in itertools.product(same, ("final", "reasoning")):
            one, other = getattr(before, column), getattr(given, column)
            if None not in (one, other) and one != other:
                who = f"'{given.annotator}' says" if given.annotator else "the file says"
                raise UserError(
                    f"{path}:{n}: {who} {column} {other} of '{given.sample_id}', and {one} in line {line}",
                    hint="leave one of the two; several people are told apart by the column 'annotator'",
                )
        earlier.append((n, given))
        yield given
    if not seen:
        raise UserError(f"{path}: holds no verdicts", hint=f"the columns are {', '.join(COLUMNS)}")
