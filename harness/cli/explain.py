"""harness explain: why the same answers score another number elsewhere."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options as opt
from harness.errors import UserError
from harness.shown import between, count, p_value, percent, points, points_of

if TYPE_CHECKING:
    from leaderboard.explain import Distance, Explanation, Flip, Part

#: Characters of a text, and protocols near a printed number, that are shown.
_SHOWN, _NEAREST = 160, 12


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    against: Annotated[
        str | None, typer.Option("--against", help="Protocols, comma-separated: `harness judges list`; NAME/closed, NAME/open.")
    ] = None,
    against_score: Annotated[
        float | None, typer.Option("--against-score", help="A number that was printed elsewhere, in percent.")
    ] = None,
    start: Annotated[str, typer.Option("--from", help="The protocol to start from.")] = "exact",
    asked: Annotated[
        Path | None, typer.Option("--asked", help="A run of the same model on the same rows, with the other prompt.")
    ] = None,
    flips: Annotated[int, typer.Option("--flips", min=0, help="Rows to show for each part.")] = 3,
    json: opt.Json = False,
) -> None:
    """Why do the same answers score another number elsewhere?

    Splits the difference into rows (which answers count), prompt (where a second run
    shows it), reading (what is taken of a text) and rule (how that is compared with the
    reference). The parts add up to the difference.

    harness explain runs/tiny/slake-1a2b3c4d --against medevalkit
    harness explain runs/tiny/slake-1a2b3c4d --against medgemma --against-score 72.3
    """
    from harness.cli import ui
    from harness.scoring.protocols import PROTOCOLS, find, find_all
    from leaderboard import explain as explaining

    if against is None and against_score is None:
        raise UserError("against what?", hint=f"--against NAME, or --against-score PERCENT; known: {', '.join(PROTOCOLS)}")
    if against_score is not None and not 0 <= against_score <= 100:
        raise UserError(f"--against-score {against_score:g}: expected a percentage, from 0 to 100")
    if not (run / "card.json").is_file():
        raise UserError(f"{run}: holds no run", hint="give a run folder, as `harness run` names it under `records:`")
    published = None if against_score is None else Fraction(str(against_score)) / 100
    if against is None:
        if asked is not None:
            raise UserError("--asked needs a protocol that answers are compared by", hint="add --against NAME")
        assert published is not None
        close = explaining.nearest(run, published)
        ui.print_json([d.model_dump(mode="json") for d in close]) if json else _show_distances(close, published)
        return
    found = [explaining.explain(run, p, find(start), asked=asked, published=published) for p in find_all(against)]
    if json:
        ui.print_json([e.model_dump(mode="json") for e in found] if len(found) > 1 else found[0].model_dump(mode="json"))
        return
    for one in found:
        _show(one, flips)


def _show(e: Explanation, flips: int) -> None:
    """The two numbers, the parts of their difference, and a few of the answers that each part changes."""
    from harness.cli import ui

    ui.line(f"{e.task}, {e.model}: {percent(e.score_start)} % by {e.start}, {percent(e.score_against)} % by {e.against}", "bold")
    ui.line(_difference(e))
    for part, share in zip(e.parts, points_of([part.value for part in e.parts]), strict=True):
        known = part.flips and part.low is not None and part.high is not None
        limits = f" (95 % interval {points(part.low or 0.0)} to {points(part.high or 0.0)})" if known else ""
        ui.line(f"  {part.what:<8}{share:>6}  {_sentence(e, part)}{limits}.")
    ui.line(f"  {'sum':<8}{points(e.difference):>6}  points", "dim")
    if e.asks and not any(part.what == "prompt" for part in e.parts):
        ui.line(f"  {e.against} also adds to each question: {e.asks}", "dim")
        ui.line(
            f"  This run's prompt was '{e.prompt}'. To see what that changes, run it so and give that run with --asked.", "dim"
        )
    for part in e.parts:
        if part.flips and flips:
            some = f"{flips} of {len(part.flips):,}" if len(part.flips) > flips else "all"
            ui.line(f"answers that {part.what} changes ({some}):")
            for flip in part.flips[:flips]:
                _show_flip(e, part, flip)
    ui.line("")


def _difference(e: Explanation) -> str:
    """The whole difference in a sentence, with what it rests on."""
    change = e.score_against - e.score_start
    answers = count(e.n, "answer") if e.n == e.asked else f"{e.n:,} of {count(e.asked, 'answer')}, the others failed"
    about = answers if e.clustered_by == "question" else f"{answers}, on {count(e.clusters, e.clustered_by)}"
    prompted = any(part.what == "prompt" for part in e.parts)
    which, first = ("The answers to the other prompt", "the first ones ") if prompted else ("The same answers", "")
    if not round(1000 * change):
        return f"{which} score the same by {e.against} as {first}by {e.start} ({about})."
    sure = "too few of them differ for an interval"
    if e.low is not None and e.high is not None and e.p is not None:
        sure = f"95 % interval {points(e.low)} to {points(e.high)}, {p_value(e.p)} by {e.p_method}"
    size = f"{abs(100 * change):.1f} points {'higher' if change > 0 else 'lower'}"
    return f"{which} score {size} by {e.against} than {first}by {e.start} ({sure}; {about})."


def _sentence(e: Explanation, part: Part) -> str:
    """What a part did, for a reader who knows neither program; without its full stop."""
    moved = f"{count(part.gain, 'answer')} gain, {part.lose:,} lose" if part.flips else "changes nothing"
    if part.what == "prompt":
        return f"The other run asked with another prompt: {moved}"
    if part.what == "reading":
        return f"What {e.against} takes of a text: {moved}"
    if part.what == "rule":
        return f"How {e.against} compares an answer with the reference: {moved}"
    if part.what == "rest":
        return _rest(e)
    if e.counted_start != e.counted_against:
        return f"{e.against} counts {count(e.counted_against, 'answer')}, {e.start} {e.counted_start:,}"
    same = f"Both count the same {count(e.counted_start, 'answer')}"
    return f"{same}, but not once each" if part.flips else same


def _rest(e: Explanation) -> str:
    """What no scoring of these answers explains."""
    printed = f"{percent(e.published)} % was printed. These answers do not say why: another prompt, model, setting or set of rows"
    if e.against_low is None or e.against_high is None or e.published is None:
        return printed
    limits = f"the interval of {e.against} ({between(e.against_low, e.against_high)})"
    chance = e.against_low <= e.published <= e.against_high
    return f"{printed}, or chance, as it lies in {limits}" if chance else f"{printed}. It lies outside {limits}"


def _show_flip(e: Explanation, part: Part, flip: Flip) -> None:
    """The question, what the model wrote, and what either side makes of it."""
    from harness.cli import ui

    before, after = ("before", "asked otherwise") if part.what == "prompt" else (e.start, e.against)
    ui.line(f"  {flip.id}: {flip.question}")
    ui.line(f"    reference {flip.reference} · the model wrote: {_short(flip.text)}", "dim")
    if part.what == "rows":
        ui.line(f"    {before} counts it {_times(flip.before)}, {after} {_times(flip.after)}", "dim")
    elif part.what == "rule":
        ui.line(f"    read: {_short(flip.read_after)} · {before}: {_mark(flip.before)}, {after}: {_mark(flip.after)}", "dim")
    else:
        ui.line(f"    {before} reads: {_short(flip.read_before)} ({_mark(flip.before)})", "dim")
        ui.line(f"    {after} reads: {_short(flip.read_after)} ({_mark(flip.after)})", "dim")


def _times(weight: float) -> str:
    return {-1.0: "not at all", 1.0: "once", 2.0: "twice", 0.0: "as wrong"}.get(weight, f"{weight:g} times")


def _mark(value: float) -> str:
    return {1.0: "right", 0.0: "wrong"}.get(value, f"worth {value:.2f}")


def _short(text: str) -> str:
    """On one line, its beginning."""
    line = " ".join(text.split())
    return "nothing" if not line else line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."


def _show_distances(found: list[Distance], published: Fraction) -> None:
    from rich.table import Table

    from harness.cli import ui
    from harness.shown import plain

    ui.line(f"{percent(float(published))} % was printed. These answers score, nearest first:")
    table = Table("protocol", box=None, header_style="bold")
    for title in ("score %", "95 % interval", "printed - score"):
        table.add_column(title, justify="right", no_wrap=True)
    for d in found[:_NEAREST]:
        table.add_row(plain(d.protocol), percent(d.score), between(d.low, d.high), points(d.distance))
    ui.out.print(table)
    if len(found) > _NEAREST:
        ui.line(f"{len(found) - _NEAREST} more: --json shows all", "dim")
    ui.line("Near is no proof: another prompt or model can give the same number. --against NAME splits the difference.", "dim")
