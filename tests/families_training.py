"""A few steps of training on a family's tiny model, and what came of them: for tests and for benchmarks/families.py."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import data, plugins, specs
from harness.data import LoadedTask
from trainers import recipe
from trainers.rewards import Rollout

SMALL = ("batch_size=4", "max_steps=2", "dev=none", "learning_rate=1e-3", "save_steps=1000", "stop_without_signal=0")
#: A random model earns nothing by format or accuracy: another part of the reward tells its texts apart.
REINFORCED = ("num_generations=2", "max_completion_length=6", "rewards.tests.families_training.varied=1")


def varied(rollouts: Sequence[Rollout]) -> list[float | None]:
    """A number between 0 and 1 by the text alone."""
    return [zlib.crc32(r.text.encode()) / 2**32 for r in rollouts]


def rows(limit: int = 6) -> LoadedTask:
    """SLAKE's first training rows with reasoning."""
    ((spec, path),) = specs.find("slake_grounded")
    return data.load(spec, path, source="bundled", split="train", limit=limit)


def train(name: str, folder: Path, task: LoadedTask, out: Path, *settings: str) -> tuple[Any, Any]:
    """(the trainer, TRL's trainer in it) after `fit`."""
    more = () if name == "sft" else REINFORCED
    chosen = recipe.load(name, str(folder), None, (*SMALL, *more, *settings))
    trainer = plugins.load("trainers", name)(str(folder), task, chosen, out, device="cpu")
    kept: dict[str, Any] = {}
    real = trainer.ready

    def ready(inner: Any, reader: Any) -> Any:
        kept["inner"] = real(inner, reader)
        return kept["inner"]

    trainer.ready = ready
    trainer.fit()
    return trainer, kept["inner"]
