"""Cells laid out: the axis on which intervals are drawn, and slices as a table of values by runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leaderboard.table import Cell


@dataclass(frozen=True)
class Axis:
    """A horizontal axis in percent, from `low` to `high`."""

    low: int
    high: int
    ticks: tuple[int, ...]

    @classmethod
    def over(cls, cells: Iterable[Cell]) -> Axis:
        """The shortest axis within 0 to 100 with at most six round ticks that holds every limit and bound."""
        cells = list(cells)
        shown = [x for c in cells for x in (c.low, c.high) if x is not None]
        shown += [x for c in cells if c.value is not None and c.predicted == c.samples for x in (c.bound_low, c.bound_high)]
        return cls._round(min(shown, default=0.0), max(shown, default=1.0), most=100)

    @classmethod
    def around_zero(cls, low: float, high: float) -> Axis:
        """An axis for a difference of shares, with zero on it."""
        return cls._round(min(low, 0.0), max(high, 0.0), most=200)

    @classmethod
    def _round(cls, least: float, largest: float, most: int) -> Axis:
        first, last = round(100 * least, 6), round(100 * largest, 6)
        for step in (5, 10, 20, 25, 50):
            low, high = int(first // step) * step, min(most, int(-(-last // step)) * step)
            if high - low <= 5 * step:
                break
        if low == high:
            low, high = (low, high + step) if low == 0 else (low - step, high)
        return cls(low, high, tuple(range(low, high + 1, step)))

    def at(self, share: float) -> str:
        """Where a share lies, as an SVG length."""
        return f"{100 * (100 * share - self.low) / (self.high - self.low):.2f}%"


#: From 0 to 100 %.
WHOLE = Axis(0, 100, (0, 25, 50, 75, 100))


@dataclass(frozen=True)
class SliceTable:
    """One slice of one table: a row a value, a column a run; None where a run has no row of that value."""

    name: str
    runs: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


def slice_tables(cells: Sequence[Cell], sliced: Iterable[Cell]) -> list[SliceTable]:
    """The slices by name, columns in the order of the table's cells; those without such slices have none."""
    sliced = list(sliced)
    have = {c.run for c in sliced}
    runs = tuple(c.run for c in cells if c.run in have)
    tables: dict[str, dict[str, dict[str, Cell]]] = {}
    for c in sliced:
        if c.slice:
            tables.setdefault(c.slice[0], {}).setdefault(c.slice[1], {})[c.run] = c
    return [
        SliceTable(name, runs, tuple((value, tuple(by_run.get(run) for run in runs)) for value, by_run in sorted(values.items())))
        for name, values in tables.items()
    ]
