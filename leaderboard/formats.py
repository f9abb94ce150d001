"""The leaderboard for other programs and for papers: CSV, Markdown and LaTeX.

CSV has a row a cell with full precision, scores from 0 to 1. Markdown and LaTeX have models x tasks, and then a table for each
group of comparable cells, in percent; LaTeX wants the booktabs package.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.claims import Claim
from leaderboard.overview import Overview
from leaderboard.site.text import visible
from leaderboard.stats import Interval
from leaderboard.table import Cell, differing, grouped, labels, percent

#: A cell's fields in the order of a CSV.
CSV_FIELDS = (
    "task", "split", "slice", "model", "trainer", "base", "judge", "judge_version", "prompt", "value", "low", "high", "method",
    "rank", "n", "clusters", "samples", "coverage", "bound_low", "bound_high", "reasoning", "reasoning_n", "truncated",
    "ranked", "finished", "data_fingerprint", "source", "resolution", "configuration", "created", "run",
)  # fmt: skip


def as_csv(found: Sequence[Cell]) -> str:
    """A row a cell. Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    metrics = sorted({name for c in found for name in c.metrics})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*CSV_FIELDS, *map(_harmless, metrics)])
    for c in found:
        row = dict(c) | {
            "slice": "=".join(c.slice) if c.slice else None,
            "rank": "-".join(map(str, c.rank)) if c.rank else None,
        }
        writer.writerow([_harmless(row[name]) for name in CSV_FIELDS] + [c.metrics.get(name) for name in metrics])
    return out.getvalue()


def _harmless(value: object) -> object:
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else visible(value)


@dataclass(frozen=True)
class Table:
    """A table of text, its first column to the left and the others to the right."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str


def as_markdown(views: Sequence[Overview], found: Sequence[Cell], claimed: Sequence[Claim] = ()) -> str:
    """GitHub's tables."""
    return "\n".join(markdown(t) for t in [*_tables(views, found), *_claimed(claimed)])


def as_latex(views: Sequence[Overview], found: Sequence[Cell], claimed: Sequence[Claim] = ()) -> str:
    """A `table` environment each, with booktabs' rules."""
    return "\n".join(_latex(t) for t in [*_tables(views, found), *_claimed(claimed)])


def _tables(views: Sequence[Overview], found: Sequence[Cell]) -> list[Table]:
    out = []
    for view in views:
        head = ("model", *(f"{c.task} ({c.split})" for c in view.columns), "average")
        rows = [(row.model, *(_score(c) for c in row.cells), _score(row.average)) for row in view.rows]
        note = f"Percent ± half of the 95 % interval. Judge {view.judge}@{view.judge_version}, prompt {view.prompt}."
        out.append(Table("Models x tasks", head, rows, note))
    for group in grouped(found):
        first, names = group[0], labels(group)
        metrics = sorted({name for c in group for name in c.metrics})
        slices = ("slice",) if first.slice else ()
        head = ("model", *slices, "trainer", "score", "95 % interval", "n", "images", "coverage", "rank", *metrics)
        rows = [
            (
                names[c.run],
                *((c.slice[1],) if c.slice else ()),
                c.trainer or "–",
                percent(c.value),
                "–" if c.low is None else f"{percent(c.low)} – {percent(c.high)}",
                *(str(c.n), str(c.clusters), percent(c.coverage)),
                "–".join(map(str, dict.fromkeys(c.rank))) if c.rank else "–",
                *(percent(c.metrics.get(name)) for name in metrics),
            )
            for c in group
        ]
        judge = f"judge {first.judge}@{first.judge_version}" if first.judge else "not judged"
        note = f"{judge}, prompt {first.prompt}, {first.source} data {first.data_fingerprint[:8]}, {first.resolution}."
        note += f" {differing(group).capitalize()}." if differing(group) else ""
        by = f", by {first.slice[0]}" if first.slice else ""
        out.append(Table(f"{first.task} ({first.split}){by}", head, rows, note[:1].upper() + note[1:]))
    return out


def _claimed(claimed: Sequence[Claim]) -> list[Table]:
    out = []
    for task in dict.fromkeys(c.task for c in claimed):
        own = [c for c in claimed if c.task == task]
        head = ("model", "trainer", "judge", "prompt", "slice", "metric", "printed", "95 % by n alone", "n", "source")
        rows = [
            (
                *(c.model, c.trainer or "–", c.judge or "–", c.prompt or "–", c.slice[1] if c.slice else "–", c.metric),
                f"{c.percent:.2f}",
                f"{percent(c.interval.low)} – {percent(c.interval.high)}" if c.interval else "–",
                *(str(c.n or "–"), f"Table {c.source.table}"),
            )
            for c in own
        ]
        sources = dict.fromkeys(f"{c.source.authors}, {c.source.title}." for c in own)
        note = " ".join([*sources, *dict.fromkeys(f"n: {c.n_from}." for c in own if c.n_from)])
        out.append(Table(f"{task}, published", head, rows, note))
    return out


def _score(what: Cell | Interval | None) -> str:
    if what is None or what.value is None or what.low is None or what.high is None:
        return "–"
    return f"{percent(what.value)} ± {percent((what.high - what.low) / 2)}"


def markdown(t: Table) -> str:
    """The table under its title, its note below."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_escaped(c, r"\`*_{}[]<>|#~$&") for c in cells) + " |"

    rule = "|---|" + "---:|" * (len(t.head) - 1)
    title, note = (_escaped(text, r"\`*_[]<>|#~$&") for text in (t.title, t.note))
    return "\n".join([f"### {title}", "", line(t.head), rule, *(line(r) for r in t.rows), "", note, ""])


def _escaped(text: str, special: str) -> str:
    """On one line, every special character as itself."""
    return "".join(f"\\{c}" if c in special else c for c in visible(" ".join(text.split())))


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
    "[": "{[}", "]": "{]}",  # after \\ a [ would begin its optional argument
    "<": r"\textless{}", ">": r"\textgreater{}", **{c: f"\\{c}" for c in "&%$#_{}"},
}  # fmt: skip


def _latex(t: Table) -> str:
    def text(words: str) -> str:
        return "".join(_LATEX.get(c, c) for c in visible(" ".join(words.split())))

    def line(cells: Sequence[str]) -> str:
        return " & ".join(text(c) for c in cells) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{text(t.title)}. {text(t.note)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(t.head) - 1)}}}",
            *(r"\toprule", line(t.head), r"\midrule", *(line(r) for r in t.rows), r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
