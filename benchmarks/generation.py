"""Generation speed on SLAKE's 1,061 test questions: ours against plain `generate`, lm-eval and lmms-eval.

    make bench                       # or: python -m benchmarks.generation [--data-dir DIR] [--skip-peers]

Same checkpoint (the tiny model in fp32), same questions, at most 16 new tokens, same pixel limits (lmms-eval adds a
system prompt of its own), one process after the
other on the same machine. "generation" is what happens between handing over the questions and having all texts (images are
read in it); "process" is the whole command, imports and loading included. Texts must equal plain `generate`'s.
Prints the table and writes benchmarks/results/generation.json (not with --limit, which only tries the script out).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import data, specs
from harness.data import LoadedTask
from harness.runs import RunFolder

HERE = Path(__file__).parent
LMMS = HERE / ".venv-lmms-eval"
TOKENS, BATCH = 16, 32
MIN_PIXELS, MAX_PIXELS = 56 * 56, 168 * 168  # the tiny model's own


def timed(command: list[str]) -> dict[str, float]:
    """Run a command; its wall seconds and its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{log.read()[-3000:]}")
    return {"process_s": seconds, "peak_mb": usage.ru_maxrss / 1e3}


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
    right = [v.final for v in folder.verdicts("exact", "3").values()]
    texts = {i: p.text for i, p in folder.predictions().items()}
    return used | {"generation_s": folder.card().seconds["generate"], "texts": texts, "exact_match": sum(right) / len(right)}


def plain(model: Path, scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """transformers' own `generate` on left-padded batches of 32, in a process of its own."""
    out = scratch / "plain.json"
    command = [sys.executable, "-m", "benchmarks.generation", "--plain", str(model), str(out)]
    command += ["--data-dir", str(args.data_dir)] if args.data_dir else []
    used = timed(command + (["--limit", str(args.limit)] if args.limit else []))
    return json.loads(out.read_text()) | used


def run_plain(model: str, out: Path, task: LoadedTask) -> None:
    from harness.models.transformers_model import TransformersModel
    from harness.prompts import PROMPTS
    from harness.records import GenerationArgs

    backend = TransformersModel(model, device="cpu", dtype="float32", batch_size=BATCH, share_prefix="off")
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


def peer(python: Path | str, name: str, model: Path, scratch: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A peer at batch 32 with the tiny model's own pixel limits; `name` is lm_eval or lmms_eval."""
    tasks, out = peer_tasks(f"{name}_tasks", scratch, args), scratch / f"{name}.json"
    driver = [str(python), str(HERE / "peers" / f"{name}_driver.py"), str(model), str(tasks)]
    used = timed([*driver, str(MIN_PIXELS), str(MAX_PIXELS), str(BATCH), str(out)])
    return json.loads(out.read_text()) | used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="official archives; bundled images otherwise")
    parser.add_argument("--limit", type=int, help="only so many questions; nothing is recorded")
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument("--repeat", type=int, default=3, help="our own runs; the median is taken")
    parser.add_argument("--plain", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        run_plain(args.plain[0], Path(args.plain[1]), slake(args))
        return
    with tempfile.TemporaryDirectory() as tmp:
        scratch = Path(tmp)
        model = full_precision(scratch / "tiny-fp32")
        runs = [ours(model, scratch, args) for _ in range(args.repeat)]
        results = {"plain generate, batch 32": plain(model, scratch, args)}
        middle = {key: statistics.median(r[key] for r in runs) for key in ("generation_s", "process_s", "peak_mb")}
        results["harness"] = runs[0] | middle
        if not args.skip_peers:
            results["lm-eval 0.4.13, batch 32"] = peer(sys.executable, "lm_eval", model, scratch, args)
            if LMMS.exists():
                results["lmms-eval 0.7.3, batch 32"] = peer(LMMS / "bin" / "python", "lmms_eval", model, scratch, args)
            else:
                print("lmms-eval: no environment of its own; `make bench` makes one")
    report(results, "original images" if args.data_dir else "bundled-224px images", record=args.limit is None)


def report(results: dict[str, dict[str, Any]], images: str, *, record: bool) -> None:
    """Print the table, and record it if asked."""
    ours, plain = results["harness"], results["plain generate, batch 32"]
    same = sum(plain["texts"][i] == t for i, t in ours["texts"].items())
    machine = f"{os.cpu_count()} cores of a {platform.machine()} server"
    print(f"\nSLAKE test, {len(ours['texts'])} questions, {images}, at most {TOKENS} tokens, fp32, {machine}")
    print(f"texts equal to plain generate: {same} of {len(ours['texts'])}; exact match {100 * ours['exact_match']:.1f} %\n")
    print(f"{'':28}{'generation':>12}{'ratio':>8}{'process':>10}{'ratio':>8}{'peak MB':>9}")
    table = []
    for name, r in results.items():
        row = {
            "name": name,
            "generation_s": round(r["generation_s"], 2),
            "generation_ratio": round(r["generation_s"] / ours["generation_s"], 2),
            "process_s": round(r["process_s"], 2),
            "process_ratio": round(r["process_s"] / ours["process_s"], 2),
            "peak_mb": round(r["peak_mb"]),
        }
        table.append(row)
        print(
            f"{name:28}{row['generation_s']:>10.2f} s{row['generation_ratio']:>7.1f}x{row['process_s']:>8.1f} s"
            f"{row['process_ratio']:>7.1f}x{row['peak_mb']:>9}"
        )
    if not record:
        return
    document = {"machine": machine, "images": images, "equal_texts": same, "questions": len(ours["texts"]), "rows": table}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "generation.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
