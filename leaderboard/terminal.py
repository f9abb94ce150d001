"""The leaderboard in a terminal: models x tasks, then a table for each group of comparable cells.

render(found, Console(), damaged)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.shown import asked, between, count, dollars, p_number, percent, plain, plural, points
from leaderboard.cell import RANK_COVERAGE
from leaderboard.claims import Claim
from leaderboard.compare import Comparison
from leaderboard.gains import unseeing
from leaderboard.measured import measured
from leaderboard.overview import Overview
from leaderboard.standings import Standing, Standings, sentences
from leaderboard.stats import Interval
from leaderboard.store import Damaged
from leaderboard.table import Cell, GroupBy, differing, group_of, grouped, heading, labels, note, rank

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

#: Sentences about changes of place that the terminal shows.
_SWAPS = 9


def render(
    found: Sequence[Cell],
    console: Console,
    damaged: Sequence[Damaged] = (),
    *,
    top: int | None = None,
    group_by: GroupBy | None = None,
) -> None:
    """Print a table for each group of comparable cells, the best model first, then the run folders that are damaged.

    `top` shows only the first so many cells of a table (of each slice), and says how many it leaves out.
    """
    for group in grouped(found):
        _print(_table(group, console, top, group_by), console)
    if damaged:
        console.print(plain("Damaged, and in no table:", "bold red"))
        for d in damaged:
            console.print(plain(f"  {d.path}\n    {d.reason}", "red"))


def render_overview(view: Overview, console: Console, *, top: int | None = None) -> None:
    """Print models x tasks: each score with its 95 % interval below, and so the average over tasks."""
    room = max(1, (console.width - 34) // 15)  # a wide table goes on below
    for first in range(0, len(view.columns), room):
        columns = range(first, min(first + room, len(view.columns)))
        last = columns.stop == len(view.columns)
        table = _empty(view.title if first == 0 else f"{view.title}, continued", console)
        table.caption = plain(_view_caption(view, top) if last else "", "dim")
        table.add_column("model", overflow="fold")
        for i in columns:
            table.add_column(plain(f"{view.columns[i].task}\n{view.columns[i].split}, %"), justify="right", no_wrap=True)
        if last:
            table.add_column("average\n%", justify="right", no_wrap=True)
        for row in view.rows[:top]:
            cells = [_two_lines(row.cells[i]) for i in columns]
            if last:
                cells.append(_two_lines(row.average))
            table.add_row(plain(row.model), *cells)
        _print(table, console)


def render_comparisons(found: Sequence[Comparison], console: Console) -> None:
    """Print a table for each task, with a line for each pair of runs."""
    for task in dict.fromkeys(c.task for c in found):
        own = [c for c in found if c.task == task]
        table = _empty(f"{task} · differences in points", console)
        table.caption = plain(
            "\n".join([*dict.fromkeys(f"{c.seen()}, judge {c.judge}@{c.judge_version}" for c in own), *_unlike(own), ""]), "dim"
        )
        table.add_column("a against b", overflow="fold")
        for title in ("a\n%", "b\n%", "a - b", "95 %\ninterval", "p by\nHolm", "only\na", "only\nb"):
            table.add_column(title, justify="right", no_wrap=True)
        for c in own:
            style = "bold" if c.real else "dim"
            limits = f"{points(c.low)} – {points(c.high)}"
            table.add_row(
                *(plain(text) for text in (f"{c.model_a} against {c.model_b}", percent(c.value_a), percent(c.value_b))),
                *(plain(text, style) for text in (points(c.difference), limits, p_number(c.p_holm))),
                *(str(len(c.only_a)), str(len(c.only_b))),
            )
        _print(table, console)
    by = " or ".join(dict.fromkeys(c.clustered_by for c in found))
    console.print(plain(f"Paired row by row, clustered by {by}; p values by Holm over {len(found)} comparisons.\n", "dim"))


def render_standings(table: Standings, console: Console) -> None:
    """Print protocols x models, each score with its 95 % interval below, and whether the order of the models survives."""
    limit = f" (--limit {table.limit})" if table.limit is not None else ""
    title = f"{table.task} · {table.split} · {asked(table.asked, table.repeats)}{limit}"
    room = max(1, (console.width - 34) // 15)  # a wide table goes on below
    for first in range(0, len(table.models), room):
        columns = range(first, min(first + room, len(table.models)))
        last = columns.stop == len(table.models)
        shown = _empty(title if first == 0 else f"{title}, continued", console)
        shown.add_column("protocol", overflow="fold")
        for i in columns:
            shown.add_column(plain(f"{table.models[i]}\n%"), justify="right", overflow="fold")
        ordered = last and any(row.tau is not None for row in table.rows)
        if ordered:
            shown.add_column("Kendall's\ntau", justify="right", no_wrap=True)
        for row in table.rows:
            cells = [_score(row.scores[i], table.models[i] in table.unranked) for i in columns]
            tau = "–" if row.tau is None else f"{row.tau:.2f}"
            shown.add_row(plain(row.protocol), *cells, *([plain(tau)] if ordered else []))
        _print(shown, console)
    told = sentences(table)
    for line in told[:_SWAPS]:
        console.print(plain(line), soft_wrap=True)
    if len(told) > _SWAPS:
        console.print(plain(f"{len(told) - _SWAPS} more changes of place: --json shows all", "dim"), soft_wrap=True)
    notes = ["below each score: its 95 % interval"]
    notes += [f"tau: how far the order is that of {table.rows[0].protocol} (1: the same)"] if len(table.models) > 1 else []
    notes += [f"in brackets: below {percent(RANK_COVERAGE)} % answered, in no order"] if table.unranked else []
    if table.think:
        notes.append("texts hold more than answers, and most protocols read all of it; --judge all/answer reads the answers")
    notes.append(f"prompt {table.prompt} · reader {table.reader} · {count(table.clusters, table.clustered_by)}\n")
    console.print(plain("\n".join(notes), "dim"), soft_wrap=True)


def _score(found: Standing | None, unranked: bool) -> Text:
    if found is None:
        return plain("–")
    value = f"({percent(found.value)})" if unranked else percent(found.value)
    return plain(value, "bold").append(f"\n{between(found.low, found.high)}", "not bold dim")


def _unlike(found: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(f"{c.model_a} against {c.model_b}: {c.unlike}" for c in found if c.unlike))


def render_claims(claimed: Sequence[Claim], console: Console) -> None:
    """Print what papers report, a table for each task: numbers without rows, which nothing can be compared with."""
    for task in dict.fromkeys(c.task for c in claimed):
        own = [c for c in claimed if c.task == task]
        table = _empty(f"{task} · published, not measured here", console)
        for title in ("model", "trainer", "judge", "what"):
            table.add_column(title, overflow="fold")
        for title in ("printed\n%", "95 % by\nn alone", "n"):
            table.add_column(title, justify="right", no_wrap=True)
        for c in own:
            i = c.interval
            what = " ".join(filter(None, (c.slice[1] if c.slice else "", c.metric, f"({c.prompt} prompt)" if c.prompt else "")))
            limits = between(i.low, i.high) if i else "–"
            cells = (c.model, c.trainer or "–", c.judge or "–", what, f"{c.percent:.2f}", limits, str(c.n or "–"))
            table.add_row(*map(plain, cells))
        notes = dict.fromkeys(f"n: {c.n_from}" for c in own if c.n_from)
        notes |= dict.fromkeys(f"{c.model}, {c.column}: {c.note}" for c in own if c.note)
        sources = dict.fromkeys(f"{c.source.authors}, {c.source.title}, Table {c.source.table}" for c in own)
        table.caption = plain("\n".join([*notes, *sources, ""]), "dim")
        _print(table, console)


def _view_caption(view: Overview, top: int | None) -> str:
    lines = ["below each score: its 95 % interval", *view.facts]
    if top is not None and len(view.rows) > top:
        lines.insert(0, f"{len(view.rows) - top} more: --top 0 shows all")
    if any(c and not c.ranked for row in view.rows[:top] for c in row.cells):
        lines.append("in brackets: not finished, or judged below 98 %")
    return "\n".join([*lines, ""])


def _two_lines(what: Cell | Interval | None) -> Text:
    """The value, and its interval below; a cell that is not ranked in brackets."""
    if what is None or what.value is None:
        return plain("–")
    value = percent(what.value)
    shown = value if isinstance(what, Interval) or what.ranked else f"({value})"
    return plain(shown, "bold").append(f"\n{between(what.low, what.high)}", "not bold dim")


def _print(table: Table, console: Console) -> None:
    """The table, and its caption below it over the whole width: a caption of a narrow table would be folded to its width."""
    caption, table.caption = table.caption, None
    console.print(table)
    if caption:
        console.print(caption)


def _empty(title: str, console: Console) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=plain(title, "bold"),
        title_justify="left",
        caption_justify="left",
        box=box.Box(_RULED, ascii=True) if console.options.ascii_only else box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


#: rich's SIMPLE_HEAD for a screen that shows ASCII only.
_RULED = "    \n    \n -- \n    \n    \n    \n    \n    \n"


def _table(group: list[Cell], console: Console, top: int | None, group_by: GroupBy | None) -> Table:
    """One table. Columns that would say nothing (nobody to rank, all judged, nothing cut off ...) are left out."""
    first, names = group[0], labels(group)
    table = _empty(heading(first), console)
    by_slice: dict[object, list[Cell]] = {}
    for c in group:
        by_slice.setdefault(c.slice, []).append(c)
    shown = [c for cells in by_slice.values() for c in cells[:top]]
    table.caption = _caption(shown, names, len(group) - len(shown))
    extra = {
        "rank": [rank(c) for c in shown],
        "judged\n%": [percent(c.coverage) if c.coverage < 1 else "" for c in shown],
        "cut\noff %": [percent(c.truncated) if c.truncated else "" for c in shown],
        "reason-\ning %": [percent(c.reasoning) if c.reasoning is not None else "" for c in shown],
    }
    if any(c.cost is not None for c in shown):
        extra["cost"] = [dollars(c.cost) for c in shown]
    for name in sorted({name for c in shown for name in c.metrics}):
        extra[name.replace("_", "\n").replace(" ", "\n")] = [_below(measured(c, name)) for c in shown]
    extra = {head: column for head, column in extra.items() if any(column)}
    table.add_column("model", overflow="fold", min_width=min(6, max(len(names[c.run]) for c in shown)))
    table.add_column("trainer", no_wrap=True)
    for head in ("score\n%", "95 %\ninterval", "n", plural(first.clustered_by), *extra):
        table.add_column(head, justify="right", no_wrap=True)
    for i, c in enumerate(shown):
        before, after = (shown[i - 1] if i else None), (shown[i + 1] if i + 1 < len(shown) else None)
        for above in _headings(c, before, group, group_by):
            table.add_row(plain(above, "bold"))
        table.add_row(
            plain(("  " if c.slice or group_by else "") + names[c.run], "" if c.ranked else "dim"),
            plain(c.trainer or "–"),
            plain(percent(c.value), "bold" if c.ranked else "dim"),
            *(between(c.low, c.high), str(c.n), str(c.clusters)),
            *(column[i] for column in extra.values()),
            end_section=after is None or _section(after, group_by) != _section(c, group_by),
        )
    return table


def _below(text: str) -> str:
    """A value with its interval on a line of its own: narrower than beside it."""
    return text.replace(" (", "\n").removesuffix(")")


def _section(c: Cell, group_by: GroupBy | None) -> tuple[object, ...]:
    """A line is drawn where this changes."""
    return c.slice, group_of(c, group_by), c.ranked


def _headings(c: Cell, before: Cell | None, group: Sequence[Cell], group_by: GroupBy | None) -> list[str]:
    """What stands above a cell that begins a slice value or a group: a group also says its mean where it has several cells."""
    out = []
    if c.slice and (before is None or before.slice != c.slice):
        out.append(c.slice[1])
    name = group_of(c, group_by)
    if name and (before is None or (before.slice, group_of(before, group_by)) != (c.slice, name)):
        own = [x for x in group if x.ranked and x.slice == c.slice and group_of(x, group_by) == name]
        values = [x.value for x in own if x.value is not None]
        out.append(name + (f" · mean of {len(values)}: {percent(math.fsum(values) / len(values))}" if len(values) > 1 else ""))
    return out


def _caption(shown: Sequence[Cell], names: dict[str, str], left_out: int) -> Text:
    """What a reader must know of single rows, and what all of them have in common."""
    first = shown[0]
    lines = [f"{left_out} more: --top 0 shows all"] if left_out else []
    lines += [] if first.slice else [f"{names[c.run]}: {note(c)}" for c in shown if note(c) and not c.ranked]
    judge = f"judge {first.judge}@{first.judge_version}" if first.judge else "not judged"
    judge += (
        f" ({first.certificate})" if first.certificate else ", untested (harness judges test)" if first.certified is False else ""
    )
    data = f"{first.source} data {first.data_fingerprint[:8]}, {first.resolution}"
    lines += filter(None, [differing(shown)])
    again = "was calibrated before labels, verdicts or answers changed: harness calibrate"
    lines += [f"{names[c.run]}: {again} {c.run} --judge {c.judge}" for c in shown if c.stale_calibration]
    lines += [
        f"{names[c.run]}: its visual gain may be 0, so nothing shows that it used the pictures" for c in shown if unseeing(c)
    ]
    if any(c.rank for c in shown):
        lines.append("rank: the places a model may hold, given which differences are real (paired, Holm, 5 %)")
    return plain("\n".join([*lines, f"{judge} · prompt {first.prompt} · reader {first.reader} · {data}", ""]), "dim")
