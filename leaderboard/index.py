"""What reading.py made of the run folders under one --runs folder, kept in two parquet files, so that it is made once.

    RUNS/.index/asked.parquet    a row for each different samples.jsonl: ids, clusters, slices
    RUNS/.index/runs.parquet     a row for each run: how answers ended and the verdicts, a byte a sample

The JSONL stays the truth: a run whose files have another size or time (of content or of inode) than when it was read is read
again, and an index that is torn, of another form or not there is made anew. Writers replace whole files, so several
processes may read and write at once; the last one wins, and what it did not know is only read again. Where nothing can be
written nothing is kept, nor of a run folder that was copied to where `harness run` would not have put it.
"""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import RunCard
from leaderboard.reading import Asked, Int8, Int32, Judged, Run

FOLDER = ".index"
#: Changes when the meaning of what is kept does.
FORM = "3"


def stamp(folder: Path, *others: str) -> str:
    """Changes whenever a file of the run that counts does, or one of these others in it."""
    files = [os.path.join(folder, name) for name in (*others, "samples.jsonl", "predictions.jsonl")]
    verdicts, parts = os.path.join(folder, "verdicts"), [FORM]
    try:
        files += sorted(os.path.join(verdicts, name) for name in os.listdir(verdicts) if name.endswith(".jsonl"))
    except FileNotFoundError:
        pass
    except OSError as e:
        parts.append(f"verdicts: {e.strerror}")
    for path in files:
        try:
            s = os.stat(path)
        except OSError:
            continue
        parts.append(f"{os.path.basename(path)} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}")
    return "\n".join(parts)


_ASKED = {
    "sha256": "VARCHAR",
    "content": "VARCHAR",
    "ids": "VARCHAR[]",
    "clusters": "BLOB",
    "images": "VARCHAR[]",
    "slices": "STRUCT(name VARCHAR, values VARCHAR[], codes BLOB)[]",
}
_RUNS = {
    "run": "VARCHAR",
    "stamp": "VARCHAR",
    "asked": "VARCHAR",
    "finish": "BLOB",
    "judged": "STRUCT(file VARCHAR, judge VARCHAR, version VARCHAR, final BLOB, reasoning BLOB,"
    " missing_rows INT[], missing_why VARCHAR[])[]",
}


def load(root: Path, folders: Sequence[tuple[Path, RunCard]], stamps: dict[Path, str]) -> list[Run]:
    """Those of the runs under `root` that are known as they are now."""
    asked = {row["sha256"]: _asked(row) for row in _rows(root, "asked", _ASKED)}
    kept = {row["run"]: row for row in _rows(root, "runs", _RUNS)}
    found = []
    for path, card in folders:
        row = kept.get(_name(root, path))
        if row and row["stamp"] == stamps[path] and row["asked"] in asked:
            judged = tuple(_judged(path, j) for j in row["judged"])
            run = Run(path, card, asked[row["asked"]], _int8(row["finish"]), judged)
            if len(run.finish) == len(run.asked.ids) == card.data.rows:
                found.append(run)
    return found


def save(root: Path, runs: Sequence[Run], stamps: dict[Path, str]) -> None:
    """Keep these runs, and whatever else is kept already of runs that are still there."""
    import duckdb

    new = {_name(root, r.folder): _run_row(root, r, stamps[r.folder]) for r in runs}
    kept = {row["run"]: row for row in _rows(root, "runs", _RUNS) if (root / row["run"]).is_dir()} | new
    asked = {row["sha256"]: row for row in _rows(root, "asked", _ASKED)} | {r.asked.sha256: _asked_row(r.asked) for r in runs}
    wanted = {row["asked"] for row in kept.values()}
    try:
        _replace(root, "asked", _ASKED, [row for sha256, row in asked.items() if sha256 in wanted])
        _replace(root, "runs", _RUNS, list(kept.values()))
    except (OSError, UnicodeError, duckdb.Error):  # what cannot be kept is read again; it is no reason to show nothing
        return


def _name(root: Path, folder: Path) -> str:
    return folder.absolute().relative_to(root).as_posix()


def _rows(root: Path, name: str, columns: dict[str, str]) -> list[dict[str, Any]]:
    """What a file keeps; nothing where it is not there, torn or of another form."""
    import duckdb

    try:
        with duckdb.connect() as db:
            query = f"SELECT {', '.join(columns)} FROM read_parquet($path)"
            found = db.execute(query, {"path": glob.escape(str(root / FOLDER / f"{name}.parquet"))}).fetchall()
    except (duckdb.Error, OSError):
        return []
    return [dict(zip(columns, row, strict=True)) for row in found]


def _replace(root: Path, name: str, columns: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """Replace the file in one step. Not fsynced: it can be made again, and a torn one is noticed."""
    import duckdb

    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    tmp = folder / f".{name}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with duckdb.connect() as db:
            types = ", ".join(f"{column} {kind}" for column, kind in columns.items())
            table = f"SELECT unnest($rows::STRUCT({types})[], max_depth := 2)"
            db.execute(f"COPY ({table}) TO {quoted(tmp)} (FORMAT parquet, COMPRESSION zstd)", {"rows": rows})
        os.replace(tmp, folder / f"{name}.parquet")
    finally:
        tmp.unlink(missing_ok=True)


def quoted(name: Path | str) -> str:
    """As SQL writes it."""
    return "'" + str(name).replace("'", "''") + "'"


# -- rows <-> arrays --------------------------------------------------------------------------------------------------


def _asked_row(a: Asked) -> dict[str, Any]:
    slices = [{"name": n, "values": list(values), "codes": codes.tobytes()} for n, (values, codes) in a.slices.items()]
    return {
        "sha256": a.sha256,
        "content": a.content,
        "ids": list(a.ids),
        "clusters": a.clusters.tobytes(),
        "images": list(a.images),
        "slices": slices,
    }


def _asked(row: dict[str, Any]) -> Asked:
    slices = {s["name"]: (tuple(s["values"]), _int32(s["codes"])) for s in row["slices"]}
    return Asked(row["sha256"], row["content"], tuple(row["ids"]), _int32(row["clusters"]), tuple(row["images"]), slices)


def _run_row(root: Path, run: Run, stamp: str) -> dict[str, Any]:
    judged = [
        {
            "file": j.path.name,
            "judge": j.judge,
            "version": j.version,
            "final": j.final.tobytes(),
            "reasoning": j.reasoning.tobytes(),
            "missing_rows": list(j.missing),
            "missing_why": list(j.missing.values()),
        }
        for j in run.judged
    ]
    name, asked = _name(root, run.folder), run.asked.sha256
    return {"run": name, "stamp": stamp, "asked": asked, "finish": run.finish.tobytes(), "judged": judged}


def _judged(folder: Path, row: dict[str, Any]) -> Judged:
    missing = dict(zip(row["missing_rows"], row["missing_why"], strict=True))
    path = folder / "verdicts" / row["file"]
    return Judged(path, row["judge"], row["version"], _int8(row["final"]), _int8(row["reasoning"]), missing)


def _int8(raw: bytes) -> Int8:
    return np.frombuffer(raw, dtype=np.int8)


def _int32(raw: bytes) -> Int32:
    return np.frombuffer(raw, dtype="<i4").astype(np.int32, copy=False)
