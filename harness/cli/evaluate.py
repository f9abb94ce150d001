"""harness run: answer tasks with a model, judge the answers, print the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from json import loads as load_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from harness.answers import Tags
    from harness.cli.missing import Missing
    from harness.contracts import Judge, Model
    from harness.data import LoadedTask, OnBadRow
    from harness.distributed import Rank
    from harness.models.overrides import Overrides
    from harness.prompts import Prompt
    from harness.records import GenerationArgs
    from harness.runs import RunFolder


def run(
    model: opt.Model,
    tasks: opt.Tasks,
    judge: opt.Judge = "exact",
    metrics: opt.Metrics = None,
    prompt: opt.PromptName = None,
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    images: opt.Images = None,
    split: Annotated[str | None, typer.Option("--split", help="Each task's test split by default.")] = None,
    runs: opt.Runs = Path("runs"),
    limit: opt.Limit = None,
    control: Annotated[
        str | None,
        typer.Option("--control", help="blank-image, shuffled-image, question-only or options-only: what is the picture worth?"),
    ] = None,
    num_samples: Annotated[int, typer.Option("--num-samples", min=1, help="Answers a question; needs a temperature.")] = 1,
    batch_size: opt.BatchSize = "auto",
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Each task's own by default.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus; 1 is off.")] = 1.0,
    seed: opt.Seed = 0,
    system: opt.System = None,
    num_fewshot: opt.NumFewshot = 0,
    stop: opt.Stop = None,
    chat_template_kwargs: opt.ChatTemplateKwargs = None,
    min_pixels: opt.MinPixels = None,
    max_pixels: opt.MaxPixels = None,
    backend: opt.Backend = "transformers",
    device: opt.Device = "auto",
    device_map: opt.DeviceMap = None,
    dtype: Annotated[str, typer.Option("--dtype", help="auto: bfloat16 on a GPU, float32 on a CPU.")] = "auto",
    attn: Annotated[str, typer.Option("--attn", help="auto, sdpa, flash_attention_2 or eager.")] = "auto",
    api_base: Annotated[str | None, typer.Option("--api-base", help="Address of an OpenAI-compatible server.")] = None,
    allow_external: opt.AllowExternal = False,
    max_in_flight: Annotated[int, typer.Option("--max-in-flight", min=1, help="Open requests to an API model.")] = 16,
    judge_prompt: opt.JudgePrompt = "rarl-v2",
    judge_in_flight: opt.JudgeInFlight = 64,
    judge_rpm: opt.JudgeRpm = None,
    judge_tpm: opt.JudgeTpm = None,
    judge_seed: opt.JudgeSeed = 0,
    judge_registry: opt.JudgeRegistry = None,
    max_cost: opt.MaxCost = None,
    ask_again: opt.AskAgain = False,
    accept_successor: opt.AcceptSuccessor = False,
    on_bad_row: Annotated[
        str, typer.Option("--on-bad-row", help="fail before anything is generated, or skip and count.")
    ] = "fail",
    max_image_pixels: opt.MaxImagePixels = None,
    reasoning_tags: opt.ReasoningTags = None,
    lm_eval_chat_template: Annotated[
        bool, typer.Option("--lm-eval-chat-template", help="Ask lm_eval: tasks within the model's chat template.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on from an earlier try.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, without loading weights.")] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Answer tasks with a model and judge the answers.

    Kill it at any moment and run the same command again: it goes on where it
    was.

    harness run --model tiny --tasks slake,vqa_rad --judge exact
    """
    from harness import controls, distributed, fewshot, specs
    from harness.cli import backends, missing, ui
    from harness.models.endpoint import is_api_model, outgoing
    from harness.models.lm_eval_bridge import load_tasks as load_foreign
    from harness.models.lm_eval_bridge import split_tasks
    from harness.pipeline import askable, check_readers, make_judges, repeated
    from harness.records import GenerationArgs
    from harness.runs import check_writable
    from harness.scoring import reports
    from harness.shown import cost_of, dollars

    if num_samples > 1 and temperature == 0:
        raise UserError(f"--num-samples {num_samples}: greedy answers are all the same", hint="give --temperature, such as 0.7")
    if not math.isfinite(temperature):
        raise UserError(f"--temperature {temperature}: expected a number")
    if not top_p > 0:
        raise UserError(f"--top-p {top_p}: leaves no token to draw from", hint="give a number above 0, or --temperature 0")
    rank = distributed.current()
    ui.set_quiet(quiet or not rank.main)
    rows = rows_a_batch(batch_size)
    options = opt.judge_options(
        runs, judge_prompt, allow_external, max_cost, judge_in_flight, judge_rpm, judge_tpm, judge_registry, judge_seed, device,
        ask_again, accept_successor,
    )  # fmt: skip
    judges = make_judges(judge, options)  # a wrong or retired one fails before anything is read
    measures = opt.metrics(metrics)
    policy = bad_row_policy(on_bad_row)
    tags = opt.reasoning_tags(reasoning_tags)
    if control is not None:
        controls.check(control)
    overrides, ends = opt.overrides(chat_template_kwargs, min_pixels, max_pixels), opt.stops(stop)
    own, names = split_tasks(tasks)
    if names and control is not None:
        raise UserError("lm_eval: tasks have no controls", hint="run them in a command of their own, without --control")
    if names and (api_base or is_api_model(model)):
        raise UserError("lm_eval: tasks need a checkpoint in process", hint="give --model a folder or a hub id")
    backends.check(backend, model, api_base, rank, foreign=bool(names))
    if device_map is not None:
        backends.check_device_map(device_map, backend, model, api_base, rank, device)
    if names and (system or num_fewshot or ends or overrides.given()):
        raise UserError(
            f"lm_eval:{names[0]}: lm-eval asks in its own way, without --system, --num-fewshot, --stop, --chat-template-kwargs "
            "and pixel bounds",
            hint="run lm_eval: tasks in a command of their own",
        )
    if lm_eval_chat_template and not names:
        raise UserError("--lm-eval-chat-template: no lm_eval: task is asked", hint="other tasks always use the chat template")
    foreign = load_foreign(names) if names else {}  # a wrong name fails before weights are loaded
    loaded = (
        load_tasks(
            own,
            data=data,
            data_dir=data_dir,
            images_dir=images,
            split=split,
            limit=limit,
            on_bad_row=policy,
            max_pixels=max_image_pixels,
        )
        if own or not names
        else []
    )

    prompts = [  # a wrong name fails before weights are loaded
        fewshot.before(
            task.spec.get_prompt(prompt), task, path, system=system, count=num_fewshot, seed=seed,
            data_dir=data_dir, images_dir=images, max_pixels=max_image_pixels,
        )
        for task, (_, path) in zip(loaded, specs.find(own) if loaded else (), strict=True)
    ]  # fmt: skip

    def asked_of(task: LoadedTask) -> LoadedTask:
        several = repeated(task, num_samples)
        return several if control is None else controls.controlled(several, control, seed)

    def asking() -> list[tuple[LoadedTask, Prompt, GenerationArgs]]:
        return [
            (
                asked_of(task),
                chosen,
                GenerationArgs(
                    max_new_tokens=max_new_tokens or task.spec.max_new_tokens, temperature=temperature, top_p=top_p, seed=seed,
                    stop=ends,
                ),
            )
            for task, chosen in zip(loaded, prompts, strict=True)
        ]  # fmt: skip

    reports.prepare(m for t in loaded for m in t.spec.metrics)
    asked = asking()
    if dry_run:
        from harness import dryrun

        plan = dryrun.Plan(
            model, dtype=dtype, device=device, attention=attn, batch_size=rows, api_base=api_base, allow_external=allow_external,
            overrides=overrides,
        )  # fmt: skip
        found = [plan.estimate(*one) for one in asked] + [plan.foreign(name, task, limit) for name, task in foreign.items()]
        ui.print_json(found) if json else ui.out.print(dryrun.render(found))
        return
    check_readers(loaded, judges)
    check_writable(runs)
    for one in judges if rank.main else ():
        for note in one.prepare([outgoing(t, images=False) for t, _, _ in asked]):
            ui.announce(note)
        if first := next((s for t in loaded for s in t.samples if s.reference.answers or s.reference.rubric), None):
            one.probe(first)
    answering = load_model(
        model, loaded, backend=backend, spread=device_map is not None,
        device=device, dtype=dtype, batch_size=rows, attention=attn, rank=rank, prompts=prompts,
        api_base=api_base, allow_external=allow_external, max_in_flight=max_in_flight, tags=tags, overrides=overrides,
    )  # fmt: skip
    for i, task in enumerate(loaded):
        loaded[i] = askable(task, answering, prompts[i], policy)
        for line in loaded[i].notes[len(task.notes) :]:
            ui.note(line)
    with ui.progress() as bar:
        folders = [
            run_task(
                answering, task, chosen, args, judges, runs, bar, limit=limit, fresh=fresh, rank=rank, tags=tags, metrics=measures
            )
            for task, chosen, args in asking()
        ]
        if foreign and rank.main:
            folders += backends.run_foreign(
                answering, foreign, runs, limit=limit, seed=seed, fresh=fresh, chat_template=lm_eval_chat_template
            )
    if usage := getattr(answering, "usage", None):
        cost = dollars(cost_of(usage.row()))
        ui.note(f"{usage.answered} answered, {usage.failed} failed, cost {cost}, served by {dict(usage.served)}")
    for name in getattr(answering, "left_away", ()):
        ui.note(f"{model} takes no {name}, and was asked without: a text may differ from run to run")
    if rank.main:
        for one in judges:
            ui.say_use(one)
        lacking = missing.find(folders[: len(loaded)], judges)
        shown = None if foreign else [j.name for j in judges]
        show([f.path for f in folders], as_json=json, judges=shown, lacking=lacking)
        say_unread(folders)
        end_of_judging(lacking, judges, as_json=json)


def bad_row_policy(on_bad_row: str) -> OnBadRow:
    """`--on-bad-row`, checked. Raises UserError."""
    if on_bad_row not in ("fail", "skip"):
        raise UserError(f"--on-bad-row {on_bad_row}: unknown", hint="one of fail, skip")
    return "skip" if on_bad_row == "skip" else "fail"


def rows_a_batch(batch_size: str) -> int | None:
    """`--batch-size`: None for auto. Raises UserError."""
    if batch_size == "auto":
        return None
    if batch_size.isdecimal() and int(batch_size) > 0:
        return int(batch_size)
    raise UserError(f"--batch-size {batch_size}: expected auto or a number from 1")


def load_tasks(
    tasks: str, *, data: str = "auto", data_dir: Path | None = None, images_dir: Path | None = None,
    split: str | None = None, limit: int | None = None, on_bad_row: OnBadRow = "fail", said: set[str] | None = None,
    max_pixels: int | None = None,
) -> list[LoadedTask]:  # fmt: skip
    """Find, read and check every task that `tasks` names; notes go to stderr, those in `said` once. Nothing is written."""
    from harness import data as loader
    from harness import specs
    from harness.cli import ui

    source = loader.parse_source(data)
    out = []
    for spec, path in specs.find(tasks):
        task = loader.load(
            spec,
            path,
            source=source,
            data_dir=data_dir,
            images_dir=images_dir,
            split=split,
            limit=limit,
            on_bad_row=on_bad_row,
            max_pixels=max_pixels,
        )
        said = set() if said is None else said
        for line in task.notes:
            if line not in said:
                ui.note(line)
            said.add(line)
        out.append(task)
    return out


def load_model(
    name: str, tasks: Sequence[LoadedTask] = (), *, device: str = "auto", dtype: str = "auto", batch_size: int | None = None,
    attention: str = "auto", rank: Rank | None = None, prompts: Sequence[Prompt] = (),
    api_base: str | None = None, allow_external: bool = False, max_in_flight: int = 16, tags: Tags = (),
    overrides: Overrides | None = None, backend: str = "transformers", spread: bool = False,
) -> Model:  # fmt: skip
    """The backend that answers for `name`: an API model, or a checkpoint in process. `tasks` are what it will be shown, each by
    its prompt."""
    from harness.cli import ui
    from harness.models import endpoint, loading
    from harness.models.quick_import import quickly

    if api_base or endpoint.is_api_model(name):
        going = [endpoint.outgoing(t, before=p.images) for t, p in zip(tasks, prompts, strict=True)]
        sent = endpoint.check_may_leave(going, endpoint.Endpoint.parse(name, api_base), allow_external=allow_external)
        if sent:
            ui.announce(sent)
        from harness.models.litellm_model import LitellmModel

        with ui.err.status("reaching the API model"):
            api = LitellmModel(
                name, api_base=api_base, allow_external=allow_external, max_in_flight=max_in_flight, batch_size=batch_size or 32,
                overrides=overrides,
            )  # fmt: skip
        for line in api.notes:
            ui.note(line)
        return api
    loading.resolve(name)  # a wrong name fails before torch is imported
    if backend == "vllm":
        from harness.models.vllm_model import VllmModel

        most = max((len(p.images) + len(s.images) for t, p in zip(tasks, prompts, strict=True) for s in t.samples), default=1)
        return VllmModel(name, dtype=dtype, batch_size=batch_size, images=most, tags=tags, overrides=overrides)
    with ui.err.status("loading the model"), quickly():
        ui.quiet_libraries()
        from harness.models.transformers_model import TransformersModel

        if rank and rank.count > 1 and device == "auto":
            device = rank.device
        local = TransformersModel(
            name,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            attention=attention,
            tags=tags,
            overrides=overrides,
            spread=spread,
        )
    if local.card.note:
        ui.announce(local.card.note)
    if local.why_plain:
        ui.note(f"{name}: images are encoded anew for every question: {local.why_plain}")
    return local


def run_task(
    model: Model, task: LoadedTask, prompt: Any, args: Any, judges: list[Judge], runs: Path, bar: Progress, *,
    limit: int | None = None, fresh: bool = False, rank: Rank | None = None, tags: Tags = (), metrics: Sequence[str] = (),
) -> RunFolder:  # fmt: skip
    """One task through the pipeline with a progress bar."""
    from harness import distributed, pipeline
    from harness.cli import ui

    name = model.card.name
    line = bar.add_task(f"{name} on {task.spec.name}", total=len(task.samples))

    def report(step: str, done: int, total: int) -> None:
        verb = "answers" if step == "generate" else "judging"
        bar.update(line, description=f"{name} {verb} {task.spec.name}", completed=done, total=total)

    folder = pipeline.run(
        task, model, prompt, args, judges, runs, tags=tags, metrics=metrics, limit=limit, fresh=fresh,
        rank=rank or distributed.Rank(), report=report,
    )  # fmt: skip
    sharing = getattr(model, "sharing", None) or ""
    if sharing.startswith("off") and not getattr(model, "why_plain", None):
        ui.note(f"{model.card.name} on {task.spec.name}: every question was computed alone, sharing {sharing}")
    return folder


def end_of_judging(lacking: Sequence[Missing], judges: Sequence[Judge], *, as_json: bool) -> None:
    """Say why verdicts are missing. Ends with exit code 1 where a judge could not judge a single row."""
    from harness.cli import missing

    missing.say(lacking, judges, as_json=as_json)
    if any(m.everything for m in lacking):
        raise typer.Exit(1)


def show(folders: list[Path], *, as_json: bool, judges: list[str] | None = None, lacking: Sequence[Missing] = ()) -> None:
    """The scores of these run folders, as the leaderboard shows them."""
    from harness.cli import ui
    from leaderboard import table, terminal

    cells, damaged = table.cells_of(folders, judges=judges)
    scores = {str(f): load_json((f / "scores.json").read_text(encoding="utf-8")) for f in folders}
    if as_json:
        ui.print_json(table.as_json(cells, damaged) | {"scores": scores, "missing": [m.row() for m in lacking]})
        return
    terminal.render(cells, ui.out, damaged)
    for folder, found in scores.items():
        for line in metric_lines(found):
            ui.line(line)
        ui.line(f"records: {folder}", "dim")


def say_unread(folders: Sequence[RunFolder]) -> None:
    """How many yes/no and choice answers could not be read, with examples; louder where they are many."""
    from harness.cli import ui
    from harness.scoring import unread

    for folder in folders:
        found = folder.scores().get("reading") or {"asked": 0, "unread": 0, "ids": []}
        say = ui.announce if found["unread"] > unread.MANY * found["asked"] else ui.note
        for line in unread.lines(found, folder.predictions()):
            say(f"{folder.path.name}: {line}")


def metric_lines(scores: dict[str, Any]) -> Iterator[str]:
    """The metrics and aggregates of a scores.json, a line each kind."""
    from harness.shown import percent

    def shown(values: dict[str, float | None]) -> str:
        return " · ".join(f"{k.replace('_', ' ')} {percent(v)}" for k, v in values.items() if v is not None)

    if line := shown({k: m["value"] for k, m in scores["metrics"].items()}):
        yield line
    for name, sources in scores["aggregates"].items():
        for source, entry in sources.items():
            yield f"{name} by {source}: {shown(entry['parts'])}"
    if "sampled" in scores:
        yield shown({k: m["value"] for k, m in scores["sampled"].items()})
