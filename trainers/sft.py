"""Supervised fine-tuning on reference reasoning and answer; the loss covers the assistant's words alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness.data import LoadedTask
from harness.errors import UserError
from trainers import rows, splits
from trainers.base import Trainer
from trainers.recipe import Recipe
from trainers.saving import Saves

#: Recipe keys of GRPO and RARL alone; lengths and batches that go with them do no harm.
REINFORCEMENT = (
    "rewards", "beta", "epsilon", "temperature", "loss_type", "scale_rewards", "use_bias_correction_kl", "kl_reference",
    "importance_sampling_level", "multi_objective_aggregation", "mask_truncated_completions",
)  # fmt: skip


class SFT(Trainer):
    """TRL's SFTTrainer with completion-only loss and nothing truncated."""

    name = "sft"
    summary = "supervised fine-tuning on reference reasoning and answers"

    def __init__(self, model: str, task: LoadedTask, recipe: Recipe, out: Path, **options: Any) -> None:
        if recipe.target == "reasoning":  # the others are counted in the plan
            task = splits.with_samples(task, [s for s in task.samples if rows.has_reasoning(s)] or task.samples)
        super().__init__(model, task, recipe, out, **options)

    def steps(self) -> int:
        """Raises UserError for a recipe that says something of rewards, which nothing here would heed, and for rows that would
        teach two formats under one prompt."""
        given = [key for key in REINFORCEMENT if getattr(self.recipe, key) != Recipe.model_fields[key].default]
        if given:
            raise UserError(
                f"recipe key '{given[0]}': means nothing to sft, which has no rewards", hint="leave it out, or train with grpo"
            )
        explained, count = self.explained(), len(self.task.samples)
        if self.recipe.target == "reasoning" and not explained:
            raise UserError(
                f"recipe key 'target': task '{self.task.spec.name}' has no row with reference reasoning",
                hint="--set target=answer teaches the answer alone",
            )
        if self.recipe.target == "auto" and 0 < explained < count:
            raise UserError(
                f"task '{self.task.spec.name}': {explained} of {count} rows have reference reasoning, {count - explained} have "
                "none: two formats would be taught under one prompt",
                hint="choose: --set target=reasoning trains on the rows that have it, target=answer teaches answers alone, "
                "target=mixed teaches both formats",
            )
        if self.rows_per_step() > count:
            raise UserError(
                f"recipe: a step takes {self.rows_per_step()} rows, and there are {count} training rows",
                hint=f"lower batch_size or gradient_accumulation, to at most {count} rows in all",
            )
        return super().steps()

    def steps_per_epoch(self) -> int:
        """The last step of an epoch takes the rows that are left, as transformers does."""
        batches = math.ceil(len(self.task.samples) / (self.recipe.batch_size * self.rank.count))
        return math.ceil(batches / self.recipe.gradient_accumulation)

    def targets(self) -> dict[str, int]:
        explained = 0 if self.recipe.target == "answer" else self.explained()
        found = {"reasoning and answer": explained, "answer alone": len(self.task.samples) - explained}
        return {form: count for form, count in found.items() if count}

    def config(self) -> Any:
        from trl import SFTConfig

        return SFTConfig(**self.arguments(), completion_only_loss=True, max_length=None)

    def _trainer(self, model: Any) -> Any:
        from trl import SFTTrainer

        class SavingSFTTrainer(Saves, SFTTrainer):  # type: ignore[misc]
            def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
                if self.health and not bool((inputs["labels"] != -100).any(1).all()):
                    self.health.halt("a row has no token to learn: its target is not in what the chat template gives")
                return super().compute_loss(model, inputs, *args, **kwargs)

        reader = self.reader(model)
        trainer = SavingSFTTrainer(
            **self.adapted(model),
            args=self.config(),
            processing_class=self.processor,
            train_dataset=self.dataset(completions=True),
            data_collator=reader.collate,
            callbacks=[self.watch()],
        )
        return self.ready(trainer, reader)
