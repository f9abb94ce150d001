"""Supervised fine-tuning on reference reasoning and answer; the loss covers the assistant's words alone."""

from __future__ import annotations

from typing import Any

from trainers import rows
from trainers.base import Trainer


class SFT(Trainer):
    """TRL's SFTTrainer with completion-only loss and nothing truncated."""

    name = "sft"
    summary = "supervised fine-tuning on reference reasoning and answers"

    def _train(self, model: Any) -> tuple[Any, list[dict[str, float]]]:
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer

        args = SFTConfig(**self.arguments(), completion_only_loss=True, max_length=None)
        trainer = SFTTrainer(
            model=model,
            args=args,
            processing_class=self.processor,
            train_dataset=rows.dataset(self.task.samples, self.recipe.prompts, self.recipe.seed, completions=True),
            peft_config=self.peft_config(),
            callbacks=[self.callback()],
        )
        trainer.remove_callback(PrinterCallback)  # it prints every log to stdout
        trainer.train()
        return trainer.model, trainer.state.log_history
