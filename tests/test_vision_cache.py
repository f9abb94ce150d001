"""Each image is encoded once a run, and nothing else changes: losses, gradients and weights are the same to the last bit."""

import json

import pytest
import torch
from safetensors.torch import load_file

from harness import plugins
from harness.models import loading
from tests.conftest import load
from trainers import recipe
from trainers.freezing import freeze
from trainers.vision_cache import VisionCache, why_off

#: TRL's own rollouts and passes, so that the cache alone is what differs.
PLAIN = ("grouped_rollouts=false", "grouped_logprobs=false")
SMALL = ("batch_size=4", "num_generations=2", "max_completion_length=12", "dev=none", "learning_rate=1e-3")


@pytest.fixture(scope="module")
def rows():
    return load("slake_grounded", split="train", limit=12)


def train(name, rows, out, *settings):
    """The trainer after `fit`, with every call of the encoder counted (images a call) and its inner model kept."""
    trainer = plugins.load("trainers", name)("tiny", rows, recipe.load(name, "tiny", None, settings), out, device="cpu")
    calls, real, kept = [], trainer.load, {}

    def loaded(device):
        model = real(device)
        count = lambda module, args, kwargs, out: calls.append(len(kwargs["grid_thw"]))  # noqa: E731
        model.model.visual.register_forward_hook(count, with_kwargs=True)
        kept["model"] = model
        return model

    trainer.load = loaded
    trainer.fit()
    return trainer, calls, kept["model"]


def logged(out):
    keys = ("loss", "grad_norm", "reward", "kl", "entropy")
    return [[json.loads(line).get(k) for k in keys] for line in (out / "log.jsonl").read_text().splitlines()]


def test_twenty_steps_are_the_same_to_the_last_bit(rows, tmp_path):
    images = len({s.images[0].sha256 for s in rows.samples})
    _, with_calls, _ = train("rarl", rows, tmp_path / "with", *SMALL, *PLAIN, "max_steps=20")
    _, without_calls, _ = train("rarl", rows, tmp_path / "without", *SMALL, *PLAIN, "max_steps=20", "vision_cache=off")
    left, right = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("with", "without"))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)
    assert logged(tmp_path / "with") == logged(tmp_path / "without")
    assert len(logged(tmp_path / "with")) == 20
    assert with_calls == [1] * images  # once an image and run, one at a time
    # generation, reference and policy pass, every completion; and a row that is looked at before the first step and the save
    assert sum(without_calls) == 20 * 3 * 4 + 2


def test_files_give_the_same_as_memory(rows, tmp_path):
    settings = (*SMALL, "max_steps=3")
    _, calls, _ = train("grpo", rows, tmp_path / "memory", *settings)
    _, again, _ = train("grpo", rows, tmp_path / "disk", *settings, "vision_cache=disk")
    left, right = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("memory", "disk"))
    assert all(torch.equal(left[k], right[k]) for k in left)
    assert calls == again
    assert not (tmp_path / "disk" / ".vision").exists()  # it has served


def test_supervised_training_is_cached_too(rows, tmp_path):
    settings = ("batch_size=4", "max_steps=6", "dev=none")
    _, calls, _ = train("sft", rows, tmp_path / "with", *settings)
    train("sft", rows, tmp_path / "without", *settings, "vision_cache=off")
    left, right = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("with", "without"))
    assert all(torch.equal(left[k], right[k]) for k in left)
    assert calls == [1] * len({s.images[0].sha256 for s in rows.samples})


def test_hooks_do_not_leak_and_the_encoder_is_never_run_backward(rows, tmp_path):
    """Checkpointed activations ask for input gradients anew at every step; a hundred steps leave one hook, on the text."""
    settings = (
        "batch_size=2",
        "num_generations=2",
        "max_completion_length=2",
        "dev=none",
        "max_steps=100",
        "stop_without_signal=0",
    )
    _, _, model = train("grpo", rows, tmp_path / "x", *settings, "gradient_checkpointing=true", "vision_cache=off")
    hooks = {n: len(m._forward_hooks) for n, m in model.named_modules() if m._forward_hooks}
    assert hooks == {"model.visual": 1, "model.language_model.embed_tokens": 1}  # the counter above, and ours
    assert all(p.grad is None for p in model.model.visual.parameters())


def test_the_patches_never_ask_for_gradients():
    model = loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")
    freeze(model, ["vision", "projector"])
    model.gradient_checkpointing_enable()
    model.train()
    pixels, grid = torch.randn(16, 1176), torch.tensor([[1, 4, 4]])
    assert not model.model.get_image_features(pixels, grid).pooler_output[0].requires_grad
    assert model.get_input_embeddings()(torch.tensor([1])).requires_grad


def test_off_with_a_reason_when_the_encoder_trains(rows, tmp_path):
    settings = (*SMALL, *PLAIN, "max_steps=1", "lora.target_modules=[q_proj, qkv]", "freeze=[projector]")
    trainer, calls, model = train("grpo", rows, tmp_path / "x", *settings)
    assert trainer.why_no_cache.startswith("the vision encoder trains (")
    assert any(p.requires_grad for p in model.model.visual.parameters())
    assert sum(calls) == 3 * 4 + 2  # rollouts, reference and policy pass each encode the step's images again


def test_off_with_a_reason_elsewhere():
    model = loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")
    assert why_off(model, asked="auto") is None
    assert why_off(model, asked="off") == "asked for"
    assert "sharded" in why_off(model, asked="auto", sharded=True)
    assert "takes no image features" in why_off(torch.nn.Linear(1, 1), asked="auto")


def numbered(cache, processor, *images):
    """The number that the cache gives to these pictures, as the processor reads them."""
    settings = str(processor.image_processor.to_dict())
    return cache.number(images, settings, processor.image_processor(images=list(images), return_tensors="pt"))


def looked_up(model, *numbers):
    return model.model.get_image_features(torch.tensor([[n] for n in numbers])).pooler_output


def test_an_image_at_another_size_is_another_image(rows):
    model = loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")
    processor = loading.load_processor(loading.resolve("tiny"))
    cache = VisionCache(model)
    image = rows.samples[0].images[0].open()
    assert numbered(cache, processor, image.resize((56, 56))) == 0
    assert numbered(cache, processor, image) == 1
    assert numbered(cache, processor, image.copy()) == 1  # the same pixels, whichever object holds them
    assert numbered(cache, processor, image, image) == 2
    features = looked_up(model, 1, 1, 2)
    real = processor.image_processor(images=[image], return_tensors="pt")
    (wanted,) = cache._encode(**real).pooler_output
    assert len(features) == 4  # in the order of the pictures
    assert all(torch.equal(f, wanted) for f in features)
    assert cache.encoded == 2


def test_a_torn_file_is_encoded_again_and_other_weights_or_settings_are_other_files(rows, tmp_path):
    checkpoint = loading.resolve("tiny")
    image = rows.samples[0].images[0].open()

    def features(change=None, settings=None):
        model, processor = loading.load_weights(checkpoint, torch.float32, "cpu"), loading.load_processor(checkpoint)
        if change:
            change(model)
        cache = VisionCache(model, tmp_path)
        if settings:  # changed after the cache was built
            processor.image_processor.image_mean = settings
        (found,) = looked_up(model, numbered(cache, processor, image))
        return found.clone(), cache.encoded  # the file itself is mapped

    first, encoded = features()
    (file,) = tmp_path.iterdir()
    assert encoded == 1
    assert features()[1] == 0
    file.write_bytes(file.read_bytes()[:-9])
    again, encoded = features()
    assert encoded == 1
    assert torch.equal(first, again)
    other, encoded = features(change=lambda m: m.model.visual.patch_embed.proj.weight.data.mul_(1.1))
    assert encoded == 1
    assert not torch.equal(first, other)
    assert features(settings=[0.1, 0.1, 0.1])[1] == 1
    assert len(list(tmp_path.iterdir())) == 3
