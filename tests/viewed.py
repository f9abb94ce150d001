"""What the tests of the viewer look at: real runs of the real tiny model and of one trained for three steps, judged by two
judges, and beside them a run full of hostile text and one that is damaged."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from harness import pipeline, plugins
from harness.contracts import Judge
from harness.models.transformers_model import TransformersModel
from harness.prompts import PROMPTS
from harness.records import (
    DataCard,
    GenerationArgs,
    ImageRef,
    ModelCard,
    Prediction,
    Reference,
    RunCard,
    Sample,
    Verdict,
)
from harness.runs import RunFolder
from judges.exact import ExactJudge
from trainers import recipe

#: The exact judge as its file of verdicts is called.
EXACT = f"exact@{ExactJudge.version}"
ROWS = {"slake": 60, "vqa_rad": 24}
#: Markup, quotes that break out of attributes, a template, direction overrides, a zero byte.
HOSTILE = (
    "<img src=x onerror=alert(1)></script><script>alert('2')</script>\"' onfocus=alert(3) & {{ 7 * 7 }} \u202egnorw\u202c \x00"
)
#: How it must look.
SHOWN = HOSTILE.replace("\u202e", "<U+202E>").replace("\u202c", "<U+202C>").replace("\x00", "<U+0000>")


class Lenient(Judge):
    """Calls an answer right that shares a word with a reference, and says so; silent on every tenth row."""

    name = "lenient"
    version = "1"

    def card(self) -> dict[str, Any]:
        return {"rule": "shares a word with a reference"}

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterable[Verdict]:
        for i, (sample, prediction) in enumerate(pairs):
            if i % 50 == 49:
                yield Verdict(sample_id=sample.id, judge=self.name, final=None, missing="the judge gave no verdict")
                continue
            wanted = {word for answer in sample.reference.answers for word in answer.lower().replace(",", " ").split()}
            shared = wanted & set((prediction.answer or "").lower().replace(",", " ").split())
            said = f"It shares {sorted(shared)} with the reference." if shared else "It shares no word with the reference."
            raw = json.dumps({"shared": sorted(shared)})
            yield Verdict(sample_id=sample.id, judge=self.name, final=int(bool(shared)), rationale=said, raw=raw)


@dataclass(frozen=True)
class Viewed:
    """Folders: `runs` with four sound runs, one hostile and one damaged; `checkpoint` of the trained model."""

    runs: Path
    checkpoint: Path
    slake: dict[str, Path]
    hostile: Path
    damaged: Path


def make(folder: Path, tiny: TransformersModel, load: object) -> Viewed:
    """Some fifteen seconds on two cores."""
    assert callable(load)
    checkpoint = folder / "tiny-sft"
    settings = ["max_steps=3", "batch_size=8", "learning_rate=2e-3"]
    rows = load("slake_grounded", split="train", limit=24)
    plugins.load("trainers", "sft")("tiny", rows, recipe.load("sft", "tiny", None, settings), checkpoint, device="cpu").fit()
    runs = folder / "runs"
    slake = {}
    for model in (tiny, TransformersModel(str(checkpoint), device="cpu")):
        for task, limit in ROWS.items():
            judges = [ExactJudge(), *([Lenient()] if task == "slake" else [])]
            arguments = GenerationArgs(max_new_tokens=48)
            done = pipeline.run(load(task, limit=limit), model, PROMPTS["reasoning"], arguments, judges, runs, limit=limit)
            if task == "slake":
                slake[model.card.name] = done.path
    damaged = runs / "torn" / "slake-00000000"
    damaged.mkdir(parents=True)
    (damaged / "card.json").write_text('{"harness_version": "0.1')
    return Viewed(runs, checkpoint, slake, hostile(runs), damaged)


def hostile(runs: Path) -> Path:
    """A run in which everything that others wrote is hostile."""
    sample = Sample(
        id=f"1{HOSTILE}",
        images=(ImageRef(name=f"{HOSTILE}.png", data=b"no image"),),
        question=f"Question {HOSTILE}",
        reference=Reference(answers=(f"Answer {HOSTILE}",), reasoning=f"Reasoning {HOSTILE}"),
        slices={f"slice {HOSTILE}": f"value {HOSTILE}"},
    )
    plain = sample.model_copy(update={"id": "2", "question": "plain"})
    card = RunCard(
        harness_version=HOSTILE, created="2025-01-01T00:00:00+00:00", command=["run", HOSTILE],
        data=DataCard(task=f"task {HOSTILE}", split="test", source="bundled", resolution=HOSTILE, rows=2, images=1,
                      fingerprint="hostile", spec_sha256="x"),
        model=ModelCard(name=f"model {HOSTILE}", path=None, trainer=HOSTILE), prompt=HOSTILE, prompt_sha256="x",
        generation=GenerationArgs(max_new_tokens=8), limit=None, git_sha=None, packages={}, hardware=HOSTILE,
        finished="2025-01-01T00:00:01+00:00",
    )  # fmt: skip
    with RunFolder(runs / "hostile" / "task-11111111") as folder:
        folder.begin(card, [sample, plain], fresh=False)
        folder.add_predictions(
            Prediction(sample_id=s.id, text=f"<think>{HOSTILE}</think>{HOSTILE}", reasoning=HOSTILE, answer=f"read {HOSTILE}",
                       finish="stop", prompt_tokens=1, completion_tokens=1)
            for s in (sample, plain)
        )  # fmt: skip
        folder.add_verdicts("exact", ExactJudge.version, [
            Verdict(sample_id=sample.id, judge="exact", final=0, rationale=f"because {HOSTILE}", raw=f"raw {HOSTILE}"),
            Verdict(sample_id="2", judge="exact", final=None, missing=f"missing {HOSTILE}"),
        ])  # fmt: skip
    return folder.path


def run_id(path: Path) -> str:
    return f"{path.parent.name}.{path.name}"


class Page(HTMLParser):
    """What a browser would see: elements, attributes, links and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self, *names: str) -> list[str]:
        return [v for _, k, v in self.attributes if k in names and v and not v.startswith("#")]

    def link(self, rel: str) -> str | None:
        """The href of the link with this rel."""
        found = re.search(rf'<a [^>]*rel="{rel}" href="([^"]*)"', self.source)
        return html.unescape(found[1]) if found else None
