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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from harness import __version__, answers, plugins
from harness.contracts import Judge, JudgeOptions, Model, Task
from harness.data import LoadedTask, OnBadRow, fingerprint, without
from harness.distributed import Rank, shard
from harness.errors import RanksError, RunError, UserError
from harness.prompts import Prompt
from harness.records import Example, GenerationArgs, Prediction, RunCard, Sample, Verdict
from harness.runs import RunFolder
from harness.scoring import unread
from harness.scoring.summary import measure, measures, scores

#: Called as report(step, rows done, rows in all).
Report = Callable[[Literal["generate", "judge"], int, int], None]

#: While a step goes on its seconds and cost are written into the card this often, in seconds.
KEEP_EVERY = 5.0

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "pillow", "torchvision")


#: Judges that need no answer to compare with.
READERS_OF_RUBRICS = ("rubric", "human", "replay")


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
    """The machine in words, without its name; with the instruction set that torch computes with, once it is loaded."""
    words = f"{platform.machine()} CPU, {os.cpu_count()} cores, {platform.system()}"
    if "torch" in sys.modules:
        import torch

        words = words.replace(" CPU", f" CPU ({torch.backends.cpu.get_cpu_capability()})")
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


def check_readers(tasks: Sequence[LoadedTask], judges: Sequence[Judge]) -> None:
    """Raises UserError for a task whose rows have rubrics in place of answers where no judge reads rubrics."""
    reading = [one for one in judges if one.name.partition(":")[0] in READERS_OF_RUBRICS]
    for task in tasks:
        if not reading and not any(s.reference.answers for s in task.samples):
            names = ", ".join(one.name for one in judges)
            raise UserError(
                f"task '{task.spec.name}' has rubrics in place of answers, and judge {names} reads none",
                hint="--judge rubric:NAME asks an LLM judge about each criterion",
            )


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
    tags: answers.Tags = (),
    metrics: Sequence[str] = (),
    limit: int | None = None,
    fresh: bool = False,
    rank: Rank = Rank(),  # noqa: B008 (frozen)
    report: Report = lambda *_: None,
) -> RunFolder:
    """Answer and judge a task's rows into their run folder, going on from whatever is there already.

    `metrics` are measured beside the task's own. With several ranks, each answers its own images; rank 0 keeps the folder,
    gathers and judges. Raises RunError, on every rank, when another process holds the folder.
    """
    card = RunCard(
        harness_version=__version__, created=now(), command=sys.argv[1:], data=task.card, model=model.card, prompt=prompt.label,
        prompt_sha256=prompt.sha256, system=prompt.system, examples=_examples(prompt), generation=args,
        limit=limit, reader=answers.VERSION, reasoning_tags=tuple(tags),
        git_sha=git_sha(), packages=packages(), hardware=hardware(), processes=rank.count,
    )  # fmt: skip
    folder = RunFolder.place(runs, card)
    rank.agree(_work(card, task))
    if not rank.main:
        if refused := rank.share(None):
            raise RunError(refused)
        rank.see(folder.path)
        _generate(task, model, prompt, args, folder, rank, lambda *_: None, tags)
        rank.wait()  # for every rank's answers
        if lacking := rank.share(None):
            raise RanksError(lacking)
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
        rank.see(folder.path)
        _generate(task, model, prompt, args, folder, rank, report, tags)
        rank.wait()
        folder.gather()
        if lacking := rank.share(_lacking(folder, task.samples)):
            raise RanksError(lacking, hint="run the same command again: it asks for what is missing")
        judge(folder, judges, report)
        spec = task.spec
        write_scores(folder, spec.slices, list(dict.fromkeys([*spec.metrics, *metrics])), spec.aggregate)
        closing = {"finished": now(), "shared_prefix": getattr(model, "sharing", None) or folder.card().shared_prefix}
        folder.write_card(folder.card().model_copy(update=closing))
    return folder


def _examples(prompt: Prompt) -> tuple[Example, ...]:
    return tuple(
        Example(id=s.id, images=tuple(i.name for i in s.images), question=s.question, answer=s.answer) for s in prompt.shots
    )


@contextlib.contextmanager
def spending(folder: RunFolder, step: str, used: Callable[[RunCard], dict[str, Any]]) -> Iterator[Callable[[], None]]:
    """Keep what a step takes in the run's card: its seconds, on top of those of earlier tries, and what `used` makes of the card.

    Written when the step ends, however it ends; and, so that a killed run has lost little, whenever the function that this
    gives is called and the card is older than `KEEP_EVERY` seconds.
    """
    before = folder.card().seconds.get(step, 0.0)
    start = kept = time.perf_counter()

    def keep() -> None:
        card = folder.card()
        seconds = card.seconds | {step: round(before + time.perf_counter() - start, 3)}
        folder.write_card(card.model_copy(update={"seconds": seconds, **used(card)}))

    def tick() -> None:
        nonlocal kept
        if time.perf_counter() - kept > KEEP_EVERY:
            keep()
            kept = time.perf_counter()

    try:
        yield tick
    finally:
        keep()


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


def _work(card: RunCard, task: Task) -> dict[str, str]:
    """What several ranks must have in common, by the name that a message has for it."""
    return {
        "rows": f"{card.data.fingerprint} {card.data.rows} {sorted(s.id for s in task.samples)}",
        "prompt": card.prompt_sha256,
        "generation arguments": card.generation.model_dump_json(),
        "weights": f"{card.model.weights_sha256 or card.model.name} {card.model.settings_sha256} {card.model.dtype}",
        "version of the harness": f"{card.harness_version} {card.reader}",
    }


def _each_once(batches: Iterator[list[Prediction]], asked: Sequence[Sample]) -> Iterator[list[Prediction]]:
    """The batches. Raises RanksError where a model answers what it was not asked, or twice, or leaves rows without an answer."""
    waiting = {s.id for s in asked}
    for batch in batches:
        for prediction in batch:
            if prediction.sample_id not in waiting:
                raise RanksError(f"the model answered row '{prediction.sample_id}' twice, or without being asked")
            waiting.remove(prediction.sample_id)
        yield batch
    if waiting:
        raise RanksError(f"the model gave no answer to {_rows(waiting)}")


def _lacking(folder: RunFolder, samples: Sequence[Sample]) -> str | None:
    """In words, which rows have no answer on disk now that all have been asked; None when each has one."""
    missing = {s.id for s in samples} - folder.predictions().keys()
    return f"{folder.path}: no answer is there to {_rows(missing)} of {len(samples)}" if missing else None


def _rows(ids: set[str]) -> str:
    first = ", ".join(sorted(ids)[:3])
    return f"{len(ids)} rows ({first}{', ...' if len(ids) > 3 else ''})"


def _generate(
    task: Task,
    model: Model,
    prompt: Prompt,
    args: GenerationArgs,
    folder: RunFolder,
    rank: Rank,
    report: Report,
    tags: answers.Tags,
) -> None:
    done = folder.predictions()
    mine = shard(task.samples, rank)
    # a row that failed is asked again: whatever stood in the way may have passed
    todo = [s for s in mine if s.id not in done or done[s.id].finish == "error"]
    count, total = len(mine) - len(todo), len(mine)
    report("generate", count, total)
    if not todo:
        return
    asked = {s.id: s.reference for s in todo}
    kept = spending(folder, "generate", _model_used(folder, model)) if rank.main else contextlib.nullcontext(lambda: None)
    with kept as tick:
        for batch in _each_once(model.generate(todo, prompt, args), todo):
            read = [read_again(p, tags) if tags else p for p in batch]
            folder.add_predictions([unread.noted(p, asked[p.sample_id]) for p in read], rank.index)
            count += len(batch)
            report("generate", count, total)
            tick()


def _model_used(folder: RunFolder, model: Model) -> Callable[[RunCard], dict[str, Any]]:
    """What an API model uses from now on, added to what earlier tries used."""
    before, earlier = _usage(model), folder.card().usage
    return lambda card: {"usage": add_usage(earlier, before, _usage(model))}


def read_again(prediction: Prediction, tags: answers.Tags) -> Prediction:
    """The same text, read by today's reader with these markers beside its own."""
    if prediction.finish == "error":
        return prediction
    reasoning, answer = answers.read(prediction.text, tags)
    return prediction.model_copy(update={"reasoning": reasoning, "answer": answer, "unread": None})


def verdicts_of(judge: Judge, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
    """The judge's verdicts; a prediction that failed is missing without asking, whoever the judge is. So is a row that has a
    rubric and no answer to compare with, unless the judge is one of rubrics, or people."""
    asked = []
    for sample, prediction in pairs:
        if prediction.finish == "error":
            why = f"no prediction: {prediction.error}"
        elif not sample.reference.answers and judge.name.partition(":")[0] not in READERS_OF_RUBRICS:
            why = "the row has a rubric and no answer to compare with (--judge rubric:NAME)"
        else:
            asked.append((sample, prediction))
            continue
        yield Verdict(sample_id=sample.id, judge=judge.name, final=None, missing=why)
    yield from judge.judge(asked)


def judge(folder: RunFolder, judges: Sequence[Judge], report: Report) -> None:
    """Judge what a run folder holds, adding to what is judged already, and write each judge's card and seconds into the run's.

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
        buffer: list[Verdict] = []
        with spending(folder, f"judge:{one.name}@{one.version}", _judge_used(folder, one)) as tick:
            try:
                for verdict in verdicts_of(one, pairs):
                    buffer.append(verdict)
                    count += 1
                    if len(buffer) == 256:
                        folder.add_verdicts(one.name, one.version, buffer)
                        buffer = []
                        report("judge", count, len(samples))
                        tick()
            finally:
                if buffer:
                    folder.add_verdicts(one.name, one.version, buffer)
        if getattr(one, "supersedes", False):
            for name, version in folder.judges():
                if name == one.name and version != one.version:
                    folder.forget(name, version)
        report("judge", len(samples), len(samples))


def _judge_used(folder: RunFolder, judge: Judge) -> Callable[[RunCard], dict[str, Any]]:
    """The judge's card in the run's; what it uses from now on is added to what earlier tries used."""
    label, before = f"{judge.name}@{judge.version}", judge.card()
    earlier = folder.card().judges.get(label, {})
    return lambda card: {"judges": card.judges | {label: _added_up(earlier, before, judge.card())}}


def _added_up(held: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """A judge's card, `held` by a run's card, with what was used since `before`; of a jury each member's."""
    out = held | after
    if "use" in after:
        out["use"] = add_usage(held.get("use", {}), before.get("use", {}), after["use"])
    if "members" in after:
        was, old = before.get("members", {}), held.get("members", {})
        out["members"] = {name: _added_up(old.get(name, {}), was.get(name, {}), card) for name, card in after["members"].items()}
    return out


def _finer(verdicts: Mapping[str, Mapping[str, Verdict]], judge: str) -> dict[str, float | None]:
    """{sample id: score} of a judge whose rule is finer than right or wrong; with several versions, the last one's."""
    return {i: v.score for some in verdicts.values() for i, v in some.items() if v.judge == judge and v.score is not None}


def write_scores(folder: RunFolder, slices: Sequence[str], metrics: Sequence[str], aggregate: str | None) -> None:
    """Rebuild measures.jsonl and scores.json from the records."""
    every = {f"{name}@{v}": folder.verdicts(name, v) for name, v in folder.judges()}
    rows, predictions, repeats = folder.samples(), folder.predictions(), folder.card().data.repeats
    finer = {name: some for name, _ in folder.judges() if (some := _finer(every, name))}
    measured = measure(rows, predictions, [m for m in metrics if m not in finer], folder.measured()) | finer
    folder.write_measured(measures(predictions, measured))
    folder.write_scores(scores(rows, predictions, every, slices, measured=measured, aggregate=aggregate, repeats=repeats))


def judge_again(
    folder: RunFolder, judges: Sequence[Judge], report: Report = lambda *_: None, metrics: Sequence[str] = ()
) -> None:
    """Judge the stored answers of a run, without its model or its data, and measure them by these metrics beside its own.

    Raises RunError for a run that is not finished.
    """
    with folder:
        before = folder.scores()
        judge(folder, judges, report)
        slices = {name for entry in before["judges"].values() for name in entry["slices"]}
        own = list(dict.fromkeys([*before["metrics"], *metrics]))
        write_scores(folder, sorted(slices), own, next(iter(before["aggregates"]), None))


def update_card(folder: RunFolder, judge: str, found: dict[str, Any]) -> None:
    """Add to what the run's card says of a judge."""
    with folder:
        card = folder.card()
        folder.write_card(card.model_copy(update={"judges": card.judges | {judge: card.judges.get(judge, {}) | found}}))
