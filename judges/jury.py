"""Jury (`--judge jury:a+b+c`): what more than half of several judges say.

How often the members disagree is on the run's card. A row is missing where there is no such majority, and a member that is
missing counts as none: two of three must agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.models.endpoint import Outgoing
from harness.pipeline import make_judges
from harness.records import Prediction, Sample, Verdict


class JuryJudge(Judge):
    """Fulfils harness.contracts.Judge over its members."""

    def __init__(self, members: Sequence[Judge]) -> None:
        self.members = sorted(members, key=lambda m: (m.name, m.version))
        self.name = "jury:" + "+".join(m.name for m in self.members)
        versions = "+".join(m.version for m in self.members)
        self.version = hashlib.sha256(versions.encode()).hexdigest()[:8]
        self.judged = self.disagreed = 0

    def prepare(self, rows: Sequence[Outgoing]) -> list[str]:
        return [note for m in self.members for note in m.prepare(rows)]

    def probe(self, sample: Sample) -> None:
        for m in self.members:
            m.probe(sample)

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        said = [{v.sample_id: v for v in m.judge(pairs)} for m in self.members]
        for sample, _ in pairs:
            yield self._verdict(sample.id, [votes[sample.id] for votes in said])

    def _verdict(self, sample_id: str, votes: list[Verdict]) -> Verdict:
        finals = [v.final for v in votes if v.final is not None]
        if len(finals) > 1:
            self.judged += 1
            self.disagreed += len(set(finals)) > 1
        words = "; ".join(
            f"{m.name}: {v.final if v.final is not None else f'missing ({v.missing})'}"
            for m, v in zip(self.members, votes, strict=True)
        )
        final = self._majority(finals)
        missing = None if final is not None else f"no majority: {words}"
        reasoning = self._majority([v.reasoning for v in votes if v.reasoning is not None])
        return Verdict(sample_id=sample_id, judge=self.name, final=final, reasoning=reasoning, missing=missing, rationale=words)

    def _majority(self, votes: list[Any]) -> Any:
        """What more than half of all members say; None where there is no such thing."""
        return next((value for value in (0, 1) if 2 * votes.count(value) > len(self.members)), None)

    def card(self) -> dict[str, Any]:
        return {
            "members": {f"{m.name}@{m.version}": m.card() for m in self.members},
            "use": {"judged_by_several": self.judged, "disagreed": self.disagreed},
        }


def create(argument: str, options: JudgeOptions) -> JuryJudge:
    """The factory behind `--judge jury:a+b+c`."""
    names = [n for n in argument.split("+") if n]
    if len(names) < 2:
        raise UserError(f"--judge jury:{argument}: a jury has several members", hint="write jury:a+b+c")
    members = [judge for name in names for judge in make_judges(name, options)]
    if len({(m.name, m.version) for m in members}) < len(members):
        raise UserError(f"--judge jury:{argument}: a judge is there twice")
    return JuryJudge(members)
