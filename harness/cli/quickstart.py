"""harness quickstart: the whole story in minutes, offline: train three ways, score all four models, compare."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.contracts import Judge


TRAINERS = ("sft", "grpo", "rarl")
TASKS = "slake,vqa_rad"


def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoints, runs and the page.")] = Path("demo"),
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimizer steps of each trainer; the recipes' own by default.")
    ] = None,
    limit: opt.Limit = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train tiny three ways on real data and compare them.

    Minutes on two CPU cores, offline.

    The base never saw SLAKE's 716 questions about abnormality. Each trainer learns from them; then all four models
    answer the SLAKE test (the new domain, and the old one, so that forgetting is seen) and VQA-RAD's (another dataset).
    """
    from harness.cli import ui
    from harness.cli.evaluate import load_model, load_tasks, run_task
    from harness.cli.train_setup import make
    from harness.contracts import JudgeOptions
    from harness.pipeline import make_judges
    from harness.records import GenerationArgs

    ui.set_quiet(quiet)
    start = time.monotonic()
    runs = out / "runs"
    tasks = load_tasks(TASKS, data="bundled", limit=limit)
    domain = {s.id for s in load_tasks("slake_grounded", data="bundled")[0].samples}
    judges = make_judges("exact", JudgeOptions())
    models = {"base": "tiny"} | {name: str(out / f"tiny-{name}") for name in TRAINERS}

    with ui.progress() as bar:
        for i, name in enumerate(TRAINERS, start=1):
            folder = Path(models[name])
            settings = [f"max_steps={steps}"] if steps else []
            if (folder / "trained.json").exists():
                _same_recipe(folder, name, settings)
                ui.say(f"{name.upper()}: {folder} is there already, keeping it", head=f"{i}/5")
                continue
            ui.say(_WORDS[name], head=f"{i}/5")
            trainer, report = make(name, "tiny", "slake_grounded", None, settings, folder, data="bundled", device="cpu")
            report.bar, report.line = bar, bar.add_task(report.label, total=trainer.steps())
            trainer.fit()
        counts = [len(t.samples) for t in tasks]
        ui.say(f"Scoring all four on SLAKE's test ({counts[0]:,} questions) and VQA-RAD's ({counts[1]}).", head="4/5")
        folders: dict[str, list[Path]] = {}
        for name, model in models.items():
            backend = load_model(model, device="cpu")
            folders[name] = [
                run_task(backend, t, t.spec.get_prompt(), GenerationArgs(max_new_tokens=128), judges, runs, bar, limit=limit).path
                for t in tasks
            ]
    ui.say("Comparing them.", head="5/5")
    _finish(out, folders, domain, judges[0], as_json=json, seconds=time.monotonic() - start)


def _same_recipe(folder: Path, name: str, settings: list[str]) -> None:
    """Raises UserError when a checkpoint of an earlier call was trained in another way than this one would."""
    import json

    from trainers import recipe, resuming

    held = json.loads((folder / "trained.json").read_text(encoding="utf-8"))["recipe"]
    mine = recipe.load(name, "tiny", None, settings).model_dump(mode="json")
    mine["prompts"] = mine["prompts"] or held["prompts"]  # an empty one is the task's own, which the training filled in
    if resuming.changed(held, mine, folder):
        raise UserError(f"{folder}: was trained with another recipe", hint=f"remove it or give another --out: rm -r {folder}")


_WORDS = {
    "sft": "SFT: learn the 716 new questions by imitating their reference reasoning and answers.",
    "grpo": "GRPO: learn them by reward (format, length, accuracy) for what the model itself tries.",
    "rarl": "RARL: GRPO with a reward for the reasoning too, and diverse prompts.",
}


def _finish(out: Path, folders: dict[str, list[Path]], domain: set[str], judge: Judge, *, as_json: bool, seconds: float) -> None:
    """Leaderboard, the sentences its numbers say, the page, and what to try next."""
    from harness.cli import ui
    from leaderboard import story, table, terminal
    from leaderboard.site import summary
    from leaderboard.site.library import Shelf
    from leaderboard.site.pictures import Pictures

    every = [f for paths in folders.values() for f in paths]
    found, damaged = table.cells_of(every)
    slake, vqa_rad = ({name: paths[i] for name, paths in folders.items()} for i in range(2))
    domains = [
        story.Domain("the new domain", "new", slake, domain.__contains__),
        story.Domain("the old one", "old", slake, lambda i: i not in domain),
        story.Domain("VQA-RAD", "VQA-RAD", vqa_rad),
    ]
    told = story.tell(domains, judge=judge.name, version=judge.version)
    page = out / "leaderboard.html"
    shelf = Shelf([out / "runs"])
    summary.write(page, shelf, Pictures(), title="Three trainers, one base", findings=told.sentences, share=shelf.share)
    if as_json:
        ui.print_json(table.as_json(found, damaged) | {"domains": told.as_json(), "says": told.sentences, "page": str(page)})
        return
    terminal.render(found, ui.out, damaged)
    told.render(ui.out)
    for sentence in told.sentences:
        ui.line(sentence)
    harness = "harness" if shutil.which("harness") else ".venv/bin/harness"
    ui.line(
        f"\n{seconds / 60:.1f} minutes. As a page, with intervals drawn, slices and examples: {page}\n\n"
        f"Next:\n"
        f"  {harness} compare {folders['base'][0]} {folders['rarl'][0]}\n"
        f"  {harness} view --runs {out / 'runs'}\n"
        f"  {harness} leaderboard --runs {out / 'runs'} --slice content_type\n"
        f"  {harness} run --model {out / 'tiny-rarl'} --tasks slake --prompt non_reasoning --runs {out / 'runs'}\n"
        f"  {harness} train rarl --model tiny --task slake_grounded --set learning_rate=3e-4"
    )
