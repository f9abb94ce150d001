"""Metric judge (`--judge metric:NAME`): a metric with a threshold, so that a metric can be certified as judges are.

An answer is right when the metric's value reaches the threshold, 0.5 unless it is written behind the name
(`metric:rougeL:0.7`). What a certificate of it shows is how far the metric can be trusted on one text: whether it tells
"no pleural effusion" from "pleural effusion", say (`harness judges test metric:rougeL`). A row that the metric does not apply
to is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness import answers
from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.models.endpoint import Outgoing
from harness.records import Prediction, Sample, Verdict
from harness.scoring import metrics, reports

THRESHOLD = 0.5


class MetricJudge(Judge):
    """Fulfils harness.contracts.Judge. `threshold` is on the metric's value, from 0 to 1."""

    def __init__(self, metric: str, threshold: float = THRESHOLD) -> None:
        self.metric, self.threshold = metric, threshold
        self.name = f"metric:{metric}"
        self.version = f"{answers.VERSION}-{threshold:g}"

    def prepare(self, rows: Sequence[Outgoing]) -> list[str]:
        reports.prepare([self.metric])
        return []

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        values = metrics.METRICS[self.metric]([(p, s.reference) for s, p in pairs])
        for (sample, _), value in zip(pairs, values, strict=True):
            about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
            if value is None:
                yield Verdict(**about, final=None, missing=f"{self.metric} does not apply to this row")
            else:
                yield Verdict(**about, final=1 if value >= self.threshold else 0, rationale=f"{self.metric} {value:.3f}")

    def card(self) -> dict[str, object]:
        return {"metric": self.metric, "threshold": self.threshold}


def create(argument: str, options: JudgeOptions) -> MetricJudge:
    """The factory behind `--judge metric:NAME` and `--judge metric:NAME:THRESHOLD`. Raises UserError."""
    name, _, written = argument.partition(":")
    if not name:
        raise UserError("--judge metric: which one?", hint=f"write metric:NAME; known: {', '.join(metrics.METRICS)}")
    metrics.check([name])
    try:
        threshold = float(written or THRESHOLD)
    except ValueError:
        threshold = -1.0
    if not 0 < threshold <= 1:
        raise UserError(f"--judge metric:{argument}: expected a threshold above 0 and at most 1")
    return MetricJudge(name, threshold)
