"""The leaderboard in a terminal: models x tasks, then a table for each group of comparable cells.

render(found, Console(), damaged)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leaderboard.claims import Claim
from leaderboard.compare import Comparison, p_value
from leaderboard.overview import Overview
from leaderboard.store import Damaged
from leaderboard.table import Cell, GroupBy, differing, group_of, grouped, labels, note, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


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
        _print(_table(group, top, group_by), console)
    if damaged:
        console.print(_plain("Damaged, and in no table:", "bold red"))
        for d in damaged:
            console.print(_plain(f"  {d.path}\n    {d.reason}", "red"))


def render_overview(view: Overview, console: Console, *, top: int | None = None) -> None:
    """Print models x tasks: each score with half the width of its 95 % interval, and the average over tasks with its interval."""

    room = max(1, (console.width - 34) // 13)  # a wide table goes on below
    for first in range(0, len(view.columns), room):
        columns = range(first, min(first + room, len(view.columns)))
        last = columns.stop == len(view.columns)
        table = _empty("Models x tasks" if first == 0 else "Models x tasks, continued")
        table.caption = _plain(_view_caption(view, top) if last else "", "dim")
        table.add_column("model", overflow="fold")
        for i in columns:
            table.add_column(_plain(f"{view.columns[i].task}\n{view.columns[i].split}, %"), justify="right", no_wrap=True)
        if last:
            table.add_column("average\n%", justify="right", no_wrap=True)
            table.add_column("95 %\ninterval", justify="right", no_wrap=True)
        for row in view.rows[:top]:
            cells = [_plain(_with_error(row.cells[i])) for i in columns]
            if last:
                a = row.average
                cells += [_plain(percent(a.value if a else None), "bold"), _plain(_between(a.low, a.high) if a else "–")]
            table.add_row(_plain(row.model), *cells)
        _print(table, console)


def render_comparisons(found: Sequence[Comparison], console: Console) -> None:
    """Print a table for each task, with a line for each pair of runs."""
    for task in dict.fromkeys(c.task for c in found):
        own = [c for c in found if c.task == task]
        table = _empty(f"{task} · differences in points")
        table.caption = _plain(
            "\n".join([*dict.fromkeys(f"{c.seen()}, judge {c.judge}@{c.judge_version}" for c in own), *_unlike(own), ""]), "dim"
        )
        table.add_column("a against b", overflow="fold")
        for title in ("a\n%", "b\n%", "a - b", "95 %\ninterval", "p by\nHolm", "only\na", "only\nb"):
            table.add_column(title, justify="right", no_wrap=True)
        for c in own:
            style = "bold" if c.real else "dim"
            limits = f"{100 * c.low:+.1f} – {100 * c.high:+.1f}"
            table.add_row(
                *(_plain(text) for text in (f"{c.model_a} against {c.model_b}", percent(c.value_a), percent(c.value_b))),
                *(_plain(text, style) for text in (f"{100 * c.difference:+.1f}", limits, p_value(c.p_holm).lstrip("p= "))),
                *(str(len(c.only_a)), str(len(c.only_b))),
            )
        _print(table, console)
    console.print(_plain(f"Paired row by row, clustered by image; p values by Holm over {len(found)} comparisons.\n", "dim"))


def _unlike(found: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(f"{c.model_a} against {c.model_b}: {c.unlike}" for c in found if c.unlike))


def render_claims(claimed: Sequence[Claim], console: Console) -> None:
    """Print what papers report, a table for each task: numbers without rows, which nothing can be compared with."""
    for task in dict.fromkeys(c.task for c in claimed):
        own = [c for c in claimed if c.task == task]
        table = _empty(f"{task} · published, not measured here")
        for title in ("model", "trainer", "judge", "what"):
            table.add_column(title, overflow="fold")
        for title in ("printed\n%", "95 % by\nn alone", "n"):
            table.add_column(title, justify="right", no_wrap=True)
        for c in own:
            i = c.interval
            what = " ".join(filter(None, (c.slice[1] if c.slice else "", c.metric, f"({c.prompt} prompt)" if c.prompt else "")))
            limits = _between(i.low, i.high) if i else "–"
            cells = (c.model, c.trainer or "–", c.judge or "–", what, f"{c.percent:.2f}", limits, str(c.n or "–"))
            table.add_row(*map(_plain, cells))
        notes = dict.fromkeys(f"n: {c.n_from}" for c in own if c.n_from)
        notes |= dict.fromkeys(f"{c.model}, {c.column}: {c.note}" for c in own if c.note)
        sources = dict.fromkeys(f"{c.source.authors}, {c.source.title}, Table {c.source.table}" for c in own)
        table.caption = _plain("\n".join([*notes, *sources, ""]), "dim")
        _print(table, console)


def _view_caption(view: Overview, top: int | None) -> str:
    lines = [f"judge {view.judge}@{view.judge_version} · prompt {view.prompt} · ± is half the width of the 95 % interval"]
    if top is not None and len(view.rows) > top:
        lines.insert(0, f"{len(view.rows) - top} more: --top 0 shows all")
    if any(c and not c.ranked for row in view.rows[:top] for c in row.cells):
        lines.append("in brackets: not finished, or judged below 98 %")
    return "\n".join([*lines, ""])


def _with_error(cell: Cell | None) -> str:
    if cell is None or cell.value is None or cell.low is None or cell.high is None:
        return "–"
    shown = f"{percent(cell.value)} ±{percent((cell.high - cell.low) / 2)}"
    return shown if cell.ranked else f"({shown})"


def _between(low: float | None, high: float | None) -> str:
    return f"{percent(low)} – {percent(high)}"


def _plain(text: str, style: str = "") -> Text:
    """Text from a run folder, in which nothing is markup or moves the cursor."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text), style=style)


def _print(table: Table, console: Console) -> None:
    """The table, and its caption below it over the whole width: a caption of a narrow table would be folded to its width."""
    caption, table.caption = table.caption, None
    console.print(table)
    if caption:
        console.print(caption)


def _empty(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(
        title=_plain(title, "bold"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _table(group: list[Cell], top: int | None, group_by: GroupBy | None) -> Table:
    """One table. Columns that would say nothing (nobody to rank, all judged, nothing cut off ...) are left out."""
    first, names = group[0], labels(group)
    questions = f" · by {first.slice[0]}" if first.slice else f" · {first.samples} questions"
    table = _empty(f"{first.task} · {first.split}{questions}")
    by_slice: dict[object, list[Cell]] = {}
    for c in group:
        by_slice.setdefault(c.slice, []).append(c)
    shown = [c for cells in by_slice.values() for c in cells[:top]]
    table.caption = _caption(shown, names, len(group) - len(shown))
    extra = {
        "rank": ["" if c.rank is None else "–".join(map(str, dict.fromkeys(c.rank))) for c in shown],
        "judged\n%": [percent(c.coverage) if c.coverage < 1 else "" for c in shown],
        "cut\noff %": [percent(c.truncated) if c.truncated else "" for c in shown],
        "reason-\ning %": [percent(c.reasoning) if c.reasoning is not None else "" for c in shown],
    }
    for name in sorted({name for c in shown for name in c.metrics}):
        extra[name.replace("_", "\n")] = [percent(c.metrics.get(name)) for c in shown]
    extra = {title: column for title, column in extra.items() if any(column)}
    table.add_column("model", overflow="fold")
    table.add_column("trainer", no_wrap=True)
    for title in ("score\n%", "95 %\ninterval", "n", first.clusters_are, *extra):
        table.add_column(title, justify="right", no_wrap=True)
    for i, c in enumerate(shown):
        before, after = (shown[i - 1] if i else None), (shown[i + 1] if i + 1 < len(shown) else None)
        for heading in _headings(c, before, group, group_by):
            table.add_row(_plain(heading, "bold"))
        table.add_row(
            _plain(("  " if c.slice or group_by else "") + names[c.run], "" if c.ranked else "dim"),
            _plain(c.trainer or "–"),
            _plain(percent(c.value), "bold" if c.ranked else "dim"),
            *("–" if c.value is None else _between(c.low, c.high), str(c.n), str(c.clusters)),
            *(column[i] for column in extra.values()),
            end_section=after is None or _section(after, group_by) != _section(c, group_by),
        )
    return table


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
        values = [x.value for x in group if x.value is not None and x.slice == c.slice and group_of(x, group_by) == name]
        out.append(name + (f" · mean of {len(values)}: {percent(sum(values) / len(values))}" if len(values) > 1 else ""))
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
    if any(c.rank for c in shown):
        lines.append("rank: the places a model may hold, given which differences are real (paired, Holm, 5 %)")
    return _plain("\n".join([*lines, f"{judge} · prompt {first.prompt} · {data}", ""]), "dim")
