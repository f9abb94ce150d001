"""What goes wrong in silence elsewhere, and inputs that must be refused before anything is trained."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from harness import plugins
from harness.errors import UserError
from harness.models import loading
from harness.records import ImageRef
from tests.conftest import load
from trainers import recipe, rewards, rows, splits
from trainers.rewards import Rollout


@pytest.fixture(scope="module")
def task():
    return load("slake_grounded", split="train", limit=8)


def make(name, task, out, *settings, model="tiny", preset=None):
    return plugins.load("trainers", name)(model, task, recipe.load(name, model, None, settings, preset), out, device="cpu")


def ready(name, task, out, *settings, preset=None):
    """(our trainer, TRL's trainer inside it), as `fit` would make them."""
    trainer = make(name, task, out, *settings, preset=preset)
    out.mkdir()
    trainer.processor = loading.load_processor(trainer.checkpoint)
    trainer._settle()
    return trainer, trainer._trainer(trainer.load("cpu"))


# -- images ---------------------------------------------------------------------------------------------------------------


def files():
    """Name, and the bytes of an image that datasets' own decoding would change."""
    for name, form, image, more in (
        ("16 bits", "PNG", Image.fromarray(np.linspace(0, 4000, 4096).reshape(64, 64).astype(np.uint16)), {}),
        ("float", "TIFF", Image.fromarray(np.linspace(-1, 1, 4096).reshape(64, 64).astype(np.float32)), {}),
        ("turned", "PNG", Image.linear_gradient("L").resize((40, 20)), {"exif": Image.Exif()}),
        ("plain", "JPEG", Image.linear_gradient("L").resize((40, 20)), {}),
        ("cmyk", "JPEG", Image.linear_gradient("L").convert("CMYK"), {}),
    ):
        if more:
            more["exif"][0x0112] = 6
        out = io.BytesIO()
        image.save(out, form, **more)
        yield name, out.getvalue()


@pytest.mark.parametrize(("name", "data"), files(), ids=lambda x: x if isinstance(x, str) else "")
def test_a_model_learns_from_the_pixels_it_is_tested_on(task, tmp_path, name, data):
    image = ImageRef(name=name, data=data)
    sample = task.samples[0].model_copy(update={"images": (image,)})
    (row,) = make("grpo", task, tmp_path / "x").dataset([sample], completions=False)
    assert np.array_equal(np.asarray(row["images"][0]), np.asarray(image.open()))


@pytest.mark.parametrize("bare", [1, 8], ids=["one row", "every row"])
def test_a_row_without_an_image_is_refused_before_anything_is_written(task, tmp_path, bare):
    kept = [s.model_copy(update={"images": ()}) if i < bare else s for i, s in enumerate(task.samples)]
    trainer = make("rarl", splits.with_samples(task, kept), tmp_path / "x")
    for ask in (trainer.plan, trainer.fit):
        with pytest.raises(UserError, match=f"row {task.samples[0].id}: no image"):
            ask()
    assert not (tmp_path / "x").exists()


# -- equations (1) to (3), by hand ----------------------------------------------------------------------------------------


def test_the_loss_is_equation_1_with_the_kl_of_equation_3(task, tmp_path):
    """From the log-probabilities of policy and reference and the advantages: per-token ratio of 1 (on policy), k3 times beta,
    the mean over each completion, then over the completions."""
    _, inner = ready("grpo", task, tmp_path / "x", "batch_size=8", "num_generations=4", "max_completion_length=24")
    seen = []
    real = inner._get_per_token_logps_and_entropies
    inner._get_per_token_logps_and_entropies = lambda *a, **k: seen.append(real(*a, **k)) or seen[-1]
    for n, p in inner.model.named_parameters():
        if "lora_B" in n:
            torch.nn.init.normal_(p, std=0.05)  # so that policy and reference differ
    inner.train_dataset = inner.train_dataset.select(range(2))
    batch = next(iter(inner.get_train_dataloader()))
    inner.model.train()
    inner.current_gradient_accumulation_steps = 1  # as the training loop sets it
    inputs = inner._prepare_inputs(batch)
    loss = inner.compute_loss(inner.model, inputs)
    policy, mask, advantages = seen[-1][0], inputs["completion_mask"], inputs["advantages"][:, None]
    difference = inputs["ref_per_token_logps"] - policy
    kl = torch.exp(difference) - difference - 1
    per_token = -(torch.exp(policy - policy.detach()) * advantages - 0.04 * kl)
    by_hand = ((per_token * mask).sum(1) / mask.sum(1)).mean()
    assert kl.max() > 1e-3
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_presets_are_what_they_say():
    """`paper` changes nothing in the defaults; `modern` is TRL's own defaults of today."""
    from trl import GRPOConfig

    found = recipe.presets()
    assert list(found) == ["paper", "base-code", "modern"]
    assert found["paper"] == recipe.Recipe()
    theirs = {f: v.default for f, v in GRPOConfig.__dataclass_fields__.items()}
    keys = ("loss_type", "beta", "use_bias_correction_kl", "scale_rewards", "importance_sampling_level", "epsilon",
            "multi_objective_aggregation", "mask_truncated_completions", "temperature", "num_generations")  # fmt: skip
    modern = found["modern"].model_dump()
    assert {k: modern[k] for k in keys} == {k: theirs[k] for k in keys}
    assert (found["base-code"].lora, found["base-code"].learning_rate) == (None, 1e-6)
    assert set(recipe.differences({"a": found["paper"], "b": found["modern"]})) == {"beta", "loss_type", "use_bias_correction_kl"}


def test_a_preset_holds_over_a_recipe_of_another_algorithm(tmp_path):
    """Each names every key in which any differs, and all of the paper's equations."""
    found = {f.stem: set(recipe._read(f)) for f in recipe.PRESETS.glob("*.yaml")}
    assert found["paper"] == found["modern"] == found["base-code"] >= set(recipe.differences(recipe.presets()))
    other = tmp_path / "other.yaml"
    other.write_text(
        "{loss_type: dapo, scale_rewards: none, beta: 0, use_bias_correction_kl: true, epsilon: 0.3, lora: null,"
        " importance_sampling_level: sequence, mask_truncated_completions: true,"
        " multi_objective_aggregation: normalize_then_sum, save_steps: 7}"
    )
    assert recipe.load("grpo", "tiny", other, (), "paper") == recipe.Recipe(save_steps=7)


def test_one_reward_set_leaves_the_others(task, tmp_path):
    def weights(name, *settings):
        return make(name, task, tmp_path / "x", "batch_size=4", "num_generations=2", *settings).weights()

    assert weights("rarl", "rewards.length=0") == {"format": 1.0, "accuracy": 1.0, "reasoning": 1.0}
    assert weights("grpo", "rewards.accuracy=2") == {"format": 1.0, "length": 1.0, "accuracy": 2.0}
    assert weights("grpo", "rewards.reasoning:rougeL=1")["reasoning:rougeL"] == 1.0
    assert weights("grpo", f"rewards.{__name__}.short=0.5")[f"{__name__}.short"] == 0.5
    assert weights("grpo", "rewards={accuracy: 1}") == {"accuracy": 1.0}
    assert recipe.load("rarl", "tiny", None, ["prompts.short_form=3"]).prompts["open_ended"] == 1
    with pytest.raises(UserError, match="every weight is 0"):
        weights("grpo", "rewards={accuracy: 0, format: 0}")
    with pytest.raises(UserError, match="'lora' is null") as e:
        recipe.load("grpo", "tiny", None, ["lora=null", "lora.r=4"])
    assert e.value.hint == "leave lora=null out"


def test_more_questions_a_step_than_rows_are_refused(task, tmp_path):
    few = splits.with_samples(task, task.samples[:1])
    with pytest.raises(UserError, match="a step takes 2 questions, and there are 1 training rows") as e:
        make("grpo", few, tmp_path / "x", "batch_size=4", "num_generations=2", "max_steps=1").steps()
    assert "to at most 2" in e.value.hint


def test_a_preset_reaches_the_trainer(task, tmp_path):
    settings = ("batch_size=4", "num_generations=2")
    _, inner = ready("grpo", task, tmp_path / "a", *settings, preset="modern")
    assert (inner.args.loss_type, inner.args.beta, inner.args.use_bias_correction_kl) == ("dapo", 0.0, True)
    with pytest.raises(UserError, match="--preset papper: no such preset") as e:
        recipe.load("grpo", "tiny", None, (), "papper")
    assert e.value.hint == "did you mean 'paper'?"
    assert recipe.load("grpo", "tiny", None, ["beta=0.1"], "modern").beta == 0.1  # --set is the last word


# -- supervised training --------------------------------------------------------------------------------------------------


def test_the_loss_covers_all_of_the_answer_and_nothing_else(task, tmp_path):
    """No row is cut, its image tokens are all there, and the labels are the target with the template's own turn end."""
    trainer, inner = ready("sft", task, tmp_path / "x", "batch_size=8", "vision_cache=off")
    (batch,) = list(inner.get_train_dataloader())
    tokenizer = trainer.processor.tokenizer
    labels = {tokenizer.decode(row[row != -100]) for row in batch["labels"]}
    assert labels == {rows.target(s.reference).lower() + "<|im_end|>\n" for s in task.samples}  # tiny's tokenizer lowers
    tokens = (batch["input_ids"] == trainer.processor.image_token_id).sum(1).tolist()
    assert tokens == [int(g.prod()) // 4 for g in batch["image_grid_thw"]]
    assert inner.args.max_length is None


# -- traps of the libraries -----------------------------------------------------------------------------------------------


def test_steps_are_those_that_the_sampler_has(task, tmp_path):
    """Rows that do not fill a step are left out of each epoch, not carried over into the next."""
    rows = len(task.samples)
    questions = next(q for q in (3, 4, 5, 7) if rows % q)
    trainer, inner = ready(
        "grpo", task, tmp_path / "x", f"batch_size={2 * questions}", "num_generations=2", "epochs=3", "max_steps=null"
    )
    assert trainer.steps() == 3 * (rows // questions) == 3 * len(inner.get_train_dataloader())


def test_padding_on_the_right_is_refused(task, tmp_path):
    from trl import GRPOConfig

    from trainers.grouped import GroupedGRPOTrainer

    processor = loading.load_processor(loading.resolve("tiny"))
    assert processor.tokenizer.padding_side == "left"
    trainer = make("grpo", task, tmp_path / "x", "batch_size=4", "num_generations=2")
    data = trainer.dataset(completions=False).remove_columns("images")
    config = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, num_generations=2, per_device_train_batch_size=4, report_to=[])
    model = loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")
    trainer.processor = processor
    reader = trainer.reader(model)
    processor.tokenizer.padding_side = "right"
    with pytest.raises(AssertionError, match="padding on the right misplaces image markers"):
        GroupedGRPOTrainer(
            model=model,
            args=config,
            processing_class=processor,
            train_dataset=data,
            scorer=rewards.Scorer(["format"]),
            reader=reader,
        )


def test_image_markers_are_never_written(task, tmp_path):
    """A head that wants nothing but image markers still writes none, in our rollouts."""
    _, inner = ready("grpo", task, tmp_path / "x", "batch_size=4", "num_generations=2", "max_completion_length=4")
    config = inner.inner(inner.model).config
    head = inner.inner(inner.model).lm_head

    def push(module, given, out):
        out[..., [config.image_token_id, config.video_token_id]] += 1e4
        return out

    hook = head.register_forward_hook(push)
    (written,) = inner._rollouts([0])
    hook.remove()
    assert written
    assert not {config.image_token_id, config.video_token_id} & set(written)


# -- prompts and rewards of a recipe --------------------------------------------------------------------------------------


def test_the_style_can_follow_the_answer_type(slake, tmp_path):
    chosen = recipe.Recipe(prompts={"explanation": 1.0}, prompts_by_type={"yesno": {"short_form": 1.0}})
    for s, prompt in zip(slake.samples[:200], rows.draw_prompts(slake.samples[:200], chosen, slake.spec.get_prompt), strict=True):
        assert (prompt.name == "short_form") == (s.reference.kind == "yesno")
    with pytest.raises(UserError, match=r"prompts_by_type\.yesno': task 'slake' knows no prompt named 'shortform'") as e:
        make("rarl", slake, tmp_path / "x", "prompts_by_type={yesno: {shortform: 1}}")
    assert e.value.hint == "did you mean 'short_form'?"


def shout(rollouts):
    """A reward of a user's own."""
    return [float(r.text.isupper()) for r in rollouts]


def short(rollouts):
    return [1.0]


def test_a_reward_of_ones_own_by_its_path(task, tmp_path):
    name = f"{__name__}.shout"
    assert rewards.part(name)([Rollout("YES", 1, task.samples[0].reference), Rollout("no", 1, task.samples[0].reference)]) == [
        1.0,
        0.0,
    ]
    settings = ("batch_size=4", "num_generations=2", "max_steps=1", f"rewards={{format: 1, {name}: 2}}")
    out = make("grpo", task, tmp_path / "x", *settings).fit()
    line = json.loads((out / "completions.jsonl").read_text().splitlines()[0])
    assert line["total"] == line["rewards"]["format"] + 2 * line["rewards"][name]
    for bad, why in {
        "nowhere.at_all": "cannot be imported",
        f"{__name__}.nothing": "cannot be imported",
        "json.__doc__": "is not a function",
    }.items():
        with pytest.raises(UserError, match=why):
            make("grpo", task, tmp_path / "y", "rewards={" + bad + ": 1}").weights()


def test_a_reward_of_the_wrong_length_is_refused(task):
    from harness.errors import RunError

    rollout = Rollout("YES", 1, task.samples[0].reference)
    with pytest.raises(RunError, match=r"short' gave 1 values for 2 completions"):
        rewards.Scorer([f"{__name__}.short"])([rollout, rollout])


def test_accuracy_and_reasoning_are_scored_in_one_call(task, monkeypatch):
    from harness.scoring import bertscore

    calls, real = [], bertscore._f1
    monkeypatch.setattr(bertscore, "_f1", lambda pairs, encoder: calls.append(len(pairs)) or real(pairs, encoder))
    rollouts = [
        Rollout(f"<think>sentence {i}</think><answer>thing {i}</answer>", 9, s.reference) for i, s in enumerate(task.samples)
    ]
    together = rewards.Scorer(["format", "length", "accuracy", "reasoning"])(rollouts)
    assert len(calls) == 1
    alone = {name: list(rewards.part(name)(rollouts)) for name in together}
    assert together == alone
    assert len(calls) == 1  # nothing new was asked for


def test_the_variants_of_the_reasoning_reward(task):
    references = [s.reference for s in load("slake_grounded", split="train").samples]
    own = task.samples[0].reference
    other = next(r for r in references if r.reasoning != own.reasoning)
    texts = {"same": own.reasoning, "other": other.reasoning, "nonsense": "the weather is fine today", "none": ""}
    rollouts = [Rollout(f"<think>{t}</think><answer>x</answer>", 9, own) for t in texts.values()]
    raw, rescaled, rouge = (rewards.part(f"reasoning{v}", references)(rollouts) for v in ("", ":bertscore_rescaled", ":rougeL"))
    for values in (raw, rescaled, rouge):
        assert values[0] == pytest.approx(1.0, abs=1e-5)
        assert values[3] == 0.0
    assert rescaled[1] < raw[1]  # what all rows say earns less
    assert rescaled[2] == 0.0 < raw[2]
    assert rouge[2] < 0.3
    assert rewards.part("reasoning:rougeL")([Rollout("<think>a</think>", 9, own.model_copy(update={"reasoning": None}))]) == [
        None
    ]
    # ROUGE-L by hand: the longest common sequence of "the left lung is dark" and "the lung is dark" is 4 words: P 4/5, R 4/4
    pair = Rollout("<think>the left lung is dark</think>", 9, own.model_copy(update={"reasoning": "the lung is dark"}))
    assert rewards.part("reasoning:rougeL")([pair])[0] == pytest.approx(2 * 0.8 * 1 / 1.8)


def test_a_judge_can_be_a_reward(task):
    yes = task.samples[0].reference.model_copy(update={"answers": ("Yes",), "choices": None})
    rollouts = [Rollout(f"<think>a</think><answer>{a}</answer>", 9, yes) for a in ("yes", "no")]
    assert rewards.part("accuracy:judge:exact")(rollouts) == [1.0, 0.0]
    assert rewards.part("reasoning:judge:exact")(rollouts) == [None, None]  # exact says nothing of reasoning
    with pytest.raises(UserError, match="no judge named 'exakt'") as e:
        rewards.check("accuracy:judge:exakt")
    assert e.value.hint.startswith("did you mean 'exact'?")


def test_a_reward_for_reasoning_needs_rows_with_reasoning(tmp_path):
    """Without any, rarl would be grpo under another name."""
    vqa_rad = load("vqa_rad", split="train", limit=8)
    for settings, way in (((), "--set rewards.reasoning=0 trains without it"), (("rewards={reasoning: 1}",), "add another part")):
        with pytest.raises(UserError, match="no row has reference reasoning, which reward 'reasoning' compares with") as e:
            make("rarl", vqa_rad, tmp_path / "x", *settings).steps()
        assert way in e.value.hint
    meant = make("rarl", vqa_rad, tmp_path / "x", "rewards.reasoning=0")
    assert meant.weights() == {"format": 1.0, "length": 1.0, "accuracy": 1.0}
    with pytest.raises(UserError, match="which reward 'reasoning:rougeL' compares with"):
        make("grpo", vqa_rad, tmp_path / "x", "rewards.reasoning:rougeL=1").steps()
    assert not (tmp_path / "x").exists()


def test_the_schema_knows_every_recipe(capsys):
    import jsonschema
    from ruamel.yaml import YAML

    from harness.cli.train import schema

    schema()
    document = json.loads(capsys.readouterr().out)
    for file in [*recipe.FOLDER.glob("*.yaml"), *recipe.PRESETS.glob("*.yaml")]:
        jsonschema.validate(YAML(typ="safe", pure=True).load(file.read_text()) or {}, document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"learning_rat": 1}, document)


def words(rollouts):
    return ["1.0" for _ in rollouts]


def not_a_number(rollouts):
    return [float("nan") for _ in rollouts]


def test_a_reward_in_the_working_directory_is_found(tmp_path, monkeypatch):
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_me.py").write_text("def half(rollouts):\n    return [0.5 for _ in rollouts]\n")
    assert rewards.part("beside_me.half")([]) == []


def test_what_a_reward_gives_is_a_number(task):
    from harness.errors import RunError

    rollout = Rollout("a", 1, task.samples[0].reference)
    for name, said in (("words", "'1.0'"), ("not_a_number", "nan")):
        with pytest.raises(RunError, match=f"gave {said}, which is no finite number"):
            rewards.Scorer([f"{__name__}.{name}"])([rollout])


@pytest.mark.parametrize(
    ("name", "message"), [("accuracy:judge:exact,bertscore", "names several judges"), ("..foo.bar", "cannot be imported")]
)
def test_names_that_are_no_reward(name, message):
    with pytest.raises(UserError, match=message):
        rewards.check(name)
