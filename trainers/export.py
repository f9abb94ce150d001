"""A trained model on its own, for other programs: the adapter as it is, or merged into its base and checked against it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import ModelError, RunError, UserError
from harness.models import adapters, loading, weights
from trainers import checkpoint

#: What a model's folder holds for the training alone.
TRAINING_ONLY = (
    *checkpoint.RESUME_ONLY, *checkpoint.LOGS, "samples.jsonl", "run.yaml", "curves.png", "best", "dev", "runs",
    "checkpoint-*", ".*",
)  # fmt: skip


def export(model: Path, folder: Path, *, merge: bool = False, say: Callable[[str], object] = lambda _: None) -> Path:
    """Write `model` (a training's OUT, OUT/best or OUT/checkpoint-N) to `folder`.

    With `merge` an adapter is merged into its base, and the merged weights are read back from disk. Each must be the base's plus
    what the adapter adds to it (so that it differs wherever the adapter does), and all together must give the adapter's logits
    on an image and a question, within 1e-4 in fp32. Raises RunError where they do not, and leaves nothing. `say` is told what the
    user should know of the result.
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
        _merge(found, part, say)
    part.rename(folder)
    return folder


def _merge(found: loading.Checkpoint, part: Path, say: Callable[[str], object]) -> None:
    import torch

    processor = loading.load_processor(found)
    adapted = loading.load_weights(found, torch.float32, "cpu", merge=False)
    weights.check_vocabulary(found.label, adapted, processor)
    batch = _question(processor)
    with torch.inference_mode():
        wanted = adapted(**batch).logits
    changes = adapters.changes(adapted)
    assert found.adapter is not None
    if note := loading.other_base(found):
        say(note)
    kept = adapters.kept_in(torch.bfloat16, changes)
    if kept < 0.9:
        say(
            f"the merged weights are fp32; rounded to bf16 they would keep {100 * kept:.0f} % of what the adapter adds: "
            "use them with --dtype float32, or the adapter itself, which is not rounded"
        )
    whole = adapters.merged(adapted, found.adapter)
    whole.save_pretrained(part)
    processor.save_pretrained(part)
    if (found.adapter / "trained.json").exists():
        shutil.copy2(found.adapter / "trained.json", part / "trained.json")
    merged = loading.load_weights(loading.resolve(str(part)), torch.float32, "cpu")
    with torch.inference_mode():
        difference = float((merged(**batch).logits - wanted).abs().max())
    read = merged.state_dict()
    wrong = adapters.wrongly_merged(changes, read)
    wrong += [name for name, w in whole.state_dict().items() if not torch.equal(read[name], w)]
    why = f"logits differ by {difference:.2g}" if not difference < 1e-4 * max(1.0, float(wanted.abs().max())) else None
    if wrong:
        why = f"{len(wrong)} weights are not the base's with the adapter's added ({', '.join(wrong[:3])})"
    if why:
        shutil.rmtree(part, ignore_errors=True)
        raise RunError(f"{found.adapter}: the merged weights are not the adapter: {why}", hint="keep the adapter")


def _question(processor: Any) -> Any:
    """A grey image and a question, as the model takes them."""
    from PIL import Image

    from harness.models.families.prompting import Ask, Prompting

    image = Image.linear_gradient("L").convert("RGB")
    return Prompting(processor).inputs([Ask([image], "What does the image show?")])
