"""Supervised fine-tuning on reference reasoning and answer; the loss covers the assistant's words alone."""

from __future__ import annotations

from typing import Any

from harness.errors import UserError
from trainers import rows
from trainers.base import Saves, Trainer
from trainers.recipe import Recipe

#: Recipe keys of GRPO and RARL alone; lengths and batches that go with them do no harm.
REINFORCEMENT = (
    "rewards", "beta", "epsilon", "temperature", "loss_type", "scale_rewards", "use_bias_correction_kl", "kl_reference",
    "importance_sampling_level", "multi_objective_aggregation", "mask_truncated_completions",
)  # fmt: skip


class SFT(Trainer):
    """TRL's SFTTrainer with completion-only loss and nothing truncated."""

    name = "sft"
    summary = "supervised fine-tuning on reference reasoning and answers"

    def steps(self) -> int:
        """Raises UserError for a recipe that says something of rewards, which nothing here would heed."""
        given = [key for key in REINFORCEMENT if getattr(self.recipe, key) != Recipe.model_fields[key].default]
        if given:
            raise UserError(
                f"recipe key '{given[0]}': means nothing to sft, which has no rewards", hint="leave it out, or train with grpo"
            )
        return super().steps()

    def _trainer(self, model: Any) -> Any:
        from trl import SFTConfig, SFTTrainer

        class SavingSFTTrainer(Saves, SFTTrainer):  # type: ignore[misc]
            pass

        cache = self.vision_cache(model)
        trainer = SavingSFTTrainer(
            **self.adapted(model),
            args=SFTConfig(**self.arguments(), completion_only_loss=True, max_length=None),
            processing_class=cache.processor if cache else self.processor,
            train_dataset=rows.dataset(self.task.samples, self.recipe, completions=True),
            callbacks=[self.watch()],
        )
        return self.ready(trainer, cache)
