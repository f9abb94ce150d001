"""A checkpoint folder as its pages show it: what it was trained from, its curves, and what the model wrote on the way.

trained.json         who trained it, on what, by which recipe (missing while it is being trained)
log.jsonl            a line a logged step: loss, reward, kl ...        (log.json, one list, in older checkpoints)
dev.jsonl            {"step", "score", "n"}: how it did on rows held out
completions.jsonl    {"step", "sample_id", "text", "tokens", reward parts ..., "total"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.runs import read_jsonl

#: What a folder must hold one of to be taken for a checkpoint.
MARKS = ("trained.json", "run.yaml", "log.jsonl", "log.json", "dev.jsonl", "completions.jsonl")


@dataclass(frozen=True)
class Completion:
    """A text that the model wrote at a step of its training, and its rewards by part (None where a part does not apply)."""

    step: int
    sample_id: str
    text: str
    tokens: int | None
    rewards: dict[str, float | None]
    total: float | None


@dataclass(frozen=True)
class Training:
    """One checkpoint. `curves` is a metric's (step, value) points."""

    name: str
    path: Path
    about: dict[str, Any]
    finished: bool
    curves: dict[str, list[tuple[int, float]]]
    completions: list[Completion] = field(repr=False)
    #: By sample id, where the checkpoint keeps its rows.
    questions: dict[str, str] = field(repr=False)
    #: What could not be read, if anything.
    damaged: str | None = None

    @property
    def steps(self) -> list[int]:
        """The steps that have completions."""
        return sorted({c.step for c in self.completions})

    @property
    def last_step(self) -> int:
        """The last optimizer step that was logged."""
        return max((points[-1][0] for points in self.curves.values()), default=0)


def is_checkpoint(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def home(folder: Path) -> Path:
    """The folder of the training that this is a checkpoint of (OUT of OUT/checkpoint-100 or OUT/best), or the folder itself."""
    return folder.parent if (folder.parent / "log.jsonl").is_file() else folder


def read(folder: Path) -> Training:
    """The checkpoint in `folder`; what cannot be read is left out and named in `damaged`."""
    wrong: list[str] = []
    trained: dict[str, Any] = _json(folder / "trained.json", dict, wrong)
    about = trained or _yaml(folder / "run.yaml", wrong)
    logged = _rows(folder / "log.jsonl", wrong) or _json(folder / "log.json", list, wrong)
    dev = _rows(folder / "dev.jsonl", wrong)
    curves = _curves(row for row in logged if isinstance(row, dict))
    if points := [(int(r["step"]), float(r["score"])) for r in dev if _number(r.get("step")) and _number(r.get("score"))]:
        curves["dev score"] = points
    completions = [_completion(r) for r in _rows(folder / "completions.jsonl", wrong) if _number(r.get("step"))]
    questions = {
        str(r["id"]): str(r["question"]) for r in _rows(folder / "samples.jsonl", wrong) if "id" in r and "question" in r
    }
    name = about.get("name")
    name = name if isinstance(name, str) else folder.name.strip(".")
    return Training(name, folder, about, bool(trained), curves, completions, questions, "; ".join(wrong) or None)


def texts(tree: Any) -> Iterator[str]:
    """Every text in what a checkpoint says of itself."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from texts(part)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and value == value


def _json(path: Path, kind: type, wrong: list[str]) -> Any:
    if not path.is_file():
        return kind()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        wrong.append(f"{path.name}: {e}")
        return kind()
    if not isinstance(found, kind):
        wrong.append(f"{path.name}: not a JSON {'object' if kind is dict else 'list'}")
        return kind()
    return found


def _yaml(path: Path, wrong: list[str]) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, YAMLError) as e:
        wrong.append(f"{path.name}: {str(e).splitlines()[0]}")
        return {}
    return found if isinstance(found, dict) else {}


def _rows(path: Path, wrong: list[str]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    try:
        out.extend(read_jsonl(path))
    except (RunError, OSError) as e:
        wrong.append(str(e).removeprefix(f"{path.parent}/"))
    return out


def _curves(logged: Any) -> dict[str, list[tuple[int, float]]]:
    """The logged numbers by name, over steps. The closing line (train_runtime ...) has no curve of its own."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in logged:
        if _number(row.get("step")) and "train_runtime" not in row:
            for key, value in row.items():
                if key not in ("step", "epoch") and _number(value):
                    curves.setdefault(key, []).append((int(row["step"]), float(value)))
    return curves


def _completion(row: dict[str, Any]) -> Completion:
    parts, total = row.get("rewards"), row.get("total")
    return Completion(
        step=int(row["step"]),
        sample_id=str(row.get("sample_id", "")),
        text=str(row.get("text", "")),
        tokens=int(row["tokens"]) if _number(row.get("tokens")) else None,
        rewards={str(k): float(v) if _number(v) else None for k, v in parts.items()} if isinstance(parts, dict) else {},
        total=float(total) if isinstance(total, int | float) and _number(total) else None,
    )
