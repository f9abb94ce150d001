"""The leaderboard for other programs and for papers: CSV, Markdown and LaTeX.

CSV has a row a cell with full precision, scores from 0 to 1. Markdown and LaTeX have models x tasks, and then a table for each
group of comparable cells, in percent; LaTeX wants the booktabs package.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from harness.shown import between, percent, plural, with_interval
from leaderboard.claims import Claim
from leaderboard.measured import measured
from leaderboard.overview import Overview
from leaderboard.site.text import visible
from leaderboard.stats import Interval
from leaderboard.table import Cell, differing, grouped, heading, labels, rank

#: A cell's fields in the order of a CSV.
CSV_FIELDS = (
    "task", "split", "slice", "model", "trainer", "base", "judge", "judge_version", "prompt", "value", "low", "high", "method",
    "rank", "n", "clusters", "clustered_by", "samples", "repeats", "limit", "coverage", "bound_low", "bound_high", "reasoning",
    "reasoning_n", "truncated", "seconds", "cost", "judge_seconds", "judge_cost", "ranked", "finished", "data_fingerprint",
    "source", "resolution", "reader", "configuration", "created", "run",
)  # fmt: skip


def as_csv(found: Sequence[Cell]) -> str:
    """A row a cell. Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    metrics = sorted({name for c in found for name in c.metrics})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    limited = sorted({name for c in found for name in c.metric_limits})
    limits = [(name, end) for name in limited for end in ("low", "high")]
    writer.writerow([*CSV_FIELDS, *map(_harmless, metrics), *(_harmless(f"{name}_{end}") for name, end in limits)])
    for c in found:
        row = dict(c) | {
            "slice": "=".join(c.slice) if c.slice else None,
            "rank": "-".join(map(str, c.rank)) if c.rank else None,
        }
        measures = [c.metrics.get(name) for name in metrics]
        measures += [c.metric_limits.get(name, (None, None))[end == "high"] for name, end in limits]
        writer.writerow([_harmless(row[name]) for name in CSV_FIELDS] + measures)
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
        note = ". ".join(["Percent, 95 % interval", *view.facts])
        out.append(Table(view.title, head, rows, f"{note}."))
    for group in grouped(found):
        first, names = group[0], labels(group)
        metrics = sorted({name for c in group for name in c.metrics})
        slices = ("slice",) if first.slice else ()
        clusters = plural(first.clustered_by)
        head = ("model", *slices, "trainer", "score", "95 % interval", "n", clusters, "coverage", "rank", *metrics)
        rows = [
            (
                names[c.run],
                *((c.slice[1],) if c.slice else ()),
                c.trainer or "–",
                percent(c.value),
                between(c.low, c.high),
                *(str(c.n), str(c.clusters), percent(c.coverage)),
                rank(c) or "–",
                *(measured(c, name) for name in metrics),
            )
            for c in group
        ]
        judge = f"judge {first.judge}@{first.judge_version}" if first.judge else "not judged"
        data = f"{first.source} data {first.data_fingerprint[:8]}, {first.resolution}"
        note = f"{judge}, prompt {first.prompt}, reader {first.reader}, {data}."
        note += f" {differing(group).capitalize()}." if differing(group) else ""
        out.append(Table(heading(first), head, rows, note[:1].upper() + note[1:]))
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
                between(c.interval.low, c.interval.high) if c.interval else "–",
                *(str(c.n or "–"), f"Table {c.source.table}"),
            )
            for c in own
        ]
        sources = dict.fromkeys(f"{c.source.authors}, {c.source.title}." for c in own)
        note = " ".join([*sources, *dict.fromkeys(f"n: {c.n_from}." for c in own if c.n_from)])
        out.append(Table(f"{task}, published", head, rows, note))
    return out


def _score(what: Cell | Interval | None) -> str:
    """With the interval; of a cell also whether it counts."""
    if what is None:
        return "–"
    aside = "" if isinstance(what, Interval) or what.ranked or what.value is None else ", not ranked"
    return with_interval(what.value, what.low, what.high) + aside


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
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
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
