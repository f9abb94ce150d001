"""Runs compared row by row: paired, clustered by image, corrected for being several.

comparison = compare(run_a, run_b, "exact", "1")
comparison.sentence()
compare_all([Path("runs/tiny"), Path("runs/tiny-sft"), Path("runs/tiny-rarl")])    # every pair on every task both have
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Record, RunCard
from harness.runs import RunFolder
from harness.shown import answers, asked, cluster_of, count, p_value, points
from leaderboard import power
from leaderboard.browse import Browser, Row
from leaderboard.power import Pair
from leaderboard.reading import NONE, Int8, Judged, Run
from leaderboard.stats import holm, paired_difference
from leaderboard.store import read_runs

ALPHA = 0.05


class Comparison(Record):
    """Run a against run b on the rows that one judge has judged in both. Shares and differences from 0 to 1 (-1 to 1)."""

    run_a: str
    run_b: str
    model_a: str
    model_b: str
    task: str
    split: str
    judge: str
    judge_version: str
    data_fingerprint: str
    #: Rows asked; rows judged in both; the images (or what `clustered_by` names) that these are about.
    samples: int
    n: int
    clusters: int
    clustered_by: str
    #: How often each question was asked.
    repeats: int
    value_a: float
    value_b: float
    #: a - b, its 95 % interval and two-sided p value, and the formulas they come from (leaderboard/stats.py).
    difference: float
    low: float
    high: float
    method: str
    p: float
    p_method: str
    #: `p` after Holm's correction over the `comparisons` that were made together.
    p_holm: float
    comparisons: int
    #: Generation arguments that are not the same for both; empty where they are.
    unlike: str = ""
    #: Ids of the rows that only a, and only b, has right.
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def real(self) -> bool:
        """Whether the difference holds at 5 % after the correction."""
        return self.p_holm < ALPHA

    def sentence(self) -> str:
        """The finding in plain words."""
        size, way = points(self.difference)[1:], "more" if self.difference >= 0 else "less"
        more = f"{size} points {way} often than {self.model_b}"
        limits = f"95 % interval {points(self.low)} to {points(self.high)}"
        corrected = f", {p_value(self.p_holm)} by Holm over {self.comparisons} comparisons" if self.comparisons > 1 else ""
        chance = "" if self.real else " This may be chance."
        unlike = f" They were not run alike: {self.unlike}." if self.unlike else ""
        return (
            f"On {self.task}, {self.model_a} is right {more} ({limits}; {p_value(self.p)} by {self.p_method}{corrected}; "
            f"{self.seen()}).{chance}{unlike}"
        )

    def seen(self) -> str:
        """How many questions both are compared on, and how many are left out."""
        about = "" if self.clustered_by == "question" else f" on {count(self.clusters, self.clustered_by)}"
        if self.n == self.samples:
            return f"{asked(self.n, self.repeats)}{about}"
        left = self.samples - self.n
        return f"{self.n:,} of {answers(self.samples, self.repeats)}{about}, the other {left:,} not judged in both"


def compare(run_a: Path, run_b: Path, judge: str, version: str, *, across_prompts: bool = False) -> Comparison:
    """The paired difference of two runs over the rows that `judge` at `version` has judged in both.

    Raises UserError when the runs asked different data, or different prompts unless `across_prompts` says that this is
    what is being compared, or when there is no row that the judge has judged in both; RunError for a damaged run.
    """
    a, b = (_read([path])[0] for path in (run_a, run_b))
    _same_question(a, b, across_prompts)
    return _compare(a, b, _judged(a, f"{judge}@{version}"), _judged(b, f"{judge}@{version}"))


def compare_all(paths: Sequence[Path], judge: str | None = None, *, across_prompts: bool = False) -> list[Comparison]:
    """Every pair of `paths` (run folders, or folders of run folders such as RUNS/MODEL) on each set of rows that both answered.

    `judge` is NAME or NAME@VERSION; without it, the judge that all these runs have. The p values are corrected over all of
    it. Raises UserError where a pair has nothing in common, RunError for a damaged run.
    """
    if len(paths) < 2:
        raise UserError("give two runs or more", hint="harness compare RUN_A RUN_B")
    _different(paths)
    sides = [(path, _read(_folders(path))) for path in paths]
    judge = judge or _common_judge([run for _, runs in sides for run in runs])
    found = []
    for (path_a, runs_a), (path_b, runs_b) in combinations(sides, 2):
        pairs = [(a, b) for a in runs_a for b in runs_b if _alike(a, b, across_prompts)]
        if not pairs and len(runs_a) == len(runs_b) == 1:
            _same_question(runs_a[0], runs_b[0], across_prompts)
        if not pairs:
            raise UserError(f"{path_a} and {path_b}: no two runs on the same rows with the same prompt")
        found += [_compare(a, b, *_both(a, b, judge)) for a, b in pairs]
    corrected = holm([c.p for c in found])
    return [c.model_copy(update={"p_holm": p, "comparisons": len(found)}) for c, p in zip(found, corrected, strict=True)]


def rows(c: Comparison, ids: Sequence[str]) -> Iterator[tuple[str, str, str, str, str]]:
    """For each of these samples: id, question, reference, and what a and b answered."""
    runs = {run.folder: run for path in (c.run_a, c.run_b) for run in _read([Path(path)])}
    browser = Browser(list(runs.values()))
    of_a, of_b = (browser.samples([(Path(path), i) for i in ids]) for path in (c.run_a, c.run_b))
    for sample_id, a, b in zip(ids, of_a, of_b, strict=True):
        yield sample_id, a.question, " / ".join(a.reference.answers), _answer(a), _answer(b)


def _answer(row: Row) -> str:
    """On one line."""
    text = row.prediction.said or row.prediction.text if row.prediction else ""
    return " ".join(text.split()) or "nothing"


def observed(paths: Sequence[Path], judge: str | None = None) -> Pair:
    """What two runs on the same rows tell of how hard differences are to see. Raises UserError as `compare_all` does."""
    if len(paths) != 2:
        raise UserError("give two runs", hint="harness power RUN_A RUN_B")
    _different(paths)
    a, b = (_read([path])[0] for path in paths)
    _same_question(a, b, across_prompts=True)
    judge = judge or _common_judge([a, b])
    final_a, final_b, rows = _paired(a, b, *_both(a, b, judge))
    if np.array_equal(final_a[rows], final_b[rows]):
        raise UserError(f"{a.folder} and {b.folder} differ on no row: they say nothing of how large a difference is")
    found = power.observed(final_a[rows].tolist(), final_b[rows].tolist(), a.asked.clusters[rows].tolist())
    return replace(found, clustered_by=cluster_of(a.card.data))


def _different(paths: Sequence[Path]) -> None:
    for n, path in enumerate(paths):
        if any(path.resolve() == other.resolve() for other in paths[:n]):
            raise UserError(f"{path}: named twice, and nothing differs from itself")


def _folders(path: Path) -> list[Path]:
    if (path / "card.json").is_file():
        return [path]
    found = sorted(p.parent for p in path.glob("*/card.json"))
    if not found:
        raise UserError(
            f"{path}: no run folder", hint="give a folder that `harness run` printed after 'records:', or the one above it"
        )
    # a run's controls stand beside it, and are compared with it by `harness audit vision`
    return [run for run in found if not RunFolder(run).card().data.control] or found


def _read(folders: Sequence[Path]) -> list[Run]:
    runs, damaged = read_runs([(path, RunFolder(path).card()) for path in folders])
    if damaged:
        raise UserError(f"{damaged[0].path}: {damaged[0].reason}", hint="compare runs that are whole")
    return runs


def _common_judge(runs: Sequence[Run]) -> str:
    every = [{j.path.stem for j in run.judged} for run in runs]
    common = sorted(set.intersection(*every))
    if len(common) == 1:
        return common[0]
    if common:
        raise UserError("several judges have judged these runs", hint=f"choose one with --judge: {', '.join(common)}")
    raise UserError(
        "no judge has judged all of these runs", hint=f"--judge: {', '.join(sorted(set.union(*every))) or 'none yet'}"
    )


def _both(a: Run, b: Run, judge: str) -> tuple[Judged, Judged]:
    """The judge's verdicts on both, at the one version that both have; where there is no such version, any."""
    versions = {j.version for j in a.judged if j.judge == judge} & {j.version for j in b.judged if j.judge == judge}
    if len(versions) > 1:
        known = ", ".join(f"{judge}@{version}" for version in sorted(versions))
        raise UserError(f"{judge} has judged both runs at several versions", hint=f"choose one with --judge: {known}")
    name = f"{judge}@{versions.pop()}" if versions else judge
    return _judged(a, name), _judged(b, name)


def _judged(run: Run, judge: str) -> Judged:
    for judged in run.judged:
        if judge in (judged.judge, judged.path.stem, f"{judged.judge}@{judged.version}"):
            return judged
    known = [f"{j.judge}@{j.version}" for j in run.judged]
    raise UserError(f"{run.folder}: no verdicts of {judge}", hint=did_you_mean(judge, known))


def _alike(a: Run, b: Run, across_prompts: bool) -> bool:
    same_data = a.card.data.fingerprint == b.card.data.fingerprint and a.asked.content == b.asked.content
    return same_data and a.card.reader == b.card.reader and (across_prompts or _asking(a.card) == _asking(b.card))


def _asking(card: RunCard) -> tuple[str, tuple[str, ...]]:
    """The prompt, and the texts that end an answer."""
    return card.prompt_sha256, card.generation.stop


def _same_question(run_a: Run, run_b: Run, across_prompts: bool) -> None:
    a, b = run_a.card, run_b.card
    if a.data.fingerprint != b.data.fingerprint:
        raise UserError(
            f"cannot compare: {run_a.folder} and {run_b.folder} asked different data "
            f"({a.data.task} {a.data.split}, {a.data.rows} rows, {a.data.source} against "
            f"{b.data.task} {b.data.split}, {b.data.rows} rows, {b.data.source})",
            hint="`harness audit vision` compares a run with its controls"
            if a.data.control != b.data.control
            else "run both with the same --tasks, --data and --limit",
        )
    if run_a.asked.content != run_b.asked.content:
        raise UserError(
            f"cannot compare: {run_a.folder} and {run_b.folder} have other questions, references or images in samples.jsonl",
            hint="one of the files was changed: run that one again with --fresh",
        )
    if a.reader != b.reader:
        raise UserError(
            f"cannot compare: answers were read from the texts by reader {a.reader} and reader {b.reader}",
            hint="read the older one again: harness judge RUN --reread",
        )
    if _asking(a) != _asking(b) and not across_prompts:
        hint = "run both with the same --prompt, or say --across-prompts if that is what you compare"
        ways = [" stopped before ".join([c.prompt, *map(repr, c.generation.stop)]) for c in (a, b)]
        raise UserError(f"cannot compare: prompt {' against '.join(ways)}", hint=hint)


def _compare(a: Run, b: Run, judged_a: Judged, judged_b: Judged) -> Comparison:
    final_a, final_b, rows = _paired(a, b, judged_a, judged_b)
    rows_a, rows_b = final_a[rows].tolist(), final_b[rows].tolist()
    d = paired_difference(rows_a, rows_b, a.asked.clusters[rows].tolist())
    return Comparison(
        run_a=str(a.folder),
        run_b=str(b.folder),
        model_a=a.card.model.name,
        model_b=b.card.model.name,
        task=a.card.data.task,
        split=a.card.data.split,
        judge=judged_a.judge,
        judge_version=judged_a.version,
        data_fingerprint=a.card.data.fingerprint,
        samples=len(a.asked.ids),
        n=d.n,
        clusters=d.clusters,
        clustered_by=cluster_of(a.card.data),
        repeats=a.card.data.repeats,
        value_a=sum(rows_a) / d.n,
        value_b=sum(rows_b) / d.n,
        difference=d.value,
        low=d.low,
        high=d.high,
        method=d.method,
        p=d.p,
        p_method=d.p_method,
        p_holm=d.p,
        comparisons=1,
        unlike=_unlike(a.card, b.card),
        only_a=tuple(a.asked.ids[row] for row in rows[final_a[rows] > final_b[rows]]),
        only_b=tuple(a.asked.ids[row] for row in rows[final_a[rows] < final_b[rows]]),
    )


def _unlike(a: RunCard, b: RunCard) -> str:
    ours, theirs = a.generation.model_dump(), b.generation.model_dump()
    differ = [f"{k} {ours.get(k)} against {theirs.get(k)}" for k in ours | theirs if ours.get(k) != theirs.get(k)]
    return ", ".join(differ)


def _paired(a: Run, b: Run, judged_a: Judged, judged_b: Judged) -> tuple[Int8, Int8, NDArray[np.intp]]:
    """Both runs' verdicts in a's order, and the rows that both have one on."""
    if judged_a.version != judged_b.version:
        raise UserError(
            f"cannot compare: {judged_a.judge} judged {a.folder} at version {judged_a.version}, {b.folder} at {judged_b.version}",
            hint="judge both again with one version",
        )
    places = b.asked.rows_of(a.asked)
    final_a, final_b = judged_a.final, np.where(places == NONE, NONE, judged_b.final[places]).astype(np.int8)
    rows = np.flatnonzero((final_a != NONE) & (final_b != NONE))
    if not len(rows):
        raise UserError(f"{a.folder} and {b.folder}: no row that {judged_a.judge}@{judged_a.version} has judged in both")
    return final_a, final_b, rows
