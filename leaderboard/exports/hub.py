"""For the Hugging Face hub: a model's results as `model-index` (in README.md's front matter), as `.eval_results/*.yaml`, and in
words and a table for its card. The first two are written by huggingface_hub's own classes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records import RunCard
from harness.runs import slug
from harness.shown import asked, between, count, percent, plural
from leaderboard.exports import Exported, hub_dataset
from leaderboard.formats import Table, markdown
from leaderboard.table import Cell, note


def model_index(runs: Sequence[Exported]) -> str:
    """The front matter of the model's README.md, without its `---`. Raises UserError for runs of several models."""
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import EvalResult

    results = [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=hub_dataset(cell.task) or cell.task,
            dataset_name=cell.task,
            dataset_split=cell.split,
            dataset_args={"fingerprint": cell.data_fingerprint, "source": cell.source, "resolution": cell.resolution},
            metric_type="accuracy",
            metric_name=f"accuracy by {cell.judge}@{cell.judge_version}",
            metric_value=round(100 * (cell.value or 0.0), 2),
            metric_args=_measured(cell),
        )
        for run in runs
        for cell, _ in run.cells
    ]
    return str(ModelCardData(model_name=one_model(runs).model.name, eval_results=results).to_yaml()) + "\n"


def _measured(cell: Cell) -> dict[str, Any]:
    return {
        "unit": "percent",
        "confidence_interval_95": [round(100 * (x or 0.0), 2) for x in (cell.low, cell.high)],
        "method": cell.method,
        "n": cell.n,
        plural(cell.clustered_by): cell.clusters,
        "coverage": round(cell.coverage, 4),
        "prompt": cell.prompt,
    }


def eval_results(runs: Sequence[Exported]) -> dict[Path, str]:
    """`.eval_results/TASK.yaml` for each task that the hub has; the format knows datasets of the hub only."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from ruamel.yaml import YAML

    entries: dict[str, list[Any]] = {}
    for run in runs:
        for cell, _ in run.cells:
            repo = hub_dataset(cell.task)
            if repo:
                limits = f"95 % interval {between(cell.low, cell.high)}, n {cell.n}, {count(cell.clusters, cell.clustered_by)}"
                rows = f"{cell.source} rows, {cell.resolution}"
                notes = f"percent; {cell.judge}@{cell.judge_version}, {limits}; prompt {cell.prompt}; {rows}"
                value, date = round(100 * (cell.value or 0.0), 2), run.run.card.finished
                entry = EvalResultEntry(dataset_id=repo, task_id=cell.task, value=value, date=date, notes=notes)
                entries.setdefault(cell.task, []).append(entry)
    out = {}
    for task, own in entries.items():
        text = io.StringIO()
        YAML(typ="safe", pure=True).dump(eval_result_entries_to_yaml(own), text)
        out[Path(".eval_results") / f"{slug(task)}.yaml"] = text.getvalue()
    return out


def model_card(runs: Sequence[Exported]) -> str:
    """A Markdown section: the scores, and how they were measured. Raises UserError for runs of several models."""
    card = one_model(runs)
    by = list(dict.fromkeys(c.clustered_by for run in runs for c, _ in run.cells))
    head = ("task", "questions", "judge", "score", "95 % interval", "n", " or ".join(map(plural, by)), "judged", "data")
    rows = [
        (
            f"{c.task} ({c.split})",
            asked(c.samples, c.repeats),
            f"{c.judge}@{c.judge_version}",
            percent(c.value),
            between(c.low, c.high),
            *(str(c.n), str(c.clusters), f"{percent(c.coverage)} %"),
            f"{c.source}, {c.resolution}",
        )
        for run in runs
        for c, _ in run.cells
    ]
    table = Table("Evaluation", head, rows, f"Percent of rows that are right; intervals are clustered by {' or '.join(by)}.")
    facts = [
        f"Measured with medvlm-harness {card.harness_version} on {card.hardware}.",
        f"Prompt: {', '.join(sorted({r.run.card.prompt for r in runs}))}; {_generation(card)}.",
        f"Weights (sha256): {card.model.weights_sha256 or 'unknown'}; {card.model.dtype or 'unknown'} precision.",
        *(f"{c.task}, {c.judge}@{c.judge_version}: {note(c)}." for run in runs for c, _ in run.cells if note(c)),
        "A row that no judge could judge counts neither as right nor as wrong.",
        "Not a medical device: these are scores on public question sets, not evidence of clinical use.",
    ]
    return "#" + markdown(table)[2:] + "\n" + "\n".join(f"- {fact}" for fact in facts) + "\n"


def _generation(card: RunCard) -> str:
    g = card.generation
    how = "greedy" if g.temperature == 0 else f"temperature {g.temperature:g}, top-p {g.top_p:g}, seed {g.seed}"
    stop = f", stopped before {' or '.join(map(repr, g.stop))}" if g.stop else ""
    return f"{how}, at most {g.max_new_tokens} new tokens{stop}"


def one_model(runs: Sequence[Exported]) -> RunCard:
    """The first run's card, if all are of one model."""
    first = runs[0].run.card
    for run in runs:
        model = run.run.card.model
        if (model.name, model.weights_sha256) != (first.model.name, first.model.weights_sha256):
            raise UserError(
                f"runs of {first.model.name} and of {model.name}", hint="give the runs of one model, such as runs/MODEL"
            )
    return first
