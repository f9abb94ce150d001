"""The run folder: one model, one task, one prompt. Append-only JSONL, one writer, resumable at every step.

    RUNS/MODEL/TASK-KEY/
        card.json                what explains every number (RunCard)
        samples.jsonl            what was asked: everything but the pixels
        predictions.jsonl        one line a sample, appended and fsynced a batch at a time
        predictions.rank*.jsonl  the same while several processes write, until rank 0 gathers them
        verdicts/JUDGE@V.jsonl   one line a sample and judge
        measures.jsonl           one line a prediction: its metrics
        scores.json              point estimates, rebuilt from the above at the end

KEY hashes everything that could change a text or the answer read from it: rows, weights, attention and kind of device (or an
API's address), prompt, generation arguments, version of the reader and its markers. So the same command finds its own
unfinished run and another one never touches it. What only explains a text (slices, where the rows came from) is brought up to
date when a run goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import RunError
from harness.records import ImageRef, Measured, Prediction, Reference, RunCard, Sample, Verdict

if TYPE_CHECKING:
    from filelock import FileLock

R = TypeVar("R", bound=BaseModel)
#: Bytes that must fit before a run begins.
ROOM = 1_000_000


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` with `text` so that a reader, or a crash, sees the old file or the new one, never a part.

    Written to a temporary name in the same folder, fsynced, renamed; the folder is fsynced too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(tmp, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(tmp, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_writable(folder: Path, file: Path | None = None) -> None:
    """Raises RunError, before any work, where nothing can be kept in `folder` (made or not) or added to `file` in it.

    A little is written for that, without a name, and gone at once.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as f:
            f.write(bytes(ROOM))
            f.flush()
            os.fsync(f.fileno())
        if file is not None and file.exists():
            with open(file, "ab"):
                pass
    except OSError as e:
        raise RunError(
            f"{folder}: nothing can be kept there: {e.strerror or e}", hint="is there room, and may you write there?"
        ) from None


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The file's rows. A torn last line (a crash while writing) is left out; a damaged one elsewhere raises RunError."""
    if not path.exists():
        return
    with open(path, "rb") as f:
        for n, line in enumerate(f, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
                assert isinstance(row, dict)
            except (ValueError, AssertionError, RecursionError):  # ValueError: not JSON, or not UTF-8; the last: [[[[[...
                raise RunError(f"{path}:{n}: damaged line", hint="move the run folder away, or run with --fresh") from None
            yield row


def append_jsonl(path: Path, rows: Iterable[BaseModel]) -> None:
    """Append rows and fsync. A torn tail from an earlier crash is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as f:
        end = f.seek(0, os.SEEK_END)
        if end:
            f.seek(end - 1)
            if f.read(1) != b"\n":
                f.seek(0)
                f.truncate(f.read().rfind(b"\n") + 1)
                f.seek(0, os.SEEK_END)
        f.write("".join(r.model_dump_json() + "\n" for r in rows).encode())
        f.flush()
        os.fsync(f.fileno())


def slug(name: str) -> str:
    """A file name for any name; a long one ends in its hash."""
    found = re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/")).strip("-.") or "unnamed"
    return found if len(found) <= 100 else f"{found[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class RunFolder:
    """One run on disk. Use as a context manager to write: it holds the folder's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None

    @classmethod
    def place(cls, runs: Path, card: RunCard) -> RunFolder:
        """The folder that this card's run has under `runs`, made or not."""
        model = card.model
        weights = [model.weights_sha256 or model.name, model.settings_sha256, model.dtype]
        weights += [model.opening] if model.opening else []  # those who send it once go not on from those who sent it twice
        computed = [model.attention, (model.device or "").partition(":")[0]]  # ranks of one run differ in the device's number
        computed += [model.adapter] if model.adapter == "beside" else []  # in bf16 it is another model than when merged
        answering = {"transformers": computed, "vllm": ["vllm", *computed]}.get(model.backend, [model.backend, model.path])
        what = [
            card.data.fingerprint, *weights, *answering, card.prompt_sha256, card.generation.model_dump(), card.reader,
            *([card.reasoning_tags] if card.reasoning_tags else []),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        return cls(runs / slug(model.name) / f"{card.data.task}-{key}")

    def __enter__(self) -> RunFolder:
        from filelock import FileLock, Timeout  # brings asyncio along, which no reader needs

        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise RunError(
                f"{self.path}: another process is writing this run", hint="wait for it, or give another --runs folder"
            ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lock:
            self._lock.release()

    def begin(self, card: RunCard, samples: Iterable[Sample], *, fresh: bool) -> None:
        """Write card and samples, or, where an earlier try left them, keep what it did. `fresh` starts over.

        What was asked is the same by the folder's key; slices and the data's card are rewritten where they are not.
        """
        if fresh:
            for p in self.path.iterdir():
                if p.name != ".lock":
                    shutil.rmtree(p) if p.is_dir() else p.unlink()
        rows = (json.dumps(s.row() | {"resolution": card.data.resolution}, ensure_ascii=False) + "\n" for s in samples)
        text, path = "".join(rows), self.path / "samples.jsonl"
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomic(path, text)
        if not self.card_path.exists():
            self.write_card(card)
        elif (held := self.card()).data != card.data:
            self.write_card(held.model_copy(update={"data": card.data}))

    @property
    def root(self) -> Path:
        """The folder of runs that this one stands in."""
        return self.path.absolute().parent.parent

    @property
    def card_path(self) -> Path:
        return self.path / "card.json"

    def card(self) -> RunCard:
        """Raises RunError when the card is missing or damaged."""
        try:
            return RunCard.model_validate_json(self.card_path.read_text(encoding="utf-8"))
        except OSError as e:
            raise RunError(f"{self.card_path}: {e.strerror}") from None
        except ValidationError as e:
            wrong = e.errors()[0]
            raise RunError(f"{self.card_path}: {'.'.join(map(str, wrong['loc'])) or 'the file'}: {wrong['msg']}") from None
        except UnicodeDecodeError as e:
            raise RunError(f"{self.card_path}: {e}") from None

    def write_card(self, card: RunCard) -> None:
        write_atomic(self.card_path, card.model_dump_json(indent=2) + "\n")

    def samples(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.path / "samples.jsonl"))

    def questions(self) -> list[Sample]:
        """The samples as they were asked, without their pixels: what a judge needs."""
        return [
            Sample(
                id=row["id"],
                images=tuple(ImageRef(name) for name in row["images"]),
                question=row["question"],
                reference=Reference.model_validate(row["reference"]),
                slices=row["slices"],
                system=row.get("system"),
                history=row.get("history", ()),
            )
            for row in self.samples()
        ]

    def predictions(self) -> dict[str, Prediction]:
        return self._records(self.path / "predictions.jsonl", Prediction)

    def add_predictions(self, rows: Iterable[Prediction], rank: int = 0) -> None:
        append_jsonl(self.path / (f"predictions.rank{rank}.jsonl" if rank else "predictions.jsonl"), rows)

    def gather(self) -> None:
        """Move what other ranks wrote, in this try or one that was killed, into predictions.jsonl."""
        for path in sorted(self.path.glob("predictions.rank*.jsonl")):
            done = self.predictions()
            found = self._records(path, Prediction)
            append_jsonl(
                self.path / "predictions.jsonl", [p for i, p in found.items() if i not in done or done[i].finish == "error"]
            )
            path.unlink()

    def verdict_path(self, judge: str, version: str) -> Path:
        return self.path / "verdicts" / f"{slug(judge)}@{slug(version)}.jsonl"

    def verdicts(self, judge: str, version: str) -> dict[str, Verdict]:
        return self._records(self.verdict_path(judge, version), Verdict)

    def add_verdicts(self, judge: str, version: str, rows: Iterable[Verdict]) -> None:
        append_jsonl(self.verdict_path(judge, version), rows)

    def judges(self) -> list[tuple[str, str]]:
        """(name, version) of every judge with verdicts here."""
        out = []
        for p in sorted((self.path / "verdicts").glob("*.jsonl")):
            first = next(read_jsonl(p), None)
            if first and "judge" in first:
                out.append((first["judge"], p.stem.rpartition("@")[2]))
        return out

    def forget(self, judge: str, version: str) -> None:
        """Take away a judge's verdicts."""
        self.verdict_path(judge, version).unlink(missing_ok=True)

    def measured(self) -> dict[str, Measured]:
        """Each prediction's metrics as they were last measured; none where that cannot be read, for it can be made again."""
        try:
            return self._records(self.path / "measures.jsonl", Measured)
        except RunError:
            return {}

    def write_measured(self, rows: Iterable[Measured]) -> None:
        write_atomic(self.path / "measures.jsonl", "".join(r.model_dump_json() + "\n" for r in rows))

    def scores(self) -> dict[str, Any]:
        """Raises RunError when the run never came to its scores."""
        path = self.path / "scores.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise RunError(f"{self.path}: not finished", hint="run its own command again, then judge it") from None
        except ValueError as e:
            raise RunError(f"{path}: damaged: {e}", hint="run its own command again") from None

    def write_scores(self, scores: dict[str, Any]) -> None:
        write_atomic(self.path / "scores.json", json.dumps(scores, indent=2, ensure_ascii=False) + "\n")

    @staticmethod
    def _records(path: Path, kind: type[R]) -> dict[str, R]:
        try:
            return {r["sample_id"]: kind.model_validate(r) for r in read_jsonl(path)}
        except (ValidationError, KeyError) as e:
            raise RunError(
                f"{path}: a line is not a {kind.__name__}: {str(e).splitlines()[0]}", hint="run with --fresh"
            ) from None


def find(runs: Path) -> list[RunFolder]:
    """Every run folder under `runs`, by its card."""
    return [RunFolder(p.parent) for p in sorted(runs.glob("*/*/card.json"))]
