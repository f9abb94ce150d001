"""The trainers on the real tiny model: a few steps each, checkpoints that load, the paper's settings, frozen vision."""

import json

import pytest
import torch

from harness import plugins
from harness.errors import ModelError, UserError
from harness.models import loading
from harness.models.transformers_model import TransformersModel
from harness.prompts import PROMPTS
from harness.records import GenerationArgs, Reference
from tests.conftest import load
from trainers import recipe, rows

NAMES = ("sft", "grpo", "rarl")


@pytest.fixture(scope="module")
def grounded():
    return load("slake_grounded", split="train", limit=24)


def make(name, task, out, *settings, model="tiny", **options):
    return plugins.load("trainers", name)(model, task, recipe.load(name, model, None, settings), out, device="cpu", **options)


SHORT = ("max_steps=2", "batch_size=8", "num_generations=4")


@pytest.fixture(scope="module", params=NAMES)
def trained(request, grounded, tmp_path_factory):
    out = tmp_path_factory.mktemp("ckpt") / request.param
    seen = []
    make(request.param, grounded, out, *SHORT, report=lambda step, steps, log: seen.append((step, steps))).fit()
    return request.param, out, seen


def test_checkpoint_is_whole_and_answers(trained, slake, tiny):
    name, out, seen = trained
    assert (1, 2) in seen
    assert (2, 2) in seen
    about = json.loads((out / "trained.json").read_text())
    assert (about["trainer"], about["model"], about["steps"]) == (name, "tiny", 2)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("tiny", 8, 16)
    model = TransformersModel(str(out), device="cpu")
    assert (model.card.trainer, model.card.base) == (name, "tiny")
    assert model.card.weights_sha256 != tiny.card.weights_sha256
    (done,) = model.generate(slake.samples[:4], PROMPTS["reasoning"], GenerationArgs(max_new_tokens=32))
    assert len(done) == 4


def test_only_the_papers_projections_are_trained(trained):
    from safetensors.torch import load_file

    _, out, _ = trained
    names = {k.split(".lora_")[0].rsplit(".", 1)[-1] for k in load_file(out / "adapter_model.safetensors")}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert not any("visual" in k for k in load_file(out / "adapter_model.safetensors"))


def test_weights_moved_and_vision_did_not(trained):
    _, out, _ = trained
    base = loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu").state_dict()
    tuned = loading.load_weights(loading.resolve(str(out)), torch.float32, "cpu").state_dict()
    moved = {k for k in base if not torch.equal(base[k], tuned[k])}
    assert moved
    assert all(".self_attn." in k and "language_model" in k for k in moved)


def test_settings_that_give_the_papers_equations(grounded, tmp_path, monkeypatch):
    import trl

    seen = {}
    real = trl.GRPOConfig

    def spy(**kwargs):
        seen.update(kwargs)
        return real(**kwargs)

    monkeypatch.setattr(trl, "GRPOConfig", spy)
    make("rarl", grounded, tmp_path / "x", *SHORT, "max_steps=1").fit()
    assert seen["loss_type"] == "grpo"
    assert seen["scale_rewards"] == "group"
    assert seen["use_bias_correction_kl"] is False
    assert (seen["beta"], seen["epsilon"], seen["num_iterations"]) == (0.04, 0.2, 1)
    assert seen["importance_sampling_level"] == "token"
    assert seen["mask_truncated_completions"] is False


def test_full_training_without_lora(grounded, tmp_path):
    out = make("grpo", grounded, tmp_path / "full", *SHORT, "max_steps=1", "lora=null", "beta=0").fit()
    assert not (out / "adapter_config.json").exists()
    base = loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu").state_dict()
    tuned = loading.load_weights(loading.resolve(str(out)), torch.float32, "cpu").state_dict()
    moved = {k for k in base if not torch.equal(base[k], tuned[k])}
    assert moved
    assert not any("visual" in k for k in moved)


def test_same_seed_same_weights(grounded, tmp_path):
    from safetensors.torch import load_file

    a, b = (make("rarl", grounded, tmp_path / n, *SHORT).fit() for n in "ab")
    left, right = load_file(a / "adapter_model.safetensors"), load_file(b / "adapter_model.safetensors")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def test_paper_recipe_is_the_default():
    r = recipe.load("rarl", "Qwen/Qwen2-VL-2B-Instruct")
    assert (r.lora.r, r.lora.alpha, r.epochs, r.save_steps, r.beta, r.num_generations) == (8, 16, 5, 100, 0.04, 8)
    assert set(r.prompts) == {"explanation", "short_form", "open_ended"}
    assert set(plugins.load("trainers", "rarl").default_rewards) == {"format", "length", "accuracy", "reasoning"}
    assert set(plugins.load("trainers", "grpo").default_rewards) == {"format", "length", "accuracy"}


def test_sft_target():
    assert rows.target(Reference(answers=("Yes",), reasoning="Because.")) == "<think>Because.</think><answer>Yes</answer>"
    assert rows.target(Reference(answers=("Yes", "Y"))) == "Yes"


def test_prompt_diversity_is_drawn_by_seed_and_share(slake):
    shares = {"explanation": 3.0, "short_form": 1.0}

    def draw(samples, seed):
        return rows.draw_prompts(samples, recipe.Recipe(prompts=shares, seed=seed), slake.spec.get_prompt)

    drawn = draw(slake.samples, 0)
    assert drawn[1::2] == draw(slake.samples[1::2], 0)  # a row keeps its prompt in every subset
    assert drawn == draw(slake.samples, 0)
    assert drawn != draw(slake.samples, 1)
    share = sum(d is PROMPTS["explanation"] for d in drawn) / len(drawn)
    assert share == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        (["learning_rat=1"], "--set learning_rat=1: unknown key 'learning_rat'", "did you mean 'learning_rate'?"),
        (["lora.rank=4"], "unknown key 'lora.rank'", None),
        (["learning_rate=-1"], "key 'learning_rate'", None),
        (["num_generations=1"], "key 'num_generations'", None),
        (["prompts_by_type={yesno: {}}"], "'yesno' names no prompt", None),
        (["epochs=true"], "key 'epochs': is a number, not true", None),
        (["seed"], "expected key=value", None),
    ],
)
def test_bad_recipe(settings, message, hint):
    with pytest.raises(UserError) as e:
        recipe.load("grpo", "tiny", None, settings)
    assert message in str(e.value)
    assert hint is None or e.value.hint == hint


def test_bad_use_is_refused_before_training(grounded, tmp_path, trained):
    name, out, _ = trained
    with pytest.raises(UserError, match="do not divide into groups"):
        make("grpo", grounded, tmp_path / "a", "batch_size=9", "num_generations=4").plan()
    with pytest.raises(UserError, match="no reward named 'acuracy'") as e:
        make("grpo", grounded, tmp_path / "a", "rewards={acuracy: 1}").plan()
    assert e.value.hint == "did you mean 'accuracy'?"
    with pytest.raises(UserError, match="is not an empty folder"):
        make(name, grounded, out)
    assert not (tmp_path / "a").exists()


def test_keys_that_mean_nothing_to_supervised_training_are_refused(grounded, tmp_path):
    for setting in ("beta=3", "rewards={accuracy: 1}", "loss_type=dapo"):
        with pytest.raises(UserError, match="means nothing to sft"):
            make("sft", grounded, tmp_path / "x", setting).fit()
    assert not (tmp_path / "x").exists()


def test_a_finished_folder_can_be_planned_again(trained, grounded):
    name, out, _ = trained
    assert make(name, grounded, out, *SHORT, planning=True).plan().steps == 2


def test_out_may_be_a_link_or_the_folder_one_is_in(grounded, tmp_path, monkeypatch):
    from pathlib import Path

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make("sft", grounded, tmp_path / "link", "max_steps=1", "batch_size=2").fit()
    assert (tmp_path / "real" / "trained.json").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    make("sft", grounded, Path("."), "max_steps=1", "batch_size=2").fit()
    assert (tmp_path / "here" / "trained.json").exists()


def test_an_adapter_on_nothing_is_refused(grounded, tmp_path):
    with pytest.raises(UserError, match=r"recipe key 'lora\.target_modules'"):
        make("sft", grounded, tmp_path / "x", "lora.target_modules=[nosuch]").plan()


def test_an_adapter_on_an_adapter_is_refused(trained, tmp_path):
    """Its lower half would be lost in silence; and one that names itself would never end."""
    import shutil

    _, out, _ = trained
    upper = tmp_path / "upper"
    shutil.copytree(out, upper)
    for base in (str(out), str(upper)):
        config = json.loads((upper / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
        (upper / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="is an adapter itself"):
            loading.resolve(str(upper))


def test_adapter_whose_base_or_weights_are_missing(trained, tmp_path):
    import shutil

    _, out, _ = trained
    torn = tmp_path / "torn"
    shutil.copytree(out, torn)
    (torn / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        loading.resolve(str(torn))
    config = json.loads((out / "adapter_config.json").read_text()) | {"base_model_name_or_path": "./gone/away"}
    shutil.copytree(out, tmp_path / "orphan")
    (tmp_path / "orphan" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"its base '\./gone/away' is missing"):
        loading.resolve(str(tmp_path / "orphan"))
