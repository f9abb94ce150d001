"""Batching, sharing and sampling never change a text: token for token in fp32, on real rows."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from harness.errors import DataError, ModelError, UserError
from harness.models import engine
from harness.models.engine import Roomy, with_room
from harness.models.packs import balanced, evenly, group_by_images
from harness.models.transformers_model import TransformersModel
from harness.pipeline import askable
from harness.prompts import PROMPTS, Prompt
from harness.records import GenerationArgs
from tests.conftest import load

ROWS = 200  # real questions of mixed length on images of mixed size


def texts(model, samples, prompt="question", **args):
    options = GenerationArgs(max_new_tokens=24, **args)
    done = [p for batch in model.generate(samples, PROMPTS[prompt], options) for p in batch]
    assert sorted(p.sample_id for p in done) == sorted(s.id for s in samples)  # each exactly once
    return {p.sample_id: (p.text, p.finish, p.completion_tokens, p.prompt_tokens) for p in done}


@pytest.fixture(scope="module")
def rows(slake):
    """SLAKE's images are square; VQA-RAD's have every shape."""
    radiographs = [s.model_copy(update={"id": f"rad-{s.id}"}) for s in load("vqa_rad").samples[: ROWS // 2]]
    return slake.samples[:: 1061 // (ROWS // 2)][: ROWS // 2] + radiographs


@pytest.fixture(scope="module")
def one_by_one(rows):
    return texts(TransformersModel("tiny", device="cpu", batch_size=1, share_prefix="off"), rows)


def test_rows_are_mixed(rows):
    assert len({s.images[0].open().size for s in rows}) > 3
    assert len({len(s.question) for s in rows}) > 10


@pytest.mark.parametrize(("batch_size", "share"), [(32, "off"), (32, "auto"), (7, "auto"), (1, "auto"), (None, "auto")], ids=str)
def test_equal_to_one_by_one(rows, one_by_one, batch_size, share):
    model = TransformersModel("tiny", device="cpu", batch_size=batch_size, share_prefix=share)
    assert texts(model, rows) == one_by_one


def test_long_prompt_with_shared_opening(tiny, rows):
    plain = TransformersModel("tiny", device="cpu", batch_size=16, share_prefix="off")
    assert texts(tiny, rows[:64], "reasoning") == texts(plain, rows[:64], "reasoning")


def test_cut_off_is_recorded(tiny, rows):
    done = [p for b in tiny.generate(rows[:8], PROMPTS["reasoning"], GenerationArgs(max_new_tokens=3)) for p in b]
    assert {p.finish for p in done} == {"length"}
    assert {p.completion_tokens for p in done} == {3}


def test_sampling_depends_on_seed_and_row_not_on_batch(tiny, rows):
    few = rows[:40]
    warm = texts(tiny, few, temperature=1.0, seed=1)
    assert warm == texts(TransformersModel("tiny", device="cpu", batch_size=3), few, temperature=1.0, seed=1)
    assert warm != texts(tiny, few, temperature=1.0, seed=2)
    for top_p in (1e-6, 0.0):  # the nucleus of one token is greedy, and there is always one
        assert texts(tiny, few, temperature=1.0, top_p=top_p) == texts(tiny, few)


def test_sampler_draws_from_the_distribution():
    """20,000 draws from softmax([0, 1, 2]) within 1.5 points of its probabilities."""
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, -1)
    sampler = engine.Sampler(GenerationArgs(max_new_tokens=1, temperature=1.0), [str(i) for i in range(20_000)])
    share = torch.bincount(sampler(logits, range(20_000)), minlength=3) / 20_000
    assert torch.allclose(share, torch.softmax(logits[0], -1), atol=0.015)


def test_groups_hold_every_row_once(slake):
    groups = group_by_images(slake.samples)
    assert sorted(s.id for g in groups for s in g) == sorted(s.id for s in slake.samples)
    assert len(groups) == 96
    assert [len(p) for p in evenly(groups, 10)] == [9, 10, 9, 10, 10, 9, 10, 9, 10, 10]
    assert evenly([], 3) == []


def no_room_on_cuda():
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_room_on_cpu():
    torch.empty(1 << 50)  # a petabyte: the allocator's own error, which is a RuntimeError


@pytest.mark.parametrize("no_room", [no_room_on_cuda, no_room_on_cpu])
def test_running_out_of_memory_loses_nothing_and_changes_nothing(tiny, rows, monkeypatch, no_room):
    """A device that holds at most five rows and three images: the same texts, each once."""
    wanted = texts(tiny, rows[:60])
    complete, prefill = engine.complete, engine.prefill
    failed = []

    def small(real, most, count):
        def run(model, *args, **kwargs):
            if count(args) > most:
                failed.append(count(args))
                no_room()
            return real(model, *args, **kwargs)

        return run

    def rows_of(args):
        return len(args[1])

    monkeypatch.setattr(engine, "complete", small(complete, 5, rows_of))
    monkeypatch.setattr(engine, "prefill", small(prefill, 3, lambda args: len(args[0]["input_ids"])))
    assert texts(tiny, rows[:60]) == wanted
    assert failed
    monkeypatch.setattr(engine, "complete", small(complete, 0, rows_of))
    with pytest.raises(ModelError, match="out of memory on a single question"):
        texts(tiny, rows[:5])


def test_another_error_is_not_taken_for_want_of_memory(tiny, rows, monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(tiny, "_prove", lambda *_: None)
    monkeypatch.setattr(engine, "complete", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        texts(tiny, rows[:5])


def test_a_question_with_the_models_own_markers_is_refused(tiny, rows):
    for marker in ("<|im_end|>", "<|image_pad|>"):
        row = rows[0].model_copy(update={"question": f"What {marker} is this?"})
        with pytest.raises(DataError, match=f"row {row.id}: the question holds"):
            list(tiny.generate([row], PROMPTS["question"], GenerationArgs(max_new_tokens=4)))


def test_rows_and_prompts_with_markers_are_found_before_anything_runs(tiny):
    task = load("slake", limit=3)
    marked = task.samples[1].model_copy(update={"question": "What is <|image_pad|> here?"})
    task = replace(task, samples=[task.samples[0], marked, task.samples[2]])
    with pytest.raises(
        DataError, match=rf"1 of 3 rows cannot be used:\n  row {marked.id}: the question holds .* <\|image_pad\|>"
    ):
        askable(task, tiny, PROMPTS["question"], "fail")
    left = askable(task, tiny, PROMPTS["question"], "skip")
    assert [s.id for s in left.samples] == [task.samples[0].id, task.samples[2].id]
    assert (left.card.rows, list(left.card.dropped)) == (2, [marked.id])
    assert left.card.fingerprint != task.card.fingerprint
    assert "1 rows left out" in left.notes[-1]
    with pytest.raises(UserError, match=r"prompt 'mine' holds the model's own marker <\|im_start\|>"):
        askable(task, tiny, Prompt("mine", "<|im_start|>{question}", "task x"), "skip")


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_no_more_than_a_batch_is_in_hand(tiny, rows, monkeypatch, batch_size):
    """Rows that are computed and not yet stored, over all workers: what a kill costs."""
    model = TransformersModel("tiny", device="cpu", batch_size=batch_size)
    real, lock = engine.complete, threading.Lock()
    begun, most = 0, 0
    stored = 0

    def counted(model, shared, asked, *args, watch=None, **kwargs):
        nonlocal begun, most
        with lock:
            begun += 0 if watch else len(asked)  # the proof's rows are answered once more
            most = max(most, begun - stored)
        return real(model, shared, asked, *args, watch=watch, **kwargs)

    monkeypatch.setattr(engine, "complete", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for batch in model.generate(rows[:100], PROMPTS["question"], GenerationArgs(max_new_tokens=4)):
            time.sleep(0.002)  # the disk's time
            with lock:
                stored += len(batch)
    finally:
        torch.set_num_threads(before)
    assert stored == begun == 100
    assert batch_size // 2 <= most <= batch_size


def test_common_prefix_leaves_a_token():
    assert engine.common_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert engine.common_prefix([[1, 2, 3]]) == 2
    assert engine.common_prefix([[1], [2]]) == 0
    assert engine.common_prefix([[1, 2], [1, 2, 3]]) == 1


@pytest.mark.parametrize("layer", [DynamicLayer, lambda: DynamicSlidingWindowLayer(200)], ids=["whole", "window"])
def test_a_cache_with_room_holds_what_one_without_holds(layer):
    """Token by token past its room twice, with rows leaving on the way."""
    draw = torch.Generator().manual_seed(0)
    plain, roomy = SimpleNamespace(layers=[layer()]), SimpleNamespace(layers=[layer()])
    start = torch.randn(6, 2, 9, 4, generator=draw)
    for cache in (plain, roomy):
        cache.layers[0].update(start, -start)
    roomy = with_room(roomy, 120)
    assert isinstance(roomy.layers[0], Roomy)
    rows = 6
    for step in range(80):
        new = torch.randn(rows, 2, 1, 4, generator=draw)
        for got, wanted in zip(roomy.layers[0].update(new, -new), plain.layers[0].update(new, -new), strict=True):
            assert torch.equal(got, wanted)
        assert roomy.layers[0].get_seq_length() == plain.layers[0].get_seq_length()
        assert roomy.layers[0].get_mask_sizes(1) == plain.layers[0].get_mask_sizes(1)
        if step in (20, 50):
            rows -= 2
            keep = torch.randperm(rows + 2, generator=draw)[:rows]
            for cache in (plain, roomy):
                cache.layers[0].batch_select_indices(keep)


def test_a_window_that_will_be_reached_keeps_its_own_layer():
    cache = SimpleNamespace(layers=[DynamicSlidingWindowLayer(16)])
    cache.layers[0].update(torch.ones(1, 1, 9, 4), torch.ones(1, 1, 9, 4))
    assert type(with_room(cache, 16).layers[0]) is DynamicSlidingWindowLayer


def test_packs_hold_as_many_questions_and_no_more_pictures_than_their_share():
    groups = [["q"] * n for n in (40, 1, 1, 1, 1, 1, 1, 1, 7, 6)]
    parts = balanced(groups, 2)
    assert [len(p) for p in parts] == [5, 5]
    assert sorted(sum(map(len, p)) for p in parts) == [16, 44]  # the large one with four of the smallest
    assert [sum(map(len, p)) for p in balanced([["q"] * n for n in (5, 9, 6, 8, 7, 5)], 2)] == [20, 20]
