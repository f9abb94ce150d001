"""Whether OUT may be trained into: it is free, or holds this very training, interrupted; and nobody else is writing there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RunError, UserError
from trainers import recipe as recipes
from trainers.runfile import read_run

if TYPE_CHECKING:
    from trainers.base import Trainer

LOCK = ".lock"
#: Recipe keys that may change when a training goes on: no weight depends on them.
FREE = ("stop_without_signal",)
#: Packages whose version decides the last bit of a weight.
DECIDE = ("torch", "transformers", "trl", "peft", "accelerate")


def unfinished(trainer: Trainer) -> bool:
    """Whether OUT is free, or holds a training like this one that was interrupted. Raises UserError where it is another."""
    out = trainer.out
    if not out.is_dir():
        return False
    # empty, or killed before the first file
    if all(f.name == LOCK or f.name.startswith(".run.yaml.") for f in out.iterdir()):
        return True
    if (out / "trained.json").exists() or not (out / "run.yaml").exists():
        return False
    there, mine = read_run(out), trainer.run()
    if there["weights_sha256"] is None:  # killed before the model was downloaded
        mine["weights_sha256"] = None
    other = [
        key.replace("_", " ")
        for key in ("trainer", "model", "weights_sha256", "data_fingerprint", "dev_fingerprint")
        if there[key] != mine[key]
    ]
    if not other and (differ := changed(there["recipe"], mine["recipe"], out)):
        other = [f"recipe ({', '.join(differ)})"]
    if other:
        raise UserError(
            f"{out}: holds an unfinished training with another {other[0]}",
            hint=f"harness train resume {out} finishes that one; or give another --out folder, or remove it",
        )
    return True


def changed(there: Mapping[str, Any], mine: Mapping[str, Any], out: Path) -> list[str]:
    """The recipe keys that decide weights and differ; a recipe of an older version had today's defaults for what it lacks."""
    held = recipes.checked(dict(there), out / "run.yaml").model_dump(mode="json")
    held["prompts"] = held["prompts"] or mine["prompts"]
    same_order = {k: list(v.items()) if isinstance(v, dict) else v for k, v in held.items()}  # parts are summed in their order
    return [k for k, v in mine.items() if k not in FREE and same_order[k] != (list(v.items()) if isinstance(v, dict) else v)]


def other_versions(out: Path, now: Mapping[str, str]) -> list[str]:
    """What a training that goes on was begun with, where that is another version."""
    if not (out / "run.yaml").exists():
        return []
    begun = read_run(out).get("packages") or {}
    return [f"{name} {begun[name]}, now {now[name]}" for name in DECIDE if begun.get(name, now.get(name)) != now.get(name)]


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold OUT for this process. Raises RunError where another one is training into it."""
    from filelock import FileLock, Timeout

    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"{out}: another process is training into it", hint="wait for it, or give another --out folder") from None
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        lock.release()
