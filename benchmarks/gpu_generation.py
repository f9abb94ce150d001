"""Answers a second of the paper's model on one GPU: shared image prefix against plain `generate`, by image size.

    python -m benchmarks.gpu_generation                    # all sizes; prints one JSON document
    python -m benchmarks.gpu_generation --tokens 256 --images 16

Qwen2-VL-2B's published shape with random weights in bf16 (nothing is downloaded), drawn square images of 256, 576 and 1,024
image tokens, 11 of SLAKE's questions about each (as its test split has), 32 new tokens each: random weights hardly ever end a
text. `shared` is the harness as it runs; `apart` gives every question a file of its own, so that packing and finished rows
remain but nothing is shared; `plain` is transformers' own `generate` on left-padded batches of 32.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import data, specs
from harness.data import LoadedTask
from harness.records import ImageRef

QUESTIONS, NEW_TOKENS = 11, 32
PATCH = 28  # pixels of one image token's side, after merging


def drawn(side: int, number: int, copy: int = 0) -> ImageRef:
    """Noise over a gradient; `copy` changes the file and not a pixel."""
    import numpy as np
    from PIL import Image, PngImagePlugin

    rng = np.random.default_rng(number)
    pixels = np.clip(np.linspace(0, 200, side)[None, :] + rng.integers(0, 55, (side, side)), 0, 255).astype(np.uint8)
    note = PngImagePlugin.PngInfo()
    note.add_text("copy", str(copy))
    out = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(out, "PNG", compress_level=1, pnginfo=note)
    return ImageRef(name=f"drawn-{side}-{number}-{copy}", data=out.getvalue())


def task(images: int, side: int, *, apart: bool) -> LoadedTask:
    """So many images with QUESTIONS real questions each."""
    ((spec, path),) = specs.find("slake")
    loaded = data.load(spec, path, source="bundled", limit=images * QUESTIONS)
    samples = []
    for n, sample in enumerate(loaded.samples):
        image = drawn(side, n // QUESTIONS, n % QUESTIONS if apart else 0)
        samples.append(sample.model_copy(update={"images": (image,)}))
    return replace(loaded, samples=samples)


def measure(backend: Any, rows: LoadedTask) -> dict[str, Any]:
    import torch

    from harness.prompts import PROMPTS
    from harness.records import GenerationArgs

    args = GenerationArgs(max_new_tokens=NEW_TOKENS)
    cuda = backend.card.device.startswith("cuda")
    list(backend.generate(rows.samples[: 2 * QUESTIONS], PROMPTS["question"], args))  # kernels are chosen on the first call
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    done = [p for batch in backend.generate(rows.samples, PROMPTS["question"], args) for p in batch]
    seconds = time.perf_counter() - start
    out = {"seconds": round(seconds, 2), "answers_a_second": round(len(done) / seconds, 1)}
    return out | ({"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if cuda else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 576, 1024], help="image tokens, square numbers")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--model", help="a checkpoint to try the script out with; the 2B shape by default, which needs a GPU")
    args = parser.parse_args()
    import torch

    from harness.cli import ui
    from harness.models.transformers_model import TransformersModel

    if args.model is None and not torch.cuda.is_available():
        raise SystemExit("this bench needs a CUDA device (or --model tiny, to try it out)")
    ui.quiet_libraries()
    scratch = Path(tempfile.mkdtemp(prefix="gpu-generation-"))
    found: dict[str, Any] = {"images": args.images, "questions_an_image": QUESTIONS, "new_tokens": NEW_TOKENS, "sizes": {}}
    try:
        model = args.model
        if model is None:
            from benchmarks.gpu_training import build

            model = str(build(scratch / "model", max_pixels=max(args.tokens) * PATCH**2))
        for kind in ("shared", "apart", "plain"):
            backend = TransformersModel(
                model, batch_size=32 if kind == "plain" else None, share_prefix="off" if kind == "plain" else "auto"
            )
            for tokens in args.tokens:
                side = round(tokens**0.5) * PATCH
                sizes = found["sizes"].setdefault(str(tokens), {})
                sizes[kind] = measure(backend, task(args.images, side, apart=kind == "apart"))
            found |= {"device": backend.card.device, "attention": backend.card.attention, "dtype": backend.card.dtype}
            del backend
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
        print(json.dumps(found, indent=1))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
