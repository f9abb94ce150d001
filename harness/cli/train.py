"""harness train: make a checkpoint with a trainer found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from harness.cli import options as opt
from harness.cli.train_setup import Progress, default_out, make
from harness.errors import UserError

_COMMAND = "train-with"


class TrainerGroup(TyperGroup):
    """`harness train NAME ...` for any installed trainer, beside the group's own commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        from harness import plugins

        return [*(c for c in super().list_commands(ctx) if c != _COMMAND), *sorted(plugins.available("trainers"))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = super().get_command(ctx, cmd_name)
        if found is not None and cmd_name != _COMMAND:
            return found
        from harness import plugins

        trainers = plugins.available("trainers")
        if cmd_name not in trainers:
            raise UserError(f"no trainer named '{cmd_name}'", hint=plugins.did_you_mean(cmd_name, list(trainers)))
        shared = super().get_command(ctx, _COMMAND)
        assert isinstance(shared, TyperCommand)
        callback = shared.callback
        assert callback is not None

        def bound(**kwargs: Any) -> Any:
            return callback(name=cmd_name, **kwargs)

        params = [p for p in shared.params if p.name != "name"]
        return TyperCommand(
            cmd_name, callback=bound, params=params, help=f"Train with {cmd_name}.", short_help=f"Train with {cmd_name}."
        )


app = typer.Typer(help="Train with any installed trainer: harness train NAME.", no_args_is_help=True, cls=TrainerGroup)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="The base: a folder, a hub id, or 'tiny'.")]
TaskOption = Annotated[str, typer.Option("--task", "-t", help="One task name, or a path to its YAML.")]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="A recipe YAML; the trainer's own by default.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="paper, base-code or modern over the recipe; see harness train presets.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated.")]
SamplesOption = Annotated[int | None, typer.Option("--samples", min=1, help="Train on this many rows, drawn by seed.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="The checkpoint's folder; checkpoints/MODEL-NAME by default.")
]
SplitOption = Annotated[str, typer.Option("--split", help="The split to train on.")]
ReportToOption = Annotated[
    str | None, typer.Option("--report-to", help="Curves also to tensorboard, trackio or wandb, comma-separated.")
]


ForceOption = Annotated[bool, typer.Option("--force", help="Go on although the plan says that it cannot fit.")]


@app.command("list")
def list_trainers(json: opt.Json = False) -> None:
    """The installed trainers."""
    from harness import plugins
    from harness.cli import ui

    found = {name: plugins.load("trainers", name).summary for name in sorted(plugins.available("trainers"))}
    if json:
        ui.print_json([{"name": n, "summary": s} for n, s in found.items()])
        return
    from rich.table import Table

    table = Table("trainer", "what it does", box=None, header_style="bold")
    for name, summary in found.items():
        table.add_row(name, summary)
    ui.out.print(table)


@app.command("presets")
def list_presets(json: opt.Json = False) -> None:
    """The named choices of algorithm, and where they differ."""
    from harness.cli import ui
    from trainers import recipe as recipes

    found = recipes.presets()
    differ = recipes.differences(found)
    if json:
        ui.print_json({name: {k: differ[k][i] for k in differ} for i, name in enumerate(found)})
        return
    from rich.table import Table

    table = Table("key", *found, box=None, header_style="bold")
    for key, values in differ.items():
        table.add_row(key, *("r {r}, alpha {alpha}".format(**v) if isinstance(v, dict) else str(v) for v in values))
    ui.out.print(table)


@app.command("schema")
def schema() -> None:
    """The recipe's JSON schema, for editors."""
    from harness.cli import ui
    from trainers.recipe import Recipe

    ui.print_json(Recipe.model_json_schema())


@app.command("plan")
def plan(
    name: Annotated[str, typer.Argument(help="A trainer: harness train list.")],
    model: ModelOption,
    task: TaskOption,
    recipe: RecipeOption = None,
    preset: PresetOption = None,
    settings: SetOption = None,
    samples: SamplesOption = None,
    out: OutOption = None,
    split: SplitOption = "train",
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    max_image_pixels: opt.MaxImagePixels = None,
    device: opt.Device = "auto",
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", min=1, help="Plan for a GPU with this many GB, wherever this runs.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure a step's time: loads the weights and trains four steps.")
    ] = False,
    force: ForceOption = False,
    json: opt.Json = False,
) -> None:
    """Say what a training would do; loads no weights.

    Refuses what cannot fit.

    harness train plan rarl --model Qwen/Qwen2-VL-2B-Instruct --task slake_grounded --gpu-memory 40
    """
    from harness.cli import ui
    from trainers import plan as plans
    from trainers import plan_view

    trainer, _ = make(
        name, model, task, recipe, settings or [], out or default_out(model, name), split=split, data=data,
        data_dir=data_dir, device=device, preset=preset, samples=samples, force=force, planning=True,
        max_image_pixels=max_image_pixels,
    )  # fmt: skip
    found = trainer.plan(gpu_memory)
    if probe:
        with ui.err.status(f"measuring {plans.PROBE_STEPS} steps"):
            found = found.model_copy(update={"seconds_per_step": plans.probe(trainer)})
    if json:
        ui.print_json(found.model_dump(mode="json") | {"fits": found.fits})
    else:
        ui.out.print(plan_view.render(found))
    if not force:
        found.check()


@app.command("resume")
def resume(
    out: Annotated[Path, typer.Argument(help="The --out folder of a training, or one of its checkpoint-N.")],
    data_dir: opt.DataDir = None,
    device: Annotated[str | None, typer.Option("--device", help="The one it was begun on by default.")] = None,
    report_to: ReportToOption = None,
    force: ForceOption = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Go on with a training that was interrupted.

    From its last whole checkpoint. On a CPU the weights are those of a training that was never interrupted, to
    the last bit.
    """
    from harness.cli import ui
    from trainers import checkpoint
    from trainers.runfile import read_run

    ui.set_quiet(quiet)
    chosen = out if out.name.startswith("checkpoint-") and not (out / "run.yaml").exists() else None
    out = out.parent if chosen else out
    run = read_run(out)
    if (out / "trained.json").exists():
        raise UserError(f"{out}: is finished", hint=f"harness run --model {out} --tasks {run.get('task', 'TASK')}")
    if missing := [key for key in ("task", "split", "data", "data_dir", "device") if key not in run]:
        raise UserError(
            f"{out / 'run.yaml'}: does not say {', '.join(missing)}", hint="resume where the training was begun, from Python"
        )
    if chosen:
        checkpoint.step_of(chosen)
        checkpoint.whole(chosen)
    trainer, report = make(
        run["trainer"], run["model"], run["task"], None, [], out, split=run["split"], data=run["data"],
        data_dir=data_dir or (Path(run["data_dir"]) if run["data_dir"] else None), device=device or run["device"],
        recorded=run["recipe"], report_to=report_to, force=force, max_image_pixels=run.get("max_image_pixels"),
    )  # fmt: skip
    _fit(trainer, report, chosen, as_json=json)


@app.command("audit")
def audit(
    out: Annotated[Path, typer.Argument(help="The --out folder of a grpo or rarl training, finished or not.")],
    rescore: Annotated[
        list[str] | None, typer.Option("--rescore", help="Score the stored texts with this reward too; may be repeated.")
    ] = None,
    json: opt.Json = False,
) -> None:
    """What the rewards of a training really rewarded.

    From its stored completions.

    harness train audit checkpoints/tiny-rarl --rescore reasoning:rougeL
    """
    from harness.cli import ui
    from trainers import audit as audits

    ui.quiet_libraries()
    found = audits.audit(out, rescore or [])
    ui.print_json(found.model_dump(mode="json")) if json else ui.out.print(audits.render(found))


@app.command("export")
def export(
    model: Annotated[Path, typer.Argument(help="A training's OUT, OUT/best or OUT/checkpoint-N.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the model.")],
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into its base, and check the logits.")] = False,
) -> None:
    """Write a trained model alone, for other programs."""
    from harness.cli import ui
    from trainers.export import export as write

    ui.quiet_libraries()
    ui.line(f"model: {write(model, folder, merge=merge, say=ui.announce)}")


@app.command(_COMMAND, hidden=True)
def train(
    name: str,
    model: ModelOption,
    task: TaskOption,
    recipe: RecipeOption = None,
    preset: PresetOption = None,
    settings: SetOption = None,
    samples: SamplesOption = None,
    out: OutOption = None,
    split: SplitOption = "train",
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    max_image_pixels: opt.MaxImagePixels = None,
    device: opt.Device = "auto",
    report_to: ReportToOption = None,
    force: ForceOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan as JSON and stop; loads no weights.")] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a model on a task's training split; the checkpoint loads with `harness run --model`.

    Kill it at any moment and run the same command again: it goes on from its
    last checkpoint.
    """
    from harness.cli import ui

    ui.set_quiet(quiet)
    trainer, report = make(
        name, model, task, recipe, settings or [], out or default_out(model, name), split=split, data=data,
        data_dir=data_dir, device=device, preset=preset, samples=samples, report_to=report_to, force=force, planning=dry_run,
        max_image_pixels=max_image_pixels,
    )  # fmt: skip
    if dry_run:
        ui.print_json(trainer.plan().model_dump(mode="json"))
        return
    _fit(trainer, report, None, as_json=json)


def _fit(trainer: Any, report: Progress, resume: Path | None, *, as_json: bool) -> None:
    """Train, show how it goes, and say what came of it."""
    from harness import distributed
    from harness.cli import ui
    from harness.cli.train_panel import Panel
    from harness.models import loading
    from harness.runs import read_jsonl
    from trainers.health import Halted

    if resume is None and (trainer.out / "run.yaml").exists() and distributed.current().main:
        _say_where(trainer.out)
    if note := loading.other_base(trainer.checkpoint):
        ui.announce(note)
    try:
        with Panel(report.label, trainer.steps()) as report.panel:
            folder = trainer.fit(resume)
    except Halted as e:  # in every process, for the same reason: one says it, and the others wait until it is said
        if distributed.current().main:
            ui.error(str(e), e.hint)
        distributed.current().wait()
        raise SystemExit(e.exit_code) from None
    if not distributed.current().main:
        return
    if trainer.why_no_cache and trainer.recipe.vision_cache != "off":
        ui.note(f"images were encoded anew every time: {trainer.why_no_cache}")
    scored = list(read_jsonl(folder / "dev.jsonl"))
    best = max((r for r in scored if r["step"]), key=lambda r: (r["score"], -r["step"]), default=None)
    if as_json:
        ui.print_json(trainer.about() | {"checkpoint": str(folder), "dev": scored})
        return
    ui.line(f"checkpoint: {folder}")
    if best:
        base = next((r for r in scored if r["step"] == 0), None)
        was = f", the base {100 * base['score']:.1f}" if base else ""
        score = f"{100 * best['score']:.1f} %"
        if "low" in best:
            score += f" [{100 * best['low']:.1f}, {100 * best['high']:.1f}]"
        ui.line(f"best:       {folder / 'best'} (step {best['step']}: {score} of {best['n']} dev rows{was})")
    ui.line(
        f"score it:   harness run --model {folder} --tasks {trainer.origin.get('task', trainer.task.spec.name)}{_prompt(trainer)}"
    )


def _prompt(trainer: Any) -> str:
    """The option that asks with the prompt of the training, where that is one and not the task's default."""
    from trainers import dev_scores

    trained = dev_scores.trained_with(trainer)
    return f" --prompt {trained[0]}" if len(trained) == 1 and trained[0] != trainer.task.spec.prompt else ""


def _say_where(out: Path) -> None:
    """Where an interrupted training goes on, and what is passed over."""
    from harness.cli import ui
    from trainers import checkpoint

    found, passed = checkpoint.last_whole(out)
    for name, reason in passed.items():
        ui.note(f"{out / name}: passed over, a torn checkpoint: {reason}")
    ui.say(f"going on from {found}" if found else "no checkpoint was reached; starting again")
