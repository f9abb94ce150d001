"""Rubric judge (`--judge rubric:NAME`): an LLM judge asked about each criterion of a row's rubric, as HealthBench is scored.

A row's score is the points of the criteria that are met over the sum of the positive points, so it can fall below 0; a task's is
the rows' mean, cut to 0 to 1 (Arora et al. 2025, HealthBench). It stands among the metrics under the judge's name. The verdict
itself is 1 where a row reaches all points. One criterion without a verdict leaves its row without one, with the reason.

NAME is any LLM judge. Each criterion is a request of its own, and is kept like any other verdict: a killed command asks for none
again. The question to the judge is ours (judges/prompts/rubric), not HealthBench's: printed scores used another grader's prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.models.endpoint import Outgoing
from harness.records import Criterion, Prediction, Reference, Sample, Verdict
from judges import llm, local
from judges.llm import LlmJudge
from judges.prompt import RUBRIC

NAME = "rubric"
#: Criteria of a row, about, for the estimate before anything is sent: HealthBench has 48,562 of 5,000 rows.
TYPICAL = 10


class RubricJudge(Judge):
    """Fulfils harness.contracts.Judge. `grader` is asked about one criterion at a time."""

    def __init__(self, grader: LlmJudge) -> None:
        self.grader = grader
        self.name = f"{NAME}:{grader.name}"
        self.version = grader.version

    def prepare(self, rows: Sequence[Outgoing]) -> list[str]:
        each = [dataclasses.replace(o, questions=o.questions * TYPICAL) for o in rows]
        return [f"judge {self.name}: a request for each criterion, taken to be {TYPICAL} a row", *self.grader.prepare(each)]

    def probe(self, sample: Sample) -> None:
        if sample.reference.rubric:
            self.grader.probe(_asked(sample, 0))

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        rows: dict[str, tuple[Sample, Prediction]] = {}
        asked: list[tuple[Sample, Prediction]] = []
        for sample, prediction in pairs:
            if not sample.reference.rubric:
                yield Verdict(sample_id=sample.id, judge=self.name, final=None, missing="this row has no rubric")
                continue
            rows[sample.id] = (sample, prediction)
            asked += [(_asked(sample, k), prediction) for k in range(len(sample.reference.rubric))]
        found: dict[str, dict[int, Verdict]] = {i: {} for i in rows}
        for verdict in self.grader.judge(asked):
            name, _, k = verdict.sample_id.rpartition("#")
            found[name][int(k)] = verdict
            if len(found[name]) == len(rows[name][0].reference.rubric):
                yield self._row(rows[name][0], [v for _, v in sorted(found.pop(name).items())])

    def _row(self, sample: Sample, verdicts: list[Verdict]) -> Verdict:
        """The verdict on a row from those on its criteria."""
        used = [v.usage for v in verdicts if v.usage]
        about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name, "served": verdicts[0].served}
        about["usage"] = {k: sum(u.get(k, 0) for u in used) for k in used[0]} if used else None
        lacking = [v.missing for v in verdicts if v.final is None]
        if lacking:
            return Verdict(**about, final=None, missing=lacking[0])
        rubric = sample.reference.rubric
        value = score(rubric, [v.final == 1 for v in verdicts])
        told = "\n".join(
            f"{'met' if v.final else 'not met'} ({c.points:+g}): {c.text}" + (f" -- {v.rationale}" if v.rationale else "")
            for c, v in zip(rubric, verdicts, strict=True)
        )
        return Verdict(**about, final=1 if value >= 1 else 0, score=value, rationale=told)

    def card(self) -> dict[str, Any]:
        return self.grader.card()


def score(rubric: Sequence[Criterion], met: Sequence[bool]) -> float:
    """Points reached over points that can be reached.

    >>> score([Criterion(text="asks", points=6), Criterion(text="errs", points=-3)], [True, True])
    0.5
    """
    return sum(c.points for c, m in zip(rubric, met, strict=True) if m) / sum(c.points for c in rubric if c.points > 0)


def _asked(sample: Sample, k: int) -> Sample:
    """The row as its grader sees it for one criterion."""
    criterion = sample.reference.rubric[k]
    reference = Reference(answers=(criterion.text,), rubric=(criterion,))
    return Sample(
        id=f"{sample.id}#{k}", images=(), question=sample.question, history=sample.history, system=sample.system,
        reference=reference,
    )  # fmt: skip


def create(argument: str, options: JudgeOptions) -> RubricJudge:
    """The factory behind `--judge rubric:NAME`. Raises UserError."""
    if not argument:
        raise UserError("--judge rubric: which judge?", hint="write rubric:NAME, where NAME is an LLM judge such as gpt-4o-mini")
    own = dataclasses.replace(options, prompt=RUBRIC)
    kind, _, rest = argument.partition(":")
    grader = local.create(rest, own) if kind == "local" else llm.create(argument, own)
    return RubricJudge(grader)
