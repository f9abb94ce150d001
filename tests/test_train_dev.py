"""Checkpoints are scored by the harness on rows held out; the best is kept; the curves are drawn."""

import json
import shutil

import pytest

from harness import pipeline, plugins
from harness.models import loading
from harness.models.transformers_model import TransformersModel
from harness.records import GenerationArgs
from harness.runs import RunFolder
from tests.conftest import load
from trainers import checkpoint, recipe, splits

SETTINGS = ("batch_size=8", "max_steps=6", "save_steps=2", "learning_rate=2e-3")


@pytest.fixture(scope="module")
def rows():
    """(training rows, dev rows)"""
    validation = load("slake_grounded", split="validation")
    dev = splits.with_samples(validation, splits.some_images(validation.samples, 24, 0))
    return load("slake_grounded", split="train", limit=80), dev


def make(rows, out, **options):
    trained, dev = rows
    return plugins.load("trainers", "sft")(
        "tiny", trained, recipe.load("sft", "tiny", None, SETTINGS), out, device="cpu", dev=dev, **options
    )


@pytest.fixture(scope="module")
def out(rows, tmp_path_factory):
    return make(rows, tmp_path_factory.mktemp("dev") / "sft").fit()


def scores(out):
    return [json.loads(line) for line in (out / "dev.jsonl").read_text().splitlines()]


def test_the_base_and_every_checkpoint_are_scored(out, rows):
    found = scores(out)
    assert [r["step"] for r in found] == [0, 2, 4, 6]
    assert {r["n"] for r in found} == {len(rows[1].samples)}


def test_a_score_is_what_harness_run_gives(out, rows, tmp_path):
    """The checkpoint, loaded by anyone, answers the same rows with the same score; and the score's own records say so."""
    _, dev = rows
    model = TransformersModel(str(out / "checkpoint-4"), device="cpu")
    assert model.card.name == "sft-4"
    judges, args = pipeline.make_judges("exact"), GenerationArgs(max_new_tokens=dev.spec.max_new_tokens)
    again = pipeline.run(dev, model, dev.spec.get_prompt(), args, judges, tmp_path)
    recorded = RunFolder(out / next(r["records"] for r in scores(out) if r["step"] == 4))
    assert recorded.predictions() == again.predictions()
    verdicts = recorded.verdicts("exact", "1").values()
    assert next(r["score"] for r in scores(out) if r["step"] == 4) == sum(v.final for v in verdicts) / len(verdicts)


def test_the_best_checkpoint_is_kept_without_the_optimizer(out):
    best = max((r for r in scores(out) if r["step"]), key=lambda r: (r["score"], -r["step"]))
    about = json.loads((out / "best" / "trained.json").read_text())
    assert about["step"] == best["step"]
    assert about["name"] == f"sft-{best['step']}"
    assert (out / "best" / "adapter_model.safetensors").read_bytes() == (
        out / f"checkpoint-{best['step']}" / "adapter_model.safetensors"
    ).read_bytes()
    assert not list((out / "best").glob("*.pt*"))
    assert loading.resolve(str(out / "best")).trainer == "sft"


def test_scoring_does_not_touch_the_training(out, rows, tmp_path):
    trained, _ = rows
    alone = make((trained, None), tmp_path / "alone").fit()
    assert (alone / "adapter_model.safetensors").read_bytes() == (out / "adapter_model.safetensors").read_bytes()
    assert not (alone / "best").exists()
    assert not (alone / "dev.jsonl").exists()


def test_killed_between_saving_and_scoring(out, rows, tmp_path):
    """The score is made up for before the training goes on."""
    there = tmp_path / "sft"
    shutil.copytree(out, there)
    (there / "trained.json").unlink()
    shutil.rmtree(there / "checkpoint-6")
    lines = (there / "dev.jsonl").read_text().splitlines(keepends=True)
    (there / "dev.jsonl").write_text("".join(lines[:2]))
    make(rows, there).fit()
    assert [(r["step"], r["score"]) for r in scores(there)] == [(r["step"], r["score"]) for r in scores(out)]


def test_old_checkpoints_go_when_asked_and_the_best_stays(rows, tmp_path):
    trained, dev = rows
    chosen = recipe.load("sft", "tiny", None, [*SETTINGS, "keep_checkpoints=1"])
    there = plugins.load("trainers", "sft")("tiny", trained, chosen, tmp_path / "x", device="cpu", dev=dev).fit()
    assert [checkpoint.step_of(c) for c in checkpoint.checkpoints(there)] == [6]
    assert (there / "best" / "trained.json").exists()


def test_the_curves_are_a_picture_of_the_logs(out):
    from PIL import Image

    with Image.open(out / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1000
        assert picture.convert("L").getextrema()[0] < 100  # something is drawn
