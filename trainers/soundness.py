"""Is a training sound? What is not finite stops it at that very step, before it is saved.

Left alone, transformers logs a loss that is not a number as 0.0 and trains on. Here every step is looked at before its update
(the losses of all micro-batches, the gradient) and after it (the weights); and before a checkpoint is saved the model reads a
training row, for finite weights may still be too large to compute with. With several processes all stop together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from harness.runs import read_jsonl
from trainers import checkpoint
from trainers.health import Halted, Idle
from trainers.stopping import all_ranks


class Health(TrainerCallback):  # type: ignore[misc]
    """Looks after one training. `patience` steps without anything to learn stop it (0: never)."""

    def __init__(self, trainer: Any, out: Path, patience: int) -> None:
        self.trainer, self.out, self.patience = trainer, out, patience
        self.losses: list[Any] = []
        self.idle = Idle()
        trainer.health = self
        trainer.add_callback(self)

    def halt(self, why: str, step: int | None = None) -> None:
        """Raises Halted: `why` at `step` (the one under way), the last checkpoint, and the way out."""
        step = self.trainer.state.global_step + 1 if step is None else step
        last, _ = checkpoint.last_whole(self.out)
        raise Halted(
            f"{self.out}: stopped at step {step}: {why}; {f'{last} is kept' if last else 'no checkpoint was reached'}",
            hint="start again in another --out: lower learning_rate or max_grad_norm, or --set precision=float32",
        )

    def _together(self, why: str | None, step: int) -> None:
        """Stop where any process found something."""
        if found := [w for w in all_ranks(why) if w]:
            self.halt(found[0], step)

    # -- sound ------------------------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._check_words("before its first step", state.global_step + 1)
        self.idle = Idle(read_jsonl(self.out / "log.jsonl"))  # goes on counting after a kill

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the update: with a loss or a gradient that is not finite there is none."""
        losses, self.losses = self.losses, []
        bad = next((value for loss in losses if not math.isfinite(value := float(loss))), None)
        why = None if bad is None else f"the loss is {bad}, which no update can come of"
        if why is None and self.trainer.accelerator.scaler is None:  # fp16's scaler meets infinite gradients by design
            gradients = [p.grad for p in self.trainer.model.parameters() if p.grad is not None]
            why = "the gradient is not finite" if not _finite(gradients) else None
        self._together(why, state.global_step + 1)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the update."""
        named = [(n, p) for n, p in self.trainer.model.named_parameters() if p.requires_grad]
        why = None
        if not _finite([p for _, p in named]):
            why = f"after the update weights are not finite ({next((n for n, p in named if not _finite([p])), 'some')})"
        self._together(why, state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before a checkpoint is saved."""
        if control.should_save:
            self._check_words("after the update", state.global_step)

    def _check_words(self, when: str, step: int) -> None:
        why = f"{when} what the model says is not finite: its weights are too large to compute with, or not numbers"
        self._together(None if self._speaks() else why, step)

    def _speaks(self) -> bool:
        """Whether the logits of the first row are numbers. Draws no random number and leaves nothing behind."""
        import torch

        model, accelerator = self.trainer.model_wrapped, self.trainer.accelerator
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), accelerator.autocast():
                logits = model(**self.trainer.reader.batch([0]), use_cache=False).logits
        finally:
            model.train(training)
        return not bool((torch.isnan(logits) | torch.isposinf(logits)).any())

    # -- learning ---------------------------------------------------------------------------------------------------------

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        bad = next((key for key in ("loss", "grad_norm", "kl") if not math.isfinite(logs.get(key, 0.0))), None)
        if self.trainer.accelerator.scaler is None:
            self._together(f"{bad} is {logs[bad]}" if bad else None, state.global_step)
        self.idle.add({k: v for k, v in logs.items() if isinstance(v, int | float) and math.isfinite(v)})
        if self.patience and self.idle.steps >= self.patience:  # what is logged is the same in all processes
            idle = f"{self.idle.steps} steps in a row taught nothing: {self.idle.why}"
            raise Halted(
                f"{self.out}: stopped at step {state.global_step}: {idle}",
                hint=f"harness train audit {self.out} shows the rewards; --set stop_without_signal=0 goes on all the same",
            )


def _finite(tensors: Sequence[Any]) -> bool:
    """Whether every number is finite; of sharded tensors, this process's own."""
    import torch

    mine = [t.detach() for t in tensors]
    mine = [t for t in (t.to_local() if hasattr(t, "to_local") else t for t in mine) if t.numel() and t.is_floating_point()]
    if not mine:
        return True
    return math.isfinite(float(torch.nn.utils.get_total_norm(mine, norm_type=math.inf)))
