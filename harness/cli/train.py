"""harness train: make a checkpoint with a trainer found by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

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
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="The checkpoint's folder; checkpoints/MODEL-NAME by default.")
]


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


@app.command(_COMMAND, hidden=True)
def train(
    name: str,
    model: ModelOption,
    task: TaskOption,
    recipe: RecipeOption = None,
    settings: SetOption = None,
    out: OutOption = None,
    split: Annotated[str, typer.Option("--split", help="The split to train on.")] = "train",
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    device: opt.Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and stop; loads no weights.")] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a model on a task's training split; the checkpoint loads with `harness run --model`."""
    from harness.cli import ui

    ui.set_quiet(quiet)
    out = out or Path("checkpoints") / f"{Path(model).name}-{name}"
    trainer, report = make(
        name, model, task, recipe, settings or [], out, split=split, data=data, data_dir=data_dir, device=device
    )
    plan = trainer.plan()
    if dry_run:
        ui.print_json(plan)
        return
    with ui.progress() as bar:
        report.bar, report.line = bar, bar.add_task(report.label, total=plan["steps"])
        folder = trainer.fit()
    if json:
        ui.print_json(plan | {"checkpoint": str(folder)})
    else:
        ui.line(f"checkpoint: {folder}\nscore it:   harness run --model {folder} --tasks {task}")


class Progress:
    """Moves a bar, and shows the last loss or reward beside it."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.line: Any = None
        self.label = ""

    def __call__(self, step: int, steps: int, log: dict[str, float]) -> None:
        if self.bar is None:
            return
        shown = next((f"{k} {float(log[k]):.2f}" for k in ("reward", "loss") if k in log), "")
        self.bar.update(self.line, completed=step, total=steps, description=f"{self.label} [dim]{shown}[/]")


def make(
    name: str, model: str, task: str, recipe: Path | None, settings: list[str], out: Path, *,
    split: str = "train", data: str = "auto", data_dir: Path | None = None, device: str = "auto",
) -> tuple[Any, Progress]:  # fmt: skip
    """A trainer ready to plan or fit, and the progress it reports to. Nothing is loaded or written yet."""
    from rich.markup import escape

    from harness import plugins
    from harness.cli import ui
    from harness.cli.evaluate import load_tasks
    from trainers import recipe as recipes

    kind = plugins.load("trainers", name)
    (loaded, *more) = load_tasks(task, data=data, data_dir=data_dir, split=split)
    if more:
        raise UserError(f"--task {task}: a trainer takes one task")
    report = Progress()
    report.label = escape(f"{name}: {model} on {loaded.spec.name}")
    ui.quiet_libraries()
    load: Callable[..., Any] = recipes.load
    return kind(model, loaded, load(name, model, recipe, settings), out, device=device, report=report), report
