"""One self-contained HTML file to send to a colleague: summary, a forest plot for each task, slices, sample predictions.

No network and no script: styles are inline and allowed by their hash, images are data: URIs, and everything that comes from
a run folder (questions, model output, names) is text, escaped, with control and direction characters made visible.

    found, damaged = cells([Path("runs")])
    by_modality, _ = cells([Path("runs")], slice_by="modality")
    write_report(Path("report.html"), title="...", summary=["..."], groups=make_groups(found, by_modality), examples=[])
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from harness.records import BadImageError, ImageRef
from harness.runs import write_atomic
from leaderboard.stats import MIN_CLUSTERS, MIN_MIXED
from leaderboard.store import Damaged
from leaderboard.table import RANK_COVERAGE, Cell, grouped, labels, note, percent

if TYPE_CHECKING:
    from jinja2 import Environment

#: Images are re-encoded at most this many pixels wide and high; this also drops whatever else the file said of the patient.
IMAGE_SIDE = 448


@dataclass(frozen=True)
class Group:
    """Cells that may stand in one table (leaderboard.table.grouped), and their slices: cells with a `slice`."""

    title: str
    cells: Sequence[Cell]
    slices: Sequence[Cell] = ()


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and the verdict on it: 1, 0, or None with the reason why there is none."""

    model: str
    text: str
    verdict: int | None
    missing: str | None = None


@dataclass(frozen=True)
class Example:
    """A question with its reference and what each model made of it. `caption` says why it is shown, if anything."""

    question: str
    reference: str
    answers: Sequence[Answer]
    image: ImageRef | None = None
    caption: str = ""


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of a forest plot, from `low` to `high` in percent."""

    low: int
    high: int
    ticks: tuple[int, ...]

    @classmethod
    def over(cls, group: Iterable[Cell]) -> Axis:
        """The shortest axis with at most six round ticks that holds every limit and bound."""
        shown = [x for c in group for x in (c.low, c.high) if x is not None]
        shown += [x for c in group if c.value is not None and c.predicted == c.samples for x in (c.bound_low, c.bound_high)]
        least, most = (round(100 * x, 6) for x in (min(shown, default=0.0), max(shown, default=1.0)))
        for step in (5, 10, 20, 25):
            low, high = int(least // step) * step, min(100, -int(-most // step) * step)
            if high - low <= 5 * step:
                break
        if low == high:
            low, high = (low, high + step) if low == 0 else (low - step, high)
        return cls(low, high, tuple(range(low, high + 1, step)))

    def at(self, share: float) -> str:
        """Where a share lies, as an SVG length."""
        return f"{100 * (100 * share - self.low) / (self.high - self.low):.2f}%"


@dataclass(frozen=True)
class SliceTable:
    """One slice of one group: a row a value, a column a run; None where a run has no row of that value."""

    name: str
    runs: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


def make_groups(found: Iterable[Cell], *slices: Iterable[Cell]) -> list[Group]:
    """A group for each table that `found` makes, with the sliced cells that belong to it."""
    sliced = [c for cells in slices for c in cells]
    groups = []
    for group in grouped(found):
        runs, judge = {c.run for c in group}, (group[0].judge, group[0].judge_version)
        own = [c for c in sliced if c.run in runs and (c.judge, c.judge_version) == judge]
        groups.append(Group(f"{group[0].task} · {group[0].split}", group, own))
    return groups


def write_report(
    path: Path,
    *,
    title: str,
    summary: Sequence[str],
    groups: Sequence[Group],
    examples: Sequence[Example] = (),
    damaged: Sequence[Damaged] = (),
) -> None:
    """Write the report to `path`. `summary` is the findings in plain sentences. The same input gives the same bytes."""
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            summary=summary,
            groups=[(g, labels(g.cells), Axis.over(g.cells), slice_tables(g)) for g in groups],
            examples=[(e, _data_uri(e.image)) for e in examples],
            damaged=damaged,
            whole=Axis(0, 100, ()),
            rank_coverage=RANK_COVERAGE,
            min_clusters=MIN_CLUSTERS,
            min_mixed=MIN_MIXED,
        )
    )
    write_atomic(path, html)


def slice_tables(group: Group) -> list[SliceTable]:
    """The group's slices by name, columns in the order of its own table."""
    runs = tuple(c.run for c in group.cells)
    tables: dict[str, dict[str, dict[str, Cell]]] = {}
    for c in group.slices:
        if c.slice:
            tables.setdefault(c.slice[0], {}).setdefault(c.slice[1], {})[c.run] = c
    return [
        SliceTable(name, runs, tuple((value, tuple(by_run.get(run) for run in runs)) for value, by_run in sorted(values.items())))
        for name, values in tables.items()
    ]


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"percent": percent, "note": note, "csp_hash": _csp_hash, "thoughts": thoughts}
    return env


def _csp_hash(style: str) -> Markup:
    """The source expression that allows exactly this inline style sheet."""
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'")


def visible(value: Any) -> Any:
    """Text in which nothing can hide: control, direction and other invisible characters become their code, as in <U+202E>.

    >>> visible("left\\u202eright")
    'left<U+202E>right'
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(f"<U+{ord(c):04X}>" if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t" else c for c in value)


def thoughts(text: str) -> list[tuple[bool, str]]:
    """The text in pieces, each with whether it is inside <think> (the tags included, which stay visible).

    >>> thoughts("<think>CT?</think>yes")
    [(True, '<think>CT?</think>'), (False, 'yes')]
    """
    pieces = re.split(r"(<think>.*?(?:</think>|\Z))", text, flags=re.DOTALL | re.IGNORECASE)
    return [(i % 2 == 1, piece) for i, piece in enumerate(pieces) if piece]


def _data_uri(image: ImageRef | None) -> str | None:
    """A small JPEG as a data: URI; None where there is no image or it cannot be read."""
    if image is None:
        return None
    try:
        picture = image.open()
    except BadImageError:
        return None
    picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
