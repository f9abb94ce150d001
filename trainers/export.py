"""A trained model on its own, for other programs: the adapter as it is, or merged into its base and checked against it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from harness.errors import ModelError, RunError, UserError
from harness.models import loading
from trainers import checkpoint

#: What a model's folder holds for the training alone.
TRAINING_ONLY = (
    *checkpoint.RESUME_ONLY, *checkpoint.LOGS, "samples.jsonl", "run.yaml", "curves.png", "best", "dev", "runs",
    "checkpoint-*", ".*",
)  # fmt: skip


def export(model: Path, folder: Path, *, merge: bool = False) -> Path:
    """Write `model` (a training's OUT, OUT/best or OUT/checkpoint-N) to `folder`.

    With `merge` an adapter is merged into its base, and the merged weights, read back from disk, must give the adapter's
    logits on an image and a question: within 1e-4 in fp32. Raises RunError where they do not, and leaves nothing.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already", hint="give another folder, or remove it")
    if model.name.startswith("checkpoint-"):
        checkpoint.whole(model)
    found = loading.resolve(str(model))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    if not merge or found.adapter is None:
        if merge:
            raise ModelError(f"{model}: is no adapter, there is nothing to merge", hint="leave --merge out")
        shutil.copytree(model, part, ignore=shutil.ignore_patterns(*TRAINING_ONLY))
    else:
        _merge(found, part)
    part.rename(folder)
    return folder


def _merge(found: loading.Checkpoint, part: Path) -> None:
    import torch

    processor = loading.load_processor(found)
    adapted = loading.load_weights(found, torch.float32, "cpu", merge=False)
    batch = _question(processor)
    with torch.inference_mode():
        wanted = adapted(**batch).logits
    adapted.merge_and_unload().save_pretrained(part)
    processor.save_pretrained(part)
    if (found.adapter or part).joinpath("trained.json").exists():
        shutil.copy2((found.adapter or part) / "trained.json", part / "trained.json")
    merged = loading.load_weights(loading.resolve(str(part)), torch.float32, "cpu")
    with torch.inference_mode():
        difference = float((merged(**batch).logits - wanted).abs().max())
    if not difference < 1e-4 * max(1.0, float(wanted.abs().max())):
        shutil.rmtree(part, ignore_errors=True)
        raise RunError(f"the merged weights are not the adapter: logits differ by {difference:.2g}", hint="keep the adapter")


def _question(processor: Any) -> Any:
    """A grey image and a question, as the model takes them."""
    from PIL import Image

    from harness.models.families.prompting import Prompting

    image = Image.linear_gradient("L").convert("RGB")
    return Prompting(processor).inputs([([image], "What does the image show?")])
