"""Generation speed on SLAKE's 1,061 test questions: ours against plain `generate`, lm-eval and lmms-eval.

    make bench                       # or: python -m benchmarks.generation [--data-dir DIR] [--skip-peers]

Same checkpoint (the tiny model in fp32), same questions, at most 16 new tokens, same pixel limits (lmms-eval adds a system
prompt of its own). Every peer reads the form it reads fastest (one picture a row, in a parquet file's image column) and runs at
each of several batch sizes; its fastest one counts. All take turns, round after round, so that a machine that slows down slows
them all, and a row shows the median and the worst ratio of the rounds. "generation" is what happens between handing over the
questions and having all texts (images are read in it); "process" is the whole command, imports and loading included. Our texts
must equal plain `generate`'s. Prints the table and writes benchmarks/results/generation-INSTRUCTIONS.json (not with --limit,
which only tries the script out).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import data, specs
from harness.data import LoadedTask
from harness.pipeline import hardware
from harness.runs import RunFolder

HERE = Path(__file__).parent
LMMS = HERE / ".venv-lmms-eval"
TOKENS, ROUNDS = 16, 3
BATCHES = (32, 128)  # a peer's fastest one counts
Contestant = Callable[[int, Path, Path, argparse.Namespace], dict[str, Any]]
MIN_PIXELS, MAX_PIXELS = 56 * 56, 168 * 168  # the tiny model's own


def timed(command: list[str]) -> dict[str, float]:
    """Run a command; its wall seconds."""
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        done = subprocess.run(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{log.read()[-3000:]}")
    return {"process_s": seconds}


def source(args: argparse.Namespace) -> list[str]:
    limit = ["--limit", str(args.limit)] if args.limit else []
    return limit + (["--data", "local", "--data-dir", str(args.data_dir)] if args.data_dir else ["--data", "bundled"])


def slake(args: argparse.Namespace) -> LoadedTask:
    ((spec, path),) = specs.find("slake")
    return data.load(spec, path, source="local" if args.data_dir else "bundled", data_dir=args.data_dir, limit=args.limit)


def ours(model: Path, scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """`harness run` as its user runs it, judging and records included."""
    runs = Path(tempfile.mkdtemp(dir=scratch))
    options = ["--prompt", "question", "--max-new-tokens", str(TOKENS), "--runs", str(runs), "--device", "cpu", "--json"]
    used = timed([sys.executable, "-m", "harness", "run", "--model", str(model), "--tasks", "slake", *source(args), *options])
    (path,) = runs.glob("*/*/card.json")
    folder = RunFolder(path.parent)
    ((_, version),) = folder.judges()
    right = [v.final for v in folder.verdicts("exact", version).values()]
    texts = {i: p.text for i, p in folder.predictions().items()}
    return used | {"generation_s": folder.card().seconds["generate"], "texts": texts, "exact_match": sum(right) / len(right)}


def plain(batch: int, model: Path, scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """transformers' own `generate` on left-padded batches, in a process of its own."""
    out = scratch / "plain.json"
    command = [sys.executable, "-m", "benchmarks.generation", "--plain", str(model), str(batch), str(out)]
    command += ["--data-dir", str(args.data_dir)] if args.data_dir else []
    used = timed(command + (["--limit", str(args.limit)] if args.limit else []))
    return json.loads(out.read_text()) | used


def run_plain(model: str, batch: int, out: Path, task: LoadedTask) -> None:
    from harness.models.transformers_model import TransformersModel
    from harness.prompts import PROMPTS
    from harness.records import GenerationArgs

    backend = TransformersModel(model, device="cpu", dtype="float32", batch_size=batch, share_prefix="off")
    start = time.perf_counter()
    done = [
        p for batch in backend.generate(task.samples, PROMPTS["question"], GenerationArgs(max_new_tokens=TOKENS)) for p in batch
    ]
    seconds = time.perf_counter() - start
    out.write_text(json.dumps({"generation_s": seconds, "texts": {p.sample_id: p.text for p in done}}))


def full_precision(folder: Path) -> Path:
    """The tiny model's weights in fp32, so that no peer loads them as bf16."""
    import torch
    from transformers import AutoModelForImageTextToText

    from harness.models import TINY

    shutil.copytree(TINY, folder)
    AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32).save_pretrained(folder)
    return folder


def peer_tasks(name: str, scratch: Path, args: argparse.Namespace) -> Path:
    """A peer's task folder with the questions beside it in one parquet file, one image a row: the form that both read fastest."""
    from datasets import Dataset, Image

    rows = [
        {
            "id": s.id,
            "question": s.question,
            "answer": s.reference.answers[0],
            "image": {"bytes": s.images[0].content, "path": None},
        }
        for s in slake(args).samples
    ]
    tasks = scratch / name
    shutil.copytree(HERE / "peers" / name, tasks)
    Dataset.from_list(rows).cast_column("image", Image()).to_parquet(tasks / "rows.parquet")
    for spec_file in tasks.glob("*.yaml"):
        spec_file.write_text(spec_file.read_text().replace("ROWS", str(tasks / "rows.parquet")))
    return tasks


def peer(python: Path | str, name: str, batch: int, model: Path, scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A peer with the tiny model's own pixel limits; `name` is lm_eval or lmms_eval."""
    tasks, out = scratch / f"{name}_tasks", scratch / f"{name}.json"
    if not tasks.exists():
        peer_tasks(tasks.name, scratch, args)
    driver = [str(python), str(HERE / "peers" / f"{name}_driver.py"), str(model), str(tasks)]
    used = timed([*driver, str(MIN_PIXELS), str(MAX_PIXELS), str(batch), str(out)])
    return json.loads(out.read_text()) | used


def contestants(args: argparse.Namespace) -> dict[str, Contestant]:
    """Who runs, by name: each is called with (batch size, model, scratch folder, options). Ours picks its own batches."""
    found: dict[str, Contestant] = {"plain generate": plain}
    if not args.skip_peers:
        found["lm-eval 0.4.13"] = functools.partial(peer, sys.executable, "lm_eval")
        if LMMS.exists():
            found["lmms-eval 0.7.3"] = functools.partial(peer, LMMS / "bin" / "python", "lmms_eval")
        else:
            print("lmms-eval: no environment of its own; `make bench` makes one")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="official archives; bundled images otherwise")
    parser.add_argument("--limit", type=int, help="only so many questions; nothing is recorded")
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="each runs so often, in turn")
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        model, batch, out = args.plain
        run_plain(model, int(batch), Path(out), slake(args))
        return
    with tempfile.TemporaryDirectory() as tmp:
        scratch, rivals = Path(tmp), contestants(args)
        model = full_precision(scratch / "tiny-fp32")
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        # the first round tries every batch size, and the fastest of each goes on
        trials: dict[str, dict[int, dict[str, Any]]] = {
            name: {batch: run(batch, model, scratch, args) for batch in BATCHES} for name, run in rivals.items()
        }
        best = {name: min(tried, key=lambda b: tried[b]["generation_s"]) for name, tried in trials.items()}
        for n in range(args.rounds):
            found["harness"].append(ours(model, scratch, args))
            for name, run in rivals.items():
                again = trials[name][best[name]] if n == 0 else run(best[name], model, scratch, args)
                found[f"{name}, batch {best[name]}"].append(again)
    report(found, "original images" if args.data_dir else "bundled-224px images", record=args.limit is None)


def report(found: dict[str, list[dict[str, Any]]], images: str, *, record: bool) -> None:
    """Print the table, and record it if asked. A ratio is taken within its round; the worst is the smallest."""
    import torch

    ours = found["harness"]
    plain = next(runs for name, runs in found.items() if name.startswith("plain"))
    texts = ours[0]["texts"]
    same = sum(plain[0]["texts"][i] == t for i, t in texts.items())
    machine = hardware()
    print(f"\nSLAKE test, {len(texts)} questions, {images}, at most {TOKENS} tokens, fp32, {len(ours)} rounds; {machine}")
    print(f"texts equal to plain generate: {same} of {len(texts)}; exact match {100 * ours[0]['exact_match']:.1f} %\n")
    print(f"{'':30}{'generation':>12}{'ratio':>8}{'worst':>8}{'process':>10}{'ratio':>8}{'worst':>8}")
    table = []
    for name, runs in found.items():
        row: dict[str, Any] = {"name": name}
        for key in ("generation", "process"):
            ratios = [r[f"{key}_s"] / o[f"{key}_s"] for r, o in zip(runs, ours, strict=True)]
            row[f"{key}_s"] = round(statistics.median(r[f"{key}_s"] for r in runs), 2)
            row[f"{key}_ratio"], row[f"{key}_worst"] = round(statistics.median(ratios), 2), round(min(ratios), 2)
        table.append(row)
        print(
            f"{name:30}{row['generation_s']:>10.2f} s{row['generation_ratio']:>7.1f}x{row['generation_worst']:>7.1f}x"
            f"{row['process_s']:>8.1f} s{row['process_ratio']:>7.1f}x{row['process_worst']:>7.1f}x"
        )
    if not record:
        return
    instructions = torch.backends.cpu.get_cpu_capability()
    document = {"machine": machine, "images": images, "equal_texts": same, "questions": len(texts), "rounds": len(ours)}
    (HERE / "results").mkdir(exist_ok=True)
    path = HERE / "results" / f"generation-{instructions.lower()}.json"
    path.write_text(json.dumps(document | {"rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
