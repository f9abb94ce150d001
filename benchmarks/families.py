"""Every family of models: does it run, with the model's own texts, on a shared prefix, and how fast? The table of docs/models.md.

    python -m benchmarks.families [--rows 1061] [--width 192] [FAMILY ...]

Tiny random models (tests/families.py; --width 192 makes them as large as `tiny`) answer SLAKE's test questions with at most 16
new tokens, on a shared prefix and by plain `generate` in batches of 32, in one process, in fp32. Some rows are also asked by
transformers' own `apply_chat_template` and `generate`, one at a time. Then each trainer takes two steps, its checkpoint answers,
and an adapter is merged. With all families and all rows it rewrites the table in
docs/models.md and benchmarks/results/families.json; anything less is only printed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import data, pipeline, specs
from harness.models.transformers_model import TransformersModel
from harness.prompts import PROMPTS
from harness.records import GenerationArgs, Sample
from harness.runs import write_atomic
from tests import families
from trainers.export import export

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "models.md"
BEGIN, END = "<!-- families: python -m benchmarks.families -->", "<!-- end of families -->"
ARGS = GenerationArgs(max_new_tokens=16)
PROMPT = PROMPTS["question"]
ALONE = 24

Row = dict[str, Any]
#: A column's heading, and what it shows of a family's figures.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "family": lambda r: f"`{r['family']}`",
    "class": lambda r: f"`{r['class']}`",
    "texts equal": lambda r: f"{r['equal']} of {r['compared']}",
    "shared prefix": lambda r: "yes" if r["sharing"].startswith("proved") else f"no: {r['sharing'].partition(': ')[2]}",
    "speed against plain": lambda r: f"{r['plain_s'] / r['shared_s']:.1f}x",
    "sft": lambda r: r["sft"],
    "grpo": lambda r: r["grpo"],
    "rarl": lambda r: r["rarl"],
    "by group": lambda r: r["grouped"],
    "vision cache": lambda r: r["cache"],
    "merge": lambda r: r["merge"],
}


def trained(folder: Path, root: Path) -> dict[str, str]:
    """What two steps of each trainer give: `scored` where the checkpoint answers in a run, or what went wrong."""
    from safetensors.torch import load_file

    from tests.families_training import rows, train

    task, found = rows(), {}
    for name in ("sft", "grpo", "rarl"):
        trainer, inner = train(name, folder, task, root / name)
        texts, _ = answered(TransformersModel(str(root / name), device="cpu"), list(task.samples))
        found[name] = "scored" if len(texts) == len(task.samples) else "no answers"
    proved = {what: why.partition(":")[0] for what, why in inner.proved.items() if why}
    found["grouped"] = "; ".join(f"no {what}: {why}" for what, why in proved.items()) or "yes"
    train("rarl", folder, task, root / "plain", "vision_cache=off")
    kept, plain = (load_file(root / n / "adapter_model.safetensors") for n in ("rarl", "plain"))
    equal = all(bool((kept[k] == plain[k]).all()) for k in plain)
    found["cache"] = f"no: {trainer.why_no_cache}" if trainer.why_no_cache else "same bits" if equal else "DIFFERS"
    found["merge"] = "proved" if export(root / "rarl", root / "merged", merge=True) else ""
    return found


def answered(model: TransformersModel, samples: list[Sample]) -> tuple[dict[str, str], float]:
    """(texts, seconds)."""
    start = time.perf_counter()
    texts = {p.sample_id: p.text for batch in model.generate(samples, PROMPT, ARGS) for p in batch}
    return texts, time.perf_counter() - start


def own(model: TransformersModel, sample: Sample) -> str:
    """The text of transformers' own two calls."""
    import torch

    content: list[dict[str, Any]] = [{"type": "image", "image": i.open()} for i in sample.images]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": PROMPT.render(sample.question)}]}]
    inputs = model.processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs.pop("labels", None)
    with torch.inference_mode():
        out = model.model.generate(**inputs, max_new_tokens=ARGS.max_new_tokens, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    cut = next((i for i, t in enumerate(new) if t in model.end), len(new))
    return str(model.processor.tokenizer.decode(new[:cut], skip_special_tokens=True)).strip()


def measure(family: str, root: Path, samples: list[Sample], width: int) -> Row:
    folder = str(families.build(family, root, width))
    model = TransformersModel(folder, device="cpu")
    plain = TransformersModel(folder, device="cpu", share_prefix="off")
    for one in (model, plain):
        answered(one, samples[:40])  # the first pass is slower
    texts, shared_s = answered(model, samples)
    wanted, plain_s = answered(plain, samples)
    alone = {s.id: own(model, s) for s in samples[:: max(1, len(samples) // ALONE)]}
    pairs = [(texts[i], t) for i, t in wanted.items()] + [(texts[i], t) for i, t in alone.items()]
    return {
        "family": family,
        "class": type(model.model).__name__,
        "parameters": model.card.parameters,
        "sharing": model.sharing,
        "equal": sum(a == b for a, b in pairs),
        "compared": len(pairs),
        "shared_s": round(shared_s, 2),
        "plain_s": round(plain_s, 2),
        **trained(Path(folder), root / f"{family}-trained"),
    }


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *([show(r) for show in COLUMNS.values()] for r in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    import torch
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(families.FAMILIES)}")
    parser.add_argument("--rows", type=int, default=1061)
    parser.add_argument("--width", type=int, default=192)
    options = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    ((spec, path),) = specs.find("slake")
    samples = list(data.load(spec, path, source="bundled", limit=options.rows).samples)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for family in options.families or families.FAMILIES:
            rows.append(measure(family, Path(root), samples, options.width))
            print(rows[-1], flush=True)
    print(table(rows))
    if options.families or options.rows < len(data.load(spec, path, source="bundled").samples):
        return
    about = f"{len(samples)} questions, {torch.get_num_threads()} threads, {pipeline.hardware()}"
    found = {"about": about, "packages": pipeline.packages(), "families": rows}
    write_atomic(HERE / "results" / "families.json", json.dumps(found, indent=1) + "\n")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    write_atomic(PAGE, f"{before}{BEGIN}\n\n{table(rows)}\n\n{about}.\n\n{END}{after}")


if __name__ == "__main__":
    main()
