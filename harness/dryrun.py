"""What a run would do, without loading weights: rows, images, tokens, sizes, memory.

Token counts are exact (the model's own tokenizer and image processor); memory is an estimate from the architecture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from harness.data import LoadedTask
from harness.models import endpoint, loading
from harness.prompts import Prompt
from harness.records import GenerationArgs, ImageRef


def estimate(
    model: str, task: LoadedTask, prompt: Prompt, args: GenerationArgs, *, dtype: str, device: str, batch_size: int | None
) -> dict[str, Any]:
    """One task's document for `harness run --dry-run`. Sizes in MB, tokens in counts.

    For an API model: what would be sent. Its price is LiteLLM's to tell when it answers; nothing is guessed here.
    """
    if endpoint.is_api_model(model):
        sent = endpoint.outgoing(task)
        return {
            "task": task.card.task,
            "model": model,
            "rows": len(task.samples),
            "images": sent.images,
            "image_mb_sent": round(sent.image_bytes / 1e6, 1),
            "characters": sum(len(prompt.render(s.question)) for s in task.samples),
            "max_new_tokens": args.max_new_tokens,
            "cost": "unknown before the first answer",
        }
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    checkpoint = loading.resolve(model)
    processor = loading.load_processor(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint.base, trust_remote_code=False)
    device = loading.pick_device(device)
    kind = loading.pick_dtype(dtype, device)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForImageTextToText.from_config(config).parameters())
    size = torch.empty((), dtype=kind).element_size()

    images = {i.name: i for s in task.samples for i in s.images}
    per_image = {name: image_tokens(processor, image) for name, image in images.items()}
    texts = [prompt.render(s.question) for s in task.samples]
    text_tokens = [len(ids) for ids in processor.tokenizer(texts)["input_ids"]]
    longest = max(t + sum(per_image[i.name] for i in s.images) for t, s in zip(text_tokens, task.samples, strict=True))
    cache = loading.kv_bytes_per_token(config, size)
    rows = min(batch_size or 64, len(task.samples))
    return {
        "task": task.card.task,
        "split": task.card.split,
        "source": task.card.source,
        "resolution": task.card.resolution,
        "rows": len(task.samples),
        "images": len(images),
        "prompt": prompt.name,
        "image_tokens": sum(per_image.values()),
        "text_tokens": sum(text_tokens),
        "prompt_tokens_one_by_one": sum(text_tokens) + sum(per_image[i.name] for s in task.samples for i in s.images),
        "max_new_tokens": args.max_new_tokens,
        "longest_row_tokens": longest + args.max_new_tokens,
        "parameters": parameters,
        "weights_mb": round(parameters * size / 1e6),
        "kv_cache_mb": round(rows * (longest + args.max_new_tokens) * cache / 1e6),
        "batch_size": rows,
        "dtype": str(kind).removeprefix("torch."),
        "device": device,
    }


def image_tokens(processor: Any, image: ImageRef) -> int:
    """Tokens that an image takes in the prompt, from its size alone where the processor can tell."""
    from PIL import Image

    with Image.open(io.BytesIO(image.content)) as header:  # the size is in the header: nothing is decoded
        width, height = header.size
    sizer = getattr(processor.image_processor, "get_number_of_image_patches", None)
    if sizer is None:
        return 0
    patches = sizer(height, width, {})
    return int(patches) // int(getattr(processor.image_processor, "merge_size", 1)) ** 2


def render(found: Sequence[dict[str, Any]]) -> Any:
    """The documents as a rich table, a column a task."""
    from rich.table import Table

    table = Table("", *(d["task"] for d in found), box=None, header_style="bold")
    for key in found[0]:
        if key != "task":
            table.add_row(key.replace("_", " "), *(f"{d[key]:,}" if isinstance(d[key], int) else str(d[key]) for d in found))
    return table
