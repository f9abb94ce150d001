"""What a further question costs on an image that was seen already, against the size of the image.

    python -m benchmarks.image_tokens        # writes benchmarks/results/image_tokens.{json,png}

Eight SLAKE images at growing resolution, 8 and then 40 questions on each, the tiny model in fp32, at most 16 tokens. Times
are CPU seconds of one thread, which other jobs on the machine do not stretch; the lower of two runs counts.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from harness.cli import ui
from harness.records import Sample

RESULTS = Path(__file__).parent / "results"
SIDES = (168, 336, 504, 672, 896)
FEW, MANY = 8, 40


def rows(groups: list[list[Sample]], count: int) -> list[Sample]:
    """`count` questions on each image: its first eight, repeated under other ids."""
    return [s.model_copy(update={"id": f"{s.id}/{k}"}) for g in groups for k in range(count // 8) for s in g[:8]]


def seconds(model: Any, samples: list[Sample]) -> float:
    from harness.prompts import PROMPTS
    from harness.records import GenerationArgs

    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        assert sum(len(b) for b in model.generate(samples, PROMPTS["question"], GenerationArgs(max_new_tokens=16))) == len(
            samples
        )
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    ui.quiet_libraries()
    import torch

    from harness import data, specs
    from harness.models.packs import group_by_images
    from harness.models.transformers_model import TransformersModel

    torch.set_num_threads(1)
    ((spec, path),) = specs.find("slake")
    groups = [g for g in group_by_images(data.load(spec, path, source="bundled").samples) if len(g) >= 8][:8]
    table = []
    for side in SIDES:
        row: dict[str, float] = {"image_tokens": (side // 28) ** 2}
        for name, share in (("shared", "auto"), ("plain", "off")):
            model = TransformersModel("tiny", device="cpu", share_prefix=share)  # type: ignore[arg-type]
            model.processor.image_processor.size = {"shortest_edge": side * side, "longest_edge": side * side}
            few = seconds(model, rows(groups, FEW))
            if name == "plain":  # every question costs the same
                row["plain_ms"] = 1000 * few / (FEW * len(groups))
            else:
                many = seconds(model, rows(groups, MANY))
                row["further_ms"] = 1000 * (many - few) / ((MANY - FEW) * len(groups))
                row["first_ms"] = 1000 * few / len(groups) - (FEW - 1) * row["further_ms"]
        table.append({k: round(v, 2) for k, v in row.items()})
        print("  ".join(f"{k} {v}" for k, v in table[-1].items()), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "image_tokens.json").write_text(json.dumps(table, indent=1) + "\n")
    plot(table)


def plot(table: list[dict[str, float]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    tokens = [r["image_tokens"] for r in table]
    for key, label, style in (
        ("plain_ms", "each question, plain generate", "o--"),
        ("first_ms", "first question on an image, shared prefix", "s-"),
        ("further_ms", "each further question, shared prefix", "^-"),
    ):
        axes.plot(tokens, [r[key] for r in table], style, label=label)
    axes.set(
        xlabel="image tokens", ylabel="CPU ms a question (one thread)", yscale="log", title="Questions on an image already seen"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(RESULTS / "image_tokens.png", dpi=120)


if __name__ == "__main__":
    main()
