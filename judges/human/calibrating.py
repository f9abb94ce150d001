"""A run's score as people would give it: their labels, drawn at random, and a judge's verdicts on all rows.

found, record = calibrate(folder, "bertscore", "4-minilm-l6-0.73")
keep(folder, "bertscore", "4-minilm-l6-0.73", record)
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

from harness.contracts import JudgeOptions
from harness.errors import UserError
from harness.pipeline import update_card
from harness.runs import RunFolder
from harness.shown import count
from judges import certificate
from judges.human import NAME, create
from judges.human.drawing import answered, run_name
from judges.human.study import studies
from leaderboard.calibration import MIN_LABELS, Calibration, TooFewLabels
from leaderboard.calibration import calibrate as calibrated
from leaderboard.stats import Interval


class Drawn(NamedTuple):
    """What people said of rows drawn at random: finals, and how many rows each stands for."""

    labels: dict[str, int]
    weights: dict[str, float]
    #: How they were drawn, and what a reader must know.
    sampling: str
    notes: list[str]
    human: str


def calibrate(
    folder: RunFolder, judge: str, version: str, human: str = NAME, *, drawn_at_random: bool = False
) -> tuple[Calibration, dict[str, Any]]:
    """The calibration of a run, and what its card will say of it. Raises UserError, also for too few labels."""
    clusters = {row.sample.id: row.cluster for row in answered(folder)}
    drawn = _studied(folder) if human == NAME else _recorded(folder, human, drawn_at_random, len(clusters))
    judged = {i: v.final for i, v in folder.verdicts(judge, version).items() if v.final is not None and i in clusters}
    try:
        found = calibrated(judged, drawn.labels, drawn.weights, clusters)
    except TooFewLabels as e:
        raise UserError(
            f"{folder.path}: {e}",
            hint=f"{MIN_LABELS - e.have} more at least; `harness power --human` says how many buy which width",
        ) from None
    notes = list(drawn.notes)
    if without := len(clusters) - len(judged):
        notes.append(f"{count(without, 'row')} without the judge's verdict count as its mean")
    sides = {"sensitivity": _plain(found.sensitivity), "specificity": _plain(found.specificity)}
    record = {
        "calibrated": asdict(found.calibrated), "people": asdict(found.people), "judge_alone": asdict(found.judge), **sides,
        "trust": found.trust, "labels": found.labels, "human": drawn.human, "sampling": drawn.sampling, "notes": notes,
    }  # fmt: skip
    return found, record


def keep(folder: RunFolder, judge: str, version: str, record: dict[str, Any]) -> None:
    """Write it into the run's card, and sensitivity and specificity into the judge's certificate, where it has one."""
    update_card(folder, f"{judge}@{version}", {"calibrated": record})
    if (made := certificate.load(folder.root, judge, version)) is not None:
        told = {k: record[k] for k in ("sensitivity", "specificity", "labels", "human")}
        certificate.save(made.model_copy(update={"people": made.people | {run_name(folder): told}}), folder.root)


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return asdict(interval) if interval else None


def _studied(folder: RunFolder) -> Drawn:
    """The labels of the studies that drew rows of this run at random, all in one way. Raises UserError."""
    judge = create("", JudgeOptions(runs=folder.root))
    predictions = folder.predictions()
    given = {v.sample_id: v for v in judge.judge([(s, predictions[s.id]) for s in folder.questions() if s.id in predictions])}
    name = run_name(folder)
    ways: dict[str, dict[str, float]] = {}
    left_out = 0
    for _, study in studies(folder.root):
        mine = {item.sample_id: item.weights[name] for item in study.items if name in item.weights}
        if study.random and mine:
            ways.setdefault(study.sampling, {}).update(mine)
        elif mine and not study.adjudicates:
            left_out += sum(i in given and given[i].final is not None for i in mine)
    if not ways:
        raise UserError(
            f"{folder.path}: no rows of it were drawn at random for people", hint=f"harness annotate {folder.path} --raters NAME"
        )
    done = {way: {i for i in drawn if given[i].final is not None} for way, drawn in ways.items()}
    way = max(ways, key=lambda w: len(done[w]))
    notes = [f"drawn: {way}"]
    if without := len(ways[way]) - len(done[way]):
        reasons = sorted({given[i].missing or "" for i in ways[way] if given[i].final is None})
        notes.append(
            f"{count(without, 'drawn row')} without a verdict of people are taken to be like the others ({'; '.join(reasons)})"
        )
    other = left_out + sum(len(done[w] - done[way]) for w in ways if w != way)
    if other:
        notes.append(f"{count(other, 'more row')} that people judged were drawn otherwise and are left out")
    labels: dict[str, int] = {i: given[i].final or 0 for i in done[way]}
    return Drawn(labels, ways[way], way, notes, f"{judge.name}@{judge.version}")


def _recorded(folder: RunFolder, human: str, drawn_at_random: bool, rows: int) -> Drawn:
    """Verdicts of people that a file brought, of which only the user can say how their rows were drawn. Raises UserError."""
    found = [(n, v) for n, v in folder.judges() if human in (n, f"{n}@{v}")]
    if len(found) != 1 or found[0][0].partition(":")[0] != NAME:
        known = [f"{n}@{v}" for n, v in folder.judges() if n.partition(":")[0] == NAME]
        raise UserError(
            f"{folder.path}: no verdicts of people called '{human}'",
            hint=f"name one of {', '.join(known)}" if known else f"harness judge {folder.path} --judge human:FILE",
        )
    if not drawn_at_random:
        raise UserError(
            f"{human}: were these rows drawn at random? Rows that somebody chose stand for no others",
            hint="--drawn-at-random says so (`harness judges sheet --rows` draws them)",
        )
    labels: dict[str, int] = {i: v.final for i, v in folder.verdicts(*found[0]).items() if v.final is not None}
    return Drawn(labels, dict.fromkeys(labels, rows / max(1, len(labels))), "uniform, by your word", [], "@".join(found[0]))
