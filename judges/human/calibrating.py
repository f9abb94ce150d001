"""A run's score as people would give it: their labels, drawn at random, and a judge's verdicts on all rows.

found, record = calibrate(folder, "bertscore", "4-minilm-l6-0.73")
keep(folder, "bertscore", "4-minilm-l6-0.73", record)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import UserError
from harness.pipeline import update_card
from harness.runs import RunFolder
from harness.shown import count
from judges import certificate
from judges.human import NAME, people
from judges.human.drawing import NO_VALUE, Row, answered, name_in, run_name
from judges.human.labels import latest
from judges.human.study import studies
from leaderboard.calibration import MIN_LABELS, Calibration, TooFewLabels, made_from
from leaderboard.calibration import calibrate as calibrated
from leaderboard.cell import RANK_COVERAGE
from leaderboard.stats import Interval


class Drawn(NamedTuple):
    """What people said of rows drawn at random: finals, and how many rows each stands for."""

    labels: dict[str, int]
    weights: dict[str, float]
    #: How they were drawn, and what a reader must know.
    sampling: str
    notes: list[str]
    human: str
    #: What it was read from.
    files: list[Path]


def calibrate(
    folder: RunFolder, judge: str, version: str, human: str = NAME, *, drawn_at_random: bool = False
) -> tuple[Calibration, dict[str, Any]]:
    """The calibration of a run, and what its card will say of it. Raises UserError, also for too few labels."""
    if judge.partition(":")[0] == NAME:
        raise UserError(f"--judge {judge}: people are what a judge is calibrated by", hint="name a judge that judged every row")
    rows = {row.sample.id: row for row in answered(folder)}
    drawn = _studied(folder, rows) if human == NAME else _recorded(folder, human, drawn_at_random, len(rows))
    judged = {i: v.final for i, v in folder.verdicts(judge, version).items() if v.final is not None and i in rows}
    if len(judged) < RANK_COVERAGE * len(rows):
        # which rows it judged may hang together with which ones people judged, and no formula could tell
        raise UserError(
            f"{folder.path}: {judge} has judged {len(judged):,} of {len(rows):,} rows, and all of them are needed",
            hint=f"harness judge {folder.path} --judge {judge}",
        )
    try:
        found = calibrated(judged, drawn.labels, drawn.weights, {i: row.cluster for i, row in rows.items()})
    except TooFewLabels as e:
        raise UserError(
            f"{folder.path}: {e}",
            hint=f"{MIN_LABELS - e.have} more at least; `harness power --human` says how many buy which width",
        ) from None
    notes = list(drawn.notes)
    if without := len(rows) - len(judged):
        notes.append(f"{count(without, 'row')} without the judge's verdict count as its mean")
    files = [folder.verdict_path(judge, version), *drawn.files]
    sides = {"sensitivity": _plain(found.sensitivity), "specificity": _plain(found.specificity)}
    record = {
        "calibrated": asdict(found.calibrated), "people": asdict(found.people), "judge_alone": asdict(found.judge), **sides,
        "trust": found.trust, "labels": found.labels, "human": drawn.human, "sampling": drawn.sampling, "notes": notes,
        "from": made_from(folder.root, [folder.path / "predictions.jsonl", *files]),
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


def _studied(folder: RunFolder, rows: Mapping[str, Row]) -> Drawn:
    """The labels of the studies that drew rows of this run at random, all in one way. Raises UserError.

    Only words said in these studies count (and those of who decided): a row that people judged elsewhere, because it was
    disputed, say, or because another run wrote the same, is not one that chance brought.
    """
    there = {(i, row.pair) for i, row in rows.items()}
    ways: dict[str, dict[Path, set[str]]] = {}
    deciding = set()
    for place, study in studies(folder.root):
        name = name_in(study, folder, there)
        if study.adjudicates:
            deciding.add(place.path)
        elif study.random and name is not None:
            mine = {item.sample_id for item in study.items if name in item.weights and item.key in there}
            ways.setdefault(study.sampling, {})[place.path] = mine
    if not ways:
        raise UserError(
            f"{folder.path}: no rows of it were drawn at random for people", hint=f"harness annotate {folder.path} --raters NAME"
        )
    said = {way: _said(folder, {*drawn, *deciding}, set().union(*drawn.values())) for way, drawn in ways.items()}
    way = max(said, key=lambda w: len(said[w][0]))
    labels, unsaid, human = said[way]
    strata = _strata(rows, way)
    sizes, judged = Counter(strata.values()), Counter(strata[i] for i in labels)
    if labels and (bare := sorted(sizes.keys() - judged.keys())):
        raise UserError(
            f"{folder.path}: nobody has judged a row of {way.partition(':')[2]} {bare[0]} yet", hint="the draw has some"
        )
    notes = [f"drawn: {way}"]
    if unsaid:
        like = "others of their stratum" if len(sizes) > 1 else "others"
        notes.append(
            f"{count(len(unsaid), 'drawn row')} without a verdict of people are taken to be like the {like} ({_reasons(unsaid)})"
        )
    elsewhere = {
        w.item.sample_id for w in latest(folder.root) if w.item.key in there and w.label.final != "cannot"
    } - labels.keys()
    if elsewhere:
        notes.append(f"{count(len(elsewhere), 'more row')} that people judged were drawn otherwise and are left out")
    files = [path for place in (*ways[way], *deciding) for path in sorted((place / "labels").glob("*.jsonl"))]
    return Drawn(labels, {i: sizes[strata[i]] / judged[strata[i]] for i in labels}, way, notes, human, files)


def _said(folder: RunFolder, within: set[Path], drawn: set[str]) -> tuple[dict[str, int], dict[str, str], str]:
    """What people said in these studies of the drawn rows; of which they said nothing, and why; and whose words it is."""
    try:
        judge = people(folder.root, within=within)
    except UserError:  # nobody has begun
        return {}, dict.fromkeys(drawn, "no human verdict"), NAME
    predictions = folder.predictions()
    given = judge.judge([(s, predictions[s.id]) for s in folder.questions() if s.id in predictions and s.id in drawn])
    verdicts = {v.sample_id: v for v in given}
    labels: dict[str, int] = {i: v.final for i, v in verdicts.items() if v.final is not None}
    unsaid = {i: (verdicts[i].missing or "") if i in verdicts else "no answer any more" for i in drawn - labels.keys()}
    return labels, unsaid, f"{judge.name}@{judge.version}"


def _strata(rows: Mapping[str, Row], way: str) -> dict[str, str]:
    """Each row's stratum, which is the same for all in a uniform draw."""
    name = way.partition(":")[2]
    return {i: row.sample.slices.get(name, NO_VALUE) if name else "" for i, row in rows.items()}


def _reasons(unsaid: Mapping[str, str]) -> str:
    return "; ".join(f"{n}: {why}" for why, n in Counter(unsaid.values()).most_common())


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
    weights = dict.fromkeys(labels, rows / max(1, len(labels)))
    return Drawn(labels, weights, "uniform, by your word", [], "@".join(found[0]), [folder.verdict_path(*found[0])])
