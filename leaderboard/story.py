"""What training changed: each trained model against its base, on the new domain, the old one and other datasets.

Paired row by row and clustered by image; p values corrected by Holm over every comparison made. The sentences are
computed from these numbers and say nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.runs import RunFolder
from harness.shown import percent, plain, points
from leaderboard import stats

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

ALPHA = 0.05


@dataclass(frozen=True)
class Domain:
    """Rows on which models are compared: one run of each model (the base first), and which of its rows count."""

    name: str
    short: str
    runs: Mapping[str, Path]
    holds: Callable[[str], bool] = lambda sample_id: True


@dataclass(frozen=True)
class Change:
    """One model on one domain, and its paired difference to the base (None for the base itself)."""

    model: str
    domain: Domain
    score: stats.Interval
    difference: stats.Difference | None
    p_holm: float | None

    @property
    def verdict(self) -> str:
        """gained, lost, or no clear change, at 5 % after Holm's correction."""
        if self.difference is None or self.p_holm is None or self.p_holm >= ALPHA:
            return "no clear change"
        return "gained" if self.difference.value > 0 else "lost"


@dataclass(frozen=True)
class Story:
    """Every change and the sentences it amounts to."""

    changes: list[Change]
    sentences: list[str]

    def as_json(self) -> list[dict[str, Any]]:
        out = []
        for c in self.changes:
            row: dict[str, Any] = {"model": c.model, "domain": c.domain.short, **vars(c.score)}
            if c.difference:
                row["difference"] = vars(c.difference) | {"p_holm": c.p_holm, "verdict": c.verdict}
            out.append(row)
        return out

    def render(self, console: Console) -> None:
        """A table: a row a model, each domain's score with its change from the base in points."""
        from rich.table import Table

        domains = list(dict.fromkeys(c.domain.short for c in self.changes))
        shown = Table(title="What training changed, in points against the base (95 % interval)", title_justify="left", box=None)
        shown.add_column("model", header_style="bold", overflow="fold")
        for domain in domains:
            shown.add_column(f"{domain} %", justify="right", header_style="bold", no_wrap=True)
            shown.add_column("change", justify="right", header_style="bold", no_wrap=True)
        for model in dict.fromkeys(c.model for c in self.changes):
            cells = [plain(model)]
            for c in self.changes:
                if c.model == model:
                    cells += [plain(percent(c.score.value)), _points(c)]
            shown.add_row(*cells)
        if self.changes:
            console.print(shown)
            console.print()


def _points(c: Change) -> Text:
    d = c.difference
    if d is None:
        return plain("–")
    colour = {"gained": "green", "lost": "red"}.get(c.verdict, "dim")
    return plain(points(d.value), colour).append(plain(f"\n{points(d.low)} – {points(d.high)}", "not bold dim"))


def tell(domains: Sequence[Domain], *, judge: str, version: str) -> Story:
    """Compare models with their base on each domain, the first of which is the one that they were trained for.

    Only rows that the judge has judged in every run count.
    """
    found: list[tuple[str, Domain, stats.Interval, stats.Difference | None]] = []
    for domain in domains:
        folders = {name: RunFolder(path) for name, path in domain.runs.items()}
        finals = {name: _finals(f, judge, version) for name, f in folders.items()}
        base = next(iter(folders))
        rows = [s for s in folders[base].samples() if domain.holds(s["id"]) and all(s["id"] in f for f in finals.values())]
        if not rows:
            return Story([], [f"No row of {domain.name} was judged in every run: nothing to compare."])
        clusters = [s["cluster"] for s in rows]
        before = [finals[base][s["id"]] for s in rows]
        for name in folders:
            after = [finals[name][s["id"]] for s in rows]
            difference = stats.paired_difference(after, before, clusters) if name != base else None
            found.append((name, domain, stats.mean_interval(after, clusters), difference))
    corrected = iter(stats.holm([d.p for *_, d in found if d]))
    changes = [Change(m, w, s, d, next(corrected) if d else None) for m, w, s, d in found]
    return Story(changes, _sentences(changes))


def _finals(folder: RunFolder, judge: str, version: str) -> dict[str, int]:
    return {i: v.final for i, v in folder.verdicts(judge, version).items() if v.final is not None}


def _sentences(changes: Sequence[Change]) -> list[str]:
    """What each model gained and lost, which learned without losing, and how many rows that rests on."""
    by_model: dict[str, list[Change]] = {}
    for c in changes:
        if c.difference:
            by_model.setdefault(c.model, []).append(c)
    if not by_model:
        return []
    said = [f"{m} {_and([_word(c) for c in cs])}" for m, cs in by_model.items()]
    kept = [m for m, (first, *rest) in by_model.items() if first.verdict == "gained" and all(c.verdict != "lost" for c in rest)]
    moved = any(c.verdict != "no clear change" for cs in by_model.values() for c in cs)
    end = "None both learned and kept what it knew." if moved else "Nothing changed beyond chance."
    if kept:
        end = f"Learned without a measurable loss: {', '.join(kept)}."
    rows = {c.domain.name: f"{c.domain.name}: {c.score.n:,} questions on {c.score.clusters:,} images" for c in changes}
    return [
        f"Against the base, {'; '.join(said)}. {end}",
        f"Rows: {'; '.join(rows.values())}. One seed; p values by Holm over {sum(map(len, by_model.values()))} comparisons.",
    ]


def _word(c: Change) -> str:
    assert c.difference is not None
    verb = {"gained": "gained on", "lost": "lost on"}.get(c.verdict, "shows no clear change on")
    return f"{verb} {c.domain.name} ({points(c.difference.value)} points)"


def _and(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
