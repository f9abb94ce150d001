"""Every family trains: its own prompt, its frozen encoder, adapters where they are meant, and what comes out runs and merges."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from harness.errors import UserError
from harness.models import loading
from harness.models.families import parts
from harness.models.families.prompting import Ask
from tests.families_training import rows, train
from tests.test_families import EVERY, folders  # noqa: F401
from trainers import freezing
from trainers.export import export
from trainers.recipe import Recipe


@pytest.fixture(scope="module")
def task():
    return rows()


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """A drawing takes longer than the training here."""
    monkeypatch.setattr("trainers.watch.draw_curves", lambda out: None)


def adapter(out):
    return load_file(out / "adapter_model.safetensors")


def moved(out):
    return any(bool(t.any()) for name, t in adapter(out).items() if ".lora_B" in name)


@pytest.mark.parametrize("family", EVERY)
def test_two_steps_score_and_merge(folders, task, tmp_path, command, family):  # noqa: F811
    folder = folders(family)
    # reinforcement: the cache changes no bit, passes by group are proved, and nothing frozen moves
    cached, inner = train("rarl", folder, task, tmp_path / "rarl")
    train("rarl", folder, task, tmp_path / "plain", "vision_cache=off")
    left, right = adapter(tmp_path / "rarl"), adapter(tmp_path / "plain")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)
    assert moved(tmp_path / "rarl")
    language = parts.names(inner.inner(inner.model))["language"]
    assert all(f".{language}." in name for name in left)
    assert inner.proved["log-probabilities"] is None
    if family == "mllama":  # its pictures go into the layers
        assert "takes no image features in place of pixels" in cached.why_no_cache
    else:
        assert cached.why_no_cache is None
        assert inner.reader.cache.encoded == len({s.images[0].sha256 for s in task.samples})
    if family == "paligemma":  # a prompt's last token is read in both directions, too
        assert "compared with the model's own generate" in inner.proved["rollouts"]
    else:
        assert inner.proved["rollouts"] is None
    # supervised: each row is the model's own prompt and the answer with an end, and all of the answer is learned
    _, inner = train("sft", folder, task, tmp_path / "sft", "target=answer")
    assert moved(tmp_path / "sft")
    batch = inner.data_collator([inner.train_dataset[i] for i in range(4)])
    reader = inner.reader
    for i, (ids, mask, labels) in enumerate(zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)):
        sample = task.samples[i]
        prompt = reader.prompting.inputs([Ask([p.open() for p in sample.images], reader.texts[i])])["input_ids"][0].tolist()
        assert ids[mask.bool()].tolist()[: len(prompt)] == prompt
        taught = labels[labels != -100].tolist()
        assert ids[mask.bool()].tolist() == prompt + taught
        text = reader.prompting.tokenizer.decode(taught).strip()
        assert text.startswith(sample.reference.answers[0])
        assert reader.end & set(taught)
    # the checkpoint is scored, and its merged weights are it
    code, _, err = command(
        *f"run --model {tmp_path / 'sft'} --tasks slake --limit 4 --data bundled --device cpu --runs {tmp_path / 'runs'}".split(),
        "--max-new-tokens", "4",
    )  # fmt: skip
    assert code == 0, err
    assert list((tmp_path / "runs").rglob("predictions.jsonl"))
    assert (export(tmp_path / "sft", tmp_path / "merged", merge=True) / "config.json").exists()


@pytest.mark.parametrize("family", EVERY)
def test_what_is_written_later_changes_nothing_before(folders, task, family):  # noqa: F811
    """A target's tokens must not see those after them: PaliGemma reads in both directions what its inputs do not mark."""
    from trainers import rows as training_rows
    from trainers.reading import Reader

    found = loading.resolve(str(folders(family)))
    model, processor = loading.load_weights(found, torch.float32, "cpu"), loading.load_processor(found)
    chosen = Recipe().for_task(task.spec)
    reader = Reader(model, processor, task.samples, training_rows.draw_prompts(task.samples, chosen, task.spec.get_prompt), None)
    row = {"sample_id": task.samples[0].id, "completion": [{"content": "a lung and a heart"}]}
    batch = reader.collate([row])
    labels = batch.pop("labels")
    model.train()
    with torch.no_grad():
        before = model(**batch).logits[0, :-1]
        batch["input_ids"][0, -1] = processor.tokenizer("zq")["input_ids"][-1]
        after = model(**batch).logits[0, :-1]
    assert int((labels != -100).sum()) > 2
    assert (before - after).abs().max() < 1e-5


@pytest.mark.parametrize("family", EVERY)
def test_every_family_is_planned(folders, task, tmp_path, family):  # noqa: F811
    from harness import plugins
    from trainers import recipe

    name = str(folders(family))
    trainer = plugins.load("trainers", "rarl")(name, task, recipe.load("rarl", name), tmp_path / "x", device="cpu", planning=True)
    plan = trainer.plan()
    model = loading.load_weights(loading.resolve(name), torch.float32, "cpu")
    where = parts.names(model)
    counts = {p.part: (p.parameters, p.trainable) for p in plan.parts}
    for part in ("vision", "projector"):
        mine = sum(p.numel() for n, p in model.named_parameters() if parts.part_of(where, n) == part)
        assert counts.get(part, (0, 0)) == (mine, 0)
    assert plan.trainable == counts["language"][1] > 0
    assert plan.parameters - plan.trainable == sum(p.numel() for p in model.parameters())
    assert plan.lengths.prompt_max == max(map(len, reader_of(trainer, model).ids(range(len(task.samples)))))
    assert plan.memory_total > 0


def reader_of(trainer, model):
    trainer.processor = loading.load_processor(trainer.checkpoint)
    trainer.cap_pixels(trainer.processor)
    return trainer.reader(model)


# -- which parts train ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(folders):  # noqa: F811
    found = {}

    def get(family):
        if family not in found:
            found[family] = loading.load_weights(loading.resolve(str(folders(family))), torch.float32, "cpu")
        return found[family]

    return get


def recipe_of(lora=None, **more):
    return Recipe.model_validate({**({"lora": lora} if lora is not None else {}), **more})


def hit(model, recipe):
    """The layers that PEFT would put adapters on, as they are named in the model."""
    from peft.tuners.tuners_utils import check_target_module_exists

    config = SimpleNamespace(
        target_modules=freezing.targets(model, recipe), exclude_modules=None, layers_to_transform=None, layers_pattern=None
    )
    return {n for n, _ in model.named_modules() if check_target_module_exists(config, n)}


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "gemma4", "internvl", "mllama"])
def test_adapters_stand_where_they_are_meant(models, family):
    model = models(family)
    where = parts.names(model)

    def of(layers):
        return {parts.part_of(where, n) for n in layers}

    usual = hit(model, recipe_of())
    assert of(usual) == {"language"}
    text = model.config.get_text_config()
    assert len(usual) == 4 * text.num_hidden_layers
    every = hit(model, recipe_of({"target_modules": "all-linear"}))
    assert usual < every
    assert of(every) == {"language"}
    assert parts.name_of(model, model.get_output_embeddings()) not in every
    one = min(usual)
    assert hit(model, recipe_of({"target_modules": one.replace(".", r"\.")})) == {one}
    with_vision = hit(model, recipe_of({"target_modules": "all-linear"}, freeze=["projector"]))
    if family == "gemma4":
        return
    assert of(with_vision) == {"language", "vision"}


@pytest.mark.parametrize(
    ("family", "lora", "more", "said"),
    [
        ("qwen2_vl", {"target_modules": ["q_proj", "qkv"]}, {}, "is named 'qkv'; the vision part has one"),
        ("qwen2_vl", {"target_modules": ["q_prj"]}, {}, "no layer of the model is named 'q_prj'"),
        ("qwen2_vl", {}, {"freeze": ["projector"]}, "no layer of the vision part has one of these names"),
        ("llava", {"target_modules": ".*q_proj"}, {}, "which is of the vision part and frozen"),
        ("llava", {"target_modules": "q_proj"}, {}, "matches no layer"),
        ("llava", {"target_modules": "(q_proj"}, {}, "is no regular expression"),
    ],
)  # fmt: skip
def test_what_cannot_be_adapted_is_refused(models, family, lora, more, said):
    with pytest.raises(UserError) as e:
        freezing.targets(models(family), recipe_of(lora, **more))
    assert said in str(e.value)


def test_modules_to_save_are_known_and_not_frozen(models):
    with pytest.raises(UserError, match="is of the projector part, which is frozen"):
        freezing.check_saved(models("llava"), recipe_of({"modules_to_save": ["multi_modal_projector"]}))
    with pytest.raises(UserError, match="'multi_modal_projectr' is no module") as e:
        freezing.check_saved(models("llava"), recipe_of({"modules_to_save": ["multi_modal_projectr"]}))
    assert "multi_modal_projector" in e.value.hint


def test_a_projector_trains_beside_the_adapter_and_is_merged(folders, task, tmp_path):  # noqa: F811
    settings = ("freeze=[vision]", "lora.modules_to_save=[multi_modal_projector]", "lora.target_modules=[q_proj]")
    trainer, _ = train("sft", folders("llava"), task, tmp_path / "x", *settings)
    assert trainer.why_no_cache.startswith("the projector trains (")
    saved = {k: t for k, t in adapter(tmp_path / "x").items() if "projector" in k}
    before = load_file(folders("llava") / "model.safetensors")
    changed = {k for k, t in saved.items() if not any(t.shape == b.shape and torch.equal(t, b) for b in before.values())}
    assert len(saved) == len(changed) == 4
    assert export(tmp_path / "x", tmp_path / "merged", merge=True)
    plan = trainer.plan()
    assert {p.part: p.trainable > 0 for p in plan.parts} == {"vision": False, "projector": True, "language": True}


def test_parts_train_whole_at_rates_of_their_own(folders, task, tmp_path):  # noqa: F811
    folder = folders("llava")
    settings = ("lora=null", "freeze=[language]", "learning_rates={vision: 1e-6}", "vision_cache=auto")
    trainer, inner = train("sft", folder, task, tmp_path / "x", *settings)
    assert "vision encoder trains" in trainer.why_no_cache
    rates = {g["initial_lr"]: sum(p.numel() for p in g["params"]) for g in inner.optimizer.param_groups}
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "x" / "model.safetensors")
    where = {k: ("vision" if "vision" in k else "projector" if "projector" in k else "language") for k in before}
    change = {
        part: max(float((after[k] - before[k]).abs().max()) for k in before if where[k] == part) for part in set(where.values())
    }
    assert change["language"] == 0
    assert 0 < change["vision"] < 1e-5 < change["projector"]
    assert set(rates) == {1e-6, 1e-3}
    plan = trainer.plan()
    assert {p.part: p.trainable > 0 for p in plan.parts} == {"vision": True, "projector": True, "language": False}


def test_kinds_of_adapters_train_score_and_merge(folders, task, tmp_path):  # noqa: F811
    for kind in ("dora", "rslora"):
        settings = (f"lora.{kind}=true", "lora.dropout=0.1", "lora.target_modules=all-linear")
        train("sft", folders("llava"), task, tmp_path / kind, *settings)
        about = json.loads((tmp_path / kind / "adapter_config.json").read_text())
        assert about[f"use_{kind}"] is True
        assert about["lora_dropout"] == 0.1
        assert export(tmp_path / kind, tmp_path / f"{kind}-merged", merge=True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"freeze": ["vision", "projector", "language"]}, "freeze names every part"),
        ({"learning_rates": {"vision": 1e-6}}, "learning_rates.vision: this part is frozen"),
        ({"freeze": ["visual"]}, "freeze"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(data, said):
    from trainers import recipe

    with pytest.raises(UserError, match=said):
        recipe.checked(data, "here")


def test_a_wrong_pass_is_found_before_it_trains(folders, task, tmp_path, monkeypatch):  # noqa: F811
    """Completions that go on one position too late: their log-probabilities are TRL's own in the end, and it is said."""
    from harness.models import engine

    read = engine.read_prompts

    def wrong(model, inputs):
        out, positions, following = read(model, inputs)
        return out, positions, following + 1

    folder = folders("internvl")
    train("rarl", folder, task, tmp_path / "plain", "grouped_rollouts=false", "grouped_logprobs=false")
    monkeypatch.setattr(engine, "read_prompts", wrong)
    with pytest.warns(UserWarning, match="are not computed by group: compared with"):
        _, inner = train("rarl", folder, task, tmp_path / "wrong")
    assert all(inner.proved.values())
    left, right = adapter(tmp_path / "plain"), adapter(tmp_path / "wrong")
    assert all(torch.equal(left[k], right[k]) for k in left)
