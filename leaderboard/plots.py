"""Pictures of the leaderboard's numbers, drawn with matplotlib in one style, light or dark, as PNG or SVG.

    forest     each model's score with its 95 % interval
    heat       slices by model
    agreement  how often two judges, or a judge and a human, say the same
    curves     what a training logged over its steps
    scatter    score against seconds or cost

Each gives a Figure; `encode` turns it into bytes that are the same whenever the numbers are.

    figure = forest(cells, labels(cells))
    Path("forest.svg").write_bytes(encode(figure, "svg"))
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.shown import between, percent
from leaderboard.site.text import visible
from leaderboard.stats import Floats, Interval
from leaderboard.table import Cell, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    import judges.agreement

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Colours:
    """Those of the pages (leaderboard/site/static/site.css)."""

    ground: str
    ink: str
    soft: str
    grid: str
    accent: str
    series: tuple[str, ...]
    heat: tuple[str, str]


#: The series are told apart by people who see colours differently as well: Okabe & Ito's, darkened or lightened for contrast.
COLOURS: dict[Theme, Colours] = {
    "light": Colours("#ffffff", "#1b2227", "#56616b", "#eae7df", "#0b6363",
                     ("#0b6363", "#b04a12", "#1f5fa8", "#8a5a94", "#7a5200", "#56616b"), ("#f7f6f2", "#7abdb6")),
    "dark": Colours("#181e22", "#e7eaec", "#a3aeb7", "#262f34", "#62cbc2",
                    ("#62cbc2", "#f0965a", "#7db4f0", "#d3a4dc", "#e9c46a", "#a3aeb7"), ("#1c2327", "#085a5a")),
}  # fmt: skip

#: Inches and dots an inch; a PNG is drawn finer, for slides and print.
WIDTH = 7.6
PNG_DPI = 200
#: matplotlib's settings are global, so one picture is drawn at a time.
_LOCK = threading.Lock()


@contextmanager
def _drawing(theme: Theme) -> Iterator[Colours]:
    """The style, for as long as artists are made."""
    import matplotlib

    c = COLOURS[theme]
    style = {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
        "font.size": 9,
        "text.parse_math": False,  # a model may be called $x$
        "text.color": c.ink,
        "figure.facecolor": c.ground,
        "axes.facecolor": c.ground,
        "axes.edgecolor": c.grid,
        "axes.labelcolor": c.soft,
        "axes.titlecolor": c.ink,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": c.grid,
        "grid.linewidth": 0.8,
        "xtick.color": c.soft,
        "ytick.color": c.soft,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
    }
    with _LOCK, matplotlib.rc_context(style):
        yield c


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.09))


def encode(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The picture's file. Equal numbers give equal bytes: no date, no random ids."""
    import warnings

    import matplotlib

    out = io.BytesIO()
    with _LOCK, matplotlib.rc_context({"svg.hashsalt": "harness", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=PNG_DPI, metadata=metadata)
    return out.getvalue()


def _short(name: str, most: int = 34) -> str:
    """For a label: in one line, nothing hidden in it, not too long."""
    name = " ".join(str(visible(name)).split())
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _percent_axis(axes: Axes, *, x: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if x else axes.yaxis
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}"))


#: A forest with more rows than this shows the best ones.
MOST_ROWS = 60


def forest(cells: Sequence[Cell], names: Mapping[str, str], theme: Theme = "light") -> Figure:
    """Each model's score with its 95 % interval, the order kept, the first on top. Hollow and grey: not ranked.

    A dotted line shows where the score could lie if all missing verdicts were wrong, or all right.
    """
    scored = [c for c in cells if c.value is not None]
    shown = scored[:MOST_ROWS]
    rows = []
    for c in shown:
        interval = Interval(c.value or 0.0, c.low or 0.0, c.high or 0.0, c.n, c.clusters, c.method or "")
        bounds = (c.bound_low, c.bound_high) if c.missing and c.predicted == c.samples else None
        rows.append(_Row(_short(names[c.run]), interval, c.ranked, bounds))
    first = cells[0]
    judge = f"judge {first.judge}@{first.judge_version}" if first.judge else "not judged"
    title = f"{heading(first)}, {judge}, prompt {first.prompt}"
    left_out = f", the best {len(shown)} of {len(scored)}" if len(shown) < len(scored) else ""
    return _intervals(rows, title, f"% right, 95 % interval{left_out}", theme)


@dataclass(frozen=True)
class Agreement:
    """Two judges, the model whose answers both judged, and how far they agree."""

    first: str
    second: str
    model: str
    found: judges.agreement.Agreement


def agreement(found: Sequence[Agreement], theme: Theme = "light") -> Figure:
    """How often each pair of judges gives the same verdict, with its 95 % interval and kappa."""
    rows = []
    for a in found:
        raw, kappa = a.found.raw, a.found.kappa.value
        share = Interval(raw.value or 0.0, raw.low or 0.0, raw.high or 0.0, a.found.n, a.found.clusters, "")
        said = "" if kappa is None else f"κ {kappa:.3f}"
        rows.append(_Row(_short(f"{a.first} / {a.second} · {a.model}", 48), share, True, None, said))
    return _intervals(rows, "Judges against each other", "% of answers with the same verdict, 95 % interval", theme)


@dataclass(frozen=True)
class _Row:
    label: str
    interval: Interval
    filled: bool
    bounds: tuple[float, float] | None
    extra: str = ""


def _intervals(rows: Sequence[_Row], title: str, label: str, theme: Theme) -> Figure:
    with _drawing(theme) as c:
        figure = _figure(WIDTH, 0.95 + 0.3 * max(1, len(rows)))
        axes = figure.subplots()
        for y, row in enumerate(rows):
            i = row.interval
            if row.bounds:
                axes.hlines(y + 0.22, *row.bounds, color=c.soft, lw=1.1, ls=(0, (1, 2)))
            axes.errorbar(
                i.value, y, xerr=[[i.value - i.low], [i.high - i.value]], color=c.accent, lw=1.8, capsize=3, capthick=1.8
            )
            axes.plot(i.value, y, "o", ms=6.5, mfc=c.accent if row.filled else c.ground, mec=c.accent, mew=1.5, zorder=3)
            said = f"{percent(i.value)}   {between(i.low, i.high)}" + (f"   {row.extra}" if row.extra else "")
            axes.annotate(said, (1.02, y), xycoords=("axes fraction", "data"), va="center", color=c.ink if row.filled else c.soft)
        axes.set_yticks(range(len(rows)), [row.label for row in rows], color=c.ink)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_title(_short(title, 90), pad=8)
        axes.set_xlabel(label)
        _percent_axis(axes, x=True)
    return figure


def heat(
    name: str, values: Sequence[tuple[str, Sequence[Cell | None]]], models: Sequence[str], theme: Theme = "light", title: str = ""
) -> Figure:
    """Slices by model: a row a value of slice `name` (with a cell, or None, a model), the darker the higher the score."""
    from matplotlib.colors import LinearSegmentedColormap

    scores = np.array([[np.nan if c is None or c.value is None else c.value for c in row] for _, row in values])
    with _drawing(theme) as c:
        figure = _figure(max(4.2, 2.2 + 1.25 * len(models)), 1.0 + 0.42 * len(values))
        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("score", c.heat).with_extremes(bad=c.ground)
        axes.imshow(scores, cmap=colours, vmin=0, vmax=1, aspect="auto")
        for y, (_, row) in enumerate(values):
            for x, cell in enumerate(row):
                if cell is not None and cell.value is not None and cell.low is not None and cell.high is not None:
                    style = "normal" if cell.ranked else "italic"
                    axes.text(x, y - 0.12, percent(cell.value), ha="center", va="center", weight="bold", style=style)
                    axes.text(x, y + 0.24, between(cell.low, cell.high), ha="center", va="center", size=6.5, style=style)
        axes.set_xticks(range(len(models)), [_short(m, 16) for m in models], color=c.ink)
        axes.set_yticks(range(len(values)), [_labelled(value, row) for value, row in values], color=c.ink)
        axes.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False)
        axes.set_xticks(np.arange(len(models) - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(len(values) - 1) + 0.5, minor=True)
        axes.grid(visible=False)
        axes.grid(which="minor", color=c.ground, lw=3)
        axes.tick_params(which="minor", size=0)
        axes.spines[:].set_visible(False)
        axes.set_title(_short(title or f"% right by {name.replace('_', ' ')}, 95 % interval", 64), pad=10)
    return figure


def _labelled(value: str, row: Sequence[Cell | None]) -> str:
    return f"{_short(value, 24)}  n {max((c.samples for c in row if c), default=0)}"


#: What a training may log, in the order of its panels: a title, and the metrics that it shows ("rewards/*/mean": each part).
PANELS = (
    ("Reward", ("reward",)),
    ("Reward by part", ("rewards/*/mean",)),
    ("Score on held-out rows", ("dev score",)),
    ("Loss", ("loss",)),
    ("KL to the reference model", ("kl",)),
    ("Completion length, tokens", ("completions/mean_length",)),
    ("Entropy", ("entropy",)),
    ("Token accuracy", ("mean_token_accuracy",)),
    ("Gradient norm", ("grad_norm",)),
)

Points = Sequence[tuple[int, float]]


def panels(curves: Mapping[str, Points]) -> list[tuple[str, dict[str, Points]]]:
    """The panels that these curves fill: title -> label -> points."""
    out = []
    for title, names in PANELS:
        shown: dict[str, Points] = {}
        for name in names:
            start, star, end = name.partition("*")
            for key, points in curves.items():
                if star and key.startswith(start) and key.endswith(end):
                    shown[key.removeprefix(start).removesuffix(end)] = points
                elif key == name:
                    shown[key] = points
        if shown:
            out.append((title, shown))
    return out


def curves(logged: Mapping[str, Points], theme: Theme = "light") -> Figure:
    """A panel for each thing that was logged, over optimizer steps: each step thin, their running mean thick."""
    shown = panels(logged)
    rows = -(-len(shown) // 2)
    with _drawing(theme) as c:
        figure = _figure(WIDTH, 0.25 + 1.75 * max(1, rows))
        grid = figure.subplots(max(1, rows), 2, squeeze=False)
        for axes, (title, lines) in zip(grid.flat, shown, strict=False):
            ends = []
            for colour, points in zip(c.series * -(-len(lines) // len(c.series)), lines.values(), strict=False):
                steps, values = np.array([p[0] for p in points]), np.array([p[1] for p in points])
                window = max(1, len(values) // 12)
                rough = {"lw": 0.7, "alpha": 0.45} if window > 1 else {"lw": 1.7, "marker": "o", "ms": 3}
                smooth = _running_mean(values, window)
                axes.plot(steps, values, color=colour, **rough)
                if window > 1:
                    axes.plot(steps, smooth, color=colour, lw=1.8)
                ends.append((float(smooth[-1]), colour))
            if len(lines) > 1:
                for label, (_, colour), y in zip(lines, ends, _apart(axes, [end for end, _ in ends], 0.13), strict=True):
                    axes.annotate(_short(label, 16), (1.01, y), xycoords="axes fraction", va="center", size=7.5, color=colour)
            axes.set_title(title)
            axes.margins(x=0.01)
        for axes in list(grid.flat)[len(shown) :]:
            axes.set_visible(False)
        figure.supxlabel("step", fontsize=9, color=c.soft)
    return figure


def _apart(axes: Axes, values: Sequence[float], gap: float) -> list[float]:
    """Heights for labels at these values, as fractions of the axes, moved so that none is closer than `gap` to the next."""
    low, high = axes.get_ylim()
    wanted = [(v - low) / (high - low) for v in values]
    placed = dict.fromkeys(range(len(values)), 0.0)
    last = -gap
    for i in sorted(placed, key=lambda i: wanted[i]):
        last = placed[i] = max(wanted[i], last + gap)
    return list(placed.values())


def _running_mean(values: Floats, window: int) -> Floats:
    """The mean of the last `window` values (fewer at the start), so that no step knows of later ones."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(0, end - window)
    mean: Floats = (total[end] - total[begin]) / (end - begin)
    return mean


def scatter(
    cells: Sequence[Cell], names: Mapping[str, str], spent: Mapping[str, float], label: str, theme: Theme = "light"
) -> Figure:
    """Score, with its 95 % interval, against what it took: `spent` is seconds or cost by run; runs without are left out."""
    shown = [c for c in cells if c.value is not None and c.low is not None and c.high is not None and spent.get(c.run)]
    with _drawing(theme) as c:
        figure = _figure(WIDTH, 3.6)
        axes = figure.subplots()
        for cell in shown:
            x, y = spent[cell.run], cell.value or 0.0
            axes.errorbar(
                x, y, yerr=[[y - (cell.low or 0)], [(cell.high or 0) - y]], color=c.accent, lw=1.2, capsize=2.5, alpha=0.75
            )
            axes.plot(x, y, "o", ms=7, mfc=c.accent if cell.ranked else c.ground, mec=c.accent, mew=1.5, zorder=3)
        named = shown if len(shown) <= 12 else _front(shown, spent)
        for cell, y in zip(named, _apart(axes, [cell.value or 0.0 for cell in named], 0.06), strict=True):
            beside: dict[str, Any] = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "size": 8.5}
            axes.annotate(_short(names[cell.run], 24), (spent[cell.run], y), xycoords=("data", "axes fraction"), **beside)
        if shown and max(spent[x.run] for x in shown) > 20 * min(spent[x.run] for x in shown):
            axes.set_xscale("log")
        axes.margins(x=0.14)
        axes.set_xlabel(label)
        axes.set_title("% right, 95 % interval")
        _percent_axis(axes, x=False)
    return figure


def _front(cells: Sequence[Cell], spent: Mapping[str, float]) -> list[Cell]:
    """The models that no other beats at the same price or less."""
    best, out = -1.0, []
    for cell in sorted(cells, key=lambda c: (spent[c.run], -(c.value or 0.0))):
        if (cell.value or 0.0) > best:
            best = cell.value or 0.0
            out.append(cell)
    return out
