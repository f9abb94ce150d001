"""lm-eval's own text tasks on the same checkpoint, in process: does training make the model forget what it knew?

    harness run --model CKPT --tasks lm_eval:arc_easy,lm_eval:mmlu_anatomy
    harness run --model CKPT --tasks lm_eval:medqa_4options --lm-eval-chat-template

lm-eval asks and scores; each of its 0/1 metrics becomes a judge `lm_eval:METRIC`, so that the run stands on the same
leaderboard, row by row. The numbers are lm-eval's to the last digit (tests/test_lm_eval.py).

It goes through `lm_eval.evaluator.evaluate` and not `simple_evaluate`, which asks the hub about the model's name and runs a
dozen programs to describe the machine; the few settings that `simple_evaluate` makes first are made here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__, plugins
from harness.errors import DataError, UserError
from harness.records import DataCard, GenerationArgs, Prediction, Reference, RunCard, Sample, Verdict
from harness.runs import RunFolder, write_atomic
from harness.scoring.summary import scores

if TYPE_CHECKING:
    from harness.models.transformers_model import TransformersModel

PREFIX = "lm_eval:"
#: lm-eval's own default where a task names no limit (HFLM.max_gen_toks).
MAX_GEN_TOKS = 256


def split_tasks(tasks: str) -> tuple[str, list[str]]:
    """(the harness's own tasks as they were written, the names after `lm_eval:`) of a comma-separated `--tasks`."""
    names = [n.strip() for n in tasks.split(",") if n.strip()]
    foreign = [n.removeprefix(PREFIX) for n in names if n.startswith(PREFIX)]
    return ",".join(n for n in names if not n.startswith(PREFIX)), foreign


def load_tasks(names: Sequence[str], *, include_path: Path | None = None) -> dict[str, Any]:
    """lm-eval's leaf tasks by name; a group or a tag gives all of its own.

    `include_path` adds a folder of YAMLs; with one, lm-eval's own are not indexed (they take six seconds). Such a folder is
    trusted as code is: lm-eval's YAML runs Python by `!function` and by its templates. Raises UserError for an unknown name
    or a task that cannot run here, DataError when a dataset cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include_path, include_defaults=include_path is None)
    for name in names:
        if name not in manager.all_tasks:  # asked first: lm-eval would take a path, and run the code in it
            raise UserError(f"lm-eval has no task named '{name}'", hint=plugins.did_you_mean(name, manager.all_tasks))
    tasks: dict[str, Any] = {}
    for name in names:
        try:
            tasks |= manager.load([name])["tasks"]
        except Exception as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise DataError(f"{PREFIX}{name}: cannot be loaded: {reason}", hint="lm-eval fetches its data from the hub") from e
    for name, task in tasks.items():
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"{PREFIX}{name}: shows images", hint="only lm-eval's text tasks are bridged")
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(f"{PREFIX}{name}: runs the code that the model writes", hint="use lm-eval itself, in a sandbox")
    return tasks


def run_lm_eval(
    tasks: Sequence[str] | Mapping[str, Any],
    model: TransformersModel,
    runs: Path,
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int = 16,
    apply_chat_template: bool = False,
    seed: int = 0,
    fresh: bool = False,
    include_path: Path | None = None,
    progress: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[RunFolder]:
    """Run lm-eval's tasks on a loaded checkpoint and write one run folder for each leaf task.

    `tasks` are names, or what `load_tasks` made of them: so a wrong name can fail before weights are loaded. A task that an
    earlier call has finished with the same weights, data and settings is not run again; a killed one starts over, for lm-eval
    gives all of a task's answers at once. `limit` takes each task's first rows; `num_fewshot` None is the task's own. `report`
    is called with each task's name before it runs, and `progress` lets lm-eval draw its bars on stderr. Raises UserError for
    a task without a metric that is right or wrong row by row.
    """
    with _silence(not progress):
        loaded = tasks if isinstance(tasks, Mapping) else load_tasks(tasks, include_path=include_path)
        lm = _wrap(model, batch_size)
    folders = []
    for name, task in loaded.items():
        report(name)
        if num_fewshot is None:
            task.set_config(key="num_fewshot", value=task.get_config("num_fewshot") or 0)
        elif task.get_config("num_fewshot") != 0:  # a task that says 0 means it
            task.set_config(key="num_fewshot", value=num_fewshot)
        task.set_fewshot_seed(seed=seed)
        card = _card(name, task, model, limit, seed, apply_chat_template)
        with RunFolder.place(runs, card) as folder:
            if fresh or not (folder.card_path.exists() and folder.card().finished):
                start = time.perf_counter()
                with _silence(not progress):
                    results = _evaluate(lm, name, task, limit, seed, apply_chat_template)
                seconds = {"generate": round(time.perf_counter() - start, 3)}
                _write(folder, card, name, task, results, lm, seconds)
        folders.append(folder)
    return folders


@contextlib.contextmanager
def _silence(quiet: bool) -> Iterator[None]:
    """lm-eval's advice off the screen, and with `quiet` its bars too; what goes wrong comes as an exception."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()) if quiet else contextlib.nullcontext():
            yield
    finally:
        logger.setLevel(before)


def _wrap(model: TransformersModel, batch_size: int) -> Any:
    """lm-eval's HFLM around the loaded model: with text alone a Qwen2-VL is the causal LM that HFLM expects.

    Its chat template is the processor's, which a tokenizer may lack, and which may want a turn's text as a part.
    """
    from lm_eval.models.huggingface import HFLM

    class Lm(HFLM):  # type: ignore[misc]
        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in chat_history]
            text: str = model.processor.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            return text

    return Lm(pretrained=model.model, tokenizer=model.processor.tokenizer, backend="causal", batch_size=batch_size)


def _evaluate(lm: Any, name: str, task: Any, limit: int | None, seed: int, chat: bool) -> dict[str, Any]:
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    out: dict[str, Any] = evaluate(
        lm=lm, task_dict={"tasks": {name: task}}, limit=limit, bootstrap_iters=0, log_samples=True,
        apply_chat_template=chat, fewshot_as_multiturn=True,
    )  # fmt: skip
    return out


def _config(task: Any) -> dict[str, Any]:
    """What the task is, without where its file lies."""
    config = dict(task.dump_config())
    config["metadata"] = {k: v for k, v in (config.get("metadata") or {}).items() if k != "config_source"}
    return config


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=lambda o: o.item() if hasattr(o, "item") else type(o).__name__)


def _card(name: str, task: Any, model: TransformersModel, limit: int | None, seed: int, chat: bool) -> RunCard:
    from harness import pipeline

    config = _config(task)
    asked = hashlib.sha256(_json([config, chat, version("lm-eval"), seed]).encode()).hexdigest()
    rows = hashlib.sha256()
    count = 0
    for _, doc in itertools.islice(task.doc_iterator(), limit):
        rows.update(_json(doc).encode())
        count += 1
    generation = config.get("generation_kwargs") or {}
    generates = config.get("output_type") == "generate_until"
    return RunCard(
        harness_version=__version__,
        created=pipeline.now(),
        command=sys.argv[1:],
        data=DataCard(
            task=f"{PREFIX}{name}",
            split=str(config.get("test_split") or config.get("validation_split") or "test"),
            source="file" if config.get("dataset_path") in ("json", "csv", "parquet", "text", "arrow") else "hub",
            resolution="text",
            rows=count,
            images=0,
            fingerprint=rows.hexdigest(),
            spec_sha256=hashlib.sha256(_json(config).encode()).hexdigest(),
        ),
        model=model.card,
        prompt=f"lm_eval {config['num_fewshot']}-shot" + (" chat" if chat else ""),
        prompt_sha256=asked,
        generation=GenerationArgs(
            max_new_tokens=int(generation.get("max_gen_toks", MAX_GEN_TOKS)) if generates else 0,
            temperature=float(generation.get("temperature") or 0.0) if generation.get("do_sample") else 0.0,
            seed=seed,
        ),
        limit=limit,
        git_sha=pipeline.git_sha(),
        packages=pipeline.packages() | {"lm-eval": version("lm-eval")},
        hardware=pipeline.hardware(),
    )


def binary_metrics(rows: Sequence[dict[str, Any]], task: Any) -> list[str]:
    """The metrics that are 0 or 1 on every row, are averaged over rows, and are better when higher."""
    from lm_eval.api.metrics import mean

    def fits(metric: str) -> bool:
        right = task.aggregation().get(metric, mean) is mean and task.higher_is_better().get(metric, True)
        values = [r[metric].item() if hasattr(r[metric], "item") else r[metric] for r in rows]  # numpy's own numbers
        return right and all(isinstance(v, int | float) and v in (0, 1) for v in values)

    return [m for m in rows[0]["metrics"] if fits(m)]


def _write(
    folder: RunFolder, card: RunCard, name: str, task: Any, results: dict[str, Any], lm: Any, seconds: dict[str, float]
) -> None:
    """The run folder of a finished task. Raises UserError when none of its metrics is 0 or 1 on each row."""
    from harness import pipeline

    logged: list[dict[str, Any]] = results["samples"][name]
    by_filter: dict[str, list[dict[str, Any]]] = {}
    for row in logged:
        by_filter.setdefault(row["filter"], []).append(row)
    first = next(iter(by_filter.values()))
    verdicts: dict[str, list[Verdict]] = {}
    for filter_name, rows in by_filter.items():
        for metric in binary_metrics(rows, task):
            judge = PREFIX + metric + ("" if filter_name == "none" else f":{filter_name}")
            verdicts[judge] = [
                Verdict(sample_id=str(r["doc_id"]), judge=judge, final=1 if r[metric] == 1 else 0, raw=_json(r["resps"]))
                for r in rows
            ]
    if not verdicts:
        raise UserError(
            f"{PREFIX}{name}: none of its metrics ({', '.join(first[0]['metrics'])}) is right or wrong row by row",
            hint="run it with lm-eval itself",
        )
    samples = [_sample(r, task) for r in first]
    predictions = [_prediction(r, task, lm) for r in first]
    folder.begin(card, samples, fresh=True)
    write_atomic(folder.path / "lm_eval.json", _json({k: v for k, v in results.items() if k != "samples"}) + "\n")
    folder.add_predictions(predictions)
    judge_version = f"{version('lm-eval')}-v{results['versions'].get(name)}"
    for judge, given in verdicts.items():
        folder.add_verdicts(judge, judge_version, given)
    every = {f"{n}@{v}": folder.verdicts(n, v) for n, v in folder.judges()}
    folder.write_scores(scores(folder.samples(), folder.predictions(), every, ()))
    folder.write_card(card.model_copy(update={"finished": pipeline.now(), "seconds": seconds}))


def _choices(row: dict[str, Any], task: Any) -> tuple[str, ...] | None:
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    return tuple(str(c) for c in task.doc_to_choice(row["doc"]))


def _sample(row: dict[str, Any], task: Any) -> Sample:
    """What lm-eval asked: the whole context with its examples, and the target it compares with."""
    choices, target = _choices(row, task), row["target"]
    if choices is not None and getattr(task, "multiple_input", False):
        target = task.doc_to_text(row["doc"])  # such a task's text is the index of the right choice
    targets = target if isinstance(target, list | tuple) else [target]
    answers = tuple(choices[t] if choices and isinstance(t, int) and 0 <= t < len(choices) else str(t) for t in targets)
    return Sample(
        id=str(row["doc_id"]), images=(), question=str(row["arguments"][0][0]),
        reference=Reference(answers=answers, choices=choices), slices={},
    )  # fmt: skip


def _prediction(row: dict[str, Any], task: Any, lm: Any) -> Prediction:
    """The text that the model wrote, or the choice it found likeliest. A target that greedy decoding misses leaves no text."""
    choices, responses = _choices(row, task), [r[0] for r in row["resps"]]
    limit: float = math.inf
    if choices is not None:
        likelihoods = [r[0] for r in responses[: len(choices)]]
        text = answer = choices[likelihoods.index(max(likelihoods))]
    elif task.OUTPUT_TYPE == "generate_until":
        text, answer = str(responses[0]), str(row["filtered_resps"][0])
        limit = row["arguments"][0][1].get("max_gen_toks", MAX_GEN_TOKS)
    else:
        text = answer = str(row["target"]) if responses[0][1] else ""
    written = len(lm.tok_encode(text, add_special_tokens=False))
    return Prediction(
        sample_id=str(row["doc_id"]),
        text=text,
        reasoning=None,
        answer=answer.strip() or None,
        finish="length" if written >= limit else "stop",
        prompt_tokens=len(lm.tok_encode(str(row["arguments"][0][0]))),  # with the opening token, where lm-eval sends one
        completion_tokens=written,
    )
