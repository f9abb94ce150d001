"""Run folders as small arrays: what was asked, what came of it, and every judge's verdicts, a number a row.

Of a prediction or a verdict only the fields that count are decoded, the others are skipped as they are parsed (msgspec): a
gigabyte a second. Files are taken as harness.runs takes them: of two lines about one row the later one holds, and a torn last
line is left out, as a run may be writing it now. What cannot be trusted (a damaged line, a stranger among the rows) is set
aside with the reason and touches no other run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.errors import RunError
from harness.records import Finish, Record, RunCard
from harness.runs import read_jsonl, slug

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

#: How an answer ended, in the numbers of `Run.finish`.
FINISH: tuple[Finish, ...] = ("stop", "length", "error")
#: In every array: nothing there (no answer, no verdict, no value of this slice).
NONE = -1


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


def read(folders: Sequence[tuple[Path, RunCard]]) -> tuple[list[Run], list[Damaged]]:
    """The runs as arrays, in the order of `folders`, and what had to be set aside."""
    runs: list[Run] = []
    wrong: dict[Path, str] = {}
    found: dict[str, Asked | str] = {}  # files with the same bytes are parsed once
    with ThreadPoolExecutor() as pool:  # while one run is decoded, those after it are hashed
        pool.submit(_fetch_ahead, [path for path, _ in folders])
        for (path, card), sha256 in zip(folders, pool.map(_sha256, [path / "samples.jsonl" for path, _ in folders]), strict=True):
            if sha256 not in found:
                found[sha256] = _asked(path / "samples.jsonl", sha256)
            asked = found[sha256]
            if isinstance(asked, str):
                wrong[path] = asked
                continue
            try:
                runs.append(_run(path, card, asked, wrong))
            except (RunError, OSError) as e:
                wrong[path] = _reason(path / "predictions.jsonl", e)
    return runs, [Damaged(path=str(path), reason=why) for path, why in wrong.items()]


def _fetch_ahead(folders: Sequence[Path]) -> None:
    """Ask the kernel to begin reading these runs' files from disk, where it takes such advice."""
    if not hasattr(os, "posix_fadvise"):
        return
    for folder in folders:
        for path in (folder / "predictions.jsonl", *(folder / "verdicts").glob("*.jsonl")):
            with contextlib.suppress(OSError), open(path, "rb", buffering=0) as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _run(path: Path, card: RunCard, asked: Asked, wrong: dict[Path, str]) -> Run:
    """One run; which of its verdict files cannot be trusted is put down in `wrong`. Raises RunError, OSError."""
    if len(asked.ids) != card.data.rows:  # as after a broken copy
        raise RunError(f"samples.jsonl: {len(asked.ids)} rows, but card.json names {card.data.rows}")
    if not asked.ids:
        raise RunError("samples.jsonl: no rows")
    rows, lines = _lines(path / "predictions.jsonl", asked, _Prediction)
    finish = _array(asked, rows, [FINISH.index(line.finish) for line in lines])
    verdicts, files = path / "verdicts", []
    try:
        files = sorted(verdicts / name for name in os.listdir(verdicts) if name.endswith(".jsonl"))
    except FileNotFoundError:
        pass
    except OSError as e:
        wrong[verdicts] = f"verdicts: {e.strerror}"
    judged = []
    for file in files:
        try:
            judged.append(_judged(file, asked))
        except (RunError, OSError) as e:
            wrong[file] = _reason(file, e)
    return Run(path, card, asked, finish, tuple(judged))


def _judged(file: Path, asked: Asked) -> Judged:
    """Named as its lines say; by the file's name where it has none yet.

    Raises RunError also where the two do not agree, as in a copy under another name: its verdicts would count twice.
    """
    rows, lines = _lines(file, asked, _Verdict)
    name, _, version = file.stem.rpartition("@")
    judge = lines[0].judge if lines else name
    if slug(judge) != name or any(line.judge != judge for line in lines):
        raise RunError(f"{file.name}: verdicts that are not all of the judge and version in the file's name, JUDGE@VERSION")
    final = _array(asked, rows, [NONE if line.final is None else line.final for line in lines])
    reasoning = _array(asked, rows, [NONE if line.reasoning is None else line.reasoning for line in lines])
    missing = {
        row: line.missing or "no reason given" for row, line in zip(rows.tolist(), lines, strict=True) if line.final is None
    }
    return Judged(file, judge, version, final, reasoning, missing)


# -- samples.jsonl ----------------------------------------------------------------------------------------------------


def _asked(path: Path, sha256: str) -> Asked | str:
    """What a samples.jsonl asks, or why that cannot be known."""
    try:
        return _read_samples(path, sha256)
    except (RunError, OSError) as e:
        return _reason(path, e)


def _reason(path: Path, error: RunError | OSError) -> str:
    """What is wrong, with the file's name and not its folder, which is said beside it."""
    return f"{path.name}: {error.strerror}" if isinstance(error, OSError) else str(error).removeprefix(f"{path.parent}/")


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
        if not _slices_hold(row.get("slices")) or not _storable(json.dumps(row, ensure_ascii=False)):
            raise RunError(f"{path.name}:{n}: damaged line")
        if row["id"] in rows:
            raise RunError(f"{path.name}:{n}: a second row {row['id']!r}")
        rows[row["id"]] = row
    images, clusters = _codes([row["cluster"] for row in rows.values()])
    slices = [row.get("slices") or {} for row in rows.values()]
    names = sorted({name for own in slices for name in own})
    coded = {name: _codes([own.get(name) for own in slices]) for name in names}
    content = _hash(
        [
            [row["id"], row.get("question"), row.get("reference"), row.get("pictured", row["cluster"])]
            for _, row in sorted(rows.items())
        ]
    )
    return Asked(sha256, content, tuple(rows), clusters, images, coded)


def _hash(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _slices_hold(slices: Any) -> bool:
    """Whether these are a row's slices: names and values that are text, or none at all."""
    return slices is None or (isinstance(slices, dict) and all(isinstance(value, str) for value in slices.values()))


def _storable(text: str) -> bool:
    """Whether the text can be written as UTF-8. JSON can spell half a surrogate pair, which no file, page or index holds."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _codes(values: Iterable[str | None]) -> tuple[tuple[str, ...], Int32]:
    """The different values in order of appearance, and each one's index; NONE for None."""
    number: dict[str, int] = {}
    codes = [NONE if v is None else number.setdefault(v, len(number)) for v in values]
    return tuple(number), np.array(codes, dtype=np.int32)


# -- predictions.jsonl and verdicts/*.jsonl ---------------------------------------------------------------------------


class _Line(msgspec.Struct, gc=False):
    sample_id: str


class _Prediction(_Line, gc=False):
    finish: Finish


class _Verdict(_Line, gc=False):
    judge: str
    final: Literal[0, 1] | None = None
    reasoning: Literal[0, 1] | None = None
    missing: str | None = None


L = TypeVar("L", bound=_Line)


def _lines(path: Path, asked: Asked, kind: type[L]) -> tuple[NDArray[np.intp], list[L]]:
    """The rows that a file has lines about, each once, and the last line about each; none where there is no file.

    Raises RunError for a damaged line and for rows that were never asked.
    """
    lines = _decoded(path, kind)
    if tuple([line.sample_id for line in lines]) == asked.ids:  # as most files are
        return np.arange(len(lines)), lines
    last = {line.sample_id: line for line in lines}
    rows = [asked.position.get(sample_id, NONE) for sample_id in last]
    if strangers := rows.count(NONE):
        raise RunError(f"{path.name}: lines about samples that were never asked: {strangers}")
    return np.array(rows, dtype=np.intp), list(last.values())


def _decoded(path: Path, kind: type[L]) -> list[L]:
    """A file's lines. Raises RunError for a damaged one, with its number."""
    if not path.exists():
        return []
    raw = path.read_bytes()
    raw = raw[: raw.rfind(b"\n") + 1]
    decoder = msgspec.json.Decoder(kind)
    try:
        lines = decoder.decode_lines(_utf8(raw))
        if len(lines) == raw.count(b"\n"):  # a blank line, and two objects on one, are nothing to msgspec
            return lines
    except _DAMAGE:
        pass
    lines = []
    for n, line in enumerate(raw.split(b"\n")[:-1], start=1):
        try:
            lines.append(decoder.decode(_utf8(line)))
        except _DAMAGE:
            raise RunError(f"{path.name}:{n}: damaged line") from None
    return lines


#: No JSON or not of the kind, not UTF-8, [[[[[...
_DAMAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _utf8(raw: bytes) -> bytes:
    """The same bytes. Raises UnicodeDecodeError where they are no UTF-8, which msgspec notices only in what it decodes."""
    if not raw.isascii():
        raw.decode()
    return raw


def _array(asked: Asked, rows: NDArray[np.intp], values: list[int]) -> Int8:
    found = np.full(len(asked.ids), NONE, dtype=np.int8)
    found[rows] = values
    return found
