"""Point estimates of one run, overall and by slice. Intervals and comparisons are the leaderboard's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.records import Prediction, Verdict


def summarise(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Mean over judged rows, coverage, and the bounds if every missing verdict were 0 or 1.

    `final` and the bounds are None where there is nothing to average.
    """
    rows = list(verdicts)
    judged = [v.final for v in rows if v.final is not None]
    reasoned = [v.reasoning for v in rows if v.reasoning is not None]
    n, right = len(rows), sum(judged)
    missing = n - len(judged)
    return {
        "final": right / len(judged) if judged else None,
        "n": n,
        "missing": missing,
        "coverage": len(judged) / n if n else None,
        "low": right / n if n else None,
        "high": (right + missing) / n if n else None,
        "reasoning": sum(reasoned) / len(reasoned) if reasoned else None,
    }


def scores(
    rows: Iterable[Mapping[str, Any]],
    predictions: Mapping[str, Prediction],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    slices: Iterable[str],
) -> dict[str, Any]:
    """What `scores.json` holds: {judge: summary + slices} and the generation's own shares.

    `rows` are samples.jsonl's, `verdicts` is {judge: {sample id: verdict}}, `slices` the names to break down by.
    """
    rows = list(rows)
    out: dict[str, Any] = {"judges": {}, "generation": generation(predictions.values())}
    for judge, given in verdicts.items():
        entry = summarise(given[r["id"]] for r in rows if r["id"] in given)
        entry["slices"] = {}
        for name in slices:
            values = sorted({r["slices"][name] for r in rows if name in r["slices"]})
            entry["slices"][name] = {
                value: summarise(given[r["id"]] for r in rows if r["slices"].get(name) == value and r["id"] in given)
                for value in values
            }
        out["judges"][judge] = entry
    return out


def generation(predictions: Iterable[Prediction]) -> dict[str, Any]:
    """Shares that tell how the model wrote: cut off, without an answer, failed; and tokens."""
    done = list(predictions)
    n = len(done) or 1
    return {
        "predictions": len(done),
        "truncated": sum(p.finish == "length" for p in done) / n,
        "unanswered": sum(p.answer is None for p in done) / n,
        "errors": sum(p.finish == "error" for p in done),
        "prompt_tokens": sum(p.prompt_tokens for p in done),
        "completion_tokens": sum(p.completion_tokens for p in done),
    }
