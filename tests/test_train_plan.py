"""The plan of a training is what the training is: counts, lengths, memory, and a refusal of what cannot fit."""

import pytest
import torch

from harness import plugins
from harness.errors import ModelError, UserError
from harness.models import loading
from tests.conftest import load
from trainers import plan as plans
from trainers import plan_view, policy, recipe
from trainers.memory import GB, Shape, activations_per_token

QWEN = "Qwen/Qwen2-VL-2B-Instruct"


@pytest.fixture(scope="module")
def rows():
    return load("slake_grounded", split="train", limit=40)


def make(name, rows, out, *settings, model="tiny"):
    return plugins.load("trainers", name)(model, rows, recipe.load(name, model, None, settings), out, device="cpu")


def test_counts_are_those_of_the_training(rows, tmp_path):
    from peft import get_peft_model

    trainer = make("rarl", rows, tmp_path / "x")
    plan = trainer.plan()
    base = loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")
    model = get_peft_model(base, policy.peft_config(base, trainer.recipe))
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.trainable == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert plan.vision == sum(p.numel() for p in model.base_model.model.model.visual.parameters())
    assert plan.vision_trainable == ()
    assert (plan.steps, plan.rows_per_step) == (100, 8)
    assert not (tmp_path / "x").exists()


def test_a_vision_encoder_that_trains_is_named(rows, tmp_path):
    plan = make("sft", rows, tmp_path / "x", "lora.target_modules=[qkv]", "freeze=[projector]").plan()
    assert len(plan.vision_trainable) == 8  # A and B of four layers
    assert "TRAINS" in str(plan_view._facts(plan))
    assert plan.memory["vision encoder, training"] > 0
    assert "vision encoder, training" not in make("sft", rows, tmp_path / "x").plan().memory


def test_images_are_not_cached_where_the_training_could_not(rows, tmp_path, monkeypatch):
    assert "vision cache" in make("rarl", rows, tmp_path / "a").plan().memory
    assert (
        "vision cache" not in make("rarl", rows, tmp_path / "b", "lora.target_modules=[qkv]", "freeze=[projector]").plan().memory
    )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "vision cache" not in make("rarl", rows, tmp_path / "c").plan().memory


def test_the_way_out_of_a_plan_can_be_planned(rows, tmp_path):
    """4 bits need a CUDA device to train, but not to be planned for one."""

    def planned(*settings):
        chosen = recipe.load("rarl", QWEN, None, settings)
        return plugins.load("trainers", "rarl")(QWEN, rows, chosen, tmp_path / "x", device="cpu", planning=True)

    with pytest.raises(UserError) as said:
        planned().plan(5).check()
    assert "quantize=4bit" in said.value.hint
    whole, small = (planned(*s).plan(40).memory["weights"] for s in ((), ("quantize=4bit",)))
    assert small < 0.5 * whole
    with pytest.raises(UserError, match="needs a CUDA device"):
        planned("quantize=4bit").plan()
    with pytest.raises(UserError) as said:
        planned("lora=null").plan(40).check()
    assert "quantize" not in said.value.hint


def test_lengths_are_the_processors_own(rows, tmp_path):
    """The longest row, tokenized for real with its image."""
    trainer = make("rarl", rows, tmp_path / "x", "prompts={reasoning: 1}")
    found = trainer.plan().lengths
    processor = loading.load_processor(trainer.checkpoint)
    from harness.prompts import PROMPTS

    def tokens(s):
        content = [{"type": "image"}, {"type": "text", "text": PROMPTS["reasoning"].render(s.question)}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
        return processor(text=[text], images=[s.images[0].open()])["input_ids"][0]

    prompts = {s.id: tokens(s) for s in rows.samples}
    longest = max(map(len, prompts.values()))
    assert abs(found.prompt_max - longest) <= 1  # words at the template's seams may merge
    assert found.longest == found.prompt_max + 64
    images = {sum(t == processor.image_token_id for t in p) for p in prompts.values()}
    assert (found.image_min, found.image_max) == (min(images), max(images))


def test_the_pixel_cap_holds(rows, tmp_path):
    trainer = make("sft", rows, tmp_path / "x", "max_pixels=12544", "max_steps=1", "batch_size=2")
    assert trainer.plan().lengths.image_max == 12544 // 28**2 == 16
    trainer.fit()
    processor = loading.load_processor(loading.resolve(str(tmp_path / "x")))  # the checkpoint keeps it
    grid = processor.image_processor(images=[rows.samples[0].images[0].open()], return_tensors="pt")["image_grid_thw"]
    assert int(grid.prod()) // 4 <= 16


def test_the_papers_model_on_a_40_gb_gpu_offline(rows, tmp_path):
    plan = make("rarl", rows, tmp_path / "x", model=QWEN).plan(gpu_memory=40)
    assert plan.parameters - plan.trainable == 2_208_985_600  # the published 2B model
    assert plan.vision == 665_271_296
    # q and o: 8 x (1536 + 1536); k and v: 8 x (1536 + 256); in 28 layers
    assert plan.trainable == 28 * 8 * (2 * 3072 + 2 * 1792)
    assert "published configuration" in plan.shape
    assert plan.fits
    assert not plan.gradient_checkpointing
    assert plan.memory["weights"] == pytest.approx(2 * plan.parameters)
    plan.check()


def test_checkpointing_is_chosen_where_it_helps_and_what_cannot_fit_is_refused(rows, tmp_path):
    trainer = make("rarl", rows, tmp_path / "x", "batch_size=16", model=QWEN)
    roomy, tight, hopeless = (trainer.plan(gpu_memory=gb) for gb in (80, 16, 4))
    assert not roomy.gradient_checkpointing
    assert tight.gradient_checkpointing
    assert tight.fits
    assert tight.memory["activations"] < roomy.memory["activations"] / 4
    with pytest.raises(UserError, match=r"needs about \d+\.\d GB, and 4\.0 GB are there; most of it is weights") as e:
        hopeless.check()
    assert "--force" in e.value.hint


def test_the_plan_is_of_the_passes_that_will_run(rows, tmp_path):
    """Several processes read each prompt once a completion; dev scoring loads a second model."""
    from harness.distributed import Rank

    trainer = make("rarl", rows, tmp_path / "x", model=QWEN)
    one, alone = trainer.plan(gpu_memory=80).memory, trainer.steps()
    trainer.rank = Rank(0, 2)
    two = trainer.plan(gpu_memory=80).memory
    assert "prompt keys and values, expanded" in one
    assert "prompt keys and values, expanded" not in two
    assert two["activations"] > 1.2 * one["activations"]
    assert trainer.steps() == alone // 2
    lengths = trainer.plan(gpu_memory=80).lengths
    trainer.rank = Rank()
    assert plans._load(trainer, lengths, True, True).grouped
    assert plans._load(trainer, lengths, True, True).images > 0
    assert plans._load(trainer, lengths, True, False).images == 0  # a vision encoder that trains, or no features to keep
    assert "dev scoring, beyond a step" not in one
    trainer.dev = rows
    scored = trainer.plan(gpu_memory=80).memory
    spare = sum(scored.get(k, 0) for k in ("activations", "prompt keys and values, expanded", "logits"))
    assert scored.get("dev scoring, beyond a step", 0) == max(0, 2 * trainer.plan(gpu_memory=80).parameters - spare)


def test_a_cpu_refuses_what_cannot_fit_unless_forced(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "available", lambda device: 1e6)
    trainer = make("sft", rows, tmp_path / "x", "batch_size=2", "max_steps=1")
    with pytest.raises(UserError, match="the plan needs about"):
        trainer.fit()
    assert not (tmp_path / "x").exists()
    trainer.force = True
    assert (trainer.fit() / "trained.json").exists()


def test_a_model_of_unknown_shape(rows, tmp_path):
    with pytest.raises(ModelError, match="its shape is not known here") as e:
        make("rarl", rows, tmp_path / "x", model="someone/Some-VL").plan()
    assert "Qwen2-VL-2B-Instruct" in e.value.hint


@pytest.mark.parametrize(("lora", "bf16"), [(True, False), (True, True), (False, False)])
def test_activations_are_what_autograd_keeps(lora, bf16):
    """Bytes saved for the backward pass by four layers less those by two, against the formula."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    kept = {}
    for layers in (2, 4):
        config, _ = plans.shape_of("tiny")
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = ["full_attention"] * layers
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16 if bf16 else torch.float32)
        model.model.visual.requires_grad_(False)
        if lora:
            targets = list(recipe.Lora().target_modules)
            model = get_peft_model(model, LoraConfig(r=8, target_modules=targets)).base_model.model
        weights, saved = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}
        held = []

        def keep(t, saved=saved, held=held):
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            held.append(t)  # so that no address is used twice
            return t

        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model.model(input_ids=torch.full((4, 64), 9), use_cache=False)
        kept[layers] = sum(n for p, n in saved.items() if p not in weights) / (4 * 64)
    shape = Shape.of(config, total=0, vision=0, trainable=0, adapters=4 if lora else 0)
    assert activations_per_token(shape, 2 if bf16 else 4) == pytest.approx((kept[4] - kept[2]) / 2, rel=0.03)


def test_the_command_prints_a_plan_and_refuses(tmp_path, capsys, monkeypatch):
    import json

    from harness.cli.train import plan

    monkeypatch.chdir(tmp_path)
    options = {"name": "rarl", "model": QWEN, "task": "slake_grounded", "data": "bundled"}
    plan(**options, gpu_memory=40, json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["fits"], document["memory_limit"]) == (True, 40 * GB)
    with pytest.raises(UserError, match="most of it is"):
        plan(**options, gpu_memory=4)
    assert "does not fit" in capsys.readouterr().out
    plan(**options, gpu_memory=4, force=True)
    assert list(tmp_path.iterdir()) == []


def test_a_step_is_measured_when_asked(rows, tmp_path):
    trainer = make("sft", rows, tmp_path / "x", "batch_size=2")
    assert 0 < plans.probe(trainer) < 60
    assert not (tmp_path / "x").exists()
