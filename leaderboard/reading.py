"""Run folders as small arrays: what was asked, what came of it, and every judge's verdicts, a number a row.

Two ways lead there. All runs' predictions and verdicts go through one DuckDB query each, which keeps the files in which
nothing is odd. A file with something odd (a damaged or torn line, a row that was judged twice, a stranger) is read again
line by line, as harness.runs reads it: of two lines about one row the later one holds, and a torn last line is left out, as a
run may be writing it now. What cannot be trusted is set aside with the reason and touches no other run.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import RunError
from harness.records import Finish, Record, RunCard
from harness.runs import read_jsonl

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

#: How an answer ended, in the numbers of `Run.finish`.
FINISH: tuple[Finish, ...] = ("stop", "length", "error")
#: In every array: nothing there (no answer, no verdict, no value of this slice).
NONE = -1
_ODD = -2
#: Fewer bytes than these are read line by line at once: asking DuckDB takes longer.
BULK_FROM = 4_000_000


class Damaged(Record):
    """A run folder, or one file of verdicts in it, that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Asked:
    """What a samples.jsonl asks; the arrays have one item a row, in the file's order. Runs with the same file share it."""

    sha256: str
    #: Hash over ids, questions, references and images, in whatever order: what runs on the same rows have in common.
    content: str
    ids: tuple[str, ...]
    #: Rows about the same image have the same number: its place in `images`, which are hashes.
    clusters: Int32
    images: tuple[str, ...]
    #: Slice name -> its values, and each row's index among them or NONE.
    slices: dict[str, tuple[tuple[str, ...], Int32]]

    @cached_property
    def position(self) -> dict[str, int]:
        """Sample id -> row."""
        return {sample_id: row for row, sample_id in enumerate(self.ids)}

    @cached_property
    def slice_hashes(self) -> dict[str, str]:
        """Slice name -> hash over each row's value: two runs are divided alike where it is the same."""
        named = {name: [*values, None] for name, (values, _) in self.slices.items()}  # NONE is the last
        return {
            name: _hash(sorted(zip(self.ids, (named[name][code] for code in codes.tolist()), strict=True)))
            for name, (_, codes) in self.slices.items()
        }

    def rows_of(self, ids: Asked) -> NDArray[np.intp]:
        """For each row of other `ids`, the row here about the same sample; NONE where there is none."""
        if ids.sha256 == self.sha256:
            return np.arange(len(self.ids))
        return np.array([self.position.get(i, NONE) for i in ids.ids], dtype=np.intp)


@dataclass(frozen=True, eq=False)
class Judged:
    """One judge's verdicts on a run: 1, 0 or NONE a row, and for verdicts that are missing `missing` says why (row -> reason)."""

    path: Path
    judge: str
    version: str
    final: Int8
    reasoning: Int8
    missing: dict[int, str]


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder that can be trusted, but for the verdict files that were set aside. `finish` is an index of FINISH or NONE."""

    folder: Path
    card: RunCard
    asked: Asked
    finish: Int8
    judged: tuple[Judged, ...]


@dataclass(frozen=True, eq=False)
class _Lines:
    """A file's lines, sorted by the rows they are about."""

    code: Int8
    reasoning: Int8
    missing: dict[int, str]


def read(folders: Sequence[tuple[Path, RunCard]]) -> tuple[list[Run], list[Damaged]]:
    """The runs as arrays, in the order of `folders`, and what had to be set aside."""
    asked, wrong = _asked([path for path, _ in folders])
    for path, card in folders:
        if path in asked and len(asked[path].ids) != card.data.rows:  # as after a broken copy
            wrong[path] = f"samples.jsonl: {len(asked.pop(path).ids)} rows, but card.json names {card.data.rows}"
        elif path in asked and not asked[path].ids:
            del asked[path]
            wrong[path] = "samples.jsonl: no rows"
    predictions, bad = _lines([(path / "predictions.jsonl", rows) for path, rows in asked.items()], _PREDICTION)
    wrong |= {file.parent: why for file, why in bad.items()}
    files = {path: sorted((path / "verdicts").glob("*.jsonl")) for path in asked if path not in wrong}
    verdicts, bad = _lines([(file, asked[path]) for path, own in files.items() for file in own], _VERDICT)
    judged_in: dict[Path, Judged] = {}
    for file, lines in verdicts.items():
        try:
            judged_in[file] = _judged(file, lines)
        except (RunError, OSError) as e:  # changed since it was read
            bad[file] = _reason(file, e)
    for path in files:
        if (path / "verdicts").exists() and not (path / "verdicts").is_dir():
            bad[path / "verdicts"] = "verdicts: a file where a folder should be"
    runs = []
    for path, card in folders:
        if path not in wrong:
            judged = tuple(judged_in[file] for file in files[path] if file in judged_in)
            runs.append(Run(path, card, asked[path], predictions[path / "predictions.jsonl"].code, judged))
    return runs, [Damaged(path=str(path), reason=why) for path, why in (wrong | bad).items()]


def _judged(file: Path, lines: _Lines) -> Judged:
    """Named as its lines say; by the file's name where it has none yet."""
    name, _, version = file.stem.rpartition("@")
    first = next(read_jsonl(file), {"judge": name})
    return Judged(file, first["judge"], version, lines.code, lines.reasoning, lines.missing)


# -- samples.jsonl ----------------------------------------------------------------------------------------------------


def _asked(folders: Sequence[Path]) -> tuple[dict[Path, Asked], dict[Path, str]]:
    """What each run asked, and why it cannot be known. Files with the same bytes are read once."""
    by_hash: dict[str, Asked | str] = {}
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(lambda path: _sha256(path / "samples.jsonl"), folders))
    for path, sha256 in zip(folders, hashes, strict=True):
        if sha256 not in by_hash:
            try:
                by_hash[sha256] = _read_samples(path / "samples.jsonl", sha256)
            except (RunError, OSError) as e:
                by_hash[sha256] = _reason(path / "samples.jsonl", e)
    found = {path: by_hash[sha256] for path, sha256 in zip(folders, hashes, strict=True)}
    good = {path: asked for path, asked in found.items() if isinstance(asked, Asked)}
    return good, {path: why for path, why in found.items() if isinstance(why, str)}


def _sha256(path: Path) -> str:
    """Of the file's bytes; a file that cannot be read has its path for a hash, and the reason is found when it is parsed."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)


def _read_samples(path: Path, sha256: str) -> Asked:
    rows: dict[str, dict[str, Any]] = {}
    for n, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row.get("id"), str) or not isinstance(row.get("cluster"), str):
            raise RunError(f"{path.name}:{n}: damaged line")
        if not _slices_hold(row.get("slices")) or not _storable(row["id"], row["cluster"]):
            raise RunError(f"{path.name}:{n}: damaged line")
        if row["id"] in rows:
            raise RunError(f"{path.name}:{n}: a second row {row['id']!r}")
        rows[row["id"]] = row
    images, clusters = _codes([row["cluster"] for row in rows.values()])
    slices = [row.get("slices") or {} for row in rows.values()]
    names = sorted({name for own in slices for name in own})
    coded = {name: _codes([own.get(name) for own in slices]) for name in names}
    content = _hash([[row["id"], row.get("question"), row.get("reference"), row["cluster"]] for _, row in sorted(rows.items())])
    return Asked(sha256, content, tuple(rows), clusters, images, coded)


def _hash(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _slices_hold(slices: Any) -> bool:
    """Whether these are a row's slices: names and values that are text, or none at all."""
    return slices is None or (
        isinstance(slices, dict) and all(isinstance(value, str) and _storable(name, value) for name, value in slices.items())
    )


def _storable(*texts: str) -> bool:
    """Whether the texts can be written as UTF-8. JSON can spell half a surrogate pair, which no file, page or index holds."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _codes(values: Iterable[str | None]) -> tuple[tuple[str, ...], Int32]:
    """The different values in order of appearance, and each one's index; NONE for None."""
    number: dict[str, int] = {}
    codes = [NONE if v is None else number.setdefault(v, len(number)) for v in values]
    return tuple(number), np.array(codes, dtype=np.int32)


# -- predictions.jsonl and verdicts/*.jsonl ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """How a line becomes (code, reasoning, why it is missing): in DuckDB, and in Python (KeyError, ValueError: damage)."""

    columns: tuple[str, ...]
    select: str
    parse: Callable[[dict[str, Any]], tuple[int, int, str | None]]


def _parse_prediction(row: dict[str, Any]) -> tuple[int, int, str | None]:
    return FINISH.index(row["finish"]), NONE, None


def _parse_verdict(row: dict[str, Any]) -> tuple[int, int, str | None]:
    final, reasoning = (_score(row.get(key)) for key in ("final", "reasoning"))
    judge, missing = row["judge"], row.get("missing")
    if not isinstance(judge, str) or not isinstance(missing, str | None) or not _storable(judge, missing or ""):
        raise ValueError("the judge's name is text, and so is the reason for a missing verdict")
    return final, reasoning, (missing or "no reason given") if final == NONE else None


def _score(value: Any) -> int:
    if value is not None and (isinstance(value, bool) or value not in (0, 1)):
        raise ValueError("a verdict is 0, 1 or null")
    return NONE if value is None else int(value)


# Columns are of type JSON, so that "1", 1.0 and true are not taken for 1: what is not exactly as harness.runs writes it is odd.
_SCORE = "CASE coalesce({0}, 'null') WHEN 'null' THEN -1 WHEN '0' THEN 0 WHEN '1' THEN 1 ELSE -2 END::TINYINT"
_PREDICTION = _Kind(
    ("sample_id", "finish"),
    "CASE finish WHEN '\"stop\"' THEN 0 WHEN '\"length\"' THEN 1 WHEN '\"error\"' THEN 2 ELSE -2 END::TINYINT AS code,"
    " (-1)::TINYINT AS reasoning, NULL::VARCHAR AS missing",
    _parse_prediction,
)
_VERDICT = _Kind(
    ("sample_id", "judge", "final", "reasoning", "missing"),
    "CASE WHEN judge IS NULL OR judge[1] != '\"' OR (missing[1] != '\"' AND missing != 'null') THEN -2"
    f" ELSE {_SCORE.format('final')} END::TINYINT AS code, {_SCORE.format('reasoning')} AS reasoning,"
    " CASE WHEN final IS NULL OR final = 'null' THEN coalesce(nullif(missing ->> '$', ''), 'no reason given') END AS missing",
    _parse_verdict,
)

_BULK = """
SELECT line.file, coalesce(f.start + a.row, -1)::BIGINT AS row, code, reasoning, missing
FROM (SELECT file_index AS file, sample_id, {select}
      FROM (SELECT file_index, {texts} FROM read_json($patterns, format = 'newline_delimited', ignore_errors = true,
            columns = {{{columns}}}))) AS line
JOIN file AS f ON f.number = line.file
LEFT JOIN asked AS a ON a.asked = f.asked AND a.id = line.sample_id
"""


def _lines(files: Sequence[tuple[Path, Asked]], kind: _Kind) -> tuple[dict[Path, _Lines], dict[Path, str]]:
    """The files' lines, and for those that cannot be trusted why. A file that does not exist has no lines."""
    there = [(path, asked) for path, asked in files if path.exists()]
    found = dict(_bulk(there, kind)) if there and sum(path.stat().st_size for path, _ in there) >= BULK_FROM else {}
    wrong = {}
    for path, asked in files:
        if path not in found:
            try:
                found[path] = _line_by_line(path, asked, kind)
            except (RunError, OSError) as e:
                wrong[path] = _reason(path, e)
    return found, wrong


def _bulk(files: Sequence[tuple[Path, Asked]], kind: _Kind) -> Iterator[tuple[Path, _Lines]]:
    """The lines of the files in which nothing is odd."""
    import duckdb

    starts = np.cumsum([0, *(len(asked.ids) for _, asked in files)])
    number = {asked.sha256: n for n, asked in enumerate({a.sha256: a for _, a in files}.values())}
    unique = {number[a.sha256]: a for _, a in files}
    patterns = [glob.escape(str(path)) for path, _ in files]
    with duckdb.connect(config={"preserve_insertion_order": False}) as db:  # twice as fast; order matters only where rows repeat
        db.execute(
            "CREATE TEMP TABLE file AS SELECT unnest(range(len($starts))) AS number, unnest($starts::BIGINT[]) AS start,"
            " unnest($asked::INT[]) AS asked",
            {"starts": starts[:-1].tolist(), "asked": [number[a.sha256] for _, a in files]},
        )
        db.execute("CREATE TEMP TABLE asked (asked INT, id VARCHAR, row INT)")
        for n, a in unique.items():
            ids = [json.dumps(i, ensure_ascii=False) for i in a.ids]
            db.execute("INSERT INTO asked SELECT $n, unnest($ids::VARCHAR[]), unnest(range(len($ids)))", {"n": n, "ids": ids})
        columns = ", ".join(f"{c}: 'JSON'" for c in kind.columns)
        texts = ", ".join(f"{c}::VARCHAR AS {c}" for c in kind.columns)
        query = _BULK.format(select=kind.select, texts=texts, columns=columns)
        try:
            lines = db.execute(query, {"patterns": patterns}).fetchnumpy()
        except (duckdb.Error, OSError):  # one of them cannot be read at all: line by line it will show which
            return
    rows, codes, reasons = lines["row"], lines["code"], lines["missing"]
    odd = (rows < 0) | (codes == _ODD) | (lines["reasoning"] == _ODD)
    suspects = set(lines["file"][odd].tolist())
    times = np.bincount(rows[~odd], minlength=starts[-1])
    suspects |= set((np.searchsorted(starts, np.flatnonzero(times > 1), side="right") - 1).tolist())
    code, reasoning = (np.full(starts[-1], NONE, dtype=np.int8) for _ in range(2))
    code[rows[~odd]], reasoning[rows[~odd]] = codes[~odd], lines["reasoning"][~odd]
    missing: dict[int, dict[int, str]] = {}
    for i in np.flatnonzero(~np.ma.getmaskarray(reasons) & ~odd):
        own = int(lines["file"][i])
        missing.setdefault(own, {})[int(rows[i] - starts[own])] = str(reasons[i])
    counts = np.bincount(lines["file"], minlength=len(files))
    for n, (path, _) in enumerate(files):
        if n not in suspects and _as_written(path, kind.columns, int(counts[n])):
            own_rows = slice(starts[n], starts[n + 1])
            yield path, _Lines(code[own_rows], reasoning[own_rows], missing.get(n, {}))


def _line_by_line(path: Path, asked: Asked, kind: _Kind) -> _Lines:
    """The lines of one file. Raises RunError for what cannot be trusted."""
    code, reasoning = (np.full(len(asked.ids), NONE, dtype=np.int8) for _ in range(2))
    missing: dict[int, str] = {}
    strangers = 0
    for n, line in enumerate(read_jsonl(path), start=1):
        try:
            row, parsed = asked.position.get(line["sample_id"]), kind.parse(line)
        except (KeyError, ValueError, TypeError):
            raise RunError(f"{path.name}:{n}: damaged line") from None
        if row is None:
            strangers += 1
            continue
        code[row], reasoning[row], why = parsed
        missing.pop(row, None)
        if why is not None:
            missing[row] = why
    if strangers:
        raise RunError(f"{path.name}: {strangers} lines about samples that were never asked")
    return _Lines(code, reasoning, missing)


def _reason(path: Path, error: RunError | OSError) -> str:
    """What is wrong, with the file's name and not its folder, which is said beside it."""
    return f"{path.name}: {error.strerror}" if isinstance(error, OSError) else str(error).removeprefix(f"{path.parent}/")


def _as_written(path: Path, columns: Sequence[str], lines: int) -> bool:
    """Whether the file is `lines` whole lines with each of these keys once, as harness.runs writes them.

    DuckDB skips blank lines, allows a comma at the end and takes the first of two values of a key, Python the last. A quote
    within a text is escaped, so a quoted name is a key, or at worst a text that sends the file to be read line by line.
    """
    raw = path.read_bytes()
    plain = raw.endswith(b"\n") and raw.count(b"\n") == lines and not any(end in raw for end in (b",}", b", }", b",]"))
    return not raw or (plain and all(raw.count(b'"%s"' % column.encode()) == lines for column in columns))
