"""Several sampled answers to one question (`--num-samples k`): pass@k and self-consistency.

pass_at_k(n=10, correct=3, k=5)                    # 0.9167
majority_vote(["Pneumonia", "no", "pneumonia."])   # "Pneumonia"
sampled(groups, ks=(1, 5))                         # what scores.json holds of them
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness import answers
from harness.records import Prediction, Reference
from harness.scoring.exact import is_correct


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, estimated without bias from n samples of which `correct` are.

    1 - C(n - correct, k) / C(n, k) (Chen et al. 2021, eq. 1), as a product that neither overflows nor cancels. Raises
    ValueError unless 0 <= correct <= n and 1 <= k <= n.

    >>> pass_at_k(2, 1, 1), pass_at_k(5, 0, 5), pass_at_k(5, 1, 5)
    (0.5, 0.0, 1.0)
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples, {correct} of them right: needs 0 <= right <= samples and 1 <= k <= samples")
    if n - correct < k:  # too few wrong ones to fill k
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


def majority_vote(texts: Sequence[str | None], choices: Sequence[str] | None = None) -> str | None:
    """The answer that most samples give (self-consistency, Wang et al. 2023), in the wording that came first.

    Votes are counted by `answers.normalise`, or by letter where the question has `choices` and the text names one.
    Ties go to the answer seen first. An empty answer is no vote; None when there is no vote at all.
    """
    count: dict[str, int] = {}
    wording: dict[str, str] = {}
    for text in texts:
        key = _vote(text, choices)
        if text is not None and key:
            count[key] = count.get(key, 0) + 1
            wording.setdefault(key, text)
    return wording[max(count, key=lambda key: count[key])] if count else None  # max keeps the first of equals


def _vote(text: str | None, choices: Sequence[str] | None) -> str | None:
    if not text or not text.strip():
        return None
    letter = answers.letter(text, choices) if choices else None
    return f"({letter})" if letter else answers.normalise(text) or text.strip()


def sampled(groups: Sequence[tuple[Sequence[Prediction], Reference]], ks: Sequence[int] = (1,)) -> dict[str, Any]:
    """pass@k for each k and the accuracy of the majority vote, by exact match, over (samples of one question, reference).

    A sample that failed (`finish == "error"`) is left out; a question with fewer than k samples left does not count for
    pass@k, one with none does not count for the vote, and `n` says how many did. Values are None where n is 0.
    """
    right = [[is_correct(p.answer, ref) for p in samples if p.finish != "error"] for samples, ref in groups]
    out: dict[str, Any] = {
        f"pass@{k}": _mean([pass_at_k(len(r), sum(r), k) for r in right if len(r) >= k]) for k in dict.fromkeys(ks)
    }
    votes = []
    for samples, reference in groups:
        texts = [p.said for p in samples if p.finish != "error"]
        if texts:
            votes.append(float(is_correct(majority_vote(texts, reference.choices), reference)))
    out["majority"] = _mean(votes)
    return out


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {"value": math.fsum(values) / len(values) if values else None, "n": len(values)}
