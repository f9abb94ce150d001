"""What the trainers share: the base model with its vision encoder frozen, LoRA, the log, and a checkpoint that is whole.

A checkpoint folder holds the adapter (or the full weights), the processor with its chat template, the recipe, the log
and `trained.json`; `harness run --model FOLDER` needs nothing else but the base that the adapter names.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from harness.data import LoadedTask
from harness.errors import UserError
from harness.models import loading
from harness.pipeline import git_sha, now, packages
from harness.runs import write_atomic
from trainers.recipe import Recipe

#: Called as report(step, steps, log) after every optimizer step; log is empty unless the step was logged.
Report = Callable[[int, int, dict[str, float]], None]


class Trainer:
    """Base of SFT, GRPO and RARL (fulfils harness.contracts.Trainer). Subclasses give `_train`."""

    name: ClassVar[str]
    summary: ClassVar[str]

    def __init__(
        self, model: str, task: LoadedTask, recipe: Recipe, out: Path, *, device: str = "auto", report: Report = lambda *_: None
    ) -> None:
        self.model_name, self.task, self.recipe, self.out = model, task, recipe, out
        self.checkpoint = loading.resolve(model)
        if self.checkpoint.adapter:
            raise UserError(
                f"{model}: is an adapter already", hint=f"train from its base '{self.checkpoint.base}', or merge it first"
            )
        self.device, self.report = device, report
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out}: is not an empty folder", hint="give another --out folder, or remove it")
        #: Everything is written here and renamed at the end, so that `out` is a whole checkpoint or not there.
        self.work = out.with_name(f".{out.name}.unfinished")

    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.recipe.max_steps:
            return self.recipe.max_steps
        return max(1, int(self.recipe.epochs * len(self.task.samples) / self.rows_per_step()))

    def rows_per_step(self) -> int:
        """Rows (questions) that one optimizer step sees."""
        return self.recipe.batch_size * self.recipe.gradient_accumulation

    def plan(self) -> dict[str, Any]:
        return {
            "trainer": self.name,
            "model": self.model_name,
            "task": self.task.card.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "steps": self.steps(),
            "rows_per_step": self.rows_per_step(),
            "out": str(self.out),
        }

    def fit(self, resume: Path | None = None) -> Path:
        if resume is not None:
            raise UserError("this trainer cannot resume yet", hint="start it again")
        import torch
        from transformers import set_seed

        set_seed(self.recipe.seed)
        device = loading.pick_device(self.device)
        self.processor = loading.load_processor(self.checkpoint)
        if self.recipe.max_pixels:
            self.processor.image_processor.max_pixels = self.recipe.max_pixels
            self.processor.image_processor.size["longest_edge"] = self.recipe.max_pixels
        model = loading.load_weights(self.checkpoint, loading.pick_dtype("auto", device), device)
        for p in model.model.visual.parameters():
            p.requires_grad_(False)
        shutil.rmtree(self.work, ignore_errors=True)  # what an interrupted try left
        self.work.mkdir(parents=True)
        start = time.perf_counter()
        torch.use_deterministic_algorithms(True, warn_only=True)  # else the last bit of a gradient depends on the threads
        try:
            trained, log = self._train(model)
        finally:
            torch.use_deterministic_algorithms(False)
        self._save(trained, log, time.perf_counter() - start)
        return self.out

    def _train(self, model: Any) -> tuple[Any, list[dict[str, float]]]:
        """Train `model` (vision frozen, no adapter yet); return the trained model and its log."""
        raise TypeError(f"{type(self).__name__} is not a trainer: it has no _train")

    # -- for subclasses -----------------------------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        """The settings that every TRL config of ours shares."""
        r = self.recipe
        return {
            "output_dir": str(self.work / "state"),
            "per_device_train_batch_size": r.batch_size,
            "gradient_accumulation_steps": r.gradient_accumulation,
            "max_steps": self.steps(),
            "learning_rate": r.learning_rate,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "seed": r.seed,
            "data_seed": r.seed,
            "disable_tqdm": True,
            "gradient_checkpointing": False,  # the new name for it, activation_checkpointing, does not reach TRL 1.16
            "use_cpu": loading.pick_device(self.device) == "cpu",
            "bf16": loading.pick_device(self.device) != "cpu",
        }

    def peft_config(self) -> Any:
        """The paper's LoRA, or None to train all of the language model."""
        if self.recipe.lora is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=self.recipe.lora.r,
            lora_alpha=self.recipe.lora.alpha,
            target_modules=list(self.recipe.lora.target_modules),
            task_type="CAUSAL_LM",
        )

    def callback(self) -> Any:
        """Reports every step to whoever watches."""
        from transformers import TrainerCallback

        report, steps = self.report, self.steps()

        class Watch(TrainerCallback):  # type: ignore[misc]
            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
                report(state.global_step, steps, logs or {})

        return Watch()

    def _save(self, model: Any, log: list[dict[str, float]], seconds: float) -> None:
        """Write the checkpoint aside and give it its name."""
        if hasattr(model, "peft_config"):
            for config in model.peft_config.values():  # the name the user gave, not this machine's path
                config.base_model_name_or_path = self.model_name
        # the adapter leaves the embeddings alone; asking PEFT to check would ask the hub
        model.save_pretrained(self.work, **({"save_embedding_layers": False} if hasattr(model, "peft_config") else {}))
        self.processor.save_pretrained(self.work)
        (self.work / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        shutil.rmtree(self.work / "state", ignore_errors=True)
        write_atomic(self.work / "log.json", json.dumps(log, indent=1) + "\n")
        about = self.plan() | {
            "name": self.out.name,
            "seconds": round(seconds, 1),
            "created": now(),
            "git_sha": git_sha(),
            "packages": packages(),
        }
        about.pop("out")
        write_atomic(self.work / "trained.json", json.dumps(about, indent=2) + "\n")
        for f in self.work.iterdir():
            f.chmod(0o644)  # safetensors writes for the owner alone
        if self.out.exists():
            self.out.rmdir()
        self.work.rename(self.out)
