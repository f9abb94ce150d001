"""load -> generate -> judge -> score, resumable at every step. Each step reads what the last one left on disk."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from harness import __version__, plugins
from harness.contracts import Judge, Model, Task
from harness.data import LoadedTask, fingerprint
from harness.distributed import Rank, shard
from harness.errors import UserError
from harness.prompts import Prompt
from harness.records import GenerationArgs, RunCard
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


def make_judges(names: str) -> list[Judge]:
    """The judges that `--judge a,b` means. Raises UserError with the nearest name."""
    out = []
    for name in filter(None, (n.strip() for n in names.split(","))):
        kind, _, argument = name.partition(":")
        out.append(plugins.load("judges", kind)(argument))
    if not out:
        raise UserError("--judge names no judge", hint=f"known: {', '.join(plugins.available('judges'))}")
    return out


def repeated(task: LoadedTask, count: int) -> LoadedTask:
    """The task with each question asked `count` times, as samples ID#0, ID#1, ... of the same image cluster."""
    if count == 1:
        return task
    samples = [s.model_copy(update={"id": f"{s.id}#{k}"}) for s in task.samples for k in range(count)]
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

    With several ranks, each answers its own images; rank 0 keeps the folder, gathers and judges. Raises RunError when
    another process holds the folder.
    """
    card = RunCard(
        harness_version=__version__, created=now(), command=sys.argv[1:], data=task.card, model=model.card, prompt=prompt.name,
        prompt_sha256=prompt.sha256, generation=args, limit=limit, git_sha=git_sha(), packages=packages(), hardware=hardware(),
    )  # fmt: skip
    folder = RunFolder.place(runs, card)
    if not rank.main:
        rank.wait()  # for the folder
        _generate(task, model, prompt, args, folder, {}, rank, lambda *_: None)
        rank.wait()  # for every rank's answers
        return folder
    with folder:
        folder.begin(card, task.samples, fresh=fresh)
        folder.gather()
        rank.wait()
        card = folder.card()
        seconds = dict(card.seconds)
        _generate(task, model, prompt, args, folder, seconds, rank, report)
        rank.wait()
        folder.gather()
        _judge(task, judges, folder, seconds, report)
        usage = getattr(model, "usage", None)
        closing = {"finished": now(), "seconds": seconds, "usage": usage.row() if usage else {}}
        folder.write_card(card.model_copy(update=closing))
    return folder


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


def _judge(task: Task, judges: Sequence[Judge], folder: RunFolder, seconds: dict[str, float], report: Report) -> None:
    predictions = folder.predictions()
    for judge in judges:
        # a missing verdict is asked for again: whatever kept the judge from answering may have passed
        given = {i for i, v in folder.verdicts(judge.name, judge.version).items() if v.final is not None}
        pairs = [(s, predictions[s.id]) for s in task.samples if s.id in predictions and s.id not in given]
        start = time.perf_counter()
        report("judge", len(given), len(task.samples))
        buffer = []
        for verdict in judge.judge(pairs):
            buffer.append(verdict)
            if len(buffer) == 256:
                folder.add_verdicts(judge.name, judge.version, buffer)
                buffer = []
        if buffer:
            folder.add_verdicts(judge.name, judge.version, buffer)
        if pairs:
            seconds[f"judge:{judge.name}"] = round(time.perf_counter() - start, 3)
        report("judge", len(task.samples), len(task.samples))
    every = {f"{name}@{v}": folder.verdicts(name, v) for name, v in folder.judges()}
    spec, repeats = task.spec, task.card.repeats
    folder.write_scores(
        scores(folder.samples(), predictions, every, spec.slices, metrics=spec.metrics, aggregate=spec.aggregate, repeats=repeats)
    )
