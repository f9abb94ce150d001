"""harness audit: are the numbers true?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options as opt
from harness.errors import RunError, UserError
from harness.shown import count, p_number, percent, points

if TYPE_CHECKING:
    from leaderboard.gains import Look

app = typer.Typer(help="Are the numbers true? Controls that show what a score owes to the picture.", no_args_is_help=True)

#: Rows that a slice must have to be spoken of.
ENOUGH = 50
#: Flags of the run's own command that its controls do without.
_ASIDE = ("--json", "--quiet", "-q", "--dry-run", "--fresh")


@app.callback()
def _audit() -> None:
    pass


@app.command("vision")
def vision(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    judge: Annotated[str, typer.Option("--judge", "-j", help="Whose verdicts: NAME or NAME@VERSION.")] = "exact",
    control: Annotated[
        str, typer.Option("--control", help="Which controls, comma-separated.")
    ] = "blank-image,shuffled-image,question-only",
    compare_only: Annotated[
        bool, typer.Option("--no-run", help="Run nothing; compare with the controls that are there.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """What does a run's score owe to its pictures?

    The run's own command is repeated with grey pictures, with other rows' pictures
    and without any, as far as that was not done before. Each is compared with the run
    row by row: clustered intervals, p values by Holm.

    harness audit vision runs/tiny/slake-1a2b3c4d
    """
    from harness import controls
    from harness.cli import ui
    from leaderboard import gains

    names = list(dict.fromkeys(n.strip() for n in control.split(",") if n.strip()))
    for name in names:
        controls.check(name)
    if not (run / "card.json").is_file():
        raise UserError(f"{run}: holds no run", hint="give a run folder, as `harness run` names it under `records:`")
    missing = [name for name in names if name not in gains.there(run)]
    for name in missing if not compare_only else ():
        _run(run, name)
    found = gains.looks(run, judge, names)
    if json:
        ui.print_json([one.as_json() for one in found])
        return
    _show(run, judge, found, [name for name in names if name not in {one.control for one in found}])


def _run(run: Path, control: str) -> None:
    """The run's own command with a control. Raises RunError where it fails."""
    from harness.cli import ui
    from harness.runs import RunFolder

    card = RunFolder(run).card()
    words = [w for w in card.command if w not in _ASIDE]
    if words[:1] != ["run"] or card.data.control:
        raise UserError(
            f"{run}: was not made by `harness run`, so it cannot be repeated with a control", hint="--no-run compares only"
        )
    for flag in ("--tasks", "-t"):
        if flag in words[:-1] and card.data.task in words[words.index(flag) + 1].split(","):
            words[words.index(flag) + 1] = card.data.task  # of several tasks this one
    ui.say(f"{card.model.name} on {card.data.task} with --control {control}", head="control:")
    done = subprocess.run([sys.executable, "-m", "harness", *words, "--control", control, "--quiet"], stdout=subprocess.DEVNULL)
    if done.returncode:
        raise RunError(f"--control {control}: the run's command failed", hint=f"harness {' '.join(words)} --control {control}")


def _show(run: Path, judge: str, found: list[Look], lacking: list[str]) -> None:
    from rich.table import Table

    from harness.cli import ui
    from harness.shown import plain

    if not found:
        raise UserError(f"{run}: no control of it has verdicts of '{judge}'", hint=f"harness audit vision {run}")
    first = found[0]
    ui.line(f"{run} · judge {first.judge}", "bold")
    ui.line(f"score {percent(first.score)} % on {count(first.gain.n, 'row')}, {count(first.gain.clusters, first.clustered_by)}")
    table = Table("control", "its score %", "the run is better by", "95 % interval", "p by Holm", box=None, header_style="bold")
    for one in found:
        limits = f"{points(one.gain.low)} – {points(one.gain.high)}"
        table.add_row(
            plain(one.control), percent(one.without), f"{points(one.gain.value)} points", limits, p_number(one.p_holm),
            style="yellow" if one.gain.low <= 0 else "",
        )  # fmt: skip
    ui.out.print(table)
    for one in found:
        if one.gain.low <= 0 <= one.gain.high:
            ui.line(f"{one.control}: the interval holds 0, so nothing shows that the pictures were used")
    idle = [(name, value, part) for name, value, part in first.slices if part.n >= ENOUGH and part.low <= 0 <= part.high]
    if idle:
        ui.line(f"Of slices with {ENOUGH} rows or more, nothing shows that the pictures were used ({first.control}) in:")
        for name, value, part in idle:
            ui.line(f"  {name} {value}: {points(part.value)} ({points(part.low)} – {points(part.high)}), {count(part.n, 'row')}")
    for name in lacking:
        ui.note(f"{name}: not run")
