"""What papers report, beside what was measured here: leaderboard/published/*.yaml.

A claim is a number as it was printed. There are no rows behind it, so it is compared with nothing; its interval is Wilson's on
`n` rows, which takes every question for an image of its own, and `n_from` says how far n is known.

    for claim in claims(["slake"]):
        claim.model, claim.judge, claim.percent, claim.interval
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from harness.errors import DataError
from harness.records import Record
from leaderboard.stats import Interval, totals_interval

FOLDER = Path(__file__).parent / "published"


class Source(Record):
    """Where it was printed."""

    title: str
    authors: str
    table: str
    caption: str


class _Cells(Record):
    """What a table, a column or a row may say of the cells in it; the nearest one holds."""

    task: str | None = None
    metric: Literal["accuracy", "final", "reasoning"] | None = None
    judge: str | None = None
    prompt: str | None = None
    slice: tuple[str, str] | None = None
    n: int | None = None
    n_from: str | None = None


class _Column(_Cells):
    name: str


class _Row(_Cells):
    model: str
    trainer: str | None
    printed: tuple[float | None, ...]
    #: What the last column is, where it sums up the others.
    total: Literal["rows", "columns", "neither"] | None = None


class _Rows(Record):
    """How many rows of a dataset were asked, and how that is known."""

    n: int
    n_from: str


class PublishedTable(_Cells):
    """A table as printed."""

    source: Source
    base: str
    datasets: dict[str, _Rows] = {}
    columns: tuple[_Column, ...]
    rows: tuple[_Row, ...]

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        for row in self.rows:
            if len(row.printed) != len(self.columns):
                raise ValueError(f"{row.model}: {len(row.printed)} numbers for {len(self.columns)} columns")
            if any(p is not None and not 0 <= p <= 100 for p in row.printed):
                raise ValueError(f"{row.model}: not a percentage")
        return self


class Claim(Record):
    """One printed number. `percent` is from 0 to 100."""

    source: Source
    column: str
    model: str
    trainer: str | None
    base: str
    task: str
    metric: Literal["accuracy", "final", "reasoning"]
    judge: str | None
    prompt: str | None
    slice: tuple[str, str] | None
    percent: float
    n: int | None
    n_from: str | None
    note: str | None

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval of the nearest count of right rows; None where n is not known."""
        if self.n is None:
            return None
        right = round(self.percent / 100 * self.n)
        return totals_interval((np.arange(self.n) < right).astype(np.float64), np.ones(self.n))

    def as_json(self) -> dict[str, Any]:
        """The claim and its interval, for json.dumps."""
        return self.model_dump(mode="json") | {"published": True, "interval": vars(self.interval) if self.interval else None}


def claims(tasks: Iterable[str] | None = None, folder: Path = FOLDER) -> list[Claim]:
    """Every claim about these tasks (all by default). Raises DataError for a file that does not validate."""
    wanted = None if tasks is None else set(tasks)
    found = [claim for path in sorted(folder.glob("*.yaml")) for claim in _claims(read_table(path))]
    return [c for c in found if wanted is None or c.task in wanted]


def read_table(path: Path) -> PublishedTable:
    """Raises DataError with the file and the key."""
    from pydantic import ValidationError
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return PublishedTable.model_validate(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))
    except ValidationError as e:
        first = e.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc'])) or 'table'}: {first['msg']}") from None
    except YAMLError as e:
        raise DataError(f"{path}: {str(e).splitlines()[0]}") from None


_TOTALS = {
    "rows": None,
    "columns": "the plain mean of the columns, not over rows",
    "neither": "neither the mean over rows nor that of the columns",
}


def _claims(table: PublishedTable) -> Iterator[Claim]:
    fields = tuple(_Cells.model_fields)
    for row in table.rows:
        for column, percent in zip(table.columns, row.printed, strict=True):
            if percent is None:
                continue
            nearest: dict[str, Any] = {
                f: next((v for part in (row, column, table) if (v := getattr(part, f)) is not None), None) for f in fields
            }
            if nearest["n"] is None and nearest["task"] in table.datasets:
                nearest |= table.datasets[nearest["task"]].model_dump()
            summed = row.total is not None and column is table.columns[-1]
            same = {"source": table.source, "base": table.base, "model": row.model, "trainer": row.trainer}
            own = {"column": column.name, "percent": percent, "note": _TOTALS[row.total] if summed and row.total else None}
            yield Claim.model_validate(nearest | same | own)
