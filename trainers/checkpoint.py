"""A training folder and its checkpoints: each is whole and loads with `harness run --model`, or is known to be torn.

OUT/run.yaml             what is trained, on what, how: all that `harness train resume OUT` needs
OUT/recipe.yaml          the resolved recipe, for --recipe
OUT/samples.jsonl        the rows trained on, without pixels
OUT/log.jsonl            a line a step: loss, reward parts, KL, lengths, learning rate
OUT/completions.jsonl    what the model wrote, and what each reward part gave it
OUT/dev.jsonl            what the harness scored each checkpoint on rows held out; curves.png draws it
OUT/checkpoint-100/      the model as it was then, and the optimizer's state; SHA256SUMS is written last
OUT/best/                the checkpoint with the best dev score, without the optimizer's state
OUT/*.safetensors ...    the model at the end; trained.json is written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.runs import read_jsonl, write_atomic

SUMS = "SHA256SUMS"
#: What a checkpoint holds for resuming alone.
RESUME_ONLY = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json", SUMS)
#: The files with a line a step (the first key of each is `step`).
LOGS = ("log.jsonl", "completions.jsonl", "dev.jsonl")


def save_model(model: Any, processor: Any, folder: Path, base: str, state_dict: dict[str, Any] | None = None) -> None:
    """The adapter (or the full weights) and the processor with its chat template. `base` is what an adapter will name."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(model, "peft_config"):
        for config in model.peft_config.values():  # the name the user gave, not this machine's path
            config.base_model_name_or_path = base
        # the adapter leaves the embeddings alone; asking PEFT to check would ask the hub
        model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False, selected_adapters=["default"])
    else:
        model.save_pretrained(folder, state_dict=state_dict)
    processor.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    for f in folder.glob("*.safetensors"):
        f.chmod(0o644)  # safetensors writes for the owner alone


def move_into(source: Path, out: Path) -> None:
    """Move a saved model's files into `out`, its configuration last: until then `out` is no checkpoint to anyone."""
    last = ("adapter_config.json", "config.json")
    for f in sorted(source.iterdir(), key=lambda f: f.name in last):
        os.replace(f, out / f.name)
    source.rmdir()


def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write SHA256SUMS over the folder's files: with it the checkpoint is whole (`sha256sum -c` agrees)."""
    files = sorted(f.relative_to(folder) for f in folder.rglob("*") if f.is_file() and f.name != SUMS)
    write_atomic(folder / SUMS, "".join(f"{_digest(folder / f)}  {f}\n" for f in files))


def torn(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when every file is there and as it was written."""
    try:
        sums = (folder / SUMS).read_text(encoding="utf-8")
    except OSError:
        return f"no {SUMS}: writing it was interrupted"
    for line in sums.splitlines():
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _digest(folder / name) != digest:
            return f"{name} is not as it was written"
    return None


def step_of(folder: Path) -> int:
    """The step that a folder named checkpoint-N was saved at."""
    _, _, number = folder.name.rpartition("-")
    if not folder.name.startswith("checkpoint-") or not number.isdecimal():
        raise RunError(f"{folder}: is no checkpoint", hint="give OUT/checkpoint-N, or OUT to go on from the last one")
    return int(number)


def checkpoints(out: Path) -> list[Path]:
    """The checkpoint folders by step, whole or torn."""
    found = [p for p in out.glob("checkpoint-*") if p.is_dir() and p.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=step_of)


def last_whole(out: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint to go on from (None where there is none), and why each newer one was passed over."""
    passed: dict[str, str] = {}
    for folder in reversed(checkpoints(out)):
        reason = torn(folder)
        if reason is None:
            return folder, passed
        passed[folder.name] = reason
    return None, passed


def whole(folder: Path) -> Path:
    """`folder`, checked. Raises RunError for a torn checkpoint, naming one that can be used."""
    if reason := torn(folder):
        other, _ = last_whole(folder.parent)
        way = f"go on from {other}" if other else "no whole checkpoint is left; remove the folder and start again"
        what = f"a torn checkpoint: {reason}" if folder.is_dir() else "there is no such checkpoint"
        raise RunError(f"{folder}: {what}", hint=way)
    return folder


def check_nothing_lost(out: Path) -> None:
    """Raises RunError where starting again would throw away a training that had got as far as a checkpoint."""
    damaged = [p for p in checkpoints(out) if (p / SUMS).exists()]
    if damaged or (out / "best").exists():
        why = f"{damaged[-1].name}: {torn(damaged[-1])}" if damaged else "best/ is all that is left"
        raise RunError(
            f"{out}: no whole checkpoint is left to go on from ({why})",
            hint="remove the folder to start again, or give another --out folder",
        )


def remove(folder: Path) -> None:
    """Remove a checkpoint: its name first, so that a kill leaves no half of one."""
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def due(step: int, every: int, steps: int) -> bool:
    """Whether a training of `steps` saves a checkpoint at `step` by itself. Others were saved because a signal came: they are
    there to go on from, and are neither scored nor kept."""
    return step % every == 0 or step == steps


def rotate(out: Path, keep: int | None, every: int, steps: int) -> None:
    """Leave the newest `keep` checkpoints (None: all) of those that are due. Call it once the newest is sealed."""
    found = checkpoints(out)
    regular = [c for c in found if due(step_of(c), every, steps)]
    for folder in found[:-1]:
        if folder not in regular or (keep and folder not in regular[-keep:]):
            remove(folder)


def rewind(out: Path, step: int) -> None:
    """Leave OUT as it was at `step`: what a killed run wrote after its last checkpoint will be written again.

    Newer checkpoints go first. Were the logs cut first, a kill in between would leave a checkpoint with a gap in its log.
    """
    for folder in reversed(checkpoints(out)):
        if step_of(folder) > step:
            remove(folder)
    for leftover in out.glob(".checkpoint-*.gone"):
        shutil.rmtree(leftover)
    for name in LOGS:
        path = out / name
        if path.exists():
            kept = [json.dumps(r, ensure_ascii=False) + "\n" for r in read_jsonl(path) if int(r.get("step", 0)) <= step]
            write_atomic(path, "".join(kept))


def keep_best(checkpoint: Path, out: Path) -> None:
    """Copy a checkpoint, without what only resuming needs, to OUT/best."""
    part, old, best = out / ".best.part", out / ".best.old", out / "best"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(checkpoint, part, ignore=shutil.ignore_patterns(*RESUME_ONLY))
    if best.exists():
        shutil.rmtree(old, ignore_errors=True)
        best.rename(old)
    part.rename(best)
    shutil.rmtree(old, ignore_errors=True)


def settle_best(out: Path) -> None:
    """Make OUT/best the first checkpoint with the highest score in dev.jsonl, whatever a kill or going back left.

    Where that checkpoint is gone, a best/ of another step is removed: its score is not in the log.
    """
    best, old = out / "best", out / ".best.old"
    if old.exists() and not best.exists():  # killed between two renames
        old.rename(best)
    scored = [r for r in read_jsonl(out / "dev.jsonl") if r["step"] > 0]
    step = max(scored, key=lambda r: (r["score"], -r["step"]))["step"] if scored else None
    if _step_in(best) == step:
        return
    if step is not None and torn(out / f"checkpoint-{step}") is None:
        keep_best(out / f"checkpoint-{step}", out)
    else:
        shutil.rmtree(best, ignore_errors=True)


def _step_in(folder: Path) -> int | None:
    """The step that a kept checkpoint says it is of."""
    try:
        return int(json.loads((folder / "trained.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError):
        return None
