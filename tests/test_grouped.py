"""What a group shares is computed once, and nothing else changes: the same log-probabilities, gradients and rollouts."""

import json

import pytest
import torch

from harness.models import engine, loading
from harness.prompts import PROMPTS
from harness.records import GenerationArgs
from trainers import recipe
from trainers.grouped import groups_of, opened
from trainers.logps import completion_logps
from trainers.reading import Reader

G = 4


@pytest.fixture(scope="module")
def model():
    return loading.load_weights(loading.resolve("tiny"), torch.float32, "cpu")


@pytest.fixture(scope="module")
def processor():
    return loading.load_processor(loading.resolve("tiny"))


@pytest.fixture(scope="module")
def samples(slake):
    """Six real questions on five images."""
    return [*slake.samples[:300:60], slake.samples[1]]


@pytest.fixture(scope="module")
def batch(samples, processor):
    """G completions of each, rows shuffled: the processor's own inputs, completions, their mask, and each row's question."""
    texts, images, completions, asked = [], [], [], []
    for i, s in enumerate(samples):
        message = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPTS["reasoning"].render(s.question)}]}
        ]
        for j in range(G):
            texts.append(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
            images.append([s.images[0].open()])
            asked.append(i)
            completions.append(f"<think>this is {'a ct ' * j} of the lung {i}.</think><answer>yes</answer><|im_end|>")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts, images, completions, asked = ([x[i] for i in order] for x in (texts, images, completions, asked))
    inputs = dict(processor(text=texts, images=images, return_tensors="pt", padding=True))
    done = processor.tokenizer(completions, padding=True, padding_side="right", return_tensors="pt")
    return inputs, done["input_ids"], done["attention_mask"], asked


@pytest.fixture(scope="module")
def reader(model, processor, samples):
    return Reader(model, processor, samples, [PROMPTS["reasoning"]] * len(samples), None)


def logps(logits, ids, mask):
    return torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0] * mask


def plain(model, batch):
    inputs, ids, mask, _ = batch
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


def grouped(model, batch, reader):
    _, ids, mask, asked = batch
    owner, first = groups_of(asked)
    values, entropies = completion_logps(
        model, reader.batch([asked[i] for i in first]), torch.tensor(owner), ids, mask, entropy=True
    )
    assert entropies.shape == ids.shape
    return values, first


def gradients(model, values):
    weight = torch.linspace(-1, 1, values.shape[0])[:, None]
    model.zero_grad()
    (values * weight).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_log_probabilities_and_gradients_equal_the_plain_pass(model, batch, reader):
    for p in model.model.visual.parameters():
        p.requires_grad_(False)
    reference = plain(model, batch)
    wanted = gradients(model, reference)
    shared, first = grouped(model, batch, reader)
    got = gradients(model, shared)
    assert len(first) == 6  # six prompts out of 24 rows
    assert (reference - shared).abs().max() < 1e-4
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert (got[name] - wanted[name]).norm() <= 2e-5 * wanted[name].norm(), name


def test_logits_computed_in_parts_change_nothing(model, batch, reader, monkeypatch):
    """A vocabulary of 150,000 and long completions would need gigabytes at once."""
    from trainers import logps as module

    for p in model.model.visual.parameters():
        p.requires_grad_(False)
    at_once, _ = grouped(model, batch, reader)
    wanted = gradients(model, at_once)
    monkeypatch.setattr(module, "MOST_LOGITS", 4 * batch[1].shape[1] * model.config.text_config.vocab_size * 5)  # five rows
    in_parts, _ = grouped(model, batch, reader)
    got = gradients(model, in_parts)
    assert torch.allclose(at_once, in_parts, atol=1e-6)
    for name in wanted:
        assert (got[name] - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name


def test_the_reference_pass_reads_the_reference_model(tmp_path):
    """Without LoRA the reference is a model of its own; KL leaves nought as soon as the policy moves."""
    from harness import plugins
    from tests.conftest import load

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


def test_the_same_question_about_the_same_picture_is_one_prompt(model, processor, samples):
    twice = [s.model_copy(update={"id": f"again-{s.id}"}) for s in samples]
    other = [s.model_copy(update={"id": f"other-{s.id}", "question": samples[0].question}) for s in samples[:5]]
    rows = [*samples, *twice, *other]
    reader = Reader(model, processor, rows, [PROMPTS["reasoning"]] * len(rows), None)
    assert reader.same[6:12] == [0, 1, 2, 3, 4, 5]
    assert len(set(reader.same[12:])) == 5  # the same text on another image is another group


def test_greedy_rollouts_equal_generate(model, batch, reader, processor):
    inputs, _, _, asked = batch
    out = model.generate(**inputs, max_new_tokens=24, do_sample=False)[:, inputs["input_ids"].shape[1] :].tolist()
    owner, first = groups_of(asked)
    prompts = [asked[i] for i in first]
    end = processor.tokenizer.eos_token_id
    shared = engine.prefill(model, opened(reader.batch(prompts)))
    last = [ids[-1] for ids in reader.ids(prompts)]
    rows = [engine.Row(g, [last[g]], str(i)) for i, g in enumerate(owner)]
    done = engine.complete(model, shared, rows, GenerationArgs(max_new_tokens=24), pad=0, end={end})
    for row, c in zip(out, done, strict=True):
        assert c.tokens == (row[: row.index(end)] if end in row else row)


def test_image_markers_are_never_sampled(model, reader, processor):
    everything_but_one = [i for i in range(model.config.text_config.vocab_size) if i != 300]
    shared = engine.prefill(model, opened(reader.batch([0])))
    end, args = {processor.tokenizer.eos_token_id}, GenerationArgs(max_new_tokens=3)
    row = engine.Row(0, reader.ids([0])[0][-1:], "0")
    (c,) = engine.complete(model, shared, [row], args, pad=0, end=end, never=everything_but_one)
    assert c.tokens == [300, 300, 300]


def test_a_row_is_the_processors_own_whether_its_pictures_are_kept_or_not(model, processor, samples, reader):
    """Through the cache a prompt is cut at its border and numbered; ids, types and masks stay those of the official call."""
    from trainers.vision_cache import VisionCache

    real = model.model.get_image_features
    try:
        cached = Reader(model, processor, samples, [PROMPTS["reasoning"]] * len(samples), VisionCache(model))
        kept, plain = cached.batch([0, 1, 2, 5], 80), reader.batch([0, 1, 2, 5], 80)
    finally:
        model.model.get_image_features = real
    assert kept.keys() == plain.keys()
    assert all(torch.equal(kept[k], plain[k]) for k in plain if k != "pixel_values")
    assert cached.ids([3, 4]) == reader.ids([3, 4])
