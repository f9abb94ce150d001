"""Every Eval Ever 0.3.0: https://github.com/evaleval/every_eval_ever (tests/test_exports.py validates against its schemas).

    DIR/data/TASK/DEVELOPER/MODEL/UUID.json             the run: model, results with intervals, judges
    DIR/data/TASK/DEVELOPER/MODEL/UUID_samples.jsonl    a line for each sample and result

The uuid follows from the run's folder and model, so exporting again replaces. A missing verdict has no line, as the format
knows only right and wrong: each result says how many are missing, why, and what they could make of the score.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from harness import __version__
from harness.errors import RunError
from harness.records import Prediction, RunCard
from harness.runs import slug, write_atomic
from harness.shown import count
from leaderboard.browse import Browser, Filter, Row
from leaderboard.cell import Cell, judge_card
from leaderboard.exports import Exported, hub_dataset
from leaderboard.reading import Judged
from leaderboard.share import Share

SCHEMA = "0.3.0"
#: Rows that are read at a time.
PAGE = 5000


def write(exported: Exported, out: Path, *, organization: str = "unknown", relationship: str = "other") -> Path:
    """Write a run's two files under `out` and give the JSON's path.

    `organization` ran the evaluation, `relationship` (first_party, third_party, collaborative, other) is its to the model.
    """
    share = exported.share
    card = exported.run.card
    developer, _, model = model_id(card).rpartition("/")
    name = hashlib.sha256(f"{exported.run.folder.name} {card.model_dump_json()}".encode()).digest()
    stem = f"data/{slug(card.data.task)}/{slug(developer or 'unknown')}/{slug(model)}/{uuid.UUID(bytes=name[:16], version=4)}"
    now = f"{time.time():.0f}"
    evaluation_id = f"{card.data.task}/{model_id(card)}/{now}"
    lines = [json.dumps(row, ensure_ascii=False) for row in _samples(exported, evaluation_id)]
    _agree(exported, lines)
    text = "".join(line + "\n" for line in lines)
    document = {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation_id,
        "evaluation_timestamp": card.finished,
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": "medvlm-harness",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relationship,
        },
        "eval_library": {"name": "medvlm-harness", "version": card.harness_version, "additional_details": _library(card)},
        "model_info": _model(card),
        "evaluation_results": [
            result for cell, judged in exported.cells for result in _results(card, cell, judged, share is not None)
        ],
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": f"{stem}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(text.encode()).hexdigest(),
            "total_rows": len(lines),
        },
    }
    if share:
        document = share.tree(document)
    write_atomic(out / f"{stem}_samples.jsonl", text)
    write_atomic(out / f"{stem}.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return out / f"{stem}.json"


def model_id(card: RunCard) -> str:
    """Hub ids as they are; a folder's name for a checkpoint of one's own."""
    name = card.model.name.strip("/")
    return name if name.count("/") == 1 and not card.model.trainer else name.rpartition("/")[2]


def _strings(**values: Any) -> dict[str, str]:
    """The format's details: text only, what is unknown left out."""
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items() if v is not None}


def _library(card: RunCard) -> dict[str, str]:
    return _strings(exported_by=__version__, git_sha=card.git_sha, hardware=card.hardware, packages=card.packages)


def _model(card: RunCard) -> dict[str, Any]:
    m = card.model
    local = m.weights_sha256 is not None
    details = _strings(
        deployment_type="self_deployed" if local else "unknown",
        model_availability="unknown",
        base_model=m.base,
        trainer=m.trainer,
        architecture=m.architecture,
        parameters=m.parameters,
        weights_sha256=m.weights_sha256,
        settings_sha256=m.settings_sha256,
        dtype=m.dtype,
        attention=m.attention,
    )
    info: dict[str, Any] = {"name": m.name, "id": model_id(card), "additional_details": details}
    developer = info["id"].rpartition("/")[0]
    if developer:
        info["developer"] = developer
    engine = {"name": m.backend, "version": card.packages.get(m.backend, "unknown")}
    return info | {"inference_engine": engine}


def _results(card: RunCard, cell: Cell, judged: Judged, shared: bool) -> Iterator[dict[str, Any]]:
    """What a judge says of the answers, with interval, and of the reasoning, where it does."""
    data = card.data
    repo = hub_dataset(data.task)
    details = _strings(fingerprint=data.fingerprint, source=data.source, resolution=data.resolution, images=data.images)
    source = {"dataset_name": data.task, "additional_details": details} | (
        {"source_type": "hf_dataset", "hf_repo": repo, "hf_split": data.split, "samples_number": data.rows}
        if repo
        else {"source_type": "other"}
    )
    generation = {
        "generation_args": {
            "temperature": card.generation.temperature,
            "top_p": card.generation.top_p,
            "max_tokens": max(1, card.generation.max_new_tokens),
            **({} if shared else {"execution_command": shlex.join(["harness", *card.command])}),
        },
        "additional_details": _strings(prompt=card.prompt, prompt_sha256=card.prompt_sha256, seed=card.generation.seed),
    }
    for metric, value in (("final", cell.value), ("reasoning", cell.reasoning)):
        if value is None:
            continue
        score: dict[str, Any] = {"score": value}
        if metric == "final":
            score |= {"details": _missing(cell), "uncertainty": _uncertainty(cell)}
        yield {
            "evaluation_result_id": _result_id(cell, metric),
            "evaluation_name": data.task,
            "evaluation_timestamp": card.finished or card.created,
            "source_data": source,
            "metric_config": _metric(cell, metric, judge_card(card, judged)),
            "score_details": score,
            "generation_config": generation,
        }


def _result_id(cell: Cell, metric: str) -> str:
    return f"{cell.task}/{cell.judge}@{cell.judge_version}/{metric}"


def _metric(cell: Cell, metric: str, judge: dict[str, Any]) -> dict[str, Any]:
    """Whose verdicts these are. `judge` is the judge's own card, empty for one that is no model."""
    described = f"Share of {'answers' if metric == 'final' else 'reasoning texts'} that {cell.judge} holds to be right"
    config: dict[str, Any] = {
        "evaluation_description": described,
        "metric_id": "accuracy" if metric == "final" else "reasoning_accuracy",
        "metric_name": f"{metric} by {cell.judge}@{cell.judge_version}",
        "metric_kind": "accuracy",
        "metric_unit": "proportion",
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0.0,
        "max_score": 1.0,
        "additional_details": _strings(judge=cell.judge, judge_version=cell.judge_version),
    }
    if "model" in judge:
        open_or_not = {"deployment_type": "unknown", "model_availability": "unknown"}
        info = {"name": str(cell.judge), "id": str(judge["model"]), "additional_details": open_or_not}
        asked = f"judge prompt {judge.get('prompt')} (sha256 {judge.get('prompt_sha256')})"
        config["llm_scoring"] = {"judges": [{"model_info": info}], "input_prompt": asked, "additional_details": _strings(**judge)}
    return config


def _missing(cell: Cell) -> dict[str, str]:
    return _strings(
        judged=cell.n, asked=cell.samples, missing=cell.missing, missing_reasons=cell.missing_reasons,
        score_if_missing_were_wrong=cell.bound_low, score_if_missing_were_right=cell.bound_high, cut_off=cell.truncated,
    )  # fmt: skip


def _uncertainty(cell: Cell) -> dict[str, Any]:
    method = f"{cell.method}, clustered by {cell.clustered_by} ({count(cell.clusters, cell.clustered_by)})"
    interval = {"lower": cell.low, "upper": cell.high, "confidence_level": 0.95, "method": method}
    return {"confidence_interval": interval, "num_samples": cell.n}


def _agree(exported: Exported, lines: list[str]) -> None:
    """Raises RunError where the samples do not give the scores, as when a run was written between the two readings."""
    given: dict[str, list[float]] = defaultdict(list)
    for line in map(json.loads, lines):
        given[line["evaluation_result_id"]].append(line["evaluation"]["score"])
    for cell, _ in exported.cells:
        for metric, value, n in (("final", cell.value, cell.n), ("reasoning", cell.reasoning, cell.reasoning_n)):
            own = given[_result_id(cell, metric)]
            if len(own) != n or (own and sum(own) != round((value or 0.0) * n)):
                told = f"{len(own)} samples of {metric} by {cell.judge}, but the score is over {n} rows"
                raise RunError(
                    f"{exported.run.folder}: {told}", hint="is it being written, or was a file changed? export it again"
                )


def _samples(exported: Exported, evaluation_id: str) -> Iterator[dict[str, Any]]:
    browser = Browser([exported.run])
    for offset in range(0, len(exported.run.asked.ids), PAGE):
        for row in browser.page(Filter(), offset, PAGE).rows:
            for cell, judged in exported.cells:
                verdict = row.verdicts.get(judged.path.stem)
                if verdict is None or row.prediction is None:
                    continue
                for metric, given in (("final", verdict.final), ("reasoning", verdict.reasoning)):
                    if given is not None:
                        one = _sample(exported.run.card, row, row.prediction, cell, metric, given, evaluation_id)
                        yield _without_names(one, row, exported.share) if exported.share else one


def _without_names(sample: dict[str, Any], row: Row, share: Share) -> dict[str, Any]:
    """A line without the names of images, which may also be the row's id, and what an error says of files."""
    named = share.words(row.id) != row.id or any(PurePath(image).stem in row.id for image in row.images)
    metadata = {k: share.words(v) for k, v in sample["metadata"].items() if k != "images"}
    own = {"sample_id": f"row {row.row + 1}" if named else row.id, "error": share.words(sample["error"]), "metadata": metadata}
    return sample | own | {k: share.words(sample[k]) for k in ("evaluation_id", "model_id")}


def _sample(card: RunCard, row: Row, p: Prediction, cell: Cell, metric: str, given: int, evaluation_id: str) -> dict[str, Any]:
    reference = [row.reference.reasoning or ""] if metric == "reasoning" else list(row.reference.answers)
    extracted = p.reasoning if metric == "reasoning" else p.said
    return {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation_id,
        "model_id": model_id(card),
        "evaluation_name": card.data.task,
        "evaluation_result_id": _result_id(cell, metric),
        "sample_id": row.id,
        "sample_hash": hashlib.sha256((row.question + "".join(reference)).encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {
            "raw": row.question,
            "reference": reference,
            "choices": list(row.reference.choices) if row.reference.choices else None,
        },
        "output": {"raw": [p.text], "reasoning_trace": [p.reasoning] if p.reasoning else None},
        "messages": None,
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": extracted or "",
                "extraction_method": "harness.answers",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": float(given), "is_correct": bool(given)},
        "token_usage": {
            "input_tokens": p.prompt_tokens,
            "output_tokens": p.completion_tokens,
            "total_tokens": p.prompt_tokens + p.completion_tokens,
        },
        "error": p.error,
        "metadata": {**row.slices, "images": " ".join(row.images), "cluster": row.cluster, "finish": p.finish},
    }
