"""Counts over many run folders at once, straight from their JSONL, with DuckDB. Run folders are the truth (harness/runs.py).

What cannot be trusted is set aside with the reason and touches no other run: a line that is not a record, fewer rows than
the card names, a prediction for a row that was never asked. A torn last line is not damage: a run may be writing it now.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RunError, UserError
from harness.records import Record, RunCard
from harness.runs import RunFolder


class Damaged(Record):
    """A run folder, or one file of verdicts in it, that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """One judge's file of verdicts on one run. A run that nobody judged has one entry, without a file."""

    folder: Path
    card: RunCard
    verdicts: Path | None


@dataclass(frozen=True)
class Counts:
    """An entry's rows, or those of one slice value, counted. `n` and `right` have one item an image: judged rows, right rows."""

    entry: Entry
    slice: str | None
    judge: str | None
    samples: int
    predicted: int
    truncated: int
    n: list[int]
    right: list[int]
    reasoning_n: int
    reasoning_right: int
    #: Why verdicts are missing, the most frequent reason first.
    missing: dict[str, int]


def find(roots: Sequence[Path]) -> list[Path]:
    """Every run folder under `roots`, sound or not, each once. Raises UserError for a root that does not exist."""
    found: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of runs", hint="give the folder that `harness run` wrote to with --runs")
        marks = (p for name in ("card.json", "samples.jsonl", "predictions.jsonl") for p in root.glob(f"*/*/{name}"))
        for path in sorted({p.parent for p in marks}):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def load(folders: Sequence[Path]) -> tuple[list[tuple[Path, RunCard]], list[Damaged]]:
    """The run folders with their cards, and those whose card is missing or damaged."""
    sound: list[tuple[Path, RunCard]] = []
    damaged = []
    for path in folders:
        try:
            sound.append((path, RunFolder(path).card()))
        except RunError as e:
            why = (
                str(e).removeprefix(f"{path}/")
                if (path / "card.json").exists()
                else "no card.json: the run never began, or lost it"
            )
            damaged.append(Damaged(path=str(path), reason=why))
    return sound, damaged


def count(folders: Sequence[tuple[Path, RunCard]], slice_by: str | None = None) -> tuple[list[Counts], list[Damaged]]:
    """The counts of every entry (by values of the slice `slice_by`, if given), and what had to be set aside."""
    import duckdb

    entries: list[tuple[int, Entry]] = []
    for run, (path, card) in enumerate(folders):
        files: list[Path | None] = [*sorted((path / "verdicts").glob("*.jsonl"))]
        entries += [(run, Entry(path, card, file)) for file in files or [None]]
    samples = {run: path / "samples.jsonl" for run, (path, _) in enumerate(folders)}
    predictions = {run: path / "predictions.jsonl" for run, (path, _) in enumerate(folders)}
    verdicts = {i: entry.verdicts for i, (_, entry) in enumerate(entries) if entry.verdicts}
    with duckdb.connect() as db:
        bad_samples = _read(db, "sample", samples, slice_by)
        short = _short(db, samples, {run: card.data.rows for run, (_, card) in enumerate(folders)})
        bad_predictions = _read(db, "prediction", predictions)
        bad_runs = _strangers(db, "prediction", predictions, {r: r for r in samples}) | bad_predictions | short | bad_samples
        bad_files = _read(db, "verdict", verdicts)
        bad_files = _strangers(db, "verdict", verdicts, {i: run for i, (run, _) in enumerate(entries)}) | bad_files
        good = {i: run for i, (run, _) in enumerate(entries) if i not in bad_files and run not in bad_runs}
        found = db.execute(_COUNTS, {"entries": list(good), "runs": list(good.values())}).fetchall()
    damaged = [Damaged(path=str(folders[run][0]), reason=why) for run, why in bad_runs.items()]
    damaged += [Damaged(path=str(verdicts[i]), reason=why) for i, why in bad_files.items() if entries[i][0] not in bad_runs]
    return [Counts(entries[i][1], *rest) for i, *rest in found], damaged


# What is kept of each kind of line, and when the line is sound. Of two lines about one sample the later one holds.
_KINDS = {
    "sample": (
        "json->>'/id' AS id, json->>'/cluster' AS cluster, json->>$pointer AS slice",
        "id IS NOT NULL AND cluster IS NOT NULL",
    ),
    "prediction": (
        "json->>'/sample_id' AS id, json->>'/finish' AS finish",
        "id IS NOT NULL AND finish IN ('stop', 'length', 'error')",
    ),
    "verdict": (
        "json->>'/sample_id' AS id, json->>'/judge' AS judge, json->>'/missing' AS missing,"
        " json->>'/final' AS final, json->>'/reasoning' AS reasoning",
        "id IS NOT NULL AND judge IS NOT NULL AND coalesce(final, '0') IN ('0', '1') AND coalesce(reasoning, '0') IN ('0', '1')",
    ),
}

_LINES = """
CREATE OR REPLACE TEMP TABLE {kind} AS
SELECT owner, n, n - min(n) OVER file + 1 AS line, n = max(n) OVER file AS last, {columns}
FROM (SELECT filename, json, row_number() OVER () AS n
      FROM read_json_objects($patterns, format = 'newline_delimited', ignore_errors = true, filename = true))
JOIN (SELECT unnest($names) AS filename, unnest($owners) AS owner) USING (filename)
WINDOW file AS (PARTITION BY owner)
"""

_COUNTS = """
WITH asked AS (
    SELECT e.entry, s.cluster, s.slice, p.id AS predicted, p.finish, v.judge,
           v.final::INT AS final, v.reasoning::INT AS reasoning,
           CASE WHEN v.final IS NOT NULL THEN NULL WHEN p.id IS NULL THEN 'not answered yet'
                WHEN v.id IS NULL THEN 'not judged yet' ELSE coalesce(v.missing, 'no reason given') END AS missing
    FROM (SELECT unnest($entries::INT[]) AS entry, unnest($runs::INT[]) AS run) AS e
    JOIN sample AS s ON s.owner = e.run
    LEFT JOIN prediction AS p ON p.owner = e.run AND p.id = s.id
    LEFT JOIN verdict AS v ON v.owner = e.entry AND v.id = s.id
), image AS (
    SELECT entry, slice, any_value(judge) AS judge, count(*) AS samples, count(predicted) AS predicted,
           count_if(finish = 'length') AS truncated, count(final) AS n, coalesce(sum(final), 0) AS correct,
           count(reasoning) AS reasoning_n, coalesce(sum(reasoning), 0) AS reasoning_right
    FROM asked GROUP BY entry, slice, cluster
), reasons AS (
    SELECT entry, slice, map(list(missing ORDER BY k DESC, missing), list(k ORDER BY k DESC, missing)) AS missing
    FROM (SELECT entry, slice, missing, count(*) AS k FROM asked WHERE missing IS NOT NULL GROUP BY ALL) GROUP BY entry, slice
)
SELECT i.entry, i.slice, any_value(judge), sum(samples)::INT, sum(predicted)::INT, sum(truncated)::INT,
       list(n::INT), list(correct::INT), sum(reasoning_n)::INT, sum(reasoning_right)::INT, coalesce(any_value(missing), MAP {})
FROM image AS i LEFT JOIN reasons AS r ON r.entry = i.entry AND r.slice IS NOT DISTINCT FROM i.slice
GROUP BY i.entry, i.slice
ORDER BY i.entry, i.slice
"""


def _read(db: Any, kind: str, files: dict[int, Path], slice_by: str | None = None) -> dict[int, str]:
    """Make the table `kind` from `files` (owner -> path; one that does not exist is empty). Gives what is wrong: owner -> why."""
    import duckdb

    _, sound = _KINDS[kind]
    files = {owner: path for owner, path in files.items() if path.exists()}
    sizes = {owner: _size(path) for owner, path in files.items()}
    wrong: dict[int, str] = {}
    try:
        _fill(db, kind, files, slice_by)
    except (duckdb.Error, OSError):  # one of them cannot be read at all: find out which
        for owner, path in list(files.items()):
            try:
                _fill(db, kind, {owner: path}, slice_by)
            except (duckdb.Error, OSError) as e:
                wrong[owner] = f"{path.name}: {str(e).splitlines()[0]}"
                del files[owner]
        _fill(db, kind, files, slice_by)
    grown = [owner for owner, path in files.items() if _size(path) != sizes[owner]]  # being written: its end may be half a line
    torn = [owner for owner, path in files.items() if owner not in grown and _torn(path)]
    cut = f"DELETE FROM {kind} WHERE last AND (owner IN $torn OR owner IN $grown AND NOT coalesce({sound}, false))"
    db.execute(cut, {"torn": torn, "grown": grown})
    unsound = f"SELECT owner, min(line) FROM {kind} WHERE NOT coalesce({sound}, false) GROUP BY owner"
    wrong |= {owner: f"{files[owner].name}:{line}: damaged line" for owner, line in db.execute(unsound).fetchall()}
    db.execute(f"CREATE OR REPLACE TEMP TABLE {kind} AS FROM {kind} QUALIFY n = max(n) OVER (PARTITION BY owner, id)")
    return wrong


def _fill(db: Any, kind: str, files: dict[int, Path], slice_by: str | None) -> None:
    """Make the table `kind` from the lines of `files`; a line that is no JSON has NULL in every column."""
    columns, _ = _KINDS[kind]
    if not files:
        kept = ", ".join(column.rpartition(" ")[2] + " TEXT" for column in columns.split(","))
        db.execute(f"CREATE OR REPLACE TEMP TABLE {kind} (owner INT, n INT, line INT, last BOOL, {kept})")
        return
    names = [str(p) for p in files.values()]
    values: dict[str, Any] = {"patterns": [glob.escape(n) for n in names], "names": names, "owners": list(files)}
    if kind == "sample":
        values["pointer"] = "/slices/" + (slice_by or "").replace("~", "~0").replace("/", "~1")  # RFC 6901
    db.execute(_LINES.format(kind=kind, columns=columns), values)


def _size(path: Path) -> int:
    return path.stat().st_size


def _torn(path: Path) -> bool:
    """Whether the last line was cut short by a crash; harness.runs leaves it out too."""
    with open(path, "rb") as f:
        end = f.seek(0, os.SEEK_END)
        f.seek(max(0, end - 1))
        return end > 0 and f.read(1) != b"\n"


def _short(db: Any, files: dict[int, Path], expected: dict[int, int]) -> dict[int, str]:
    """Runs whose samples.jsonl does not hold the rows that the card names, as after a broken copy: owner -> both numbers."""
    counts = dict(db.execute("SELECT owner, count(*) FROM sample GROUP BY owner").fetchall())
    return {
        run: f"{files[run].name}: {counts.get(run, 0)} rows, but card.json names {rows}"
        for run, rows in expected.items()
        if counts.get(run, 0) != rows
    }


def _strangers(db: Any, kind: str, files: dict[int, Path], run_of: dict[int, int]) -> dict[int, str]:
    """Files with lines about samples that their run never asked: owner -> how many."""
    query = f"""
        SELECT k.owner, count(*)
        FROM {kind} AS k JOIN (SELECT unnest($owners::INT[]) AS owner, unnest($runs::INT[]) AS run) USING (owner)
        WHERE NOT EXISTS (FROM sample AS s WHERE s.owner = run AND s.id = k.id) GROUP BY k.owner"""
    found = db.execute(query, {"owners": list(run_of), "runs": list(run_of.values())}).fetchall()
    return {owner: f"{files[owner].name}: {rows} lines about samples that were never asked" for owner, rows in found}
