"""harness judge: judge stored answers again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.answers import Tags
    from harness.contracts import JudgeOptions
    from harness.models.endpoint import Outgoing
    from harness.runs import RunFolder

Folders = Annotated[list[Path], typer.Argument(help="Run folders, or folders of runs.", show_default=False)]


def run_folders(paths: list[Path]) -> list[RunFolder]:
    """Every run folder that these paths name or hold. Raises UserError where there is none."""
    from harness.runs import RunFolder

    out = []
    for path in paths:
        cards = (
            [path / "card.json"]
            if (path / "card.json").exists()
            else sorted([*path.glob("*/card.json"), *path.glob("*/*/card.json")])
        )
        if not cards:
            raise UserError(f"{path}: holds no run", hint="give a run folder, as `harness run` names it under `records:`")
        out += [RunFolder(c.parent) for c in cards]
    return out


def going(folder: RunFolder) -> Outgoing:
    """What judging this run would send. Its rows may leave where the spec said so when they were asked, and says so now."""
    from harness import specs
    from harness.models.endpoint import Outgoing

    card = folder.card()
    now = specs.catalog().get(card.data.task)
    revoked = now is not None and not specs.read(now).may_leave_machine
    return Outgoing(card.data.task, card.data.rows, card.data.may_leave_machine and not revoked, repeats=card.data.repeats)


def judge(
    folders: Folders,
    by: Annotated[
        str | None, typer.Option("--judge", "-j", help="Judges, comma-separated: `harness judges list`, or any LiteLLM name.")
    ] = None,
    metrics: opt.Metrics = None,
    judge_prompt: opt.JudgePrompt = "rarl-v2",
    allow_external: opt.AllowExternal = False,
    max_cost: opt.MaxCost = None,
    ask_again: opt.AskAgain = False,
    accept_successor: opt.AcceptSuccessor = False,
    judge_in_flight: opt.JudgeInFlight = 64,
    judge_rpm: opt.JudgeRpm = None,
    judge_tpm: opt.JudgeTpm = None,
    judge_seed: opt.JudgeSeed = 0,
    judge_registry: opt.JudgeRegistry = None,
    retest: Annotated[
        float, typer.Option("--retest", min=0, max=1, help="Share of rows asked a second time: the judge's own consistency.")
    ] = 0.0,
    reread: Annotated[
        bool, typer.Option("--reread", help="Read the answers from the stored texts again, as today's reader does.")
    ] = False,
    reasoning_tags: opt.ReasoningTags = None,
    device: opt.Device = "auto",
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Judge the stored answers of runs, without generating again.

    Verdicts given before, in this run or another, are not asked for again.
    --metrics measures them by more than the task's own. With --reread the answers are first read from the texts again; what stood
    there before is kept in the run's folder.

    harness judge runs/tiny/slake-1a2b3c4d --judge gpt-4o-mini --allow-external
    """
    from harness.cli import missing, ui
    from harness.cli.evaluate import end_of_judging, say_unread, show
    from harness.pipeline import judge_again, make_judges
    from harness.runs import check_writable

    ui.set_quiet(quiet)
    if by is None and not reread and not metrics:
        raise UserError("no --judge", hint="name one, or --metrics, or say --reread to read the stored texts again")
    measures = opt.metrics(metrics)
    if reasoning_tags and not reread:
        raise UserError("--reasoning-tags is for reading the texts again", hint="add --reread")
    tags = opt.reasoning_tags(reasoning_tags)
    found = run_folders(folders)
    options = opt.judge_options(
        found[0].root,
        judge_prompt,
        allow_external,
        max_cost,
        judge_in_flight,
        judge_rpm,
        judge_tpm,
        judge_registry,
        judge_seed,
        device,
        ask_again,
        accept_successor,
    )
    chosen = make_judges(by, options) if by else []
    for folder in found:
        check_writable(folder.path)
    for one in chosen:
        for note in one.prepare([going(f) for f in found]):
            ui.announce(note)
    with ui.progress() as bar:
        for i, folder in enumerate(found):
            if reread:
                found[i] = _reread(folder, options, tags)
            judge_again(found[i], chosen, ui.reporter(bar, f"judging {folder.path.name}"), measures)
    for one in chosen:
        ui.say_use(one)
    if retest and by:
        _retest(found, by, options, retest)
    lacking = missing.find(found, chosen)
    show([f.path for f in found], as_json=json, judges=[one.name for one in chosen] or None, lacking=lacking)
    if reread:
        say_unread(found)
    end_of_judging(lacking, chosen, as_json=json)


def _reread(folder: RunFolder, options: JudgeOptions, tags: Tags) -> RunFolder:
    """Read a run's texts again, and judge it by its own judges that need no model."""
    from harness import answers, rereading
    from harness.cli import ui
    from harness.pipeline import make_judges

    old = folder.card().reader
    judges = make_judges(",".join(rereading.readers_of(folder)), options)
    new, changed = rereading.reread(folder, judges, tags or None)
    ui.note(f"{folder.path}: read by reader {answers.VERSION}, {old} before: {changed} answers changed; now at {new.path}")
    return new


def _retest(found: list[RunFolder], by: str, options: JudgeOptions, share: float) -> None:
    """Ask for a share of the rows again, past the store, and say how often the verdict was the same."""
    import math
    from dataclasses import replace
    from hashlib import sha256

    from harness.cli import ui
    from harness.cli.agreement import agreed
    from harness.pipeline import make_judges, update_card, verdicts_of
    from judges.agreement import agreement as agree

    for one in make_judges(by, replace(options, use_store=False)):
        for folder in found:
            first = folder.verdicts(one.name, one.version)
            predictions = folder.predictions()
            # rows that the judge itself had a word on
            rows = [s for s in folder.questions() if s.id in predictions and s.id in first and first[s.id].raw is not None]
            rows = [s for s in rows if first[s.id].final is not None]
            rows = sorted(rows, key=lambda s: sha256(s.id.encode()).hexdigest())[: math.ceil(share * len(rows))]
            second = {v.sample_id: v.final for v in verdicts_of(one, [(s, predictions[s.id]) for s in rows])}
            clusters = {r["id"]: r["cluster"] for r in folder.samples() if r["id"] in second}
            if not any(v is not None for v in second.values()):
                ui.note(f"{one.name} gave no verdict on {folder.path.name} that could be tested")
                continue
            same = agree({i: first[i].final for i in second}, second, clusters)
            update_card(folder, f"{one.name}@{one.version}", {"retest": same.model_dump(mode="json")})
            ui.line(f"{one.name} asked again on {same.n} rows of {folder.path.name}: the same verdict on {agreed(same)}")
        ui.say_use(one)


def version_of(folder: RunFolder, judge: str) -> tuple[str, str]:
    """(name, version) of the verdicts that NAME or NAME@VERSION means in a run. Raises UserError."""
    from harness.plugins import did_you_mean

    known = folder.judges()
    found = [(n, v) for n, v in known if judge in (n, f"{n}@{v}")]
    if not found:
        names = [*dict.fromkeys(n for n, _ in known)] if "@" not in judge else [f"{n}@{v}" for n, v in known]
        raise UserError(f"{folder.path}: no verdicts of '{judge}'", hint=did_you_mean(judge, names))
    if len(found) > 1:
        raise UserError(
            f"{folder.path}: '{judge}' is there in {len(found)} versions",
            hint=f"name one of {', '.join(f'{n}@{v}' for n, v in found)}",
        )
    return found[0]
