"""Pages of questions with what models answered and judges said, over one run or a thousand.

    runs, damaged = store.read([Path("runs")])
    browser = Browser(runs)                                      # a snapshot; make a new one when the runs have changed
    page = browser.page(Filter(task="slake", slices={"modality": "CT"}, verdict="wrong"), offset=50, limit=50)
    page.total, page.rows[0].question, page.rows[0].verdicts["exact@1"].final
    browser.page(Filter(run=a, flips=b, text="effusion"))        # rows of run a whose verdict is another one in run b
    browser.sample(a, "11934")                                   # one row

Which rows a page holds is decided on the arrays of leaderboard/reading.py. Only these rows, or the runs in which a text is
searched, are then read from RUN/.index/rows-KEY.parquet, one row a sample with its prediction and verdicts. That file is made
from the run's JSONL when it is first wanted, and KEY changes with the JSONL (leaderboard/index.py says when).
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from harness.errors import RunError, UserError
from harness.plugins import did_you_mean
from harness.records import Prediction, Record, Reference, Verdict
from leaderboard import rows
from leaderboard.reading import FINISH, NONE, Int8, Judged, Run

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

T = TypeVar("T")
Mask = NDArray[np.bool_]


class Filter(BaseModel):
    """Which rows; each condition given must hold. `judge` is NAME@VERSION as the verdict file is called; it may be left out
    where runs have one judge, and then the first one counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Path | None = None
    task: str | None = None
    slices: dict[str, str] = {}
    judge: str | None = None
    verdict: Literal["right", "wrong", "missing"] | None = None
    #: Only rows on which two judges of the run do not agree.
    disagree: bool = False
    #: Only rows that both this other run and the run itself have a verdict on, and not the same.
    flips: Path | None = None
    #: Found in question, reference, answer or a judge's words; capitals do not matter.
    text: str = ""


class Row(Record):
    """One question of a run, its answer (None: not answered yet), and the verdicts by NAME@VERSION."""

    run: Path
    row: int
    id: str
    question: str
    reference: Reference
    images: tuple[str, ...]
    resolution: str | None
    slices: dict[str, str]
    cluster: str
    #: Hash over the images, where that is not the cluster (a patient may have several).
    pictured: str | None = None
    prediction: Prediction | None
    verdicts: dict[str, Verdict]


class Page(Record):
    """Some rows out of the `total` that the filter holds, in the order of runs and of their samples."""

    total: int
    offset: int
    rows: tuple[Row, ...]


class Browser:
    """Rows of these runs as they were when the arrays were read. Threads may share it."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = {run.folder: run for run in runs}
        self._search = lru_cache(maxsize=32)(self._search_anew)

    def page(self, wanted: Filter, offset: int = 0, limit: int = 50) -> Page:
        """`limit` rows from the `offset`-th on. Raises UserError for a run that is not there."""
        masks = self._masks(wanted)
        if wanted.text and masks:
            hits = self._search(wanted.text.lower(), tuple(masks))
            masks = {folder: mask & hits[folder] for folder, mask in masks.items()}
        counts = np.cumsum([0, *(int(mask.sum()) for mask in masks.values())])
        places: list[tuple[Path, int]] = []
        for (folder, mask), start, end in zip(masks.items(), counts, counts[1:], strict=False):
            if start < offset + limit and end > offset:
                shown = np.flatnonzero(mask)[max(0, offset - start) : offset + limit - start]
                places += [(folder, int(row)) for row in shown]
        return Page(total=int(counts[-1]), offset=offset, rows=tuple(self._fetch(places)))

    def sample(self, run: Path, sample_id: str) -> Row:
        """One row. Raises UserError when the run or the row is not there."""
        return self.samples([(run, sample_id)])[0]

    def samples(self, wanted: Sequence[tuple[Path, str]]) -> list[Row]:
        """Rows by run and id, in this order, in one query. Raises UserError when a run or a row is not there."""
        places = []
        for run, sample_id in wanted:
            row = self._run(run).asked.position.get(sample_id)
            if row is None:
                raise UserError(f"{run}: no sample '{sample_id}'")
            places.append((run, row))
        return self._fetch(places)

    def prepare(self, folders: Iterable[Path] | None = None) -> None:
        """Make the parquet files of these runs, or of all, now: who looks at them or searches them does not wait."""
        wanted = self.runs.values() if folders is None else [self._run(folder) for folder in dict.fromkeys(folders)]
        with self._db.cursor() as db, rows.files(_sources(wanted), db):
            pass

    @cached_property
    def _db(self) -> DuckDBPyConnection:
        """One for all queries: to start another takes longer than most of them."""
        import duckdb

        return duckdb.connect()

    # -- which rows ---------------------------------------------------------------------------------------------------

    def _run(self, folder: Path) -> Run:
        if folder not in self.runs:
            raise UserError(f"{folder}: no such run", hint=did_you_mean(str(folder), [str(f) for f in self.runs]))
        return self.runs[folder]

    def _masks(self, wanted: Filter) -> dict[Path, Mask]:
        """For each run in question, which of its rows hold all conditions but the text."""
        runs = [self._run(wanted.run)] if wanted.run else list(self.runs.values())
        masks = {run.folder: _mask(run, wanted) for run in runs if wanted.task in (None, run.card.data.task)}
        if wanted.flips:
            other = self._run(wanted.flips)
            theirs = _finals(other, wanted.judge)
            for folder in masks:
                own, places = _finals(self.runs[folder], wanted.judge), other.asked.rows_of(self.runs[folder].asked)
                against = np.where(places == NONE, NONE, theirs[places])
                masks[folder] &= (own != against) & (own != NONE) & (against != NONE)
        return masks

    def _search_anew(self, text: str, folders: tuple[Path, ...]) -> dict[Path, Mask]:
        """For each of the runs, which rows hold the text."""
        hits = {folder: np.zeros(len(self.runs[folder].asked.ids), dtype=np.bool_) for folder in folders}
        sources = _sources(self.runs[folder] for folder in folders)
        found = self._query(sources, "row", "WHERE contains(words, lower($text))", {"text": text}, lambda q: q.fetchnumpy())
        order = np.argsort(found["run"], kind="stable")
        ends = np.searchsorted(found["run"][order], np.arange(1, len(folders)))
        for folder, own in zip(folders, np.split(found["row"][order], ends), strict=True):
            hits[folder][own[own < len(hits[folder])]] = True
        return hits

    def _fetch(self, places: Sequence[tuple[Path, int]]) -> list[Row]:
        """These rows (run folder, number of the row), in this order; one that is gone by now is left out."""
        if not places:
            return []
        folders = [folder for folder in dict.fromkeys(folder for folder, _ in places) if (folder / "samples.jsonl").is_file()]
        there = [(folders.index(folder), number) for folder, number in places if folder in folders]
        if not there:
            return []
        wanted = {"runs": [run for run, _ in there], "numbers": [number for _, number in there]}
        only = "SEMI JOIN (SELECT unnest($runs) AS run, unnest($numbers) AS row) AS wanted USING (run, row)"
        sources = _sources(self.runs[folder] for folder in folders)
        values = self._query(sources, ", ".join(_COLUMNS), only, wanted, lambda q: q.fetchall())
        by_place = {(folders[run], own[0]): dict(zip(_COLUMNS, own, strict=True)) for run, *own in values}
        found = [(self.runs[place[0]], by_place[place]) for place in places if place in by_place]
        return [
            _row(run, own) for run, own in found if run.asked.ids[own["row"]] == own["id"]
        ]  # a verdict is never another row's

    def _query(
        self,
        sources: Mapping[Path, Sequence[Path]],
        columns: str,
        only: str,
        values: dict[str, Any],
        fetch: Callable[[Any], T],
        *,
        again: bool = True,
    ) -> T:
        """What the parquet files of these runs hold, with the run's place in `sources` as the first column `run`."""
        import duckdb

        try:
            with self._db.cursor() as db, rows.files(sources, db) as paths:
                names = [glob.escape(str(path)) for path in paths.values()]
                source = "(SELECT file_index AS run, * FROM read_parquet($names))"
                return fetch(db.execute(f"SELECT run, {columns} FROM {source} {only}", {"names": names} | values))
        except duckdb.IOException:  # another process has replaced a file since
            if not again:
                raise RunError("runs were removed or begun anew while they were read", hint="try again") from None
            return self._query(sources, columns, only, values, fetch, again=False)


_COLUMNS = (
    "row", "id", "question", "reference", "images", "resolution", "slices", "cluster", "pictured",
    "text", "reasoning", "answer", "finish", "prompt_tokens", "completion_tokens", "error", "verdicts",
)  # fmt: skip


def _sources(runs: Iterable[Run]) -> dict[Path, list[Path]]:
    """Each run's folder, and the verdict files in it that can be trusted."""
    return {run.folder: [judged.path for judged in run.judged] for run in runs}


def _row(run: Run, row: dict[str, Any]) -> Row:
    """What came of it is as the tables count it; the file of rows has the words."""
    finish, reference = int(run.finish[row["row"]]), row["reference"] or {}
    prediction = None
    if finish != NONE:
        unreadable = "this line of predictions.jsonl cannot be shown: it holds what is no text" if row["finish"] is None else None
        prediction = Prediction(
            sample_id=row["id"],
            text=row["text"] or "",
            reasoning=row["reasoning"],
            answer=row["answer"],
            finish=FINISH[finish],
            prompt_tokens=row["prompt_tokens"] or 0,
            completion_tokens=row["completion_tokens"] or 0,
            error=row["error"] or unreadable,
        )
    said = {v["file"]: v for v in row["verdicts"]}
    given = ((judged, _verdict(judged, row["row"], row["id"], said.get(judged.path.stem, {}))) for judged in run.judged)
    return Row(
        run=run.folder,
        row=row["row"],
        id=row["id"],
        question=row["question"] or "",
        reference=Reference(
            answers=_texts(reference.get("answers")),
            choices=_texts(reference["choices"]) if reference.get("choices") is not None else None,
            reasoning=reference.get("reasoning"),
        ),
        images=_texts(row["images"]),
        resolution=row["resolution"],
        slices=row["slices"] or {},
        cluster=row["cluster"] or "",
        pictured=row["pictured"],
        prediction=prediction,
        verdicts={judged.path.stem: verdict for judged, verdict in given if verdict},
    )


def _texts(values: Iterable[str | None] | None) -> tuple[str, ...]:
    return tuple(value for value in values or () if value is not None)


def _verdict(judged: Judged, row: int, sample_id: str, said: Mapping[str, Any]) -> Verdict | None:
    """The judge's word on a row, None where it has none yet."""
    final, reasoning = (_SCORES[int(codes[row])] for codes in (judged.final, judged.reasoning))
    if final is None and row not in judged.missing:
        return None
    return Verdict(
        sample_id=sample_id,
        judge=judged.judge,
        final=final,
        reasoning=reasoning,
        missing=judged.missing.get(row, said.get("missing")),
        **{key: said.get(key) for key in ("rationale", "raw", "served")},
        usage={name: number for name, number in (said.get("usage") or {}).items() if number is not None} or None,
    )


#: What a number in the arrays says.
_SCORES: dict[int, Literal[0, 1] | None] = {NONE: None, 0: 0, 1: 1}


def _mask(run: Run, wanted: Filter) -> Mask:
    mask = np.ones(len(run.asked.ids), dtype=np.bool_)
    for name, value in wanted.slices.items():
        values, codes = run.asked.slices.get(name, ((), None))
        mask &= codes == values.index(value) if codes is not None and value in values else False
    if wanted.verdict:
        mask &= _finals(run, wanted.judge) == {"right": 1, "wrong": 0, "missing": NONE}[wanted.verdict]
    if wanted.disagree:
        given = np.stack([j.final for j in run.judged]) if run.judged else np.empty((0, len(mask)), dtype=np.int8)
        mask &= (given == 0).any(axis=0) & (given == 1).any(axis=0)
    return mask


def _finals(run: Run, judge: str | None) -> Int8:
    """The judge's verdicts; all NONE where it has none on this run."""
    for judged in run.judged:
        if judge in (None, judged.path.stem):
            return judged.final
    return np.full(len(run.asked.ids), NONE, dtype=np.int8)
