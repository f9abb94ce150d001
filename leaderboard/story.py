"""What training changed: each trained model against its base, on the new domain and on the old one.

Paired row by row and clustered by image; p values corrected by Holm over every comparison made. The sentences are
computed from these numbers and say nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import ImageRef, Prediction, Verdict
from harness.runs import RunFolder
from leaderboard import page as pages
from leaderboard import stats, table

if TYPE_CHECKING:
    from rich.console import Console

NEW, OLD = "new domain", "old domain"
ALPHA = 0.05


@dataclass(frozen=True)
class Change:
    """One model on one domain, and its paired difference to the base (None for the base itself)."""

    model: str
    domain: str
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
            row: dict[str, Any] = {"model": c.model, "domain": c.domain, **vars(c.score)}
            if c.difference:
                row["difference"] = vars(c.difference) | {"p_holm": c.p_holm, "verdict": c.verdict}
            out.append(row)
        return out

    def render(self, console: Console) -> None:
        """A table: a row a model, both domains side by side with their change from the base in points."""
        from rich.table import Table

        shown = Table(
            title="What training changed (points against the base, 95 % interval)",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
        )
        for head in ("model", f"{NEW} %", "change", f"{OLD} %", "change"):
            shown.add_column(head, justify="left" if head == "model" else "right", no_wrap=True, header_style="bold")
        for model in dict.fromkeys(c.model for c in self.changes):
            cells = [model]
            for domain in (NEW, OLD):
                (c,) = (c for c in self.changes if (c.model, c.domain) == (model, domain))
                cells += [f"{100 * c.score.value:.1f}", _points(c)]
            shown.add_row(*cells)
        console.print(shown)
        console.print()


def _points(c: Change) -> str:
    if c.difference is None:
        return "-"
    colour = {"gained": "green", "lost": "red"}.get(c.verdict, "dim")
    d = c.difference
    return f"[{colour}]{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})[/]"


def tell(runs: Mapping[str, Path], domain: set[str], *, judge: str, version: str) -> Story:
    """Compare the runs of one task, the first of them the base. `domain` holds the sample ids of the new domain.

    Only rows that the judge has judged in every run count.
    """
    folders = {name: RunFolder(path) for name, path in runs.items()}
    finals = {name: _finals(f, judge, version) for name, f in folders.items()}
    base = next(iter(runs))
    samples = [s for s in folders[base].samples() if all(s["id"] in f for f in finals.values())]
    found: list[tuple[str, str, stats.Interval, stats.Difference | None]] = []
    for where in (NEW, OLD):
        rows = [s for s in samples if (s["id"] in domain) == (where == NEW)]
        if not rows:
            continue
        clusters = [s["cluster"] for s in rows]
        before = [finals[base][s["id"]] for s in rows]
        for name in runs:
            after = [finals[name][s["id"]] for s in rows]
            difference = stats.paired_difference(after, before, clusters) if name != base else None
            found.append((name, where, stats.mean_interval(after, clusters), difference))
    corrected = iter(stats.holm([d.p for *_, d in found if d]))
    changes = [Change(m, w, s, d, next(corrected) if d else None) for m, w, s, d in found]
    return Story(changes, _sentences(changes, base))


def _finals(folder: RunFolder, judge: str, version: str) -> dict[str, int]:
    return {i: v.final for i, v in folder.verdicts(judge, version).items() if v.final is not None}


def _sentences(changes: Sequence[Change], base: str) -> list[str]:
    """One sentence over all models, and one on what the intervals allow."""
    by = {(c.model, c.domain): c for c in changes}
    models = [m for m in dict.fromkeys(c.model for c in changes) if m != base and (m, NEW) in by and (m, OLD) in by]
    if not models:
        return []
    parts = []
    for m in models:
        new, old = by[m, NEW], by[m, OLD]
        assert new.difference is not None
        assert old.difference is not None
        parts.append(
            f"{m} {_word(new)} on the new domain ({100 * new.difference.value:+.1f} points) "
            f"and {_word(old)} on the old one ({100 * old.difference.value:+.1f})"
        )
    kept = [m for m in models if by[m, NEW].verdict == "gained" and by[m, OLD].verdict != "lost"]
    end = f"Learned without a measurable loss: {', '.join(kept)}." if kept else "No model both learned and kept what it knew."
    n, o = by[models[0], NEW].score, by[models[0], OLD].score
    return [
        f"Against the base, {'; '.join(parts)}. {end}",
        f"New domain: {n.n} questions on {n.clusters} images; old: {o.n} on {o.clusters}. "
        f"One seed; p values by Holm over {2 * len(models)} comparisons.",
    ]


def _word(c: Change) -> str:
    return {"gained": "gained", "lost": "lost"}.get(c.verdict, "shows no clear change")


def page(path: Path, folders: Sequence[Path], told: Story, images: Mapping[str, ImageRef]) -> Path:
    """The leaderboard of these runs as one HTML file, with the story, slices, and rows whose verdict training flipped.

    `images` are by the name that samples.jsonl gives them; a row whose image is not among them is shown without.
    """
    found, damaged = table.cells_of(folders)
    sliced = [table.cells_of(folders, slice_by=name)[0] for name in ("content_type", "answer_type")]
    pages.write_report(
        path,
        title="Three trainers, one base",
        summary=told.sentences,
        groups=pages.make_groups(found, *sliced),
        examples=_examples(folders, images),
        damaged=damaged,
    )
    return path


def _examples(folders: Sequence[Path], images: Mapping[str, ImageRef], count: int = 8) -> list[pages.Example]:
    """Rows of the first task on which the models' exact verdicts differ most, one an image."""
    first = RunFolder(folders[0])
    task = first.card().data.task
    runs = [r for r in map(RunFolder, folders) if r.card().data.task == task]
    names = [r.card().model.name for r in runs]
    texts: list[dict[str, Prediction]] = [r.predictions() for r in runs]
    verdicts: list[dict[str, Verdict]] = [r.verdicts("exact", "1") for r in runs]
    rows = [s for s in first.samples() if all(s["id"] in t for t in texts) and all(s["id"] in v for v in verdicts)]
    split = [s for s in rows if len({v[s["id"]].final for v in verdicts}) > 1]
    one_an_image = {s["cluster"]: s for s in reversed(split)}
    out = []
    for s in sorted(one_an_image.values(), key=lambda s: rows.index(s))[:count]:
        answers = [
            pages.Answer(n, t[s["id"]].text, v[s["id"]].final, v[s["id"]].missing)
            for n, t, v in zip(names, texts, verdicts, strict=True)
        ]
        reference = s["reference"]["reasoning"] or ""
        shown = " / ".join(s["reference"]["answers"]) + (f" ({reference})" if reference else "")
        image = images.get(s["images"][0]) if s["images"] else None
        out.append(pages.Example(s["question"], shown, answers, image, caption=f"{task} row {s['id']}: the models differ"))
    return out
