"""Verdicts that were paid for, kept for every run: RUNS/.verdicts/JUDGE@VERSION.jsonl, append-only.

A verdict is found by a key over everything that decided it: the judge's model and address, the full messages, the
parameters, the reply's schema and the prompt. What a judge said that was no verdict is kept too, and is asked for again.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError

from harness.errors import RunError
from harness.records import Record, Verdict
from harness.runs import append_jsonl, read_jsonl, slug

FOLDER = ".verdicts"


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

    def read(self) -> dict[str, Verdict]:
        """key -> the verdict last given. Raises RunError naming file and line when one is damaged."""
        out = {}
        for n, row in enumerate(read_jsonl(self.path), start=1):
            try:
                kept = Kept.model_validate(row)
            except ValidationError as e:
                raise RunError(
                    f"{self.path}:{n}: not a kept verdict: {str(e).splitlines()[0]}", hint="move the file away"
                ) from None
            if kept.verdict.final is not None:
                out[kept.key] = kept.verdict
        return out

    def add(self, verdicts: Iterable[tuple[str, Verdict]]) -> None:
        """Append and fsync."""
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        rows = [Kept(key=k, created=created, verdict=v) for k, v in verdicts]
        if rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):
                append_jsonl(self.path, rows)
