"""harness leaderboard, compare, power: all runs side by side, some of them row by row, and what rows could show at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    from leaderboard.compare import Comparison
    from leaderboard.table import Filters

SORTS = ("score", "model", "trainer", "created", "n")
GROUPS = ("trainer", "base", "model")


def _names(text: str | None) -> list[str] | None:
    return [n.strip() for n in text.split(",") if n.strip()] if text else None


def leaderboard(
    runs: opt.RunsMany = None,
    tasks: Annotated[str | None, typer.Option("--tasks", "-t", help="Only these tasks; lists and globs, as below.")] = None,
    judge: Annotated[str | None, typer.Option("--judge", "-j", help="Only these judges, NAME or NAME@VERSION.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only these models, such as 'tiny*'.")] = None,
    trainer: Annotated[str | None, typer.Option("--trainer", help="Only what these trainers made; none: what none made.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Only runs with these prompts.")] = None,
    slice_by: Annotated[str | None, typer.Option("--slice", help="A row for each value of this slice, such as modality.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Columns from scores.json, such as bleu; no interval.")] = None,
    group_by: Annotated[str | None, typer.Option("--group-by", help=f"Keep together: {', '.join(GROUPS)}.")] = None,
    sort: Annotated[str, typer.Option("--sort", help=f"By {', '.join(SORTS)}.")] = "score",
    top: Annotated[int, typer.Option("--top", min=0, help="Rows of a table on the screen; 0: all.")] = 20,
    protocols: Annotated[
        bool, typer.Option("--protocols", help="The same runs scored by public rules; --judge names which [all].")
    ] = False,
    published: Annotated[bool, typer.Option("--published", help="Also what papers report for these tasks.")] = False,
    json: opt.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="A row a cell, full precision.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="GitHub's tables.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Tables with booktabs' rules.")] = False,
) -> None:
    """Every run side by side, with 95 % intervals.

    Intervals are clustered by image. Only cells with the same rows, prompt and judge stand in one table, and a rank is
    a range: the places that the differences which are real leave open.

    harness leaderboard --protocols                       does the order of the models survive other people's rules?
    harness leaderboard --protocols --judge all/answer    of models that think, the answers alone
    """
    from harness.cli import ui
    from leaderboard import claims, formats, overview, store, table, terminal

    if json + csv + markdown + latex > 1:
        raise UserError("--json, --csv, --markdown and --latex: only one of them")
    if protocols:
        idle = {"--slice": slice_by, "--metric": metric, "--group-by": group_by, "--published": published, "--csv": csv}
        idle |= {"--markdown": markdown, "--latex": latex}
        if given := [name for name, value in idle.items() if value]:
            raise UserError(f"{', '.join(given)}: not with --protocols", hint="--json has every number")
        _by_protocol(runs, table.Filters(_names(tasks), None, _names(model), _names(trainer), _names(prompt)), judge, json=json)
        return
    wanted = table.Filters(*map(_names, (tasks, judge, model, trainer, prompt)))
    options: dict[str, Any] = {"sort": _choice("--sort", sort, SORTS), "metrics": _names(metric) or ()}
    if group_by:
        options["group_by"] = _choice("--group-by", group_by, GROUPS)
    found = table.board(store.find(runs or [Path("runs")]), slice_by=slice_by, filters=wanted, **options)
    claimed = claims.claims({c.task for c in found.cells} or None) if published else []
    views = [] if slice_by else overview.overviews(found)
    if json:
        ui.print_json(
            table.as_json(found.cells, found.damaged)
            | {"averages": overview.as_json(views)}
            | ({"published": [c.as_json() for c in claimed]} if published else {})
        )
    elif csv:
        print(formats.as_csv(found.cells), end="")
    elif markdown or latex:
        print((formats.as_markdown if markdown else formats.as_latex)(views, found.cells, claimed), end="")
    elif not found.cells and not found.damaged and not claimed:
        raise UserError("no runs yet", hint="make one: harness run --model tiny --tasks slake")
    else:
        for view in views:
            terminal.render_overview(view, ui.out, top=top or None)
        terminal.render(found.cells, ui.out, found.damaged, top=top or None, group_by=options.get("group_by"))
        terminal.render_claims(claimed, ui.out)
    for run in found.without_slice:
        ui.note(f"has no slice '{slice_by}', left out: {run}")
    if not (json or csv or markdown or latex):
        return
    for d in found.damaged:
        ui.note(f"damaged, left out: {d.path}: {d.reason}")


def _by_protocol(runs: list[Path] | None, wanted: Filters, judge: str | None, *, json: bool) -> None:
    """The same runs under each protocol, and whether the order of the models survives."""
    from harness.cli import ui
    from harness.scoring.protocols import find_all
    from leaderboard import store, table, terminal
    from leaderboard.standings import standings

    chosen = find_all(judge or "all")
    board = table.board(store.find(runs or [Path("runs")]), filters=wanted)
    with ui.progress(transient=True) as bar:
        found = standings(list(board.runs.values()), chosen, ui.reporter(bar, "scoring runs"))
    if json:
        ui.print_json(
            {"standings": [s.model_dump(mode="json") for s in found], "damaged": [d.model_dump() for d in board.damaged]}
        )
        return
    if not found:
        raise UserError("no runs with answers yet", hint="make one: harness run --model tiny --tasks slake")
    for one in found:
        terminal.render_standings(one, ui.out)
    terminal.render([], ui.out, board.damaged)


def _choice(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        from harness.plugins import did_you_mean

        raise UserError(f"{option} {value}: no such choice", hint=did_you_mean(value, list(known)))
    return value


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of them such as runs/MODEL.")],
    judge: Annotated[str | None, typer.Option("--judge", "-j", help="NAME or NAME@VERSION, where there are several.")] = None,
    across_prompts: Annotated[bool, typer.Option("--across-prompts", help="Compare prompts: they may differ.")] = False,
    flips: Annotated[int, typer.Option("--flips", min=0, help="Flipped rows to list for each comparison.")] = 5,
    json: opt.Json = False,
) -> None:
    """Is the difference between runs real?

    Every pair on every task that both answered: paired row by row, clustered by image, p values by Holm over all of them.
    """
    from harness.cli import ui
    from leaderboard.compare import compare_all

    found = compare_all(runs, judge, across_prompts=across_prompts)
    if json:
        ui.print_json([c.model_dump(mode="json") for c in found] if len(found) > 1 else found[0].model_dump(mode="json"))
        return
    if len(found) > 1:
        from leaderboard.terminal import render_comparisons

        render_comparisons(found, ui.out)
    for c in found:
        if len(found) == 1:
            ui.line(c.sentence())
        for winner, ids in ((c.model_a, c.only_a), (c.model_b, c.only_b)):
            ui.line(f"only {winner} right ({c.task}, {c.model_a} against {c.model_b}): {len(ids)} rows", "bold")
            _show_flips(c, ids[:flips])


def _show_flips(c: Comparison, ids: tuple[str, ...]) -> None:
    """Question, reference and both answers of these rows."""
    from harness.cli import ui
    from leaderboard.compare import rows

    for id_, question, reference, answer_a, answer_b in rows(c, ids):
        ui.line(f"  {id_}: {question}")
        ui.line(f"    reference {reference} · {c.model_a}: {answer_a} · {c.model_b}: {answer_b}", "dim")


def power(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="[RUN_A RUN_B]", help="Two runs, to learn from.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Rows that both models answer.")] = None,
    images: Annotated[int | None, typer.Option("--images", min=2, help="Images they are about; without it one each.")] = None,
    icc: Annotated[float | None, typer.Option("--icc", help="How alike differences about one image are, 0 to 1 [0].")] = None,
    discordance: Annotated[float | None, typer.Option("--discordance", help="Share of rows only one has right [0.2].")] = None,
    difference: Annotated[float | None, typer.Option("--difference", help="A wished difference, in points.")] = None,
    chance: Annotated[float, typer.Option("--power", help="Probability of finding it.")] = 0.8,
    judge: Annotated[str | None, typer.Option("--judge", "-j", help="Whose verdicts, where two runs are given.")] = None,
    human: Annotated[
        bool, typer.Option("--human", help="How many labels of people buy which width for a judge, calibrated on --n rows.")
    ] = False,
    score: Annotated[float, typer.Option("--score", min=0, max=1, help="Share that people would call right.")] = 0.6,
    sensitivity: Annotated[float, typer.Option("--sensitivity", min=0, max=1, help="The judge's, against people.")] = 0.9,
    specificity: Annotated[float, typer.Option("--specificity", min=0, max=1, help="The judge's, against people.")] = 0.8,
    json: opt.Json = False,
) -> None:
    """What difference so many rows can show.

    The smallest difference that they find, or how many rows a wished one takes.

    harness power --n 148                       harness power --difference 5
    harness power runs/a/slake-1 runs/b/slake-2 (n, images, discordance and clustering as these two runs show them)
    harness power --human --n 1061 --images 96 --icc 0.15
    """
    from harness.cli import ui
    from harness.shown import count, percent
    from leaderboard import power as powers

    if human:
        _labels(n, images, icc, score, sensitivity, specificity, json)
        return
    if n is None and difference is None and not runs:
        raise UserError("give --n, --difference or two runs", hint="harness power --n 148 --discordance 0.2")
    _used(runs, n, images, icc, discordance, judge)
    try:
        if runs:
            from leaderboard.compare import observed

            pair = observed(runs, judge)
        else:
            effect = powers.design_effect(n, images, icc or 0.0) if n and images else 1.0
            pair = powers.Pair(n or 1, images or n or 1, 0.2 if discordance is None else discordance, effect)
        document: dict[str, Any] = {"discordance": pair.discordance, "design_effect": pair.effect, "power": chance}
        if runs or n:
            clusters = pair.clusters if runs or images else None
            least = powers.detectable(pair.n, pair.discordance, effect=pair.effect, clusters=clusters, power=chance)
            document |= {"n": pair.n, "images": pair.clusters, "detectable": least}
        if difference is not None:
            rows = powers.rows_needed(difference / 100, pair.discordance, effect=pair.effect, power=chance)
            document |= {"difference": difference / 100, "rows_needed": rows}
    except ValueError as e:
        raise UserError(str(e), hint="shares go from 0 to 1, --difference is in points") from None
    if json:
        ui.print_json(document)
        return
    told = (
        f"{percent(pair.discordance)} % of rows right in one only, design effect {pair.effect:.2f}, "
        f"two-sided 5 % test, power {100 * chance:g} %"
    )
    if "detectable" in document:
        found = document["detectable"]
        none = " No difference is that large: these rows find none." if found > pair.discordance else ""
        about = count(pair.clusters, pair.clustered_by)
        ui.line(f"{count(pair.n, 'row')} on {about} find a difference of {percent(found)} points or more.{none}")
    if difference is not None:
        ui.line(f"A difference of {difference:g} points takes {document['rows_needed']:,} rows.")
    ui.line(told, "dim")


#: Numbers of labels that `harness power --human` shows.
LABELS = (60, 100, 150, 200, 300, 500)


def _labels(
    n: int | None, images: int | None, icc: float | None, score: float, sensitivity: float, specificity: float, json: bool
) -> None:
    """How wide the intervals of people alone and of a calibrated judge would be."""
    from rich.table import Table

    from harness.cli import ui
    from harness.shown import percent, points
    from leaderboard.calibration import plan

    if n is None or n < LABELS[0]:
        raise UserError(
            f"--human plans labels for --n rows, {LABELS[0]} or more", hint="harness power --human --n 1061 --images 96"
        )
    about = {"score": score, "sensitivity": sensitivity, "specificity": specificity, "images": images, "icc": icc or 0.0}
    try:
        found = plan([x for x in LABELS if x <= n], n, **about)  # type: ignore[arg-type]
    except ValueError as e:
        raise UserError(str(e)) from None
    if json:
        ui.print_json({"n": n, **about, "plan": [vars(p) for p in found]})
        return
    table = Table("labels", "people alone, ± points", "calibrated, ± points", box=None, header_style="bold")
    for p in found:
        table.add_row(str(p.labels), points(p.people).lstrip("+"), points(p.calibrated).lstrip("+"))
    ui.out.print(table)
    ui.line(
        f"half of the 95 % interval; {n:,} rows, {percent(score)} % right; judge: sensitivity {percent(sensitivity)} %, "
        f"specificity {percent(specificity)} %"
        f"{f', {images} images with icc {icc or 0:g}' if images else ''}",
        "dim",
    )


def _used(
    runs: list[Path] | None, n: int | None, images: int | None, icc: float | None, discordance: float | None, judge: str | None
) -> None:
    """Refuses an option that would change nothing."""
    given = {"--n": n, "--images": images, "--icc": icc, "--discordance": discordance}
    idle = [name for name, value in given.items() if value is not None]
    if runs and idle:
        raise UserError(f"{', '.join(idle)}: two runs say that themselves", hint="give the runs or the numbers, not both")
    if judge and not runs:
        raise UserError("--judge: whose verdicts counts only where two runs are given")
    if (images or icc is not None) and not n:
        raise UserError("--images and --icc say how --n rows lie on images", hint="harness power --n 1061 --images 96 --icc 0.15")
    if icc is not None and not images:
        raise UserError("--icc: rows on images of their own are not alike", hint="say how many images there are with --images")
