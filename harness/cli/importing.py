"""harness import: per-sample logs of other harnesses as run folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options as opt

if TYPE_CHECKING:
    from leaderboard.importing import Harness

app = typer.Typer(help="Bring in other harnesses' per-sample logs.", no_args_is_help=True)

Log = Annotated[Path, typer.Argument(metavar="FILE", help="The per-sample JSONL that --log_samples wrote.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="The model's name; the folder's by default.")]
Task = Annotated[str | None, typer.Option("--task", "-t", help="The task's name; from the file's name by default.")]
Image = Annotated[
    str | None, typer.Option("--image-key", help="Key of a row's doc that names its image; rows of one image are clustered.")
]
Filter = Annotated[str | None, typer.Option("--filter", help="Of several readings of a row: this one. The first by default.")]


@app.callback()
def _group() -> None:
    pass


@app.command("lm-eval")
def lm_eval(
    file: Log,
    runs: opt.Runs = Path("runs"),
    model: Model = None,
    task: Task = None,
    image_key: Image = None,
    filter_name: Filter = None,
) -> None:
    """A samples_TASK_DATE.jsonl of lm-eval. Its 0/1 metrics become judges; the run is comparable with itself only."""
    _import(file, "lm-eval", runs, model, task, image_key, filter_name)


@app.command("lmms-eval")
def lmms_eval(file: Log, runs: opt.Runs = Path("runs"), model: Model = None, task: Task = None) -> None:
    """A DATE_samples_TASK.jsonl of lmms-eval. Its 0/1 metrics become judges; the run is comparable with itself only."""
    _import(file, "lmms-eval", runs, model, task, None, None)


def _import(
    file: Path, harness: Harness, runs: Path, model: str | None, task: str | None, image_key: str | None, filter_name: str | None
) -> None:
    from harness.cli import ui
    from leaderboard.importing import import_log

    folder = import_log(file, harness, runs, model=model, task=task, image_key=image_key, filter_name=filter_name)
    if image_key is None:
        ui.note("the log does not say which rows share an image: intervals take each row for itself, and may be too narrow")
    ui.line(str(folder.path))
