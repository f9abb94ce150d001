"""How long `harness leaderboard` takes over 1,000 runs of 1,000 samples, and the sample browser over 1,000,000 verdicts.

    python -m benchmarks.leaderboard                      # writes benchmarks/results/leaderboard.json
    python -m benchmarks.leaderboard --keep FOLDER        # makes the runs there, or uses those that are there

100 models x 10 tasks, cards and texts as `harness run` writes them. Cold is the first reading, with no index and (where the
machine lets us) none of the files in the page cache; warm is the same command again. Both count the whole process.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from harness.records import DataCard, GenerationArgs, ModelCard, RunCard
from harness.runs import RunFolder

RESULTS = Path(__file__).parent / "results"
MODALITIES, ORGANS = ("CT", "MRI", "X-ray"), ("Lung", "Liver", "Brain", "Heart", "Kidney", "Spleen")
KINDS = ("Abnormality", "Position", "Modality", "Plane", "Organ", "Size")
FINDINGS = ("pneumonia", "a mass", "no abnormality", "an effusion", "oedema", "a nodule", "atelectasis", "cardiomegaly")


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
        reasoning = (
            f"The image is a {row['slices']['modality']} scan. The {organ} appears to show {finding}, with a change of density "
            "against the other side; the surrounding structures keep their usual shape and size."
        )
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
