"""How TRL's trainers save and load what is trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.models import adapters, loading
from trainers import checkpoint, freezing, health


class Saves(health.Sound):
    """Mixed into TRL's trainers: checkpoints are saved as ours, each part has its rate, and no model card is written."""

    optimizer: Any
    saved_processor: Any
    base_name: str
    #: Rates of parts that train at another than the recipe's.
    learning_rates: dict[str, float]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        there = self.optimizer is not None
        super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if not there:
            freezing.rates(self.optimizer, self.model, self.learning_rates)  # type: ignore[attr-defined]
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:  # type: ignore[attr-defined]
            model = self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]
            folder = Path(output_dir or self.args.output_dir)  # type: ignore[attr-defined]
            checkpoint.save_model(model, self.saved_processor, folder, self.base_name, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """All weights are read as `from_pretrained` does: on disk they have the hub's names, which transformers' own passes over.

        An adapter's are checked as in any other way to a model. Sharded weights are transformers' own to load.
        """
        mine = self.model if model is None else model  # type: ignore[attr-defined]
        if self.is_fsdp_enabled:  # type: ignore[attr-defined]
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        if hasattr(mine, "peft_config"):
            adapters.fill(mine, Path(resume_from_checkpoint))
            return
        saved = loading.load_weights(loading.resolve(resume_from_checkpoint), mine.dtype, "cpu")
        mine.load_state_dict(saved.state_dict())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        return
