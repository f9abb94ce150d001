"""harness run: answer tasks with a model, judge the answers, print the scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from harness.contracts import Judge, Model
    from harness.data import LoadedTask, Source
    from harness.runs import RunFolder


def run(
    model: opt.Model,
    tasks: opt.Tasks,
    judge: opt.Judge = "exact",
    prompt: opt.PromptName = None,
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    split: Annotated[str | None, typer.Option("--split", help="Each task's test split by default.")] = None,
    runs: opt.Runs = Path("runs"),
    limit: opt.Limit = None,
    batch_size: opt.BatchSize = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Each task's own by default.")] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto: bfloat16 on a GPU, float32 on a CPU.")] = "auto",
    on_bad_row: Annotated[
        str, typer.Option("--on-bad-row", help="fail before anything is generated, or skip and count.")
    ] = "fail",
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on from an earlier try.")] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Answer tasks with a model and judge the answers.

    Kill it at any moment and run the same command again: it goes on where it was.

    harness run --model tiny --tasks slake,vqa_rad --judge exact
    """
    from harness.cli import ui
    from harness.pipeline import make_judges

    ui.set_quiet(quiet)
    judges = make_judges(judge)
    loaded = load_tasks(tasks, data=data, data_dir=data_dir, split=split, limit=limit, on_bad_row=on_bad_row)
    for task in loaded:
        task.spec.get_prompt(prompt)  # a wrong name fails before weights are loaded
    backend = load_model(model, device=device, dtype=dtype, batch_size=batch_size)
    with ui.progress() as bar:
        folders = [
            run_task(
                backend, task, judges, runs, bar,
                prompt=prompt, limit=limit, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, fresh=fresh,
            )
            for task in loaded
        ]  # fmt: skip
    show([f.path for f in folders], [j.name for j in judges], as_json=json)


def check_data(data: str) -> Source:
    """`--data`'s value, or UserError."""
    if data in ("auto", "local", "bundled"):
        return cast("Source", data)
    raise UserError(f"--data {data}: unknown", hint="one of auto, local, bundled")


def load_tasks(
    tasks: str, *, data: str = "auto", data_dir: Path | None = None, split: str | None = None, limit: int | None = None,
    on_bad_row: str = "fail",
) -> list[LoadedTask]:  # fmt: skip
    """Find, read and check every task that `tasks` names; notes go to stderr. Nothing is written."""
    from harness import data as loader
    from harness import specs
    from harness.cli import ui

    source = check_data(data)
    if on_bad_row not in ("fail", "skip"):
        raise UserError(f"--on-bad-row {on_bad_row}: unknown", hint="one of fail, skip")
    out = []
    for spec, path in specs.find(tasks):
        task = loader.load(
            spec,
            path,
            source=source,
            data_dir=data_dir,
            split=split,
            limit=limit,
            on_bad_row="skip" if on_bad_row == "skip" else "fail",
        )
        for line in task.notes:
            ui.note(line)
        out.append(task)
    return out


def load_model(name: str, *, device: str = "auto", dtype: str = "auto", batch_size: int | None = None) -> Model:
    """The backend that answers for `name`."""
    from harness.cli import ui
    from harness.models import loading

    loading.resolve(name)  # a wrong name fails before torch is imported
    with ui.err.status(f"loading {name}"):
        ui.quiet_libraries()
        from harness.models.transformers_model import TransformersModel

        return TransformersModel(name, device=device, dtype=dtype, batch_size=batch_size)


def run_task(
    model: Model, task: LoadedTask, judges: list[Judge], runs: Path, bar: Progress, *, prompt: str | None = None,
    limit: int | None = None, max_new_tokens: int | None = None, temperature: float = 0.0, seed: int = 0, fresh: bool = False,
) -> RunFolder:  # fmt: skip
    """One task through the pipeline with a progress bar."""
    from harness import pipeline
    from harness.records import GenerationArgs

    line = bar.add_task(f"{model.card.name} on {task.spec.name}", total=len(task.samples))

    def report(step: str, done: int, total: int) -> None:
        verb = "answers" if step == "generate" else "judging"
        bar.update(line, description=f"{model.card.name} {verb} {task.spec.name}", completed=done, total=total)

    args = GenerationArgs(max_new_tokens=max_new_tokens or task.spec.max_new_tokens, temperature=temperature, seed=seed)
    chosen = task.spec.get_prompt(prompt)
    return pipeline.run(task, model, chosen, args, judges, runs, limit=limit, fresh=fresh, report=report)


def show(folders: list[Path], judges: list[str], *, as_json: bool) -> None:
    """The scores of these run folders, as the leaderboard shows them."""
    from harness.cli import ui
    from leaderboard import table

    cells, damaged = table.cells_of(folders, judges=judges)
    if as_json:
        ui.print_json(table.as_json(cells, damaged))
        return
    table.render(cells, ui.out, damaged)
    ui.out.print("\n".join(f"[dim]records: {f}[/]" for f in folders), soft_wrap=True, highlight=False)
