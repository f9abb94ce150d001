"""A cell: one model's score on one task by one judge, or on one slice of it.

A missing verdict is neither right nor wrong: the value is over judged rows, `coverage` says how many those are, `bound_low` and
`bound_high` what the value would be if every missing verdict were a 0 or a 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Record, RunCard
from harness.shown import Cost, cluster_of, cost_of
from leaderboard.calibration import is_current
from leaderboard.reading import FINISH, NONE, Int8, Judged, Run
from leaderboard.stats import Floats, totals_interval

#: Below this share of judged rows a cell is shown but not ranked.
RANK_COVERAGE = 0.98
#: The slice value of rows that have none, in a run where others do.
NO_VALUE = "(not given)"
#: What people would have said of all rows (`harness calibrate`); it stands among the metrics.
CALIBRATED = "calibrated"
#: How many reasons for missing verdicts a cell names; the others are counted together.
MAX_REASONS = 5


class Cell(Record):
    """One model's score on one task by one judge. Scores, limits and shares are from 0 to 1."""

    model: str
    #: Hash over weights, settings and generation arguments: what tells models of one name apart.
    configuration: str
    #: The same without max_new_tokens, of which each task may have its own.
    identity: str = ""
    trainer: str | None
    base: str | None
    task: str
    split: str
    #: None, as is `value`, where no judge has seen the run.
    judge: str | None
    judge_version: str | None
    #: Whether the judge has a certificate among these runs (`harness judges test`); None for a judge that needs none.
    certified: bool | None
    #: What it says, in a line.
    certificate: str | None = None
    #: What the judge gets wrong more often than right, by its certificate: nothing is ranked by such a judge.
    fails: str | None = None
    #: (name, value); None for all rows.
    slice: tuple[str, str] | None
    #: Hash over which row has which value of the slice.
    slice_sha256: str | None = None
    data_fingerprint: str
    #: Hash over the questions, references and images that are in the run's folder now.
    asked_sha256: str
    source: str
    resolution: str
    prompt: str
    prompt_sha256: str
    #: Version of the reader that took the answers from the texts.
    reader: int
    #: max_new_tokens, temperature, top_p and seed; they may differ within a table, which then says so. `stop` may not.
    generation: dict[str, Any]
    #: How often each question was asked (--num-samples): `samples` and `n` count answers.
    repeats: int = 1
    #: What was taken from its rows (--control).
    control: str | None = None
    #: Rows that the run was limited to (--limit), where that left some out.
    limit: int | None = None
    value: float | None
    low: float | None
    high: float | None
    #: Which formula gave `low` and `high` (leaderboard/stats.py).
    method: str | None
    #: Judged rows, and how many clusters they are about: images, say, or what else `clustered_by` names.
    n: int
    clusters: int
    clustered_by: str = "image"
    #: Rows asked, and how many of them the model has answered.
    samples: int
    predicted: int
    missing: int
    missing_reasons: dict[str, int]
    coverage: float
    bound_low: float
    bound_high: float
    finished: bool
    ranked: bool
    #: The best and the worst place among the ranked cells of its table, given which differences are real (leaderboard/ranks.py);
    #: None where there is nobody to compare it with.
    rank: tuple[int, int] | None = None
    #: Share of the answers that were cut off at the token limit.
    truncated: float
    #: Share of right reasoning over the `reasoning_n` rows where it was judged.
    reasoning: float | None
    reasoning_n: int
    #: Those of scores.json that were asked for: means, and their 95 % intervals where each row's value is known.
    metrics: dict[str, float] = {}
    metric_limits: dict[str, tuple[float, float]] = {}
    #: Whether `harness calibrate` was run before people, the judge or the run said something else.
    stale_calibration: bool = False
    #: What answering and judging the whole run took, over all tries: seconds, and dollars where an API was paid.
    seconds: float | None = None
    cost: Cost = None
    judge_seconds: float | None = None
    judge_cost: Cost = None
    run: str
    created: str

    @property
    def comparable(self) -> tuple[str, ...]:
        """What cells of one table share; the value of a slice may differ, as it takes its own rows."""
        slice_name, judge = self.slice[0] if self.slice else "", f"{self.judge}@{self.judge_version}" if self.judge else ""
        data = (self.data_fingerprint, self.asked_sha256, self.slice_sha256 or "")
        stop = [repr(s) for s in self.generation.get("stop", ())]
        return (self.task, self.split, slice_name, judge, *data, self.prompt_sha256, str(self.reader), *stop)


@dataclass(frozen=True)
class Counted:
    """A cell, and the rows and verdicts it was counted from."""

    cell: Cell
    run: Run
    final: Int8
    rows: NDArray[np.intp]


def count(run: Run, judged: Judged | None, slice_by: str | None) -> Iterator[Counted]:
    """The cell of all rows; those of each value of the slice, if one is given."""
    parts: list[tuple[tuple[str, str] | None, NDArray[np.intp]]] = [(None, np.arange(len(run.asked.ids)))]
    if slice_by is not None:
        values, codes = run.asked.slices[slice_by]
        named = [(int(code), NO_VALUE if code == NONE else values[code]) for code in np.unique(codes)]
        parts = [((slice_by, value), np.flatnonzero(codes == code)) for code, value in named]
    final = judged.final if judged else np.full(len(run.finish), NONE, dtype=np.int8)
    for slice_, rows in parts:
        yield Counted(_cell(run, judged, slice_, final, rows), run, final, rows)


def totals(run: Run, final: Int8, rows: NDArray[np.intp]) -> tuple[list[str], Floats, Floats]:
    """The images that judged rows are about, and for each how many of these are right, and how many there are."""
    seen = rows[final[rows] != NONE]
    sizes = np.bincount(run.asked.clusters[seen], minlength=len(run.asked.images)).astype(np.float64)
    right = np.bincount(run.asked.clusters[seen], weights=final[seen], minlength=len(sizes)).astype(np.float64)
    there = np.flatnonzero(sizes)
    return [run.asked.images[i] for i in there], right[there], sizes[there]


def _cell(run: Run, judged: Judged | None, slice_: tuple[str, str] | None, final: Int8, rows: NDArray[np.intp]) -> Cell:
    """The cell that these rows of a run make."""
    card, samples = run.card, len(rows)
    images, right, sizes = totals(run, final, rows)
    interval = totals_interval(right, sizes) if images else None
    n, correct = int(sizes.sum()), int(right.sum())
    finish = run.finish[rows]
    reasoned = judged.reasoning[rows][judged.reasoning[rows] != NONE] if judged else np.empty(0)
    predicted = int(np.count_nonzero(finish != NONE))
    finished = card.finished is not None and predicted == samples
    certificate, fails = _certificate(run, judged) if judged else (None, None)
    about = judge_card(card, judged) if judged else {}
    record = about.get("calibrated", {}) if slice_ is None else {}
    stale = bool(record) and not is_current(run.folder.absolute().parent.parent, record.get("from", {}))
    calibrated = None if stale else record.get("calibrated")
    return Cell(
        model=card.model.name,
        configuration=configuration(card, card.generation.model_dump_json()),
        identity=configuration(card, card.generation.model_dump_json(exclude={"max_new_tokens"})),
        trainer=card.model.trainer,
        base=card.model.base,
        task=card.data.task,
        split=card.data.split,
        judge=judged.judge if judged else None,
        judge_version=judged.version if judged else None,
        certified=certificate is not None or (False if "model" in about else None),
        certificate=certificate,
        fails=fails,
        slice=slice_,
        slice_sha256=run.asked.slice_hashes[slice_[0]] if slice_ else None,
        data_fingerprint=card.data.fingerprint,
        asked_sha256=run.asked.content,
        source=card.data.source,
        resolution=card.data.resolution,
        prompt=card.prompt,
        prompt_sha256=card.prompt_sha256,
        reader=card.reader,
        generation=card.generation.model_dump(mode="json"),
        repeats=card.data.repeats,
        control=card.data.control,
        limit=limit_of(card),
        value=interval.value if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        method=interval.method if interval else None,
        n=n,
        clusters=len(images),
        clustered_by=cluster_of(card.data),
        samples=samples,
        predicted=predicted,
        missing=samples - n,
        missing_reasons=_missing(run, judged, rows[final[rows] == NONE]),
        coverage=n / samples,
        bound_low=correct / samples,
        bound_high=(correct + samples - n) / samples,
        finished=finished,
        ranked=finished and n / samples >= RANK_COVERAGE and fails is None,
        truncated=int(np.count_nonzero(finish == FINISH.index("length"))) / predicted if predicted else 0.0,
        reasoning=int(reasoned.sum()) / len(reasoned) if len(reasoned) else None,
        reasoning_n=len(reasoned),
        stale_calibration=stale,
        metrics={CALIBRATED: calibrated["value"]} if calibrated else {},
        metric_limits={CALIBRATED: (calibrated["low"], calibrated["high"])} if calibrated else {},
        seconds=card.seconds.get("generate"),
        cost=cost_of(card.usage),
        judge_seconds=judge_seconds(card, judged) if judged else None,
        judge_cost=judge_cost(about),
        run=str(run.folder),
        created=card.created,
    )


def judge_card(card: RunCard, judged: Judged) -> dict[str, Any]:
    """What the run's card says of a judge: model, prompt, parameters. Empty for judges that are no models, and in older cards."""
    return card.judges.get(f"{judged.judge}@{judged.version}", {})


def judge_seconds(card: RunCard, judged: Judged) -> float | None:
    """What judging took; older cards name the judge without its version."""
    name = f"judge:{judged.judge}"
    return card.seconds.get(f"{name}@{judged.version}", card.seconds.get(name))


def judge_cost(about: dict[str, Any]) -> Cost:
    """What a judge was paid by its card; a jury, what its members were."""
    members = [cost for member in about.get("members", {}).values() if (cost := judge_cost(member)) is not None]
    if not members:
        return cost_of(about.get("use", {}))
    return "unknown" if "unknown" in members else sum(cost for cost in members if cost != "unknown")


def limit_of(card: RunCard) -> int | None:
    """The --limit that left rows out; None where there were not more rows than that."""
    data = card.data
    used = data.rows // data.repeats + len(data.dropped)
    return card.limit if card.limit is not None and used >= card.limit else None


def _certificate(run: Run, judged: Judged) -> tuple[str | None, str | None]:
    """How far the judge was found to be right, and what it fails; None where nobody has tried, and where it fails nothing."""
    runs = run.folder.absolute().parent.parent
    try:
        changed = (runs / ".certificates" / f"{judged.path.stem}.json").stat().st_mtime_ns
    except OSError:
        return None, None
    return _summary(runs, judged.judge, judged.version, changed)


@cache
def _summary(runs: Path, judge: str, version: str, changed: int) -> tuple[str | None, str | None]:
    from judges.certificate import load  # here, as it brings more with it than a table needs

    found = load(runs, judge, version)
    return (found.summary(), found.fails) if found else (None, None)


def configuration(card: RunCard, generation: str) -> str:
    """Hash over weights, settings and these generation arguments."""
    model = card.model
    # a folder may move, an API is its address
    address = {"transformers": [], "vllm": ["vllm"]}.get(model.backend, [model.backend, model.path])
    what = [*address, model.name, model.weights_sha256, model.settings_sha256, model.dtype, generation]
    what += [repr(card.reasoning_tags)] if card.reasoning_tags else []
    return sha256(repr(what).encode()).hexdigest()[:16]


def _missing(run: Run, judged: Judged | None, rows: NDArray[np.intp]) -> dict[str, int]:
    """Why these rows have no verdict, the most frequent reason first."""
    given = judged.missing if judged else {}
    absent = ("not answered yet", "not judged yet")
    reasons = Counter(given.get(row, absent[int(run.finish[row] != NONE)]) for row in rows.tolist())
    return _shortened(dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))))


def _shortened(reasons: dict[str, int]) -> dict[str, int]:
    rest = sum(list(reasons.values())[MAX_REASONS:])
    return dict(list(reasons.items())[:MAX_REASONS]) | ({"other reasons": rest} if rest else {})
