"""What is written while a model trains: the log, each checkpoint made whole and scored by the harness, the best one."""

from __future__ import annotations

import gc
import math
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback

from harness.data import LoadedTask
from harness.errors import RunError
from harness.runs import append_jsonl, read_jsonl
from trainers import checkpoint

#: Called as report(step, steps, log) after every optimizer step; log is empty unless the step was logged.
Report = Callable[[int, int, dict[str, float]], None]


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
    """Scores a checkpoint as `harness run` would: greedy, the task's own prompt and length, judged by `exact`.

    The records of each lie under OUT/dev/, so that a score can be traced to its answers.
    """

    def __init__(self, task: LoadedTask, out: Path, device: str) -> None:
        self.task, self.out, self.device = task, out, device

    def __call__(self, model: str, step: int) -> Row:
        """Load the checkpoint anew, as anyone would, and give its mean verdict over the dev rows."""
        import torch

        from harness import pipeline
        from harness.contracts import JudgeOptions
        from harness.models.transformers_model import TransformersModel
        from harness.records import GenerationArgs

        judges = pipeline.make_judges("exact", JudgeOptions())
        with untouched_randomness():
            backend = TransformersModel(model, device=self.device)
            spec = self.task.spec
            args = GenerationArgs(max_new_tokens=spec.max_new_tokens)
            folder = pipeline.run(self.task, backend, spec.get_prompt(), args, judges, self.out / "dev")
            del backend
            gc.collect()
            torch.cuda.empty_cache()
        finals = [v.final for v in folder.verdicts(judges[0].name, judges[0].version).values() if v.final is not None]
        if len(finals) != len(self.task.samples):
            raise RunError(f"{folder.path}: {len(finals)} of {len(self.task.samples)} dev rows have a verdict")
        records = str(folder.path.relative_to(self.out))
        return Row(step=step, score=sum(finals) / len(finals), n=len(finals), records=records)  # type: ignore[call-arg]


def draw_curves(out: Path) -> None:
    """OUT/curves.png: everything that was logged over the steps so far, as the viewer draws it."""
    from leaderboard import plots
    from leaderboard.site import training

    if logged := training.read(out).curves:
        part = out / ".curves.part"
        part.write_bytes(plots.encode(plots.curves(logged), "png"))
        os.replace(part, out / "curves.png")


class Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps OUT's logs and the newest `keep` checkpoints. `finish(folder, step)` makes a saved one loadable by anyone."""

    def __init__(
        self, out: Path, base: str, steps: int, report: Report, finish: Callable[[Path, int], None], dev: DevScore | None,
        keep: int | None = None,
    ) -> None:  # fmt: skip
        self.out, self.base, self.steps, self.report, self.finish, self.dev = out, base, steps, report, finish, dev
        self.keep = keep

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
            if checkpoint.step_of(folder) not in scored and checkpoint.torn(folder) is None:
                self._score(str(folder), checkpoint.step_of(folder))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or logs is None or "train_runtime" in logs:
            return
        shown = {k: v for k, v in logs.items() if isinstance(v, int | float) and math.isfinite(v)}
        append_jsonl(self.out / "log.jsonl", [Row(step=state.global_step, **shown)])
        self.report(state.global_step, self.steps, shown)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            folder = self.out / f"checkpoint-{state.global_step}"
            self.finish(folder, state.global_step)
            self._score(str(folder), state.global_step)
            checkpoint.rotate(self.out, self.keep)
            draw_curves(self.out)
        args.distributed_state.wait_for_everyone()

    def _score(self, model: str, step: int) -> None:
        if self.dev is None:
            return
        before = [r["score"] for r in read_jsonl(self.out / "dev.jsonl") if r["step"] > 0]
        row = self.dev(model, step)
        score = row.model_dump()["score"]
        if step > 0 and (not before or score > max(before)):
            checkpoint.keep_best(Path(model), self.out)
        append_jsonl(self.out / "dev.jsonl", [row])  # after best/: a score that is logged is not taken again
        self.report(step, self.steps, {"dev": score})
