"""What is written while a model trains: the log, each checkpoint made whole and scored by the harness, the best one."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from harness.runs import append_jsonl, read_jsonl
from trainers import checkpoint
from trainers.dev_scores import DevScore, Row

if TYPE_CHECKING:
    from trainers.base import Trainer


def draw_curves(out: Path) -> None:
    """OUT/curves.png: everything that was logged over the steps so far, as the viewer draws it."""
    from leaderboard import plots
    from leaderboard.site import training

    if logged := training.read(out).curves:
        part = out / ".curves.part"
        part.write_bytes(plots.encode(plots.curves(logged), "png"))
        os.replace(part, out / "curves.png")


class Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps OUT's logs and checkpoints, has each checkpoint scored, and ends the training when a signal asks for it."""

    def __init__(self, trainer: Trainer, dev: DevScore | None) -> None:
        self.out, self.base, self.steps, self.dev = trainer.out, trainer.model_name, trainer.steps(), dev
        self.report, self.finish, self.stopping = trainer.report, trainer.finish, trainer.stopping
        self.every, self.keep = trainer.recipe.save_steps, trainer.recipe.keep_checkpoints

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.catch_up(state.global_step)
        args.distributed_state.wait_for_everyone()

    def catch_up(self, step: int) -> None:
        """Do what a kill may have kept from being done by `step`: scores of checkpoints, and the best one kept."""
        checkpoint.settle_best(self.out)
        scored = {r["step"] for r in read_jsonl(self.out / "dev.jsonl")}
        if 0 not in scored and step == 0:
            self._score(self.base, 0)
        for folder in checkpoint.checkpoints(self.out):
            due = checkpoint.due(checkpoint.step_of(folder), self.every, self.steps)
            if due and checkpoint.step_of(folder) not in scored and checkpoint.torn(folder) is None:
                self._score(str(folder), checkpoint.step_of(folder))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        shown = {k: v for k, v in logs.items() if isinstance(v, int | float) and math.isfinite(v)}
        append_jsonl(self.out / "log.jsonl", [Row(step=state.global_step, **shown)])
        self.report(state.global_step, self.steps, shown)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopping.agreed():
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder, step = self.out / f"checkpoint-{state.global_step}", state.global_step
        if state.is_world_process_zero:
            self.finish(folder, step)
        if self.stopping.agreed():  # its score is made up for when the training goes on
            control.should_training_stop = True
        elif state.is_world_process_zero:
            self._score(str(folder), step)
            checkpoint.rotate(self.out, self.keep, self.every, self.steps)
            draw_curves(self.out)
        args.distributed_state.wait_for_everyone()

    def _score(self, model: str, step: int) -> None:
        if self.dev is None:
            return
        before = [r["score"] for r in read_jsonl(self.out / "dev.jsonl") if r["step"] > 0]
        with self.stopping.at_once():
            row = self.dev(model, step)
        score = row.model_dump()["score"]
        if step > 0 and (not before or score > max(before)):
            checkpoint.keep_best(Path(model), self.out)
        append_jsonl(self.out / "dev.jsonl", [row])  # after best/: a score that is logged is not taken again
        self.report(step, self.steps, {"dev": score})
