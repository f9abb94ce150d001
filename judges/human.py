"""Human judge (`--judge human:FILE`): verdicts that people gave, as CSV or JSONL.

`harness judges sheet` writes a file to fill in. Columns: sample_id and final (0, 1 or empty); where given also reasoning,
annotator, comment, and text (the model's own, so that a verdict never counts for another text). Several people may judge one
row: the majority counts, a tie is missing.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator

from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.records import Prediction, Record, Sample, Verdict

COLUMNS = ("sample_id", "final", "reasoning", "annotator", "comment", "text")
Score = Literal[0, 1] | None


class Given(Record):
    """One person's word on one row."""

    sample_id: str
    final: Score = None
    reasoning: Score = None
    annotator: str = ""
    comment: str = ""
    text: str | None = None

    @field_validator("final", "reasoning", mode="before")
    @classmethod
    def _score(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            return None
        if isinstance(value, str) and value.strip() in ("0", "1"):
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
        self.given: dict[str, list[Given]] = defaultdict(list)
        for row in _read(path):
            self.given[row.sample_id].append(row)
        self.name = f"human:{path.stem}"
        self.version = hashlib.sha256(path.read_bytes()).hexdigest()[:8]

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        for sample, prediction in pairs:
            yield self._verdict(sample, prediction)

    def _verdict(self, sample: Sample, prediction: Prediction) -> Verdict:
        about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
        rows = self.given.get(sample.id, [])
        about_this = [r for r in rows if r.text is None or r.text == prediction.text]
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

    def card(self) -> dict[str, Any]:
        people = {r.annotator for rows in self.given.values() for r in rows if r.annotator}
        return {"file": self.path.name, "rows": len(self.given), "annotators": len(people) or None}


def _read(path: Path) -> Iterator[Given]:
    """The file's rows. Raises UserError naming file, line and column."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark first
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--judge human:{path}: cannot be read: {e}", hint="a CSV or JSONL file in UTF-8") from None
    rows: list[tuple[int, Any]]
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        rows = [(reader.line_num, r) for r in reader]
    else:
        rows = []
        for n, line in enumerate(text.splitlines(), start=1):
            try:
                rows += [(n, json.loads(line))] if line.strip() else []
            except ValueError:
                raise UserError(f"{path}:{n}: not a JSON object", hint="a .csv file, or JSON lines") from None
    for n, row in rows:
        if not isinstance(row, dict) or not row.get("sample_id"):
            raise UserError(f"{path}:{n}: no sample_id", hint=f"the columns are {', '.join(COLUMNS)}")
        try:
            yield Given.model_validate({k: v for k, v in row.items() if k in COLUMNS and v not in (None, "")})
        except ValidationError as e:
            first = e.errors()[0]
            said = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path}:{n}: column '{first['loc'][0]}': {said}", hint="0, 1 or empty") from None


def create(argument: str, options: JudgeOptions) -> HumanJudge:
    """The factory behind `--judge human:FILE`."""
    if not argument:
        raise UserError("--judge human: names no file", hint="write human:FILE; `harness judges sheet` writes one to fill in")
    return HumanJudge(Path(argument))
