"""How checkpoints are scored on rows held out, and whether those rows can tell one checkpoint from another."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from harness.data import LoadedTask
from harness.errors import RunError
from harness.prompts import Prompt

if TYPE_CHECKING:
    from trainers.base import Trainer

#: With fewer rows, or rows from fewer images (or patients, where the task says so), chance chooses the best checkpoint.
FEWEST_ROWS, FEWEST_CLUSTERS = 50, 20


def prompt(trainer: Trainer) -> Prompt:
    """What dev rows are asked with: `dev_prompt`, else the training's prompt where it has one, else the task's default."""
    recipe, spec = trainer.recipe, trainer.task.spec
    trained = trained_with(trainer)
    return spec.get_prompt(recipe.dev_prompt or (trained[0] if len(trained) == 1 else None))


def trained_with(trainer: Trainer) -> list[str]:
    """The names of the prompts that training rows may be asked with."""
    every = [trainer.recipe.prompts, *trainer.recipe.prompts_by_type.values()]
    return list(dict.fromkeys(name for shares in every for name in shares))


def about(trainer: Trainer) -> dict[str, Any]:
    """What trained.json says of the scores."""
    assert trainer.dev is not None
    asked, trained = prompt(trainer).name, trained_with(trainer)
    return {
        "split": trainer.dev.card.split,
        "rows": len(trainer.dev.samples),
        "clusters": len({s.cluster for s in trainer.dev.samples}),
        "prompt": asked,
        "prompt_of_the_training": trained == [asked],
    }


def caveats(trainer: Trainer) -> list[str]:
    """What must be known of `best/` before it is believed in."""
    if trainer.dev is None:
        return []
    said, facts = [], about(trainer)
    if facts["rows"] < FEWEST_ROWS or facts["clusters"] < FEWEST_CLUSTERS:
        clusters = f"{facts['clusters']} cluster{'s' * (facts['clusters'] != 1)}"
        said.append(
            f"best/ will be chosen by {facts['rows']} dev rows in {clusters} (rows of one image or patient): below "
            f"{FEWEST_ROWS} rows and {FEWEST_CLUSTERS} clusters, chance chooses it; raise dev_rows, or name a larger split with "
            "--set dev=NAME"
        )
    if not facts["prompt_of_the_training"]:
        said.append(
            f"dev rows are asked with prompt '{facts['prompt']}', the training with {', '.join(trained_with(trainer))}; "
            "--set dev_prompt=NAME chooses another"
        )
    return said


class Row(BaseModel):
    """A line of one of the logs. `step` comes first; the rest is what there was to say."""

    model_config = ConfigDict(extra="allow")
    step: int


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Random numbers go on afterwards as if nothing had been drawn in between."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class DevScore:
    """Scores a checkpoint as `harness run --prompt` would: greedy, the task's own length, judged by `exact`.

    The records of each lie under OUT/dev/, so that a score can be traced to its answers.
    """

    def __init__(self, task: LoadedTask, prompt: Prompt, out: Path, device: str) -> None:
        self.task, self.prompt, self.out, self.device = task, prompt, out, device

    def __call__(self, model: str, step: int) -> Row:
        """Load the checkpoint anew, as anyone would, and give its mean verdict over the dev rows."""
        import torch

        from harness import pipeline
        from harness.contracts import JudgeOptions
        from harness.models.transformers_model import TransformersModel
        from harness.records import GenerationArgs
        from leaderboard.stats import mean_interval

        judges = pipeline.make_judges("exact", JudgeOptions())
        with untouched_randomness():
            backend = TransformersModel(model, device=self.device)
            spec = self.task.spec
            args = GenerationArgs(max_new_tokens=spec.max_new_tokens)
            folder = pipeline.run(self.task, backend, self.prompt, args, judges, self.out / "dev")
            del backend
            gc.collect()
            torch.cuda.empty_cache()
        verdicts = folder.verdicts(judges[0].name, judges[0].version)
        finals = {i: v.final for i, v in verdicts.items() if v.final is not None}
        if len(finals) != len(self.task.samples):
            raise RunError(f"{folder.path}: {len(finals)} of {len(self.task.samples)} dev rows have a verdict")
        found = mean_interval([finals[s.id] for s in self.task.samples], [s.cluster for s in self.task.samples])
        return Row(
            step=step, score=found.value, low=found.low, high=found.high, n=found.n, clusters=found.clusters,
            prompt=self.prompt.name, records=str(folder.path.relative_to(self.out)),
        )  # type: ignore[call-arg]  # fmt: skip
