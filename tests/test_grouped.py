"""What a group shares is computed once, and nothing else changes: the same log-probabilities, gradients and rollouts."""

import json

import pytest
import torch

from harness.models import engine, loading
from harness.prompts import PROMPTS
from harness.records import GenerationArgs
from trainers import recipe
from trainers.grouped import Once, as_inputs, completion_logps, group_rows, split_pixels
from trainers.rows import dataset

G = 4


@pytest.fixture(scope="module")
def model():
    return loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")


@pytest.fixture(scope="module")
def processor():
    return loading.load_processor(loading.resolve("tiny"))


@pytest.fixture(scope="module")
def batch(slake, processor):
    """Six real questions on five images, G completions each, rows shuffled."""
    samples = [*slake.samples[:300:60], slake.samples[1]]
    texts, images, completions = [], [], []
    for i, s in enumerate(samples):
        message = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPTS["reasoning"].render(s.question)}]}
        ]
        for j in range(G):
            texts.append(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
            images.append([s.images[0].open()])
            completions.append(f"<think>this is {'a ct ' * j} of the lung {i}.</think><answer>yes</answer><|im_end|>")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts, images, completions = ([x[i] for i in order] for x in (texts, images, completions))
    inputs = dict(processor(text=texts, images=images, return_tensors="pt", padding=True))
    done = processor.tokenizer(completions, padding=True, padding_side="right", return_tensors="pt")
    return inputs, done["input_ids"], done["attention_mask"]


def logps(logits, ids, mask):
    return torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0] * mask


def plain(model, batch):
    inputs, ids, mask = batch
    out = model(
        input_ids=torch.cat([inputs["input_ids"], ids], 1),
        attention_mask=torch.cat([inputs["attention_mask"], mask], 1),
        mm_token_type_ids=torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], 1),
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        logits_to_keep=ids.shape[1] + 1,
        use_cache=False,
    )
    return logps(out.logits[:, :-1], ids, mask)


def grouped(model, batch):
    inputs, ids, mask = batch
    pixels = split_pixels(inputs["pixel_values"], inputs["image_grid_thw"], [1] * len(ids))
    owner, first = group_rows([tuple(p) for p in inputs["input_ids"].tolist()], pixels)
    values, entropies = completion_logps(
        model,
        inputs["input_ids"][first],
        inputs["attention_mask"][first],
        [pixels[i] for i in first],
        torch.tensor(owner),
        ids,
        mask,
        entropy=True,
    )
    assert entropies.shape == ids.shape
    return values, first


def gradients(model, values):
    weight = torch.linspace(-1, 1, values.shape[0])[:, None]
    model.zero_grad()
    (values * weight).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_log_probabilities_and_gradients_equal_the_plain_pass(model, batch):
    for p in model.model.visual.parameters():
        p.requires_grad_(False)
    reference = plain(model, batch)
    wanted = gradients(model, reference)
    shared, first = grouped(model, batch)
    got = gradients(model, shared)
    assert len(first) == 6  # six prompts out of 24 rows
    assert (reference - shared).abs().max() < 1e-4
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert (got[name] - wanted[name]).norm() <= 2e-5 * wanted[name].norm(), name


def test_logits_computed_in_parts_change_nothing(model, batch, monkeypatch):
    """A vocabulary of 150,000 and long completions would need gigabytes at once."""
    from trainers import grouped as module

    for p in model.model.visual.parameters():
        p.requires_grad_(False)
    at_once, _ = grouped(model, batch)
    wanted = gradients(model, at_once)
    monkeypatch.setattr(module, "MOST_LOGITS", 4 * batch[1].shape[1] * model.config.text_config.vocab_size * 5)  # five rows
    in_parts, _ = grouped(model, batch)
    got = gradients(model, in_parts)
    assert torch.allclose(at_once, in_parts, atol=1e-6)
    for name in wanted:
        assert (got[name] - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name


def test_the_reference_pass_reads_the_reference_model(tmp_path):
    """Without LoRA the reference is a model of its own; KL leaves nought as soon as the policy moves."""
    from harness import plugins
    from tests.conftest import load
    from trainers import recipe

    settings = ["batch_size=8", "num_generations=4", "max_completion_length=40", "max_steps=3", "learning_rate=1e-4", "lora=null"]
    kl = {}
    for name, more in {"grouped": [], "plain": ["grouped_logprobs=false"]}.items():
        rows = load("slake_grounded", split="train", limit=12)
        task_recipe = recipe.load("grpo", "tiny", None, [*settings, *more])
        out = plugins.load("trainers", "grpo")("tiny", rows, task_recipe, tmp_path / name, device="cpu").fit()
        kl[name] = [json.loads(line)["kl"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert kl["grouped"][0] == pytest.approx(0, abs=1e-6)
    assert kl["grouped"][-1] > 1e-4
    assert kl["grouped"] == pytest.approx(kl["plain"], rel=1e-2, abs=1e-5)


def test_same_text_on_another_image_is_another_group(model, batch):
    inputs, ids, _ = batch
    pixels = split_pixels(inputs["pixel_values"], inputs["image_grid_thw"], [1] * len(ids))
    same_text = [(1, 2, 3)] * len(ids)
    owner, first = group_rows(same_text, pixels)
    assert len(first) == 5  # the five images
    assert sorted(set(owner)) == list(range(5))


def test_greedy_rollouts_equal_generate(model, batch, processor):
    inputs, _, _ = batch
    out = model.generate(**inputs, max_new_tokens=24, do_sample=False)[:, inputs["input_ids"].shape[1] :].tolist()
    pixels = split_pixels(inputs["pixel_values"], inputs["image_grid_thw"], [1] * len(out))
    prompts = [
        [t for t, m in zip(i, a, strict=True) if m]
        for i, a in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
    ]
    owner, first = group_rows([tuple(p) for p in prompts], pixels)
    tokenizer = processor.tokenizer
    pad = tokenizer.pad_token_id
    ids, mask = engine.left_pad([prompts[i][:-1] for i in first], pad, model.device)
    shared = engine.prefill(model, as_inputs(model, ids, mask, [pixels[i] for i in first]))
    rows = [engine.Row(g, [prompts[i][-1]], str(i)) for i, g in enumerate(owner)]
    done = engine.complete(model, shared, rows, GenerationArgs(max_new_tokens=24), pad=pad, end={tokenizer.eos_token_id})
    for row, c in zip(out, done, strict=True):
        wanted = row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row
        assert c.tokens == wanted


def test_image_markers_are_never_sampled(model, batch, processor):
    inputs, _, _ = batch
    pixels = split_pixels(inputs["pixel_values"], inputs["image_grid_thw"], [1] * len(inputs["input_ids"]))
    prompt = inputs["input_ids"][0][inputs["attention_mask"][0] == 1].tolist()
    everything_but_one = [i for i in range(model.config.text_config.vocab_size) if i != 300]
    shared = engine.prefill(model, as_inputs(model, *engine.left_pad([prompt[:-1]], 0, model.device), pixels[:1]))
    end, args = {processor.tokenizer.eos_token_id}, GenerationArgs(max_new_tokens=3)
    (c,) = engine.complete(model, shared, [engine.Row(0, prompt[-1:], "0")], args, pad=0, end=end, never=everything_but_one)
    assert c.tokens == [300, 300, 300]


def test_a_batch_reads_each_row_once(slake):
    rows = dataset(slake.samples[:3], recipe.load("grpo", "tiny"), completions=False)
    batch = Once(rows).__getitems__([2, 2, 0, 2])
    assert [row["sample_id"] for row in batch] == [slake.samples[i].id for i in (2, 2, 0, 2)]
    assert batch[0]["images"][0] is batch[1]["images"][0] is batch[3]["images"][0]
    assert batch[0]["images"][0] is not batch[2]["images"][0]
    assert batch[2] == rows[0]
