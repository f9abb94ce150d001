"""harness agreement, harness calibrate: how far judges and people agree, and what people would have said of all rows."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options as opt
from harness.cli.judge import Folders, run_folders, version_of
from harness.errors import UserError
from harness.shown import cluster_of, coefficient, count, percent, with_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from harness.runs import RunFolder
    from judges.agreement import Agreement
    from judges.human.reliability import Reliability
    from leaderboard.calibration import Calibration


def agreement(
    folders: Folders,
    judges: Annotated[
        str | None, typer.Option("--judges", "-j", help="Two judges, as A,B: NAME or NAME@VERSION. Without it, people.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="A slice: the same for each of its values.")] = None,
    json: opt.Json = False,
) -> None:
    """How far people agree, or two judges, and where not.

    Without --judges: each rater, any two of them, Krippendorff's alpha, and
    every judge of the run against people, with sensitivity and specificity.
    With two judges: raw agreement, Cohen's kappa and Gwet's AC1, and the rows
    that differ.

    harness agreement runs/tiny/slake-1a2b3c4d
    harness agreement runs/tiny/slake-1a2b3c4d --judges exact,human:ward
    """
    from harness.cli import ui

    a, _, b = (judges or "").partition(",")
    if judges is not None and (not a or not b or "," in b or a == b):
        raise UserError(f"--judges {judges}: expected two", hint="as in --judges exact,bertscore")
    document: list[dict[str, Any]] = []
    for folder in run_folders(folders):
        for value, keep in _parts(folder, by):
            about: dict[str, Any] = {"run": str(folder.path)} | ({"slice": {by: value}} if by else {})
            heading = f"{folder.path}{f' · {by} {value}' if by else ''}"
            if judges is not None:
                same = _none_of(functools.partial(agree_on, folder, a, b, keep), by)
                if same is not None:
                    document.append(about | same.model_dump(mode="json"))
                    if not json:
                        show_agreement(folder, a, b, same, heading)
            else:
                from judges.human.reliability import reliability

                found = reliability(folder, keep)
                if found.rows or not by:
                    document.append(about | found.model_dump(mode="json", exclude={"run"}))
                    if not json:
                        _show_people(folder, found, heading)
    if json:
        ui.print_json(document)


def _parts(folder: RunFolder, by: str | None) -> list[tuple[str | None, Collection[str] | None]]:
    """(value of the slice, its sample ids); all rows without one. Raises UserError."""
    from harness.plugins import did_you_mean

    if by is None:
        return [(None, None)]
    values: dict[str, set[str]] = {}
    known: set[str] = set()
    for row in folder.samples():
        known |= row["slices"].keys()
        if by in row["slices"]:
            values.setdefault(row["slices"][by], set()).add(row["id"])
    if not values:
        raise UserError(f"{folder.path}: no slice '{by}'", hint=did_you_mean(by, sorted(known)))
    return sorted(values.items())


def _none_of(ask: Callable[[], Agreement], by: str | None) -> Agreement | None:
    """Of a slice value on which nobody judged anything together nothing is said."""
    try:
        return ask()
    except UserError:
        if by is None:
            raise
        return None


def agree_on(folder: RunFolder, a: str, b: str, keep: Collection[str] | None = None) -> Agreement:
    """Two judges of a run, on these rows of it. Raises UserError."""
    from judges.agreement import agreement as agree

    first, second = ({i: v.final for i, v in folder.verdicts(*version_of(folder, name)).items()} for name in (a, b))
    try:
        return agree(first, second, {r["id"]: r["cluster"] for r in folder.samples() if keep is None or r["id"] in keep})
    except ValueError as e:
        raise UserError(f"{folder.path}: {a} and {b}: {e}") from None


def show_agreement(folder: RunFolder, a: str, b: str, same: Agreement, heading: str | None = None) -> None:
    from harness.cli import ui

    (n00, n01), (n10, n11) = same.confusion
    missing = f"; {same.only_one} rows judged by one alone" if same.only_one else ""
    ui.line(heading or f"{folder.path}", "bold")
    about = count(same.clusters, cluster_of(folder.card().data))
    ui.line(f"  {count(same.n, 'row')} on {about}{missing}")
    ui.line(f"  {a}: {percent(same.share_a)} % right    {b}: {percent(same.share_b)} % right")
    kappa, ac1 = coefficient(same.kappa), coefficient(same.ac1)
    ui.line(f"  agree on {agreed(same)}    Cohen's kappa {kappa}    Gwet's AC1 {ac1}")
    ui.line(f"  both 1: {n11}    both 0: {n00}    only {a}: {n10}    only {b}: {n01}")
    if same.differ:
        first = ", ".join(same.differ[:10])
        ui.line(f"  they differ on {first}{f' and {len(same.differ) - 10} more' if len(same.differ) > 10 else ''}", "dim")


def agreed(same: Agreement) -> str:
    return f"{_shown(same.raw)} %"


def _shown(found: Any) -> str:
    """An estimate of a share, in percent, with its interval."""
    return with_interval(found.value, found.low, found.high)


def _show_people(folder: RunFolder, found: Reliability, heading: str) -> None:
    from rich.table import Table

    from harness.cli import ui
    from harness.shown import plain, plural

    ui.line(heading, "bold")
    over = plural(cluster_of(folder.card().data))
    ui.line(f"{count(found.rows, 'row')} judged by people, {found.several} by several; intervals over {over}")
    table = Table("rater", "rows", "cannot", "right %", "with themselves %", "repeats", box=None, header_style="bold")
    for r in found.raters:
        itself = (_below(_shown(r.itself)), str(r.repeats)) if r.repeats else ("–", "")
        table.add_row(plain(r.name), str(r.n), str(r.cannot or ""), _below(_shown(r.right)), *itself)
    ui.out.print(table)
    rows = [(f"{p.a}, {p.b}", p.found) for p in found.pairs]
    if rows:
        table = Table("raters", "rows", "agree %", "Cohen's kappa", "Gwet's AC1", box=None, header_style="bold")
        for name, same in rows:
            table.add_row(
                plain(name), str(same.n), *map(_below, (_shown(same.raw), coefficient(same.kappa), coefficient(same.ac1)))
            )
        ui.out.print(table)
        ui.line(f"Krippendorff's alpha over all raters: {coefficient(found.alpha)}")
    if found.judges:
        ui.line("Judges against people:")
        table = Table("judge", "rows", "sensitivity %", "specificity %", "agree %", "kappa", box=None, header_style="bold")
        for j in found.judges:
            cells = (_shown(j.sensitivity), _shown(j.specificity), _shown(j.found.raw), coefficient(j.found.kappa))
            table.add_row(plain(j.judge), str(j.found.n), *map(_below, cells))
        ui.out.print(table)
    if found.several and any(p.found.differ for p in found.pairs):
        ui.line(f"one person decides where they differ: harness annotate adjudicate {folder.path} --rater NAME", "dim")


def _below(text: str) -> str:
    """A value with its interval below it: narrower than beside it."""
    return text.replace(" (", "\n(")


def calibrate(
    folders: Folders,
    judge: Annotated[str, typer.Option("--judge", "-j", help="Whose verdicts on all rows: NAME or NAME@VERSION.")],
    human: Annotated[
        str,
        typer.Option("--human", help="human: all raters of `harness annotate`; or verdicts of people in the run, as human:ward."),
    ] = "human",
    drawn_at_random: Annotated[
        bool, typer.Option("--drawn-at-random", help="Say that the rows of --human human:FILE were drawn at random.")
    ] = False,
    json: opt.Json = False,
) -> None:
    """What people would have said of all rows of a run.

    From their verdicts on some rows, drawn at random, and a judge's on every
    row: what the judge gets wrong on the former is taken off its score
    (prediction-powered inference, clustered). Kept in the run's card, and shown
    on the leaderboard.

    harness calibrate runs/tiny/slake-1a2b3c4d --judge bertscore
    """
    from harness.cli import ui
    from judges.human import calibrating

    document = []
    for folder in run_folders(folders):
        name, version = version_of(folder, judge)
        found, record = calibrating.calibrate(folder, name, version, human, drawn_at_random=drawn_at_random)
        calibrating.keep(folder, name, version, record)
        document.append({"run": str(folder.path), "judge": f"{name}@{version}", **record})
        if not json:
            _show_calibration(folder, f"{name}@{version}", found, record)
    if json:
        ui.print_json(document)


def _show_calibration(folder: RunFolder, judge: str, found: Calibration, record: dict[str, Any]) -> None:
    from rich.table import Table

    from harness.cli import ui
    from harness.shown import between, plain

    ui.line(str(folder.path), "bold")
    about = cluster_of(folder.card().data)
    table = Table("", "right %", "95 % interval", "from", box=None, header_style="bold")
    rows = count(found.calibrated.n, "row")
    for name, i, told in (
        ("calibrated", found.calibrated, f"{rows} judged, {found.labels} of them by people"),
        ("people alone", found.people, f"{count(found.people.n, 'row')} on {count(found.people.clusters, about)}"),
        (f"{judge} alone", found.judge, f"{count(found.judge.n, 'row')} on {count(found.judge.clusters, about)}"),
    ):
        table.add_row(plain(name), percent(i.value), between(i.low, i.high), plain(told))
    ui.out.print(table)
    sides = [
        f"{title} {with_interval(i.value, i.low, i.high)} %"
        for title, i in (("sensitivity", found.sensitivity), ("specificity", found.specificity)) if i
    ]  # fmt: skip
    ui.line(f"against people: {', '.join(sides)}; the judge's word counts {found.trust:.2f} (0: not at all, 1: fully)")
    for remark in record["notes"]:
        ui.line(remark, "dim")
