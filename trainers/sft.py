"""Supervised fine-tuning on reference reasoning and answer; the loss covers the assistant's words alone."""

from __future__ import annotations

from typing import Any

from trainers import rows
from trainers.base import Saves, Trainer


class SFT(Trainer):
    """TRL's SFTTrainer with completion-only loss and nothing truncated."""

    name = "sft"
    summary = "supervised fine-tuning on reference reasoning and answers"

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
