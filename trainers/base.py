"""What the trainers share: the base model with its vision encoder frozen, LoRA, checkpoints, and going on after a kill.

Everything is written into OUT as it comes (trainers/checkpoint.py lists it). The same command, or `harness train resume
OUT`, goes on from the last whole checkpoint; the weights are then those of a run that was never stopped, to the last bit
on a CPU (tests/test_train_resume.py).
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness import distributed
from harness.data import LoadedTask
from harness.errors import ModelError, RunError, Terminated, UserError
from harness.models import loading, weights
from harness.models.families.prompting import cap_pixels
from harness.pipeline import git_sha, now, packages
from harness.records import Sample
from harness.runs import read_jsonl, write_atomic
from trainers import checkpoint, dev_scores, disk, health, policy, resuming, rows
from trainers.recipe import Recipe
from trainers.runfile import as_yaml, read_run
from trainers.settings import deciding
from trainers.stopping import Stopping

if TYPE_CHECKING:
    from trainers.plan import Plan


class Trainer:
    """Base of SFT, GRPO and RARL (fulfils harness.contracts.Trainer). Subclasses give `_trainer`.

    `dev` are the rows that score the checkpoints (None: no scores); `origin` is how the task was found, kept for resuming.
    With `planning` nothing will be trained, and OUT may hold anything.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    def __init__(
        self,
        model: str,
        task: LoadedTask,
        recipe: Recipe,
        out: Path,
        *,
        device: str = "auto",
        report: Any = lambda *_: None,
        dev: LoadedTask | None = None,
        origin: dict[str, Any] | None = None,
        report_to: list[str] | None = None,
        force: bool = False,
        planning: bool = False,
    ) -> None:
        if not task.samples:
            raise UserError(f"task '{task.spec.name}': there is no row to train on")
        self.model_name, self.task, self.recipe, self.out = model, task, recipe.for_task(task.spec), out
        self.dev, self.origin, self.report_to, self.force = dev, origin or {}, report_to or [], force
        self.rank, self.stopping = distributed.current(), Stopping()
        self.checkpoint = loading.resolve(model)
        self.base_name = policy.base_name(model, self.checkpoint)
        policy.check(model, self.checkpoint, recipe)
        if not planning:  # a plan may be for another machine
            policy.check_device(recipe, device)
        self.device, self.report = self.rank.device if self.rank.count > 1 and device == "auto" else device, report
        self.checkpointing = recipe.gradient_checkpointing is True  # what `auto` comes to is known once there is a plan
        #: What TRL's trainer was built with, once it is. (Building the arguments anew would take accelerate's state from it.)
        self.built: dict[str, Any] = {}
        #: Called with what must be known before the model is believed in.
        self.warn: Callable[[str], None] = warnings.warn
        #: The image processor that knows no bound on pixels, where the recipe has one.
        self.uncapped: str | None = None
        #: Why images are encoded anew every time, where they are (known once the model is loaded).
        self.why_no_cache: str | None = None
        if self.rank.main and out.exists() and not planning and not resuming.unfinished(self):
            raise UserError(f"{out}: is not an empty folder", hint="give another --out folder, or remove it")

    def run(self) -> dict[str, Any]:
        """What run.yaml keeps."""
        return {
            "trainer": self.name,
            "model": self.model_name,
            "weights_sha256": loading.weights_sha256(self.checkpoint),
            **self.origin,
            "data_fingerprint": self.task.card.fingerprint,
            "dev_fingerprint": self.dev.card.fingerprint if self.dev else None,
            "recipe": self.recipe.model_dump(mode="json"),
            "rewards": self.weights(),
            "packages": packages(),
        }

    # -- what would be done -------------------------------------------------------------------------------------------

    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.recipe.max_steps:
            return self.recipe.max_steps
        return max(1, int(self.recipe.epochs * self.steps_per_epoch()))

    def steps_per_epoch(self) -> float:
        return len(self.task.samples) / self.rows_per_step()

    def weights(self) -> dict[str, float]:
        """Reward parts and their weights; none where there is no reward."""
        return {}

    def explained(self) -> int:
        """Training rows that have reference reasoning."""
        return sum(rows.has_reasoning(s) for s in self.task.samples)

    def targets(self) -> dict[str, int]:
        """Forms of what is taught word for word, and how many rows teach each; none where a reward teaches."""
        return {}

    def rows_per_step(self) -> int:
        """Rows (questions) that one optimizer step sees, over all processes."""
        return self.sequences_per_step()

    def sequences_per_step(self) -> int:
        """Sequences that one optimizer step sees, over all processes: rows, or completions where there are any."""
        return self.recipe.batch_size * self.recipe.gradient_accumulation * self.rank.count

    def plan(self, gpu_memory: float | None = None) -> Plan:
        """What would be trained, on what, with how much memory; loads no weights. `gpu_memory` (GB) plans for a GPU."""
        from trainers import plan

        return plan.make(self, gpu_memory=gpu_memory)

    def about(self) -> dict[str, Any]:
        """What trained.json says of the training."""
        return {
            "trainer": self.name,
            "model": self.model_name,
            "task": self.task.card.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "steps": self.steps(),
            "rows_per_step": self.rows_per_step(),
            "dev": dev_scores.about(self) if self.dev else None,
            "out": str(self.out),
            **({"base_weights_sha256": self.base_sha256} if self.recipe.lora else {}),
        }

    @cached_property
    def base_sha256(self) -> str | None:
        """Hash of the weights under the adapter: with others it is another model."""
        return loading.base_sha256(self.checkpoint)

    def export(self, folder: Path, *, merge: bool = False) -> Path:
        """Write the trained model alone to `folder`: see trainers/export.py."""
        from trainers.export import export

        return export(self.out, folder, merge=merge)

    # -- training -----------------------------------------------------------------------------------------------------

    def fit(self, resume: Path | None = None) -> Path:
        """Train, going on from `resume` (a checkpoint) or from whatever OUT holds already; returns OUT.

        Raises RunError for a torn checkpoint that was asked for, Halted for a training that went wrong (trainers/health.py),
        DiskError where its files cannot be written, Terminated for SIGTERM, once a checkpoint is saved.
        """
        self.steps()  # what cannot be trained is refused before anything is written
        self._settle()
        with self.stopping, disk.kept(self.out), resuming.alone(self.out) if self.rank.main else nullcontext():
            return self._fit(resume)

    def _fit(self, resume: Path | None) -> Path:
        import torch
        from transformers import set_seed

        start = time.perf_counter()
        _tell_nobody()
        device = loading.pick_device(self.device)
        self.processor = loading.load_processor(self.checkpoint)
        self.cap_pixels(self.processor)
        begun = self._begin(resume) if self.rank.main else None
        self.rank.wait()
        if not self.rank.main:
            begun = resume or checkpoint.last_whole(self.out)[0]
        if begun and checkpoint.step_of(begun) >= self.steps():
            return self._only_end(begun, start)
        set_seed(self.recipe.seed)
        with self._or_nothing(begun):
            model = self.load(device)
            weights.check_vocabulary(self.checkpoint.label, model, self.processor)
        if self.rank.main and read_run(self.out).get("weights_sha256") is None:  # they have only now been downloaded
            write_atomic(self.out / "run.yaml", as_yaml(self.run()))
        torch.use_deterministic_algorithms(True, warn_only=True)  # else the last bit of a gradient depends on the threads
        try:
            with self._or_nothing(begun):
                trainer = self._trainer(model)
            for row in read_jsonl(self.out / "log.jsonl"):  # TRL's SFT counts tokens from nought after a resume
                trainer._total_train_tokens = row.get("num_tokens", 0)
            with self.stopping.working():
                trainer.train(resume_from_checkpoint=str(begun) if begun else None)
        finally:
            torch.use_deterministic_algorithms(False)
        if self.stopping.asked:
            raise Terminated(self.stopping.asked, f"checkpoint-{trainer.state.global_step} is saved")
        if trainer.state.global_step != self.steps():
            raise RunError(f"{self.out}: {trainer.state.global_step} of {self.steps()} steps were trained")
        if trainer.args.should_save:
            part = self._part()
            checkpoint.save_model(trainer.accelerator.unwrap_model(trainer.model), self.processor, part, self.base_name)
            self._end(part, time.perf_counter() - start)
        trainer.accelerator.wait_for_everyone()
        return self.out

    def _only_end(self, last: Path, start: float) -> Path:
        """Finish a training that was killed after its last step: its last checkpoint is the model at the end."""
        if self.rank.main:
            from trainers.watch import draw_curves

            self.watch().catch_up(checkpoint.step_of(last))
            draw_curves(self.out)
            part = self._part()
            shutil.copytree(last, part, ignore=shutil.ignore_patterns(*checkpoint.RESUME_ONLY, "trained.json"))
            self._end(part, time.perf_counter() - start)
        self.rank.wait()
        return self.out

    def cap_pixels(self, processor: Any) -> None:
        """The recipe's bound on an image's pixels, which TRL has no setting for."""
        if self.recipe.max_pixels and not cap_pixels(processor, self.recipe.max_pixels):
            self.uncapped = type(processor.image_processor).__name__

    def _settle(self) -> None:
        """Decide about recomputing activations. Raises UserError where the training cannot fit (unless forced)."""
        if not Path(self.checkpoint.base).is_dir():  # the plan itself downloads nothing
            from transformers import AutoConfig

            AutoConfig.from_pretrained(self.checkpoint.base, trust_remote_code=False)
        found = self.plan()
        if not self.force:
            found.check()
        self.checkpointing = found.gradient_checkpointing
        for caveat in found.caveats:
            self.warn(caveat)

    def load(self, device: str) -> Any:
        """The model to train, without its adapter."""
        return policy.load(self.checkpoint, self.recipe, device)

    def _trainer(self, model: Any) -> Any:
        """A transformers Trainer over `model` (vision frozen, no adapter yet), ready for `train()`."""
        raise TypeError(f"{type(self).__name__} is not a trainer: it has no _trainer")

    def _begin(self, resume: Path | None) -> Path | None:
        """Prepare OUT; the checkpoint to go on from, if any."""
        if resume is not None:
            if resume.parent != self.out:
                raise RunError(f"{resume}: is no checkpoint of {self.out}")
            begun: Path | None = checkpoint.whole(resume)
        else:
            begun, _ = checkpoint.last_whole(self.out) if self.out.exists() else (None, {})
        if begun is None:
            checkpoint.check_nothing_lost(self.out)
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomic(self.out / "run.yaml", as_yaml(self.run()))  # first: by it OUT is known to be a training
            write_atomic(self.out / "samples.jsonl", "".join(json.dumps(s.row()) + "\n" for s in self.task.samples))
            write_atomic(self.out / "recipe.yaml", as_yaml(self.recipe.model_dump(mode="json")))
        checkpoint.rewind(self.out, checkpoint.step_of(begun) if begun else 0)
        return begun

    @contextmanager
    def _or_nothing(self, begun: Path | None) -> Iterator[None]:
        """Take back what `_begin` wrote where the model turns out to be unusable: nothing was trained."""
        try:
            yield
        except ModelError:
            if self.rank.main and begun is None:
                for name in ("run.yaml", "samples.jsonl", "recipe.yaml", resuming.LOCK):
                    (self.out / name).unlink(missing_ok=True)
                shutil.rmtree(self.out / ".vision", ignore_errors=True)
                if not any(self.out.iterdir()):
                    self.out.rmdir()
            raise

    def _part(self) -> Path:
        """Where the model at the end is put together."""
        part = self.out / ".final.part"
        shutil.rmtree(part, ignore_errors=True)
        return part

    def _end(self, part: Path, seconds: float) -> None:
        """The model at the end, from `part` to the top of OUT."""
        checkpoint.settle_best(self.out)
        checkpoint.move_into(part, self.out)
        shutil.rmtree(self.out / ".vision", ignore_errors=True)
        found = health.summary(self.out)
        self._describe(self.out, self.out.name, seconds=round(seconds, 1), health=found)
        for complaint in health.complaints(found):
            self.warn(complaint)

    def finish(self, folder: Path, step: int) -> None:
        """Make a saved checkpoint whole: it says what it is, and its sums are written last."""
        shutil.copy2(self.out / "recipe.yaml", folder / "recipe.yaml")
        self._describe(folder, f"{self.out.name}-{step}", step=step)
        checkpoint.seal(folder)

    def _describe(self, folder: Path, name: str, **more: Any) -> None:
        about = self.about() | {"name": name, **more, "created": now(), "git_sha": git_sha(), "packages": packages()}
        about.pop("out")
        about["optimizer"] = self.built or self.optimizer()
        write_atomic(folder / "trained.json", json.dumps(about, indent=2) + "\n")

    # -- for subclasses -----------------------------------------------------------------------------------------------

    def arguments(self) -> dict[str, Any]:
        """The settings that every TRL config of ours shares."""
        r, device = self.recipe, loading.pick_device(self.device)
        return {
            "output_dir": str(self.out),
            "per_device_train_batch_size": r.batch_size,
            "gradient_accumulation_steps": r.gradient_accumulation,
            "max_steps": self.steps(),
            "learning_rate": r.learning_rate,
            "max_grad_norm": r.max_grad_norm,
            "logging_steps": 1,
            "logging_nan_inf_filter": False,  # it logs a loss that is not a number as 0.0
            "save_strategy": "steps",
            "save_steps": r.save_steps,
            "report_to": self.report_to,
            "seed": r.seed,
            "data_seed": r.seed,
            "disable_tqdm": True,
            "remove_unused_columns": False,  # a row is known by its id
            # the new name for it, activation_checkpointing, does not reach TRL 1.16
            "gradient_checkpointing": self.checkpointing,
            "use_cpu": device == "cpu",
            "bf16": r.precision == "bfloat16" or (r.precision == "auto" and device != "cpu"),
        }

    def config(self) -> Any:
        """The settings that the transformers Trainer is built with; the plan prints what stands in them."""
        from transformers import TrainingArguments

        return TrainingArguments(**self.arguments())

    def optimizer(self) -> dict[str, Any]:
        """Every setting of `config` that decides the weights, by its own name there."""
        return deciding(self.config())

    def dataset(self, samples: Sequence[Sample] | None = None, *, completions: bool) -> Any:
        """The training rows (or others in their place) as TRL takes them: see trainers/rows.py."""
        given = self.task.samples if samples is None else samples
        return rows.dataset(given, self.recipe, self.task.spec.get_prompt, completions=completions)

    def adapted(self, model: Any) -> dict[str, Any]:
        """`model`, with the recipe's adapter to be or the adapter it has, as TRL's trainers take it."""
        return policy.adapted(model, self.checkpoint, self.recipe)

    def watch(self) -> Any:
        """The callback that writes OUT's logs and checkpoints."""
        from trainers.watch import Watch

        dev = dev_scores.DevScore(self.dev, dev_scores.prompt(self), self.out, self.device) if self.dev else None
        return Watch(self, dev)

    def reader(self, model: Any) -> Any:
        """What the model gets for each training row; a frozen encoder reads each image once, or `why_no_cache` says why not."""
        from trainers.reading import Reader
        from trainers.vision_cache import VisionCache, sharded, why_off

        self.why_no_cache = why_off(model, asked=self.recipe.vision_cache, sharded=sharded())
        folder = self.out / ".vision" if self.recipe.vision_cache == "disk" else None
        cache = None if self.why_no_cache else VisionCache(model, folder)
        prompts = rows.draw_prompts(self.task.samples, self.recipe, self.task.spec.get_prompt)
        return Reader(model, self.processor, self.task.samples, prompts, cache)

    def ready(self, trainer: Any, reader: Any) -> Any:
        """The last touches that SFT and GRPO trainers share."""
        from transformers import PrinterCallback

        from trainers.freezing import check
        from trainers.soundness import Health

        check(trainer.model, self.recipe.freeze)

        trainer.remove_callback(PrinterCallback)  # it prints every log to stdout
        trainer.saved_processor, trainer.base_name = self.processor, self.base_name
        trainer.learning_rates = dict(self.recipe.learning_rates)
        trainer.reader, self.built = reader, deciding(trainer.args)
        Health(trainer, self.out, self.recipe.stop_without_signal)
        if cache := reader.cache:
            if reference := getattr(trainer, "ref_model", None):
                cache.serve(trainer.accelerator.unwrap_model(reference))
            self.why_no_cache = cache.check(trainer.model)
        return trainer


def _tell_nobody() -> None:
    """TRL's trainers report their use to the hub from a thread; nothing leaves the machine unasked."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
