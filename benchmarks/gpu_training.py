"""A GRPO step of the paper's model on one GPU: seconds, peak memory and encoder passes, here and with TRL alone.

    python -m benchmarks.gpu_training ours --memory-gb 40       # prints one JSON document
    python -m benchmarks.gpu_training trl  --memory-gb 40
    python -m benchmarks.gpu_training cache-off

Qwen2-VL-2B's published shape with random weights in bf16, the paper's LoRA and loss, G = 8, 512-token completions, images of
401,408 pixels. Nothing is downloaded: images are drawn, the tokenizer is the tiny model's (its ids lie within the large
vocabulary), and random weights write until the limit, so every completion has all 512 tokens: the longest step there
is. `--memory-gb` caps the process (torch.cuda.set_per_process_memory_fraction), which proves that a step fits. One script a
call, so that peaks are a process's own.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = {
    "ours": [],
    "cache-off": ["vision_cache=off"],
    "passes-off": ["grouped_logprobs=false"],
    "rollouts-off": ["grouped_rollouts=false"],
    "trl": None,
}
QUESTIONS, GROUP, SIDE = 24, 8, 634  # 634 x 634 pixels is the most that 401,408 allows for a square


def build(folder: Path, max_pixels: int = 401408) -> Path:
    """The model's folder: the published shape, random bf16 weights, the tiny model's processor without its pixel cap."""
    import torch
    from transformers import AutoModelForImageTextToText

    from harness.models import loading
    from trainers.plan import shape_of

    config, _ = shape_of("Qwen/Qwen2-VL-2B-Instruct")
    processor = loading.load_processor(loading.resolve("tiny"))
    ids = {
        t: processor.tokenizer.convert_tokens_to_ids(t)
        for t in ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    }
    config.image_token_id, config.video_token_id = ids["<|image_pad|>"], ids["<|video_pad|>"]
    config.vision_start_token_id, config.vision_end_token_id = ids["<|vision_start|>"], ids["<|vision_end|>"]
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    # one word of 151,936 ends a text, so nearly every completion is as long as it may be
    model.generation_config.eos_token_id = config.text_config.vocab_size - 1
    model.save_pretrained(folder)
    processor.image_processor.max_pixels = max_pixels
    processor.image_processor.size["longest_edge"] = max_pixels
    processor.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


def task() -> Any:
    """The bundled rows with drawn images of the full size: noise over a gradient, each its own."""
    from dataclasses import replace

    import numpy as np
    from PIL import Image

    from harness import data, specs
    from harness.records import ImageRef

    ((spec, path),) = specs.find("slake_grounded")
    loaded = data.load(spec, path, source="bundled", split="train", limit=QUESTIONS)
    rng = np.random.default_rng(0)

    def draw(n: int) -> ImageRef:
        pixels = np.clip(np.linspace(0, 200, SIDE)[None, :] + rng.integers(0, 55, (SIDE, SIDE)), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).convert("RGB").save(out, "JPEG")
        return ImageRef(name=f"drawn-{n}", data=out.getvalue())

    return replace(loaded, samples=[s.model_copy(update={"images": (draw(n),)}) for n, s in enumerate(loaded.samples)])


def run(variant: str, model: Path, scratch: Path, steps: int) -> dict[str, Any]:
    """Train a few steps; seconds a step without the first, the peak, and images encoded a step."""
    import torch

    from benchmarks.training import Alone, Measured
    from trainers import recipe

    settings = [
        f"max_steps={steps}",
        "save_steps=1000000",
        "batch_size=8",
        "num_generations=8",
        "dev=none",
        *(VARIANTS[variant] or []),
    ]
    chosen = recipe.load("grpo", str(model), None, settings)
    stamps: list[float] = []
    encoded: list[int] = []
    tokens: list[float] = []

    def report(step: int, of: int, log: dict[str, float]) -> None:
        torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        encoded.append(sum(trainer.encoded))
        tokens.append(log["completions/mean_length"])
        if step == 1:
            torch.cuda.reset_peak_memory_stats()

    kind = Alone if VARIANTS[variant] is None else Measured
    trainer = kind(str(model), task(), chosen, scratch / "out", device="cuda", report=report, force=True)
    planned = trainer.plan()
    trainer.fit()
    seconds = [b - a for a, b in itertools.pairwise(stamps)]
    return {
        "variant": variant,
        "gpu": torch.cuda.get_device_name(),
        "host": f"{platform.machine()} {platform.system()}",
        "step_s": round(statistics.median(seconds), 2),
        "steps": len(seconds),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
        "planned_gb": round(planned.memory_total / 1e9, 2),
        "image_tokens": planned.lengths.image_max,
        "images_encoded_first_step": encoded[0],
        "images_encoded_a_later_step": round((encoded[-1] - encoded[0]) / max(1, len(seconds)), 1),
        "tokens_a_completion": statistics.mean(tokens),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--memory-gb", type=float, help="cap this process at so many GB")
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("this bench needs a CUDA device")
    if args.memory_gb:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.memory_gb * 1e9 / total))
    from harness.cli import ui

    ui.quiet_libraries()
    scratch = Path(tempfile.mkdtemp(prefix="gpu-training-"))
    try:
        found = run(args.variant, build(scratch / "model"), scratch, args.steps)
        print(json.dumps(found | {"memory_cap_gb": args.memory_gb}, indent=1))
    except torch.OutOfMemoryError as e:
        print(
            json.dumps(
                {"variant": args.variant, "memory_cap_gb": args.memory_gb, "out_of_memory": str(e).splitlines()[0]}, indent=1
            )
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
