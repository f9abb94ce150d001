"""load -> generate -> judge -> score, resumable at every step. Each step reads what the last one left on disk."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from harness import __version__, answers, plugins
from harness.contracts import Judge, JudgeOptions, Model, Task
from harness.data import LoadedTask, OnBadRow, fingerprint, without
from harness.distributed import Rank, shard
from harness.errors import RunError, UserError
from harness.prompts import Prompt
from harness.records import GenerationArgs, Prediction, RunCard, Sample, Verdict
from harness.runs import RunFolder
from harness.scoring.summary import scores

#: Called as report(step, rows done, rows in all).
Report = Callable[[Literal["generate", "judge"], int, int], None]

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "pillow", "torchvision")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def git_sha() -> str | None:
    """The commit of the source tree the harness runs from, with `+dirty` where it was changed; None when installed."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@functools.cache
def packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> str:
    """The machine in words, without its name."""
    words = f"{platform.machine()} CPU, {os.cpu_count()} cores, {platform.system()}"
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            words = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {words}"
    return words


def make_judges(names: str, options: JudgeOptions) -> list[Judge]:
    """The judges that `--judge a,b` means: NAME or NAME:ARGUMENT, each by its plugin, any other name by `litellm`.

    Raises UserError with the nearest name.
    """
    out: list[Judge] = []
    known = plugins.available("judges")
    for name in filter(None, (n.strip() for n in names.split(","))):
        kind, _, argument = name.partition(":")
        own = kind in known and kind != "litellm"
        out.append(plugins.load("judges", kind if own else "litellm")(argument if own else name, options))
    if not out:
        raise UserError("--judge names no judge", hint=f"known: {', '.join(known)}")
    if twice := [j.name for i, j in enumerate(out) if (j.name, j.version) in {(k.name, k.version) for k in out[:i]}]:
        raise UserError(f"--judge names {twice[0]} twice")
    return out


def askable(task: LoadedTask, model: Model, prompt: Prompt, on_bad_row: OnBadRow) -> LoadedTask:
    """The task without the rows that this model cannot be asked, if it knows of any. Raises DataError as `data.load` does."""
    refused: Callable[[Sequence[Sample], Prompt], dict[str, str]] | None = getattr(model, "refused", None)
    return without(task, refused(task.samples, prompt), on_bad_row) if refused else task


def repeated(task: LoadedTask, count: int) -> LoadedTask:
    """The task with each question asked `count` times, as samples ID#0, ID#1, ... of the same cluster."""
    if count == 1:
        return task
    samples = [s.model_copy(update={"id": f"{s.id}#{k}", "repeat_of": s.id}) for s in task.samples for k in range(count)]
    card = task.card.model_copy(update={"rows": len(samples), "repeats": count, "fingerprint": fingerprint(samples)})
    return replace(task, samples=samples, card=card)


def run(
    task: Task,
    model: Model,
    prompt: Prompt,
    args: GenerationArgs,
    judges: Sequence[Judge],
    runs: Path,
    *,
    limit: int | None = None,
    fresh: bool = False,
    rank: Rank = Rank(),  # noqa: B008 (frozen)
    report: Report = lambda *_: None,
) -> RunFolder:
    """Answer and judge a task's rows into their run folder, going on from whatever is there already.

    With several ranks, each answers its own images; rank 0 keeps the folder, gathers and judges. Raises RunError, on every
    rank, when another process holds the folder.
    """
    card = RunCard(
        harness_version=__version__, created=now(), command=sys.argv[1:], data=task.card, model=model.card, prompt=prompt.name,
        prompt_sha256=prompt.sha256, generation=args, limit=limit, reader=answers.VERSION, git_sha=git_sha(),
        packages=packages(), hardware=hardware(), processes=rank.count,
    )  # fmt: skip
    folder = RunFolder.place(runs, card)
    if not rank.main:
        if refused := rank.share(None):
            raise RunError(refused)
        _generate(task, model, prompt, args, folder, {}, rank, lambda *_: None)
        rank.wait()  # for every rank's answers
        return folder
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(folder)
            folder.begin(card, task.samples, fresh=fresh)
            folder.gather()
        except (UserError, OSError) as e:
            rank.share(str(e))  # so that no rank waits for a folder that never comes
            raise
        rank.share(None)
        card = folder.card()
        seconds = dict(card.seconds)
        before = _usage(model)
        _generate(task, model, prompt, args, folder, seconds, rank, report)
        rank.wait()
        folder.gather()
        judge(folder, judges, seconds, report)
        spec = task.spec
        write_scores(folder, spec.slices, spec.metrics, spec.aggregate)
        closing = {
            "finished": now(),
            "seconds": seconds,
            "usage": add_usage(card.usage, before, _usage(model)),
            "shared_prefix": getattr(model, "sharing", None) or card.shared_prefix,
        }
        folder.write_card(folder.card().model_copy(update=closing))
    return folder


def _usage(model: Model) -> dict[str, Any]:
    """What an API model has used so far; nothing for one in process."""
    usage = getattr(model, "usage", None)
    return usage.row() if usage else {}


def add_usage(held: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """`held`, a card's usage, and what was used between `before` and `after`; `held` itself where nothing was asked.

    The cost is None where that of any reply is not known.
    """
    if after == before:
        return held
    out: dict[str, Any] = {}
    for key, value in after.items():
        if key == "cost_usd":
            known = value is not None and (held.get(key) is not None or not held.get("answered"))
            out[key] = round((held.get(key) or 0) + value - (before.get(key) or 0), 6) if known else None
        elif isinstance(value, dict):
            new = Counter(value) - Counter(before.get(key, {}))
            out[key] = dict(Counter(held.get(key, {})) + new)
        else:
            out[key] = held.get(key, 0) + value - before.get(key, 0)
    return out


def _generate(
    task: Task,
    model: Model,
    prompt: Prompt,
    args: GenerationArgs,
    folder: RunFolder,
    seconds: dict[str, float],
    rank: Rank,
    report: Report,
) -> None:
    done = folder.predictions()
    mine = shard(task.samples, rank)
    # a row that failed is asked again: whatever stood in the way may have passed
    todo = [s for s in mine if s.id not in done or done[s.id].finish == "error"]
    count, total = len(mine) - len(todo), len(mine)
    report("generate", count, total)
    start = time.perf_counter()
    for batch in model.generate(todo, prompt, args) if todo else ():
        folder.add_predictions(batch, rank.index)
        count += len(batch)
        report("generate", count, total)
    if todo:
        seconds["generate"] = round(seconds.get("generate", 0.0) + time.perf_counter() - start, 3)


def verdicts_of(judge: Judge, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
    """The judge's verdicts; a prediction that failed is missing without asking, whoever the judge is."""
    for sample, prediction in pairs:
        if prediction.finish == "error":
            why = f"no prediction: {prediction.error}"
            yield Verdict(sample_id=sample.id, judge=judge.name, final=None, missing=why)
    yield from judge.judge([(s, p) for s, p in pairs if p.finish != "error"])


def judge(folder: RunFolder, judges: Sequence[Judge], seconds: dict[str, float], report: Report) -> None:
    """Judge what a run folder holds, adding to what is judged already, and write each judge's card into the run's.

    The folder must be held (`with folder:`). Whatever was judged before an error is kept.
    """
    predictions = folder.predictions()
    samples = folder.questions()
    for one in judges:
        # a missing verdict is asked for again: whatever kept the judge from answering may have passed
        given = {
            i for i, v in folder.verdicts(one.name, one.version).items()
            if v.final is not None and i in predictions and predictions[i].finish != "error"
        }  # fmt: skip
        pairs = [(s, predictions[s.id]) for s in samples if s.id in predictions and s.id not in given]
        count = len(samples) - len(pairs)
        report("judge", count, len(samples))
        if not pairs:
            continue
        start, before = time.perf_counter(), one.card().get("use", {})
        buffer: list[Verdict] = []
        try:
            for verdict in verdicts_of(one, pairs):
                buffer.append(verdict)
                count += 1
                if len(buffer) == 256:
                    folder.add_verdicts(one.name, one.version, buffer)
                    buffer = []
                    report("judge", count, len(samples))
        finally:
            if buffer:
                folder.add_verdicts(one.name, one.version, buffer)
            _add_judge(folder, one, before)
        seconds[f"judge:{one.name}"] = round(time.perf_counter() - start, 3)
        report("judge", len(samples), len(samples))


def _add_judge(folder: RunFolder, judge: Judge, before: dict[str, Any]) -> None:
    """Put the judge's card into the run's; what it used since `before` is added to what earlier tries used."""
    card, label, about = folder.card(), f"{judge.name}@{judge.version}", judge.card()
    held = card.judges.get(label, {})
    if "use" in about:
        about["use"] = add_usage(held.get("use", {}), before, about["use"])
    folder.write_card(card.model_copy(update={"judges": card.judges | {label: held | about}}))


def write_scores(folder: RunFolder, slices: Sequence[str], metrics: Sequence[str], aggregate: str | None) -> None:
    """Rebuild scores.json from the records."""
    every = {f"{name}@{v}": folder.verdicts(name, v) for name, v in folder.judges()}
    repeats = folder.card().data.repeats
    folder.write_scores(
        scores(folder.samples(), folder.predictions(), every, slices, metrics=metrics, aggregate=aggregate, repeats=repeats)
    )


def judge_again(folder: RunFolder, judges: Sequence[Judge], report: Report = lambda *_: None) -> None:
    """Judge the stored answers of a run, without its model or its data. Raises RunError for a run that is not finished."""
    with folder:
        card = folder.card()
        before = folder.scores()
        seconds = dict(card.seconds)
        judge(folder, judges, seconds, report)
        slices = {name for entry in before["judges"].values() for name in entry["slices"]}
        write_scores(folder, sorted(slices), list(before["metrics"]), next(iter(before["aggregates"]), None))
        folder.write_card(folder.card().model_copy(update={"seconds": seconds}))


def update_card(folder: RunFolder, judge: str, found: dict[str, Any]) -> None:
    """Add to what the run's card says of a judge."""
    with folder:
        card = folder.card()
        folder.write_card(card.model_copy(update={"judges": card.judges | {judge: card.judges.get(judge, {}) | found}}))
