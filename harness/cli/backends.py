"""What `--backend` and `--device-map` can do with the other options, checked before anything is read; lm-eval's tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.distributed import Rank
from harness.errors import UserError
from harness.models import loading
from harness.models.endpoint import is_api_model

if TYPE_CHECKING:
    from harness.contracts import Model
    from harness.runs import RunFolder


def check(backend: str, model: str, api_base: str | None, rank: Rank, *, foreign: bool) -> None:
    """Raises UserError for a `--backend` that is none, or cannot do what is asked; before anything is read."""
    if backend not in ("transformers", "vllm"):
        raise UserError(
            f"--backend {backend}: unknown", hint="transformers or vllm; a model behind an API is named by --model or --api-base"
        )
    if backend != "vllm":
        return
    if api_base or is_api_model(model):
        raise UserError("--backend vllm is for a checkpoint in process", hint="leave it away: the server computes")
    if foreign:
        raise UserError("--backend vllm: lm_eval: tasks run on transformers", hint="leave --backend away")
    if rank.count > 1:
        raise UserError("--backend vllm: vLLM is one process", hint="start it without torchrun or accelerate launch")
    loading.check_vllm()


def check_device_map(device_map: str, backend: str, model: str, api_base: str | None, rank: Rank, device: str) -> None:
    """Raises UserError where `--device-map` is not `auto`, or layers cannot be spread."""
    if device_map != "auto":
        raise UserError(f"--device-map {device_map}: expected auto")
    if backend == "vllm" or api_base or is_api_model(model):
        raise UserError("--device-map is for transformers in process", hint="vLLM has --tensor-parallel-size")
    if rank.count > 1 or device != "auto":
        raise UserError("--device-map auto takes all devices itself", hint="leave --device, torchrun and accelerate launch away")


def run_foreign(
    model: Model, tasks: dict[str, Any], runs: Path, *, limit: int | None, seed: int, fresh: bool, chat_template: bool
) -> list[RunFolder]:
    """lm-eval's own text tasks on the same checkpoint."""
    from harness.cli import ui
    from harness.models.lm_eval_bridge import run_lm_eval
    from harness.models.transformers_model import TransformersModel

    assert isinstance(model, TransformersModel)  # `run` has refused an API model
    return run_lm_eval(
        tasks, model, runs, limit=limit, seed=seed, fresh=fresh, apply_chat_template=chat_template,
        report=lambda n: ui.say(f"lm-eval: {n}"),
    )  # fmt: skip
