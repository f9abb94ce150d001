"""The leaderboard as one HTML file to send to a colleague: findings, intervals drawn, slices, rows on which models differ.

No network and no script: styles are inline and allowed by their hash, images are data: URIs.

    write(Path("summary.html"), Shelf([Path("runs")]), Pictures(), title="...", findings=["..."])
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.records import BadImageError
from harness.runs import write_atomic
from leaderboard.browse import Filter, Row
from leaderboard.compare import compare
from leaderboard.share import Share
from leaderboard.site import rows
from leaderboard.site.layout import Axis, SliceTable, slice_tables
from leaderboard.site.library import Run, Shelf, Table
from leaderboard.site.pages import HERE, render, told_apart
from leaderboard.site.pictures import NoPictureError, Pictures, encode_small

#: Rows shown as examples, and models whose answers stand under each.
EXAMPLES, MODELS = 8, 6
#: Slices with more values than this are left to the full report.
VALUES = 12


def write(
    path: Path,
    shelf: Shelf,
    pictures: Pictures,
    *,
    title: str = "Leaderboard",
    findings: Sequence[str] = (),
    share: Share | None = None,
) -> None:
    """Write the summary to `path`. `findings` are plain sentences; by default the best two models of each table compared.
    With a `share` nothing is said of paths, addresses and the names of files.

    The same input gives the same bytes.
    """
    style = (HERE / "static" / "site.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    tables = list(shelf.tables.values())
    html = render(
        "summary", share,
        title=title,
        style=style,
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        findings=list(findings) or _findings(shelf, tables),
        tables=[(t, Axis.over(t.cells), _slices(shelf, t)) for t in tables],
        examples=_examples(shelf, pictures, tables),
        shelf=shelf,
    )  # fmt: skip
    write_atomic(path, html)


def _findings(shelf: Shelf, tables: Sequence[Table]) -> list[str]:
    """For each table, whether its first model is really ahead of the second."""
    said = []
    for t in tables:
        ranked = [c for c in t.cells if c.ranked]
        if len(ranked) > 1 and t.first.judge and t.first.judge_version:
            try:
                found = compare(Path(ranked[0].run), Path(ranked[1].run), t.first.judge, t.first.judge_version)
            except UserError:  # a run that is being written meanwhile
                continue
            said.append(found.sentence())
    return said


def _slices(shelf: Shelf, shown: Table) -> list[SliceTable]:
    names = shelf.slice_names.get(shown.first.data_fingerprint, [])
    found = [t for name in names for t in slice_tables(shown.cells, shelf.slices_of(shown, name))]
    return [t for t in found if len(t.rows) <= VALUES]


class Example:
    """A row, what each model made of it, and its picture as a data: URI where there is one."""

    def __init__(self, run: Run, row: Row, answers: list[rows.Answered], picture: str | None) -> None:
        self.run, self.row, self.answers, self.picture = run, row, answers, picture
        self.names = told_apart(*(a.run for a in answers))


def _examples(shelf: Shelf, pictures: Pictures, tables: Sequence[Table]) -> list[Example]:
    """Rows of the first table with several models on which these differ most, one an image."""
    shown = next((t for t in tables if len(t.cells) > 1 and t.judge), None)
    runs = [shelf.of(c) for c in shown.cells[:MODELS]] if shown else []
    if shown is None or len(runs) < 2:
        return []
    judge = shown.judge
    differ: dict[str, Row] = {}
    for other in runs[1:]:
        found = shelf.browser.page(Filter(run=runs[0].path, flips=other.path, judge=judge), 0, 200)
        for row in found.rows:
            differ.setdefault(row.cluster, row)
    out = []
    for row in list(differ.values())[:EXAMPLES]:
        answers = rows.answers(shelf.browser.samples, runs, row.id, judge)
        out.append(Example(runs[0], row, answers, _data_uri(pictures, runs[0], row)))
    return out


def _data_uri(pictures: Pictures, run: Run, row: Row) -> str | None:
    try:
        content = encode_small(pictures.find(run.card, row)[0])
    except (NoPictureError, BadImageError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
