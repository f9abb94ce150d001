"""Checkpoints are scored by the harness on rows held out; the best is kept; the curves are drawn."""

import json
import shutil

import pytest

from harness import pipeline, plugins
from harness.contracts import JudgeOptions
from harness.models import loading
from harness.models.transformers_model import TransformersModel
from harness.records import GenerationArgs
from harness.runs import RunFolder
from tests.conftest import load
from trainers import checkpoint, recipe, splits, watch

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
    judges, args = pipeline.make_judges("exact", JudgeOptions()), GenerationArgs(max_new_tokens=dev.spec.max_new_tokens)
    again = pipeline.run(dev, model, dev.spec.get_prompt(), args, judges, tmp_path)
    recorded = RunFolder(out / next(r["records"] for r in scores(out) if r["step"] == 4))
    assert recorded.predictions() == again.predictions()
    verdicts = recorded.verdicts(judges[0].name, judges[0].version).values()
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


def best_of(out):
    return json.loads((out / "best" / "trained.json").read_text())["step"]


def test_the_best_is_kept_whatever_a_kill_left(out, rows, tmp_path):
    """Killed before best/ was written, between its two renames, and gone back to a checkpoint before it."""
    first = max((r for r in scores(out) if r["step"]), key=lambda r: (r["score"], -r["step"]))["step"]

    def left(change):
        there = tmp_path / "sft"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(out, there)
        (there / "trained.json").unlink()
        change(there)
        return there

    there = left(lambda there: shutil.rmtree(there / "best"))
    make(rows, there).fit()
    assert best_of(there) == first
    there = left(lambda there: (there / "best").rename(there / ".best.old"))
    checkpoint.settle_best(there)
    assert best_of(there) == first
    assert not (there / ".best.old").exists()
    there = left(lambda there: (there / "best" / "trained.json").write_text('{"step": 6}'))
    checkpoint.rewind(there, 2)
    checkpoint.settle_best(there)
    assert best_of(there) == 2
    (there / "dev.jsonl").unlink()
    checkpoint.settle_best(there)
    assert not (there / "best").exists()  # no score says that it is the best


def test_a_score_is_logged_once_its_best_is_kept(rows, tmp_path, monkeypatch):
    """A kill between the two is made up for: a score that is logged would not be taken again."""
    real = watch.append_jsonl

    def killed(path, logged):
        if path.name == "dev.jsonl" and logged[0].step == 2:
            raise InterruptedError
        real(path, logged)

    with monkeypatch.context() as patched:
        patched.setattr(watch, "append_jsonl", killed)
        with pytest.raises(InterruptedError):
            make(rows, tmp_path / "x").fit()
    assert best_of(tmp_path / "x") == 2
    assert [r["step"] for r in scores(tmp_path / "x")] == [0]
    watcher = make(rows, tmp_path / "x").watch()
    watcher.catch_up(2)
    assert [r["step"] for r in scores(tmp_path / "x")] == [0, 2]
    assert best_of(tmp_path / "x") == 2


def test_an_old_checkpoint_goes_once_the_new_one_is_whole(rows, tmp_path, monkeypatch):
    def killed(*_):
        raise InterruptedError

    trained, _ = rows
    chosen = recipe.load("sft", "tiny", None, [*SETTINGS, "save_steps=1", "max_steps=2", "keep_checkpoints=1"])
    trainer = plugins.load("trainers", "sft")("tiny", trained, chosen, tmp_path / "x", device="cpu")
    real = trainer.finish
    monkeypatch.setattr(trainer, "finish", lambda folder, step: real(folder, step) if step == 1 else killed())
    with pytest.raises(InterruptedError):
        trainer.fit()
    assert checkpoint.last_whole(tmp_path / "x")[0] == tmp_path / "x" / "checkpoint-1"


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
