"""Point estimates of one run, overall and by slice. Intervals and comparisons are the leaderboard's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.records import Measured, Prediction, Reference, Sample, Verdict
from harness.scoring import aggregates, protocols, unread
from harness.scoring.metrics import BINARY, METRICS, check, right_letter
from harness.scoring.reports import RADEVAL
from harness.scoring.sampling import sampled


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
    *,
    metrics: Sequence[str] = (),
    measured: Mapping[str, Mapping[str, float | None]] | None = None,
    aggregate: str | None = None,
    repeats: int = 1,
) -> dict[str, Any]:
    """What `scores.json` holds: judges, metrics and aggregates with their slices, and the generation's own shares.

        judges      {judge: summary + slices}
        metrics     {metric: {value, n, missing, slices}}, for the `metrics` asked for and judges of a fractional protocol
        aggregates  {aggregate: {judge or 0/1 metric: {parts, n, missing}}}; `exact_match` is always among them
        reading     how many yes/no and choice answers could be read, and the ids of those that could not
        sampled     {pass@k, majority: {value, n}}, where each question was asked `repeats` times

    `rows` are samples.jsonl's, `verdicts` is {judge: {sample id: verdict}}, `slices` the names to break down by, `measured` what
    `measure` gave for the metrics, where it was asked before. Raises UserError for a metric or an aggregate that does not exist.
    """
    rows, slices = list(rows), list(slices)
    out: dict[str, Any] = {
        "judges": {},
        "metrics": {},
        "aggregates": {},
        "generation": generation(predictions.values()),
        "reading": unread.count(rows, predictions),
    }
    for judge, some in verdicts.items():
        given = {r["id"]: some.get(r["id"]) or _no_verdict(r["id"], judge) for r in rows}
        entry = summarise(given.values())
        entry["slices"] = {}
        for name in slices:
            values = sorted({r["slices"][name] for r in rows if name in r["slices"]})
            entry["slices"][name] = {
                value: summarise(given[r["id"]] for r in rows if r["slices"].get(name) == value) for value in values
            }
        out["judges"][judge] = entry
    measured = measure(rows, predictions, metrics) if measured is None else dict(measured)
    measured |= measure(rows, predictions, protocols.fractional(verdicts))
    for metric, by_id in measured.items():
        out["metrics"][metric] = _metric_entry(metric, rows, by_id, slices)
    if aggregate is not None:
        binary = {m: v for m, v in {**measure(rows, predictions, ["exact_match"]), **measured}.items() if m in BINARY}
        finals: dict[str, dict[str, float | None]] = {
            judge: {i: v.final for i, v in given.items()} for judge, given in verdicts.items()
        }
        out["aggregates"][aggregate] = {
            source: _aggregate_entry(aggregate, rows, by_id) for source, by_id in {**finals, **binary}.items()
        }
    if repeats > 1:
        groups: dict[str, tuple[list[Prediction], Reference]] = {}
        for r in rows:
            if r["id"] in predictions and r["reference"]["answers"]:
                question = groups.setdefault(r["id"].rpartition("#")[0], ([], Reference.model_validate(r["reference"])))
                question[0].append(predictions[r["id"]])
        if groups:
            out["sampled"] = sampled(list(groups.values()), ks=(1, repeats))
    return out


def _no_verdict(sample_id: str, judge: str) -> Verdict:
    """A row that the judge was never heard on is missing, as one that it could not judge."""
    return Verdict(sample_id=sample_id, judge=judge, final=None, missing="no verdict")


def measure(
    rows: Iterable[Mapping[str, Any]],
    predictions: Mapping[str, Prediction],
    names: Sequence[str],
    kept: Mapping[str, Measured] | None = None,
) -> dict[str, dict[str, float | None]]:
    """{metric: {sample id: value}} of the rows that were answered; None where the metric does not apply to the row.

    A metric is one of METRICS, or "protocol:NAME". A prediction that failed is left out, as the judges leave it out: missing,
    not 0. A metric that loads a model of its own is not asked again about a text of which its value is `kept`.
    """
    answered = [r for r in rows if r["id"] in predictions and predictions[r["id"]].finish != "error"]
    out: dict[str, dict[str, float | None]] = {}
    own = dict.fromkeys(n for n in names if n.startswith(protocols.PREFIX))
    for name in check(n for n in names if n not in own):
        known = _kept(name, predictions, kept or {}) if name in RADEVAL else {}
        new = [r for r in answered if r["id"] not in known]
        pairs = [(predictions[r["id"]], Reference.model_validate(r["reference"])) for r in new]
        found = dict(zip((r["id"] for r in new), METRICS[name](pairs), strict=True)) if pairs else {}
        out[name] = {r["id"]: known[r["id"]] if r["id"] in known else found[r["id"]] for r in answered}
    ids = [r["id"] for r in answered]
    return out | {name: dict(zip(ids, _by_protocol(name, answered, predictions), strict=True)) for name in own}


def _by_protocol(name: str, rows: Sequence[Mapping[str, Any]], predictions: Mapping[str, Prediction]) -> Iterator[float | None]:
    """Each row's value under a protocol; None where it does not count the row."""
    protocol = protocols.find(name)
    for r in rows:
        reference = Reference.model_validate(r["reference"])
        sample = Sample(id=r["id"], images=(), question=r.get("question", ""), reference=reference, slices=r["slices"])
        mark = protocol.mark(predictions[r["id"]], sample)
        yield mark.value if mark.counting.counted else None


def _kept(name: str, predictions: Mapping[str, Prediction], kept: Mapping[str, Measured]) -> dict[str, float | None]:
    return {
        i: m.values[name]
        for i, m in kept.items()
        if name in m.values and i in predictions and m.text_sha256 == text_sha256(predictions[i])
    }


def text_sha256(prediction: Prediction) -> str:
    return hashlib.sha256(prediction.text.encode(errors="surrogatepass")).hexdigest()


def measures(predictions: Mapping[str, Prediction], measured: Mapping[str, Mapping[str, float | None]]) -> list[Measured]:
    """What `measure` gave, by prediction."""
    asked = dict.fromkeys(i for by_id in measured.values() for i in by_id)
    return [
        Measured(sample_id=i, text_sha256=text_sha256(predictions[i]), values={m: v[i] for m, v in measured.items() if i in v})
        for i in asked
    ]


def _metric_entry(
    metric: str, rows: Sequence[Mapping[str, Any]], by_id: Mapping[str, float | None], slices: Sequence[str]
) -> dict[str, Any]:
    where = {r["id"]: r["slices"] for r in rows}
    names = list(slices)
    if metric == "choice_accuracy":  # a model that likes one letter shows here
        names.append("right_choice")
        where = {r["id"]: {**r["slices"], **_right_choice(r)} for r in rows}
    entry = _mean(rows, by_id)
    entry["slices"] = {
        name: {
            value: _mean([r for r in rows if where[r["id"]].get(name) == value], by_id)
            for value in sorted({s[name] for s in where.values() if name in s})
        }
        for name in names
    }
    return entry


def _right_choice(row: Mapping[str, Any]) -> dict[str, str]:
    letter = right_letter(Reference.model_validate(row["reference"]))
    return {"right_choice": letter} if letter else {}


def _mean(rows: Sequence[Mapping[str, Any]], by_id: Mapping[str, float | None]) -> dict[str, Any]:
    values = [v for r in rows if (v := by_id.get(r["id"])) is not None]
    return {
        "value": math.fsum(values) / len(values) if values else None,
        "n": len(values),
        "missing": sum(r["id"] not in by_id for r in rows),
    }


def _aggregate_entry(name: str, rows: Sequence[Mapping[str, Any]], by_id: Mapping[str, float | None]) -> dict[str, Any]:
    known = [(r["slices"], v) for r in rows if (v := by_id.get(r["id"])) is not None]
    return {"parts": aggregates.find(name)(known), "n": len(known), "missing": len(rows) - len(known)}


def generation(predictions: Iterable[Prediction]) -> dict[str, Any]:
    """Shares that tell how the model wrote: cut off, without an answer, failed; and tokens."""
    done = list(predictions)
    n = len(done) or 1
    return {
        "predictions": len(done),
        "truncated": sum(p.finish == "length" for p in done) / n,
        "unanswered": sum(p.said is None for p in done) / n,
        "errors": sum(p.finish == "error" for p in done),
        "prompt_tokens": sum(p.prompt_tokens for p in done),
        "completion_tokens": sum(p.completion_tokens for p in done),
    }
