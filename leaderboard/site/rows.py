"""Rows of a run as pages show them: a list, filtered and in pages, and one row whole, with what every model made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlencode

from harness.records import Prediction, Verdict
from leaderboard.browse import Filter, Page, Row
from leaderboard.site.library import Run, Shelf

#: Gives rows by run and id, as leaderboard.browse.Browser.samples does.
Look = Callable[[Sequence[tuple[Path, str]]], list[Row]]
#: Rows on a page of the list.
PAGE = 50
#: Models whose answers are shown with a row.
MODELS = 8
_VERDICTS = ("right", "wrong", "missing")
_WORDS = {1: "right", 0: "wrong", None: "missing"}


@dataclass(frozen=True)
class Asked:
    """What an address asks for. `flips` is another run's id: only rows on which the two verdicts differ."""

    judge: str | None = None
    verdict: str = ""
    q: str = ""
    disagree: bool = False
    flips: str = ""
    slices: Mapping[str, str] = field(default_factory=dict)
    page: int = 1
    #: The row that is open: its id, or the first or last of the page.
    row: str = ""
    last: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Asked:
        """What makes no sense in the query is left out."""
        page = query.get("page", "1")
        return cls(
            judge=query.get("judge") or None,
            verdict=query.get("verdict", "") if query.get("verdict") in _VERDICTS else "",
            q=query.get("q", "").strip(),
            disagree=bool(query.get("disagree")),
            flips=query.get("flips", ""),
            slices={k.removeprefix("slice."): v for k, v in query.items() if k.startswith("slice.") and v},
            page=max(1, int(page)) if page.isdecimal() and len(page) < 9 else 1,
            row=query.get("row", ""),
            last=bool(query.get("last")),
        )

    def query(self) -> str:
        """The address's query; starts with ? unless there is nothing to say."""
        parts = {"judge": self.judge, "verdict": self.verdict, "q": self.q, "disagree": "1" if self.disagree else "",
                 "flips": self.flips, **{f"slice.{k}": v for k, v in self.slices.items()},
                 "page": str(self.page) if self.page > 1 else "", "row": self.row, "last": "1" if self.last else ""}  # fmt: skip
        said = urlencode({k: v for k, v in parts.items() if v}, errors="replace")
        return f"?{said}" if said else ""


@dataclass(frozen=True)
class Line:
    """A row as the list shows it: its verdict is that of the judge that was asked for."""

    id: str
    question: str
    got: str
    final: int | None
    disagree: bool
    slices: Mapping[str, str]

    @property
    def word(self) -> str:
        return _WORDS[self.final]


@dataclass(frozen=True)
class Answered:
    """What one model made of a row; `final` and `missing` are those of the judge that was asked for."""

    run: Run
    prediction: Prediction | None
    final: int | None
    missing: str | None
    verdicts: Mapping[str, Verdict]

    @property
    def told(self) -> bool:
        """Whether a judge said more than its verdict."""
        return any(v.rationale or v.raw or v.reasoning is not None for v in self.verdicts.values())


def page(shelf: Shelf, run: Run, asked: Asked, size: int = PAGE) -> Page:
    """The rows that the address asks for. One that asks for what is not there gets none."""
    other = shelf.runs.get(asked.flips)
    if asked.flips and other is None:
        return Page(total=0, offset=0, rows=())
    wanted = Filter(
        run=run.path,
        slices=dict(asked.slices),
        judge=asked.judge,
        verdict=cast("Literal['right', 'wrong', 'missing'] | None", asked.verdict or None),
        disagree=asked.disagree,
        flips=other.path if other else None,
        text=asked.q,
    )
    return shelf.browser.page(wanted, offset=(asked.page - 1) * size, limit=size)


def line(row: Row, judge: str | None) -> Line:
    verdict = row.verdicts.get(judge or "")
    p = row.prediction
    got = "(not answered)" if p is None else (p.answer if p.answer is not None else p.text)
    finals = {v.final for v in row.verdicts.values()} - {None}
    return Line(row.id, row.question, got[:200], verdict.final if verdict else None, len(finals) > 1, row.slices)


def answers(look: Look, runs: Sequence[Run], sample_id: str, judge: str | None) -> list[Answered]:
    """What these runs made of a row; one that has been removed meanwhile is left out."""
    out = []
    by_path = {run.path: run for run in runs}
    for row in look([(run.path, sample_id) for run in runs]):
        run = by_path[row.run]
        verdict = row.verdicts.get(judge or "")
        final, missing = (verdict.final, verdict.missing) if verdict else (None, None)
        out.append(Answered(run, row.prediction, final, missing, row.verdicts))
    return out


@dataclass(frozen=True)
class Turn:
    """Where the keys lead from an open row, and the buttons from a page of the list. Empty: nowhere."""

    before: str = ""
    after: str = ""
    page_before: str = ""
    page_after: str = ""
    says: str = ""

    @classmethod
    def of(cls, run: Run, asked: Asked, found: Page, opened: str | None, size: int = PAGE) -> Turn:
        def to(**changes: Any) -> str:
            closed: dict[str, Any] = {"row": "", "last": False}
            return f"samples-{run.id}.html{replace(asked, **(closed | changes)).query()}"

        ids = [r.id for r in found.rows]
        pages = max(1, -(-found.total // size))
        at = ids.index(opened) if opened in ids else None
        page_before = to(page=min(asked.page, pages + 1) - 1) if asked.page > 1 else ""
        page_after = to(page=asked.page + 1) if asked.page < pages else ""
        before = after = ""
        if at is not None:
            before = to(row=ids[at - 1]) if at else (to(page=asked.page - 1, last=True) if page_before else "")
            after = to(row=ids[at + 1]) if at + 1 < len(ids) else page_after
        first = found.offset + 1 if ids else 0
        says = f"{first:,}–{found.offset + len(ids):,} of {found.total:,} rows" if ids else "no rows"
        return cls(before, after, page_before, page_after, says)
