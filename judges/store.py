"""Verdicts that were paid for, kept for every run: RUNS/.verdicts/JUDGE@VERSION.jsonl, append-only.

A verdict is found by a key over everything that decided it: the judge's model and address, the full messages, the
parameters, the reply's schema and the prompt. A reply that was no verdict was paid for too: it is kept with its reason.

Several processes may judge at once. Each claims a key before it asks, and keeps the claim until the verdict is on disk; the
others wait for it. A claim is a lock on one byte of a file beside the store, which ends with its process, whatever ends that.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from harness.records import Record, Verdict
from harness.runs import append_jsonl, check_writable, slug, write_atomic

FOLDER = ".verdicts"
#: Bytes of a line; a longer one is no verdict.
LONGEST = 16_000_000


class Kept(Record):
    """One line: a verdict (of the row it was first asked for), its key, and when it was given."""

    key: str
    created: str
    verdict: Verdict


def key(asked: dict[str, Any]) -> str:
    """Hash over what was asked: JSON values, in any order."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class VerdictStore:
    """The verdicts of one judge and version. Several processes may write: each append holds the lock."""

    def __init__(self, runs: Path, judge: str, version: str) -> None:
        self.path = runs / FOLDER / f"{slug(judge)}@{slug(version)}.jsonl"
        #: Lines that are not read, by number: what is wrong with each.
        self.damaged: dict[int, str] = {}
        self._kept: dict[str, Verdict] = {}
        self._file: tuple[int, int] | None = None
        self._end = self._line = 0
        self._claims: int | None = None

    def check(self) -> None:
        """Raises RunError where verdicts cannot be kept."""
        check_writable(self.path.parent, self.path)

    def read(self) -> dict[str, Verdict]:
        """key -> the verdict that counts; only lines that are new since the last call are read. A damaged line is left out."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return self._kept
        if (found.st_dev, found.st_ino) != self._file or found.st_size < self._end:  # repaired, or another file
            self._file, self._end, self._line = (found.st_dev, found.st_ino), 0, 0
            self.damaged, self._kept = {}, {}
        if found.st_size > self._end:
            with open(self.path, "rb") as f:
                f.seek(self._end)
                for line in _lines(f):
                    self._end, self._line = f.tell(), self._line + 1
                    row = parsed(line)
                    if isinstance(row, str):
                        self.damaged[self._line] = row
                    elif row.verdict.final is not None or getattr(self._kept.get(row.key), "final", None) is None:
                        self._kept[row.key] = row.verdict
        return self._kept

    def add(self, verdicts: Iterable[tuple[str, Verdict]]) -> None:
        """Append and fsync."""
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        rows = [Kept(key=k, created=created, verdict=v) for k, v in verdicts]
        if rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                append_jsonl(self.path, rows)

    def _lock(self) -> FileLock:
        return FileLock(self.path.with_suffix(".lock"))

    # -- who asks ---------------------------------------------------------------------------------------------------

    def claim(self, row: str) -> bool:
        """Whether this process, and no other, may ask for `row` now."""
        if self._claims is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._claims = os.open(self.path.with_suffix(".claims"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(row))
        except OSError as e:  # a file system without locks cannot say who asks, and must not stop anyone
            return e.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def release(self, rows: Iterable[str]) -> None:
        """Let others ask for `rows`, or find what is kept of them."""
        if self._claims is not None:
            for row in rows:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, _byte(row))

    def release_all(self) -> None:
        if self._claims is not None:
            os.close(self._claims)
            self._claims = None

    # -- damage -----------------------------------------------------------------------------------------------------

    def repair(self) -> int:
        """Move the damaged lines, a torn last one among them, to a file of their own beside the store; how many there were."""
        with self._lock():
            good: list[bytes] = []
            bad: list[bytes] = []
            with open(self.path, "rb") as f:
                for line in _lines(f, torn=True):
                    (bad if isinstance(parsed(line), str) else good).append(line)
            if bad:
                with open(self.path.with_suffix(".damaged"), "ab") as out:
                    out.writelines(bad)
                    out.flush()
                    os.fsync(out.fileno())
                write_atomic(self.path, b"".join(good).decode())
        return len(bad)


def parsed(line: bytes) -> Kept | str:
    """A line of a store, or in words what is wrong with it."""
    if len(line) > LONGEST:
        return "longer than any verdict"
    if not line.endswith(b"\n"):
        return "cut off"
    try:
        return Kept.model_validate_json(line)
    except ValidationError as e:  # not JSON or not UTF-8 among them
        wrong = e.errors()[0]
        return f"{'.'.join(map(str, wrong['loc'])) or 'the line'}: {wrong['msg']}"


def _lines(f: Any, torn: bool = False) -> Iterator[bytes]:
    """The file's lines, a huge one in part alone (but read over to its end); with `torn` also a last one without an end."""
    while line := f.readline(LONGEST + 1):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = f.readline(LONGEST)
        if rest or torn:
            yield line


def _byte(row: str) -> int:
    return int(row[:15], 16)


def stores(runs: Path) -> list[VerdictStore]:
    """Every store under a folder of runs."""
    found = []
    for path in sorted((runs / FOLDER).glob("*.jsonl")):
        judge, _, version = path.stem.rpartition("@")
        found.append(VerdictStore(runs, judge, version))
    return found
