"""What a training is made from: rows, recipe, trackers, and the progress that it reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.data import LoadedTask
    from trainers.recipe import Recipe


def default_out(model: str, name: str) -> Path:
    return Path("checkpoints") / f"{Path(model).name}-{name}"


class Progress:
    """Hands a training's reports on: to a panel, or to a bar with the last loss or reward beside it."""

    def __init__(self) -> None:
        self.panel: Any = None
        self.bar: Any = None
        self.line: Any = None
        self.label = ""

    def __call__(self, step: int, steps: int, log: dict[str, float]) -> None:
        if self.panel is not None:
            self.panel(step, steps, log)
        if self.bar is not None:
            shown = next((f"{k} {float(log[k]):.2f}" for k in ("reward", "loss") if k in log), "")
            self.bar.update(self.line, completed=step, total=steps, description=f"{self.label} {shown}")


def make(
    name: str, model: str, task: str, recipe: Path | None, settings: list[str], out: Path, *,
    split: str = "train", data: str = "auto", data_dir: Path | None = None, device: str = "auto", preset: str | None = None,
    samples: int | None = None, report_to: str | None = None, recorded: dict[str, Any] | None = None,
    force: bool = False, planning: bool = False, max_image_pixels: int | None = None,
) -> tuple[Any, Progress]:  # fmt: skip
    """A trainer ready to plan or fit, and the progress it reports to. Nothing is loaded or written yet.

    `recorded` is a recipe as run.yaml keeps it, taken in place of `recipe` and `settings`.
    """
    from harness import distributed, plugins
    from harness.cli import ui
    from trainers import recipe as recipes

    if not distributed.current().main:
        ui.set_quiet(True)  # one process speaks for all
    kind = plugins.load("trainers", name)
    if recorded is None:
        given = [*settings, *([f"samples={samples}"] if samples else [])]
        chosen = recipes.load(name, model, recipe, given, preset)
    else:
        chosen = recipes.checked(recorded, out / "run.yaml")
    loaded, dev = _rows(task, split, chosen, data=data, data_dir=data_dir, max_pixels=max_image_pixels)
    report = Progress()
    report.label = f"{name}: {model} on {loaded.spec.name}"
    ui.quiet_libraries()
    origin: dict[str, Any] = {
        "task": task,
        "split": split,
        "data": data,
        "data_dir": str(data_dir) if data_dir else None,
        "device": device,
    }
    origin |= {"max_image_pixels": max_image_pixels} if max_image_pixels else {}
    trainer = kind(
        model, loaded, chosen, out, device=device, report=report, dev=dev, origin=origin,
        report_to=trackers(report_to), force=force, planning=planning,
    )  # fmt: skip
    return trainer, report


def trackers(names: str | None) -> list[str]:
    """`--report-to`, checked. Raises UserError for a tracker that is not known or not installed."""
    from importlib.util import find_spec

    from harness.plugins import did_you_mean

    known = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
    wanted = [n.strip() for n in names.split(",") if n.strip()] if names else []
    for name in wanted:
        if name not in known:
            raise UserError(f"--report-to {name}: unknown", hint=did_you_mean(name, list(known)))
        if find_spec(known[name]) is None:
            raise UserError(f"--report-to {name}: is not installed", hint=f"pip install {known[name]}")
    return wanted


def _rows(
    task: str, split: str, recipe: Recipe, *, data: str, data_dir: Path | None, max_pixels: int | None = None
) -> tuple[LoadedTask, LoadedTask | None]:
    """(training rows, dev rows) as the recipe asks. Raises UserError for the test split, or a dev split that shows its images."""
    from harness.cli.evaluate import load_tasks
    from harness.data import parse_source, splits
    from trainers import splits as own

    said: set[str] = set()
    (loaded, *more) = load_tasks(task, data=data, data_dir=data_dir, split=split, said=said, max_pixels=max_pixels)
    if more:
        raise UserError(f"--task {task}: a trainer takes one task")

    if split == loaded.spec.split:
        raise UserError(
            f"--split {split}: is what task '{loaded.spec.name}' tests on, and a model trained on it could not be tested",
            hint=f"its splits: {', '.join(splits(loaded.spec, parse_source(data)))}",
        )

    def other(name: str) -> LoadedTask:
        return load_tasks(task, data=data, data_dir=data_dir, split=name, said=said, max_pixels=max_pixels)[0]

    dev = None
    if recipe.dev != "none":
        loaded, dev = own.choose(loaded, recipe.dev, recipe.dev_rows, recipe.seed, splits(loaded.spec, parse_source(data)), other)
    if recipe.samples:
        loaded = own.with_samples(loaded, own.subset(loaded.samples, recipe.samples, recipe.seed))
    return loaded, dev
