"""A results JSON as lm-eval writes it, for whatever reads those; each judge is a metric, named JUDGE@VERSION."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from harness.errors import UserError
from leaderboard.cell import totals
from leaderboard.exports import Exported
from leaderboard.exports.hub import one_model
from leaderboard.stats import standard_error


def document(runs: Sequence[Exported]) -> dict[str, Any]:
    """The document for runs of one model. Standard errors are clustered as the intervals are, which stand under `harness`.

    Raises UserError for runs of several models, and where two runs are of the same task.
    """
    card = one_model(runs)
    out: dict[str, Any] = {
        k: {} for k in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "harness")
    }
    for run in runs:
        data = run.run.card.data
        if data.task in out["results"]:
            raise UserError(f"two runs of task {data.task}", hint="lm-eval's form holds one result a task: give one run of each")
        result: dict[str, Any] = {"alias": data.task, "sample_len": data.rows}
        for cell, judged in run.cells:
            name = f"{cell.judge}@{cell.judge_version}".replace(",", ";")
            _, right, sizes = totals(run.run, judged.final, np.arange(data.rows))
            result |= {f"{name},none": cell.value, f"{name}_stderr,none": standard_error(right, sizes)}
            out["higher_is_better"].setdefault(data.task, {})[name] = True
            out["harness"].setdefault(data.task, {})[name] = cell.model_dump(mode="json")
        out["results"][data.task] = result
        out["configs"][data.task] = {
            "task": data.task,
            "test_split": data.split,
            "output_type": "generate_until",
            "num_fewshot": 0,
            "generation_kwargs": {"max_gen_toks": run.run.card.generation.max_new_tokens},
            "metadata": {"version": data.spec_sha256[:8], "prompt": run.run.card.prompt, "fingerprint": data.fingerprint},
        }
        out["versions"][data.task] = data.spec_sha256[:8]
        out["n-shot"][data.task] = 0
        out["n-samples"][data.task] = {"original": data.rows, "effective": data.rows}
    model = card.model
    if share := runs[0].share:
        model = model.model_copy(update={"path": None})
        out = share.tree(out)
    return out | {
        "group_subtasks": {},
        "config": {
            "model": model.backend,
            "model_args": f"pretrained={model.path or model.name}",
            "model_num_parameters": model.parameters,
            "model_dtype": model.dtype,
            "model_sha": model.weights_sha256,
            "limit": card.limit,
            "random_seed": card.generation.seed,
        },
        "git_hash": card.git_sha,
        "date": datetime.fromisoformat(card.created).timestamp(),
        "model_source": model.backend,
        "model_name": model.name,
        "total_evaluation_time_seconds": str(sum(r.run.card.seconds.get("generate", 0.0) for r in runs)),
    }
