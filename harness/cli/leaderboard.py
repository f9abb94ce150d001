"""harness leaderboard, harness compare: all runs side by side, or two of them row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options as opt
from harness.errors import UserError


def _names(text: str | None) -> list[str] | None:
    return [n.strip() for n in text.split(",") if n.strip()] if text else None


def leaderboard(
    runs: opt.RunsMany = None,
    tasks: Annotated[str | None, typer.Option("--tasks", "-t", help="Only these tasks, comma-separated.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", "-j", help="Only these judges, comma-separated.")] = None,
    slice_by: Annotated[str | None, typer.Option("--slice", help="A row for each value of this slice, such as modality.")] = None,
    json: opt.Json = False,
) -> None:
    """Every run side by side, with 95 % intervals.

    Intervals are clustered by image. Only cells with the same rows, prompt and judge stand in one table.
    """
    from harness.cli import ui
    from leaderboard import table

    found, damaged = table.cells(runs or [Path("runs")], slice_by=slice_by, tasks=_names(tasks), judges=_names(judge))
    if json:
        ui.print_json(table.as_json(found, damaged))
        return
    if not found and not damaged:
        raise UserError("no runs yet", hint="make one: harness run --model tiny --tasks slake")
    table.render(found, ui.out, damaged)


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run's folder, as `harness run` prints it.")],
    run_b: Annotated[Path, typer.Argument(help="Another one, on the same rows and prompt.")],
    judge: Annotated[str, typer.Option("--judge", "-j", help="Whose verdicts, NAME or NAME@VERSION.")] = "exact",
    json: opt.Json = False,
) -> None:
    """Is the difference between two runs real?

    Paired row by row, clustered by image.
    """
    from harness.cli import ui
    from harness.runs import RunFolder
    from leaderboard.compare import compare as compare_runs

    for run in (run_a, run_b):
        if not (run / "card.json").is_file():
            raise UserError(f"{run}: no run folder", hint="give a folder that `harness run` printed after 'records:'")
    name, _, version = judge.partition("@")
    if not version:
        version = next((v for n, v in RunFolder(run_a).judges() if n == name), "")
    if not version:
        raise UserError(f"{run_a}: no verdicts by judge '{name}'")
    found = compare_runs(run_a, run_b, name, version)
    if json:
        ui.print_json(found.model_dump(mode="json"))
        return
    ui.line(found.sentence())
    flips = f"only {found.model_a} right: {len(found.only_a)} rows; only {found.model_b} right: {len(found.only_b)} rows"
    ui.line(flips, "dim")
