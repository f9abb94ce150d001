"""A run's questions, answers and verdicts in one parquet file, a row a sample, for browsing and for whoever likes SQL.

    RUN/.index/rows-KEY.parquet        SELECT question, text, verdicts FROM 'runs/*/*/.index/rows-*.parquet'

KEY is a hash over leaderboard.index.stamp and the columns, so a file that is there is up to date. It is made in bulk by DuckDB
from the JSONL, which stays the truth: of two lines about one sample the later one holds, what is no JSON and a torn last line are
left out, and of a line a value of another type is. Verdict files that leaderboard/reading.py has set aside are not read.
`words` is what a search looks through, in small letters.
"""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RunError
from harness.records import Verdict
from leaderboard import index

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Runs that are read in one query: their rows must fit in memory together.
BATCH = 100


@contextmanager
def files(folders: Mapping[Path, Sequence[Path]], db: DuckDBPyConnection) -> Iterator[dict[Path, Path]]:
    """The parquet file of each run folder, made from it and its verdict files given where it is missing. Raises RunError.

    Those of folders that may only be read are made for this once, and are gone afterwards.
    """
    with ExitStack() as stack:
        found = {folder: _path(folder, verdicts) for folder, verdicts in folders.items()}
        unwritable = [folder for folder in folders if not os.access(folder, os.W_OK)]
        if unwritable:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-rows-")))
            found |= {folder: scratch / f"{n}.parquet" for n, folder in enumerate(unwritable)}
        missing: dict[Path, list[Path]] = {}
        for folder, path in found.items():
            if not path.exists():
                own = path.is_relative_to(folder)
                missing.setdefault(folder.parent.parent if own else path.parent, []).append(folder)  # one file system each
        for together in missing.values():
            for k in range(0, len(together), BATCH):
                _make({folder: found[folder] for folder in together[k : k + BATCH]}, folders, db)
        yield found


def _path(folder: Path, verdicts: Sequence[Path]) -> Path:
    form = repr(
        ([path.name for path in verdicts], _SAMPLE, _PREDICTION, _VERDICT, _MAKE)
    )  # another form of the file is another file
    key = hashlib.sha256((index.stamp(folder) + form).encode()).hexdigest()[:12]
    return folder / index.FOLDER / f"rows-{key}.parquet"


# Columns that are not named here are left out. They are read as text, as DuckDB would leave out a whole line for a value of
# another type, and are cast one by one.
_SAMPLE = {
    "id": "VARCHAR",
    "images": "VARCHAR[]",
    "question": "VARCHAR",
    "reference": "STRUCT(answers VARCHAR[], choices VARCHAR[], reasoning VARCHAR)",
    "slices": "MAP(VARCHAR, VARCHAR)",
    "cluster": "VARCHAR",
    "pictured": "VARCHAR",
    "resolution": "VARCHAR",
}
_PREDICTION = dict.fromkeys(("sample_id", "text", "reasoning", "answer", "unread", "finish", "error"), "VARCHAR") | dict.fromkeys(
    ("prompt_tokens", "completion_tokens"), "BIGINT"
)
_VERDICT = dict.fromkeys(Verdict.model_fields, "VARCHAR") | {
    "final": "TINYINT",
    "reasoning": "TINYINT",
    "usage": "MAP(VARCHAR, DOUBLE)",
}

_MAKE = """
COPY (
    WITH sample AS ({sample}), prediction AS ({prediction}), verdict AS ({verdict}), verdicts AS (
        SELECT run, sample_id, list({{file: file, {verdict_fields}}} ORDER BY file) AS verdicts
        FROM verdict GROUP BY run, sample_id
    )
    SELECT s.run, row_number() OVER (PARTITION BY s.run ORDER BY s.line) - 1 AS row, s.id, s.question, s.reference, s.images,
           s.resolution, s.slices, s.cluster, s.pictured,
           p.text, p.reasoning, coalesce(p.answer, p.unread) AS answer, p.finish, p.prompt_tokens, p.completion_tokens,
           p.error, coalesce(v.verdicts, []) AS verdicts,
           lower(concat_ws(' ', s.id, s.question, array_to_string(s.reference.answers, ' '), s.reference.reasoning, p.text,
               array_to_string(list_transform(v.verdicts, lambda j: concat_ws(' ', j.missing, j.rationale, j.raw)), ' '))
           ) AS words
    FROM sample AS s
    LEFT JOIN prediction AS p ON p.run = s.run AND p.sample_id = s.id
    LEFT JOIN verdicts AS v ON v.run = s.run AND v.sample_id = s.id
    ORDER BY s.run, row
) TO {folder} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 10240, PARTITION_BY (run))
"""


def _make(wanted: dict[Path, Path], verdicts: Mapping[Path, Sequence[Path]], db: DuckDBPyConnection) -> None:
    """Make these files (run folder -> path); each appears whole."""
    import duckdb

    runs = list(wanted)
    sources = {
        "sample": (_SAMPLE, "id", _alike([run / "samples.jsonl" for run in runs])),
        "prediction": (_PREDICTION, "sample_id", [([n], run / "predictions.jsonl") for n, run in enumerate(runs)]),
        "verdict": (_VERDICT, "sample_id", [([n], f) for n, run in enumerate(runs) for f in verdicts[run]]),
    }
    folder = wanted[runs[0]].parent
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rows-", dir=folder) as tmp:
        tables = {kind: _lines(*source) for kind, source in sources.items()}
        try:
            fields = ", ".join(f"{name}: {name}" for name in _VERDICT if name != "sample_id")
            db.execute(_MAKE.format(folder=index.quoted(Path(tmp) / "rows"), verdict_fields=fields, **tables))
        except duckdb.Error as e:
            raise RunError(f"{runs[0]}: cannot be read: {str(e).splitlines()[0]}") from None
        for n, (run, path) in enumerate(wanted.items()):
            made = Path(tmp) / "rows" / f"run={n}" / "data_0.parquet"
            if not made.exists():
                raise RunError(f"{run}: no rows in it; was it removed, or begun anew?", hint="try again")
            _place(made, path)


def _alike(files: Sequence[Path]) -> list[tuple[list[int], Path]]:
    """The places of files with the same bytes, and one of them: runs on the same rows have one samples.jsonl between them."""
    found: dict[bytes, tuple[list[int], Path]] = {}
    for n, path in enumerate(files):
        if path.is_file():
            found.setdefault(hashlib.sha256(path.read_bytes()).digest(), ([], path))[0].append(n)
    return list(found.values())


def _lines(columns: dict[str, str], key: str, files: list[tuple[list[int], Path]]) -> str:
    """The query for a kind of file: its lines in order, for each of its runs, with the file's name; of each key the last one."""
    types = ", ".join(f"{column} {of}" for column, of in columns.items())
    there = [(runs, str(path)) for runs, path in files if path.is_file()]
    if not there:
        return f"SELECT 0 AS run, '' AS file, 0 AS line, unnest(NULL::STRUCT({types})) WHERE false"
    runs, paths = zip(*there, strict=True)
    names = ", ".join(index.quoted(glob.escape(path)) for path in paths)
    texts = ", ".join(f"{column}: '{'VARCHAR' if of == 'VARCHAR' else 'JSON'}'" for column, of in columns.items())
    cast = ", ".join(column if of == "VARCHAR" else f"TRY_CAST({column} AS {of}) AS {column}" for column, of in columns.items())
    options = f"format = 'newline_delimited', ignore_errors = true, filename = true, columns = {{{texts}}}"
    torn = [place for place, path in enumerate(paths) if _torn(Path(path))]
    return f"""
        SELECT unnest({list(runs)}[place + 1]) AS run, * EXCLUDE place
        FROM (SELECT place, parse_filename(filename, true) AS file, line, {cast}
              FROM (SELECT *, max(line) OVER (PARTITION BY place) AS last FROM (
                    SELECT row_number() OVER () AS line, file_index::INT AS place, * FROM read_json([{names}], {options})))
              WHERE {key} IS NOT NULL AND NOT (line = last AND list_contains({torn}::INT[], place))
              QUALIFY line = max(line) OVER (PARTITION BY place, {key}))"""


def _torn(path: Path) -> bool:
    """Whether the last line was cut short by a crash, or is being written now."""
    with open(path, "rb") as f:
        end = f.seek(0, os.SEEK_END)
        f.seek(max(0, end - 1))
        if f.read() in (b"", b"\n"):
            return False
        f.seek(0)
        return bool(f.read().rpartition(b"\n")[2].strip())


def _place(made: Path, path: Path) -> None:
    """Put the file there in one step, and take away what it replaces."""
    path.parent.mkdir(exist_ok=True)
    old = [file for file in path.parent.glob("rows-*.parquet") if file != path]
    os.replace(made, path)
    for file in old:
        file.unlink(missing_ok=True)
