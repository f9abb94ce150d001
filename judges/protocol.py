"""Protocol judge (`--judge protocol:NAME`): offline; by the rule of a public harness or paper (`harness judges list`).

Its verdict is 1 where the rule gives an answer full marks. Where the rule is fractional, as token F1 is, the run's scores.json
has the values' mean beside the verdicts, as the metric of the same name. A row that the rule leaves out is missing, with that
reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness import answers
from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.records import Prediction, Sample, Verdict
from harness.scoring.protocols import PREFIX, PROTOCOLS, Protocol, find


class ProtocolJudge(Judge):
    """Fulfils harness.contracts.Judge."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.name = PREFIX + protocol.name
        #: Some rules read what the answer reader took.
        self.version = f"{answers.VERSION}-{protocol.version}"

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        for sample, prediction in pairs:
            mark = self.protocol.mark(prediction, sample)
            about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
            if mark.counting.counted:
                value = f", worth {mark.value:.3f}" if self.protocol.fractional else ""
                yield Verdict(**about, final=1 if mark.value == 1 else 0, rationale=f"read as {mark.read!r}{value}")
            else:
                yield Verdict(**about, final=None, missing=f"{self.protocol.name} does not count this row")

    def card(self) -> dict[str, object]:
        return {"rule": self.protocol.rule, "source": self.protocol.source, "quirks": list(self.protocol.quirks)}


def create(argument: str, options: JudgeOptions) -> ProtocolJudge:
    """The factory behind `--judge protocol:NAME` and `--judge protocol:NAME/PART`."""
    if not argument:
        raise UserError("--judge protocol: which one?", hint=f"write protocol:NAME; known: {', '.join(PROTOCOLS)}")
    return ProtocolJudge(find(argument))
