"""What a GRPO step costs here and with TRL's GRPOTrainer alone, part by part, in one process on the same rows.

    python -m benchmarks.training            # some minutes on two cores; writes benchmarks/results/training.json

The tiny model in fp32, 8 questions x 8 completions a step, GRPO's rewards. "Vision-heavy" is the same model with every image
at 336 x 336 pixels, 144 tokens. The variants take turns, round after round, so that a machine that slows down slows them
all; a figure is the median over all steps but each turn's first. Texts are drawn, so their lengths differ a little; they
are shown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness import data, specs
from harness.pipeline import hardware
from harness.records import Reference
from trainers import recipe, rewards
from trainers.grpo import _SAME, GRPO

HERE = Path(__file__).parent
ROWS, STEPS, ROUNDS = 160, 6, 3
OFF = ["vision_cache=off", "grouped_rollouts=false", "grouped_logprobs=false"]
VARIANTS: dict[str, list[str] | None] = {
    "TRL alone": None,
    "vision cache": [*OFF, "vision_cache=memory"],
    "grouped rollouts": [*OFF, "grouped_rollouts=true"],
    "grouped log-probabilities": [*OFF, "grouped_logprobs=true"],
    "all three": [],
}
SHAPES = {"tiny, 36 image tokens": None, "tiny, vision-heavy, 144 image tokens": 336 * 336}


class Measured(GRPO):
    """GRPO with every image at `pixels`, and the encoder's passes counted."""

    pixels: int | None = None

    def cap_pixels(self, processor: Any) -> None:
        if self.pixels:
            processor.image_processor.size["shortest_edge"] = processor.image_processor.size["longest_edge"] = self.pixels

    def load(self, device: str) -> Any:
        model = super().load(device)
        self.encoded: list[int] = []
        count = lambda module, args, kwargs, out: self.encoded.append(len(kwargs["grid_thw"]))  # noqa: E731
        model.model.visual.register_forward_hook(count, with_kwargs=True)
        return model


class Alone(Measured):
    """TRL's GRPOTrainer with the same settings, rows and reward functions, and nothing of ours in it."""

    def _trainer(self, model: Any) -> Any:
        from trl import GRPOConfig, GRPOTrainer

        arguments = self.arguments() | {"save_strategy": "no"}
        return self.ready(
            GRPOTrainer(
                **self.adapted(model),
                args=GRPOConfig(
                    **arguments,
                    **{key: getattr(self.recipe, key) for key in _SAME},
                    num_iterations=1,
                    reward_weights=list(self.weights().values()),
                ),
                processing_class=self.processor,
                train_dataset=self.dataset(completions=False),
                reward_funcs=[for_trl(name) for name in self.weights()],
                callbacks=[self.watch()],
            ),
            self.reader(model),
        )


def for_trl(name: str) -> Any:
    """A reward part in TRL's signature."""
    part = rewards.part(name)

    def reward(completions: list[Any], completion_ids: list[Any], reference: list[str], **_: Any) -> list[float | None]:
        every = zip(completions, completion_ids, reference, strict=True)
        return part([rewards.Rollout(c[0]["content"], len(ids), Reference.model_validate_json(r)) for c, ids, r in every])

    reward.__name__ = name
    return reward


def measure(settings: list[str] | None, pixels: int | None, scratch: Path) -> dict[str, list[float]]:
    """Seconds, CPU seconds, tokens a completion and images encoded, of each step but the first."""
    ((spec, path),) = specs.find("slake_grounded")
    task = data.load(spec, path, source="bundled", split="train", limit=ROWS)
    chosen = recipe.load("grpo", "tiny", None, [f"max_steps={STEPS}", "dev=none", "save_steps=1000000", *(settings or [])])
    found: dict[str, list[float]] = defaultdict(list)
    last = [0.0, 0.0, 0]

    def report(step: int, steps: int, log: dict[str, float]) -> None:
        now, cpu, encoded = time.perf_counter(), time.process_time(), sum(trainer.encoded)
        if step > 1:
            found["seconds"].append(now - last[0])
            found["cpu"].append(cpu - last[1])
            found["tokens"].append(log["completions/mean_length"])
            found["encoded"].append(encoded - last[2])
        last[:] = [now, cpu, encoded]

    kind = Alone if settings is None else Measured
    trainer = kind("tiny", task, chosen, scratch / "out", device="cpu", report=report)
    trainer.pixels = pixels
    trainer.fit()
    shutil.rmtree(scratch / "out")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    from harness.cli import ui

    ui.quiet_libraries()
    machine = hardware()
    document: dict[str, Any] = {
        "machine": machine,
        "completions": 64,
        "group": 8,
        "steps": (STEPS - 1) * args.rounds,
        "shapes": {},
    }
    with tempfile.TemporaryDirectory() as tmp:
        for shape, pixels in SHAPES.items():
            found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in VARIANTS}
            for _ in range(args.rounds):
                for name, settings in VARIANTS.items():
                    for key, values in measure(settings, pixels, Path(tmp)).items():
                        found[name][key] += values
            document["shapes"][shape] = report(shape, found, machine)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "training.json").write_text(json.dumps(document, indent=1) + "\n")


def report(shape: str, found: dict[str, dict[str, list[float]]], machine: str) -> list[dict[str, Any]]:
    """Print a shape's table and return its rows."""
    print(f"\n{shape}; 8 questions x 8 completions, fp32, {machine}")
    print(f"{'':28}{'step':>9}{'ratio':>8}{'CPU':>9}{'ratio':>8}{'encoded a step':>16}{'tokens':>8}")
    alone = {k: statistics.median(found["TRL alone"][k]) for k in ("seconds", "cpu")}
    table = []
    for name, values in found.items():
        middle = {k: statistics.median(v) for k, v in values.items()}
        row = {
            "name": name,
            "step_s": round(middle["seconds"], 3),
            "ratio": round(middle["seconds"] / alone["seconds"], 3),
            "cpu_s": round(middle["cpu"], 3),
            "cpu_ratio": round(middle["cpu"] / alone["cpu"], 3),
            "images_encoded_a_step": round(statistics.mean(values["encoded"]), 1),
            "tokens_a_completion": round(statistics.mean(values["tokens"]), 1),
        }
        table.append(row)
        print(
            f"{name:28}{row['step_s']:>7.2f} s{row['ratio']:>7.2f}x{row['cpu_s']:>7.2f} s{row['cpu_ratio']:>7.2f}x"
            f"{row['images_encoded_a_step']:>16}{row['tokens_a_completion']:>8}"
        )
    return table


if __name__ == "__main__":
    main()
