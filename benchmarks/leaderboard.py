"""How long `harness leaderboard` takes over 1,000 runs of 1,000 samples, and the sample browser over 1,000,000 verdicts.

    python -m benchmarks.leaderboard                      # writes benchmarks/results/leaderboard.json
    python -m benchmarks.leaderboard --keep FOLDER        # makes the runs there, or uses those that are there

100 models x 10 tasks, cards and texts as `harness run` writes them. Cold is the first reading, with no index and (where the
machine lets us) none of the files in the page cache; warm is the same command again. Both count the whole process, the fastest
of several; CPU seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.records import DataCard, GenerationArgs, ModelCard, RunCard
from harness.runs import RunFolder

RESULTS = Path(__file__).parent / "results"
MODALITIES, ORGANS = ("CT", "MRI", "X-ray"), ("Lung", "Liver", "Brain", "Heart", "Kidney", "Spleen")
KINDS = ("Abnormality", "Position", "Modality", "Plane", "Organ", "Size")
FINDINGS = ("pneumonia", "a mass", "no abnormality", "an effusion", "oedema", "a nodule", "atelectasis", "cardiomegaly")

# fmt: off
WORDS = (
    "a", "change", "of", "density", "against", "the", "other", "side", "with", "surrounding", "structures", "in", "shape",
    "and", "size", "while", "upper", "lower", "left", "right", "margin", "opacity", "contrast", "enhancement", "border", "lesion",
    "tissue", "fluid", "volume", "shadow", "bright", "dark", "region", "no", "sign", "clear",
)
# fmt: on


def samples(task: str, count: int) -> list[dict[str, Any]]:
    """Rows as samples.jsonl holds them: 11 questions an image, as in SLAKE."""
    draw = random.Random(task)
    rows = []
    for i in range(count):
        organ, finding = draw.choice(ORGANS), draw.choice(FINDINGS)
        cluster = hashlib.sha256(f"{task} image {i // 11}".encode()).hexdigest()[:16]
        slices = {
            "answer_type": draw.choice(("OPEN", "CLOSED")),
            "content_type": draw.choice(KINDS),
            "modality": MODALITIES[i // 11 % 3],
            "organ": organ,
        }
        rows.append(
            {
                "id": f"{task}-{i}",
                "images": [f"imgs/xmlab{i // 11}/source.jpg"],
                "question": f"Which abnormality is seen in the {organ.lower()} of this image, and where does it lie?",
                "reference": {"answers": [finding], "choices": None, "reasoning": f"The {organ.lower()} shows {finding}."},
                "slices": slices,
                "cluster": cluster,
                "resolution": "original",
            }
        )
    return rows


def predictions(model: str, rows: list[dict[str, Any]]) -> tuple[str, str]:
    """predictions.jsonl and the verdicts on it; one in 200 verdicts is missing."""
    draw = random.Random(model)
    skill = draw.uniform(0.3, 0.8)
    answers, verdicts = [], []
    for row in rows:
        organ, finding = row["slices"]["organ"].lower(), draw.choice(FINDINGS)
        words = " ".join(draw.choices(WORDS, k=16))
        reasoning = f"The image is a {row['slices']['modality']} scan. The {organ} appears to show {finding}, {words}."
        text = f"<think>{reasoning}</think><answer>{finding}</answer>"
        answer = {
            "sample_id": row["id"], "text": text, "reasoning": reasoning, "answer": finding, "finish": "stop",
            "prompt_tokens": 310, "completion_tokens": 58, "error": None,
        }  # fmt: skip
        final = None if draw.random() < 0.005 else int(draw.random() < skill)
        missing = "the judge gave no verdict" if final is None else None
        verdict = {
            "sample_id": row["id"], "judge": "exact", "final": final, "reasoning": None, "missing": missing,
            "rationale": None, "raw": None, "usage": None,
        }  # fmt: skip
        answers.append(json.dumps(answer, separators=(",", ":")))
        verdicts.append(json.dumps(verdict, separators=(",", ":")))
    return "\n".join(answers) + "\n", "\n".join(verdicts) + "\n"


def card(model: str, task: str, trainer: str | None, rows: list[dict[str, Any]]) -> RunCard:
    def sha(what: str) -> str:
        return hashlib.sha256(what.encode()).hexdigest()

    return RunCard(
        harness_version="0.1.0",
        created="2026-11-01T08:00:00+00:00",
        command=["run", "--model", f"ckpt/{model}", "--tasks", task, "--data-dir", "data/"],
        data=DataCard(
            task=task,
            split="test",
            source="local",
            resolution="original",
            rows=len(rows),
            images=len({r["cluster"] for r in rows}),
            fingerprint=sha(f"rows of {task}"),
            spec_sha256=sha(task),
        ),
        model=ModelCard(
            name=model,
            path=f"ckpt/{model}",
            architecture="Qwen2VLForConditionalGeneration",
            parameters=2_208_985_600,
            weights_sha256=sha(model),
            settings_sha256=sha("settings"),
            base="Qwen/Qwen2-VL-2B-Instruct",
            trainer=trainer,
            dtype="bfloat16",
            device="cuda",
            attention="flash_attention_2",
        ),
        prompt="reasoning",
        prompt_sha256=sha("reasoning"),
        generation=GenerationArgs(max_new_tokens=512),
        limit=None,
        git_sha="0" * 40,
        packages={"python": "3.11.9", "torch": "2.15.0", "transformers": "5.23.0", "peft": "0.21.2", "trl": "1.16.0"},
        hardware="1 x NVIDIA A100-PCIE-40GB, x86_64 CPU, 16 cores, Linux",
        finished="2026-11-01T08:07:00+00:00",
        seconds={"generate": 412.7, "judge:exact": 0.1},
    )


def make_runs(runs: Path, *, models: int = 100, tasks: int = 10, rows: int = 1000) -> None:
    """`models` x `tasks` run folders of `rows` samples each."""
    trainers = (None, "sft", "grpo", "rarl")
    asked = {f"task{t}": samples(f"task{t}", rows) for t in range(tasks)}
    lines = {task: "".join(json.dumps(r) + "\n" for r in found) for task, found in asked.items()}
    for m in range(models):
        trainer = trainers[m % len(trainers)]
        name = f"qwen2-vl-2b-{trainer or 'base'}-{m:03}"
        for task, found in asked.items():
            run = card(name, task, trainer, found)
            folder = RunFolder.place(runs, run).path
            (folder / "verdicts").mkdir(parents=True)
            (folder / "samples.jsonl").write_text(lines[task])
            answers, verdicts = predictions(f"{name} {task}", found)
            (folder / "predictions.jsonl").write_text(answers)
            (folder / "verdicts" / "exact@1.jsonl").write_text(verdicts)
            (folder / "card.json").write_text(run.model_dump_json(indent=2) + "\n")


# -- measuring --------------------------------------------------------------------------------------------------------


def command(runs: Path, *words: str) -> dict[str, float]:
    """A whole process: seconds by the clock and of CPU, and its peak memory in GB."""
    # rusage of children keeps the largest of all, so each command is measured by a small process of its own
    program = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter();"
        " subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        " u = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(json.dumps([time.perf_counter() - start, u.ru_utime + u.ru_stime, u.ru_maxrss / 1e6]))"
    )
    harness = str(Path(sys.executable).with_name("harness"))
    called = [sys.executable, "-c", program, harness, "leaderboard", "--runs", str(runs), *words]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # an installed package has its bytecode
    out = subprocess.run(called, check=True, capture_output=True, text=True, env=env).stdout
    return dict(zip(("seconds", "cpu_seconds", "peak_gb"), (round(x, 2) for x in json.loads(out)), strict=True))


def best(times: int, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The fastest of several: what other jobs on the machine disturbed least."""
    return min((measure() for _ in range(times)), key=lambda m: m["seconds"])


def forget(runs: Path) -> None:
    """Take the index away, and ask the kernel to let go of the files (which it may decline)."""
    for folder in [runs / ".index", *runs.glob("*/*/.index")]:
        for file in folder.iterdir() if folder.is_dir() else ():
            file.unlink()
    for path in runs.glob("*/*/**/*.jsonl"):
        with open(path, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pages(runs: Path) -> dict[str, Any]:
    """Milliseconds for each kind of page over all runs: the first time, and the median of ten further ones."""
    from leaderboard import store
    from leaderboard.browse import Browser, Filter

    start = time.perf_counter()
    found, _ = store.read([runs])
    browser = Browser(found)
    opened = time.perf_counter() - start
    folders = list(browser.runs)
    draw = random.Random(0)
    kinds: dict[str, Callable[[], Filter]] = {
        "a run": lambda: Filter(run=draw.choice(folders)),
        "everything": Filter,
        "one task, wrong": lambda: Filter(task="task3", verdict="wrong"),
        "a slice, right": lambda: Filter(slices={"modality": "MRI"}, verdict="right"),
        "missing": lambda: Filter(verdict="missing"),
        "flips of two runs": lambda: Filter(run=folders[0], flips=folders[10]),
        "a run, text": lambda: Filter(run=draw.choice(folders), text="effusion"),
    }
    start = time.perf_counter()
    browser.page(Filter(verdict="missing"))
    cold = time.perf_counter() - start
    start = time.perf_counter()
    browser.prepare()
    prepared = time.perf_counter() - start
    table: dict[str, Any] = {"opened_s": round(opened, 2), "prepared_s": round(prepared, 1)}
    table["first page, 50 runs not prepared, ms"] = round(1000 * cold)

    def timed(wanted: Filter, offset: int) -> float:
        start = time.perf_counter()
        browser.page(wanted, offset)
        return 1000 * (time.perf_counter() - start)

    for name, make in kinds.items():
        total = browser.page(make()).total
        times = [timed(make(), draw.randrange(max(1, total - 50))) for _ in range(10)]
        table[name] = {"rows": total, "median_ms": round(statistics.median(times)), "slowest_ms": round(max(times))}
    everywhere = Filter(text="atelectasis")
    first = timed(everywhere, 0)
    times = [timed(everywhere, k) for k in range(0, 500, 50)]
    further = {"median_ms": round(statistics.median(times)), "slowest_ms": round(max(times))}
    return table | {"text in everything": {"rows": browser.page(everywhere).total, "first_ms": round(first)} | further}


def main() -> None:
    from harness.cli import ui
    from harness.pipeline import hardware

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="make the runs in this folder, or use those that are there")
    parser.add_argument("--models", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        runs = (options.keep or Path(tmp)) / "runs"
        if not runs.is_dir():
            ui.say("making the runs")
            make_runs(runs, models=options.models)
        command(runs, "--json")  # once before: the bytecode
        result: dict[str, Any] = {"machine": hardware(), "runs": len(list(runs.glob("*/*/card.json"))), "samples_each": 1000}
        result["cold"] = best(3, lambda: (forget(runs), command(runs))[1])
        for words in ((), ("--top", "0"), ("--json",), ("--slice", "modality")):
            result[" ".join(("warm", *words))] = best(5, lambda words=words: command(runs, *words))
        result["pages"] = pages(runs)
    ui.print_json(result)
    (RESULTS / "leaderboard.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
