"""BERTScore judge (`--judge bertscore`): offline; open answers by word vectors, the rest read exactly.

An open answer is right when its BERTScore F1 with a reference answer reaches the threshold. Yes/no and choice questions are
read strictly, as the exact judge reads them: to word vectors "yes" and "no" are near neighbours. The same is true of "left"
and "right", and of most diagnoses; `harness judges test bertscore` prints how often it is fooled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness import answers
from harness.contracts import Judge, JudgeOptions
from harness.errors import UserError
from harness.records import Prediction, Sample, Verdict
from harness.scoring.bertscore import MINILM, bertscore_f1
from harness.scoring.exact import is_correct

#: On SLAKE's validation split 5 % of the answers to another question of the same content type reach 0.725 (581 pairs), and
#: 5 % of another row's reasoning reach 0.894 (711 pairs of slake_grounded's training split). No test row was looked at.
THRESHOLD = 0.73
REASONING_THRESHOLD = 0.9


class BertscoreJudge(Judge):
    """Fulfils harness.contracts.Judge. `threshold` is on F1, from 0 to 1."""

    name = "bertscore"

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        self.version = f"{answers.VERSION}-{MINILM}-{threshold:g}"

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        finals = self._similar([(answers.short(p.said or ""), s.reference.answers) for s, p in pairs], self.threshold)
        because = [(s.reference.reasoning,) if s.reference.reasoning else () for s, _ in pairs]
        reasons = self._similar([(p.reasoning, b) for (_, p), b in zip(pairs, because, strict=True)], REASONING_THRESHOLD)
        for (sample, prediction), final, reasoning in zip(pairs, finals, reasons, strict=True):
            about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
            if sample.reference.kind != "open":
                right = is_correct(prediction.answer, sample.reference)
                said = "read exactly"
            else:
                right = final >= self.threshold
                said = f"F1 {final:.3f}"
            reasoned: Any = None if sample.reference.reasoning is None else int(reasoning >= REASONING_THRESHOLD)
            yield Verdict(**about, final=1 if right else 0, reasoning=reasoned, rationale=said)

    @staticmethod
    def _similar(rows: Sequence[tuple[str | None, Sequence[str]]], threshold: float) -> list[float]:
        """The best F1 of each text with its references; 0 where there is nothing to compare."""
        pairs = [(text or "", reference) for text, references in rows for reference in references]
        scores = iter(bertscore_f1(pairs))
        return [max((next(scores) for _ in references), default=0.0) for _, references in rows]

    def card(self) -> dict[str, object]:
        return {"encoder": MINILM, "threshold": self.threshold, "reasoning_threshold": REASONING_THRESHOLD}


def create(argument: str, options: JudgeOptions) -> BertscoreJudge:
    """The factory behind `--judge bertscore` and `--judge bertscore:0.9`."""
    try:
        threshold = float(argument or THRESHOLD)
    except ValueError:
        threshold = -1.0
    if not 0 < threshold <= 1:
        raise UserError(f"--judge bertscore:{argument}: expected a threshold above 0 and at most 1")
    return BertscoreJudge(threshold)
