"""Runs compared row by row: paired, clustered by image, corrected for being several.

comparison = compare(run_a, run_b, "exact", "1")
comparison.sentence()
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import Record, RunCard
from harness.runs import RunFolder
from leaderboard.stats import paired_difference


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
    #: Rows asked; rows judged in both; the images these are about.
    samples: int
    n: int
    clusters: int
    value_a: float
    value_b: float
    #: a - b, its 95 % interval and two-sided p value, and the formulas they come from (leaderboard/stats.py).
    difference: float
    low: float
    high: float
    method: str
    p: float
    p_method: str
    #: Ids of the rows that only a, and only b, has right.
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def sentence(self) -> str:
        """The finding in plain words."""
        more = f"{abs(100 * self.difference):.1f} points {'more' if self.difference >= 0 else 'less'} often than {self.model_b}"
        limits = f"95 % interval {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        seen = f"{self.n} questions on {self.clusters} images"
        chance = "" if self.p < 0.05 else " This may be chance."
        return f"On {self.task}, {self.model_a} is right {more} ({limits}, {p}; {seen}).{chance}"


def compare(run_a: Path, run_b: Path, judge: str, version: str, *, across_prompts: bool = False) -> Comparison:
    """The paired difference of two runs over the rows that `judge` at `version` has judged in both.

    Raises UserError when the runs asked different data, or different prompts unless `across_prompts` says that this is
    what is being compared, or when there is no row that the judge has judged in both.
    """
    a, b = RunFolder(run_a), RunFolder(run_b)
    card_a, card_b = a.card(), b.card()
    _same_question(run_a, card_a, run_b, card_b, across_prompts)
    final_a, final_b = (_finals(folder, judge, version) for folder in (a, b))
    cluster = {row["id"]: row["cluster"] for row in a.samples()}
    shared = [i for i in cluster if i in final_a and i in final_b]
    if not shared:
        raise UserError(f"{run_a} and {run_b}: no row that {judge}@{version} has judged in both")
    rows_a, rows_b = [final_a[i] for i in shared], [final_b[i] for i in shared]
    d = paired_difference(rows_a, rows_b, [cluster[i] for i in shared])
    return Comparison(
        run_a=str(run_a),
        run_b=str(run_b),
        model_a=card_a.model.name,
        model_b=card_b.model.name,
        task=card_a.data.task,
        split=card_a.data.split,
        judge=judge,
        judge_version=version,
        data_fingerprint=card_a.data.fingerprint,
        samples=len(cluster),
        n=d.n,
        clusters=d.clusters,
        value_a=sum(rows_a) / d.n,
        value_b=sum(rows_b) / d.n,
        difference=d.value,
        low=d.low,
        high=d.high,
        method=d.method,
        p=d.p,
        p_method=d.p_method,
        only_a=tuple(i for i in shared if final_a[i] > final_b[i]),
        only_b=tuple(i for i in shared if final_a[i] < final_b[i]),
    )


def _same_question(run_a: Path, a: RunCard, run_b: Path, b: RunCard, across_prompts: bool) -> None:
    if a.data.fingerprint != b.data.fingerprint:
        raise UserError(
            f"cannot compare: {run_a} and {run_b} asked different data "
            f"({a.data.task} {a.data.split}, {a.data.rows} rows, {a.data.source} against "
            f"{b.data.task} {b.data.split}, {b.data.rows} rows, {b.data.source})",
            hint="run both with the same --tasks, --data and --limit",
        )
    if a.prompt_sha256 != b.prompt_sha256 and not across_prompts:
        raise UserError(f"cannot compare: prompt {a.prompt} against {b.prompt}", hint="run both with the same --prompt")


def _finals(folder: RunFolder, judge: str, version: str) -> dict[str, int]:
    """sample id -> 0 or 1, for the rows that were judged."""
    if not folder.verdict_path(judge, version).exists():
        known = [f"{name}@{v}" for name, v in folder.judges()]
        raise UserError(f"{folder.path}: no verdicts of {judge}@{version}", hint=did_you_mean(f"{judge}@{version}", known))
    return {i: v.final for i, v in folder.verdicts(judge, version).items() if v.final is not None}
