"""Human judge (`--judge human:FILE`): verdicts that people gave, as CSV or JSONL.

`harness judges sheet` writes a file to fill in. Columns: sample_id and final (0, 1 or empty); where given also reasoning,
annotator, comment, and pair (a hash over question, reference and the model's text, which the sheet holds) or text: a verdict
never counts for another text. Several people may judge one row: the majority counts, a tie is missing; one person who says two
things of one row is asked which holds.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator

from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.records import Prediction, Record, Sample, Verdict
from judges import sheets
from judges.replay import pair
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


def majority(votes: Sequence[int]) -> Score:
    """What more than half of the votes say; None for a tie or none."""
    for value in (0, 1):
        if 2 * votes.count(value) > len(votes):
            return value  # type: ignore[return-value]
    return None


class HumanJudge(Judge):
    """Fulfils harness.contracts.Judge. Named after its file; its version is a hash of what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: sample id -> each person's word, by what it is about.
        self.given: dict[str, dict[tuple[str, str | None], Given]] = defaultdict(dict)
        for row in _read(path):
            key = (row.annotator, row.pair or row.text)
            if row.final is not None or key not in self.given[row.sample_id]:
                self.given[row.sample_id][key] = row
        self.name = f"human:{path.stem}"
        self.version = hashlib.sha256(path.read_bytes()).hexdigest()[:8]

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        for sample, prediction in pairs:
            yield self._verdict(sample, prediction)

    def _verdict(self, sample: Sample, prediction: Prediction) -> Verdict:
        about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
        rows = list(self.given.get(sample.id, {}).values())
        about_this = [r for r in rows if self._is_about(r, sample, prediction)]
        votes = [r.final for r in about_this if r.final is not None]
        final = majority(votes)
        if final is None:
            if rows and not about_this:
                why = "the human verdict is about another text"
            else:
                why = f"people disagree: {votes.count(1)} say 1, {votes.count(0)} say 0" if votes else "no human verdict"
            return Verdict(**about, final=None, missing=why)
        reasoning = majority([r.reasoning for r in about_this if r.reasoning is not None])
        words = [f"{r.annotator}: {r.comment}" if r.annotator else r.comment for r in about_this if r.comment]
        return Verdict(**about, final=final, reasoning=reasoning, rationale="; ".join(words) or None)

    @staticmethod
    def _is_about(given: Given, sample: Sample, prediction: Prediction) -> bool:
        if given.pair is not None:
            return given.pair == pair(sample, prediction)
        return given.text is None or given.text == prediction.text

    def card(self) -> dict[str, Any]:
        people = {r.annotator for rows in self.given.values() for r in rows.values() if r.annotator}
        return {"file": self.path.name, "rows": len(self.given), "annotators": len(people) or None}


def _read(path: Path) -> Iterator[Given]:
    """The file's rows. Raises UserError naming file, line and column, and where one person says two things of one row."""
    seen: dict[tuple[str, str, str | None], tuple[int, Given]] = {}
    for n, row in sheets.rows(path):
        if not str(row.get("sample_id") or "").strip():
            raise UserError(f"{path}:{n}: no sample_id", hint=f"the columns are {', '.join(COLUMNS)}")
        try:
            given = Given.model_validate({k: v for k, v in row.items() if k in COLUMNS and v not in (None, "")})
        except ValidationError as e:
            first = e.errors()[0]
            said = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path}:{n}: column '{first['loc'][0]}': {said}", hint="0, 1 or empty") from None
        about = (given.sample_id, given.annotator, given.pair or given.text)
        line, before = seen.get(about, (n, given))
        for column in ("final", "reasoning"):
            one, other = getattr(before, column), getattr(given, column)
            if None not in (one, other) and one != other:
                who = f"'{given.annotator}' says" if given.annotator else "the file says"
                raise UserError(
                    f"{path}:{n}: {who} {column} {other} of '{given.sample_id}', and {one} in line {line}",
                    hint="leave one of the two; several people are told apart by the column 'annotator'",
                )
        if given.final is not None or about not in seen:
            seen[about] = (n, given)
        yield given
    if not seen:
        raise UserError(f"{path}: holds no verdicts", hint=f"the columns are {', '.join(COLUMNS)}")


def create(argument: str, options: JudgeOptions) -> HumanJudge:
    """The factory behind `--judge human:FILE`."""
    if not argument:
        raise UserError("--judge human: names no file", hint="write human:FILE; `harness judges sheet` writes one to fill in")
    return HumanJudge(Path(argument))
