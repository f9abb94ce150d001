"""Plots by the names that pages give them: KIND~TABLE, heat~TABLE~SLICE, curves~CHECKPOINT; `.dark` after it for the dark one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from leaderboard import plots
from leaderboard.plots import Agreement, Theme
from leaderboard.share import Share
from leaderboard.site import training
from leaderboard.site.judges import agreements
from leaderboard.site.layout import slice_tables
from leaderboard.site.library import Shelf, Table
from leaderboard.site.text import spaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What a score takes, and the label of its axis.
SPENT = {"seconds": "seconds to answer", "cost": "cost in US dollars"}


class NoPlotError(Exception):
    """There is no plot of that name."""


def spent(shown: Table, kind: str) -> dict[str, float]:
    """Seconds or cost by run, of those runs that know it."""
    known = {cell.run: cell.seconds if kind == "seconds" else cell.cost for cell in shown.cells}
    return {run: value for run, value in known.items() if isinstance(value, float) and value > 0}


def names(shelf: Shelf, slice_keys: dict[str, str]) -> Iterator[str]:
    """Every plot that there is something to draw for."""
    for shown in shelf.tables.values():
        yield f"forest~{shown.id}"
        own = shelf.slice_names.get(shown.first.data_fingerprint, [])
        yield from (f"heat~{shown.id}~{key}" for key, name in slice_keys.items() if name in own)
        yield from (f"{kind}~{shown.id}" for kind in SPENT if len(spent(shown, kind)) > 1)
        if agreements(shelf, shown):
            yield f"judges~{shown.id}"
    for name, path in shelf.trainings.items():
        if training.read(path).curves:
            yield f"curves~{name}"


def draw(shelf: Shelf, slice_keys: dict[str, str], file: str) -> bytes:
    """The file NAME.svg, NAME.dark.svg, NAME.png or NAME.dark.png. Raises NoPlotError."""
    name, _, kind = file.rpartition(".")
    if kind not in ("png", "svg"):
        raise NoPlotError(file)
    theme: Theme = "dark" if name.endswith(".dark") else "light"
    return plots.encode(figure(shelf, slice_keys, name.removesuffix(".dark"), theme), "png" if kind == "png" else "svg")


def figure(shelf: Shelf, slice_keys: dict[str, str], name: str, theme: Theme, share: Share | None = None) -> Figure:
    """Names in it as `share` says them. Raises NoPlotError."""
    label: Callable[[str], str] = share.label if share else str
    what, _, rest = name.partition("~")
    table, _, slice_key = rest.partition("~")
    if what == "curves" and rest in shelf.trainings:
        return plots.curves(training.read(shelf.trainings[rest]).curves, theme)
    if table not in shelf.tables:
        raise NoPlotError(name)
    shown = shelf.tables[table]
    cells = [share.cell(c) for c in shown.cells] if share else shown.cells
    named = {run: label(model) for run, model in shown.names.items()}
    if what == "forest":
        return plots.forest(cells, named, theme)
    if what in SPENT:
        return plots.scatter(cells, named, spent(shown, what), SPENT[what], theme)
    if what == "judges":
        found = agreements(shelf, shown)
        return plots.agreement([Agreement(label(a.first), label(a.second), label(a.model), a.found) for a in found], theme)
    if what == "heat" and slice_key in slice_keys:
        for sliced in slice_tables(shown.cells, shelf.slices_of(shown, slice_keys[slice_key])):
            models, by = [named[run] for run in sliced.runs], spaced(sliced.name)
            rows = [(label(value), row) for value, row in sliced.rows]
            return plots.heat(sliced.name, rows, models, theme, title=label(f"{shown.title}, % right by {by}"))
    raise NoPlotError(name)
