"""Replay judge (`--judge replay:FILE`): verdicts that a judge gave earlier, without asking it again.

A recorded verdict is for one question, one reference and one text, whatever run it stands in; a row that was never judged is
missing. So a reviewer can recompute a table years after its judge has gone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.records import Prediction, Record, Sample, Verdict
from judges.reply import Score


def pair(sample: Sample, prediction: Prediction) -> str:
    """Hash over what was judged: question, reference and the model's text."""
    what = [sample.question, sample.reference.model_dump(mode="json"), prediction.text]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


class Recorded(Record):
    """One line of a replay file."""

    pair: str
    judge: str
    version: str
    sample_id: str
    final: Score | None
    reasoning: Score | None = None
    score: float | None = None
    missing: str | None = None
    rationale: str | None = None
    raw: str | None = None
    served: str | None = None

    @classmethod
    def of(cls, sample: Sample, prediction: Prediction, verdict: Verdict, version: str) -> Recorded:
        return cls(pair=pair(sample, prediction), version=version, **verdict.model_dump(exclude={"usage"}))

    def verdict(self, sample_id: str, judge: str) -> Verdict:
        said = self.model_dump(include={"final", "reasoning", "score", "missing", "rationale", "raw", "served"})
        if self.final is None and self.missing is None:
            said["missing"] = "no reason was recorded"
        return Verdict(sample_id=sample_id, judge=judge, **said)


class ReplayJudge(Judge):
    """Fulfils harness.contracts.Judge. It stands on the leaderboard beside the judge it repeats, under a name of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = list(_read(path))
        judges = {(r.judge, r.version) for r in rows}
        if len(judges) != 1:
            found = ", ".join(sorted(f"{j}@{v}" for j, v in judges)) or "no verdicts"
            raise UserError(f"{path}: holds {found}", hint="a replay file holds the verdicts of one judge; export them apart")
        ((judge, version),) = judges
        self.recorded: dict[str, Recorded] = {}
        for row in rows:
            before = self.recorded.get(row.pair)
            if before is not None and (before.final, before.reasoning, before.score) != (row.final, row.reasoning, row.score):
                row = row.model_copy(
                    update={"final": None, "reasoning": None, "score": None, "missing": "recorded twice, with other verdicts"}
                )
            self.recorded[row.pair] = row
        self.name = f"replay:{judge}"
        # what has no score is hashed as it was before there were any
        content = json.dumps(
            sorted([r.pair, r.final, r.reasoning, *([] if r.score is None else [r.score])] for r in self.recorded.values())
        )
        self.version = f"{version}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        for sample, prediction in pairs:
            found = self.recorded.get(pair(sample, prediction))
            if found is None:
                why = f"no recorded verdict on this text in {self.path.name}"
                yield Verdict(sample_id=sample.id, judge=self.name, final=None, missing=why)
            else:
                yield found.verdict(sample.id, self.name)

    def card(self) -> dict[str, Any]:
        return {"file": self.path.name, "recorded": len(self.recorded)}


def _read(path: Path) -> Iterator[Recorded]:
    if not path.is_file():
        raise UserError(f"--judge replay:{path}: no such file", hint="`harness judges export` writes one")
    for n, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield Recorded.model_validate_json(line)
        except ValidationError as e:
            first = e.errors()[0]
            raise UserError(f"{path}:{n}: {'.'.join(str(x) for x in first['loc']) or 'line'}: {first['msg']}") from None


def create(argument: str, options: JudgeOptions) -> ReplayJudge:
    """The factory behind `--judge replay:FILE`."""
    if not argument:
        raise UserError("--judge replay: names no file", hint="write replay:FILE; `harness judges export` writes one")
    return ReplayJudge(Path(argument))
