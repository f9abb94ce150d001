"""harness model: look at a checkpoint, rebuild the tiny one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options as opt
from harness.errors import UserError

app = typer.Typer(help="Look at a checkpoint, or rebuild the tiny model.", no_args_is_help=True)


@app.command("show")
def show(model: str, json: opt.Json = False) -> None:
    """What a checkpoint is: its parts, architecture, size and hash."""
    from harness.cli import ui
    from harness.models import loading

    ckpt = loading.resolve(model)
    ui.quiet_libraries()
    card = loading.model_card(ckpt, loading.load_weights(ckpt, loading.pick_dtype("auto", "cpu"), "cpu"))
    if json:
        ui.print_json(card.model_dump(mode="json"))
        return
    for key, value in card.model_dump(mode="json").items():
        ui.line(f"{key:<17} {value if value is not None else '-'}")


@app.command("build")
def build(
    name: str = typer.Argument(help="Only 'tiny' can be built."),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("checkpoints/tiny"),
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 8,
    seed: opt.Seed = 0,
) -> None:
    """Pre-train the tiny model on the bundled SLAKE rows.

    About ten minutes on two cores.
    """
    from harness.cli import ui

    if name != "tiny":
        raise UserError(f"cannot build '{name}'", hint="only 'tiny'")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty", hint="give another --out folder")
    from harness.cli.evaluate import load_tasks

    (task,) = load_tasks("slake", data="bundled", split="train")
    ui.quiet_libraries()
    from harness.models import build_tiny

    with ui.progress() as bar:
        line = bar.add_task("pre-training tiny", total=None)

        def report(step: int, steps: int, loss: float) -> None:
            bar.update(line, completed=step, total=steps, description=f"pre-training tiny [dim]loss {loss:.2f}[/]")

        build_tiny.build(task.samples, out, epochs=epochs, seed=seed, report=report)
    ui.line(f"model: {out}")
