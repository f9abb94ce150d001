"""The in-process backend: a transformers checkpoint that answers samples in shared-prefix packs or plain batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from harness import answers
from harness.models import engine, loading
from harness.prompts import Prompt
from harness.records import GenerationArgs, ModelCard, Prediction, Sample

#: Architectures whose positions and image features the shared-prefix engine knows.
SHARED_PREFIX = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
DEFAULT_ROWS = {"cpu": 64, "cuda": 256}
PACK_IMAGES = 16
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}question\N{OBJECT REPLACEMENT CHARACTER}"


@dataclass
class Pack:
    """Image groups whose prefixes are read together: `groups[i]` are the samples that share the i-th prefix."""

    groups: list[list[Sample]]

    @property
    def samples(self) -> list[Sample]:
        return [s for g in self.groups for s in g]


def group_by_images(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples that show the same images, together; in order of first appearance."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for s in samples:
        groups.setdefault(tuple(i.sha256 for i in s.images), []).append(s)
    return list(groups.values())


def pack(groups: Sequence[list[Sample]], images: int) -> list[Pack]:
    """Packs of at most `images` groups."""
    return [Pack(list(groups[i : i + images])) for i in range(0, len(groups), images)]


class TransformersModel:
    """Fulfils harness.contracts.Model with a local or hub checkpoint.

    `batch_size` counts questions. `share_prefix` is "auto" (where the architecture allows), or "off" for
    plain left-padded batches through `generate`; both give the same text in fp32.
    """

    def __init__(
        self,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        share_prefix: Literal["auto", "off"] = "auto",
    ) -> None:
        checkpoint = loading.resolve(name)
        where = loading.pick_device(device)
        self.processor = loading.load_processor(checkpoint)
        self.model = loading.load_weights(checkpoint, loading.pick_dtype(dtype, where), where)
        self._card = loading.model_card(checkpoint, self.model)
        self.batch_size = batch_size or DEFAULT_ROWS[where.split(":")[0]]
        self.share_prefix = share_prefix == "auto" and type(self.model).__name__ in SHARED_PREFIX
        self.end = engine.end_tokens(self.model, self.processor.tokenizer)
        self._image_token = self.processor.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        self.pack_images = PACK_IMAGES
        #: Held while computing on an accelerator, so that a second worker only loads; free on a CPU.
        self._computing: AbstractContextManager[Any] = nullcontext() if where == "cpu" else threading.Lock()

    @property
    def card(self) -> ModelCard:
        return self._card

    def generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        pictured = [s for s in samples if s.images]
        if self.share_prefix and pictured:
            yield from self._shared(pictured, prompt, args)
            samples = [s for s in samples if not s.images]
        yield from self._plain(samples, prompt, args)

    def chat(self, sample: Sample, text: str) -> str:
        """The chat template around the sample's images and `text`."""
        content = [{"type": "image"} for _ in sample.images] + [{"type": "text", "text": text}]
        out: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return out

    # -- plain batches ------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _plain(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        ordered = sorted(samples, key=lambda s: len(s.question), reverse=True)
        for start in range(0, len(ordered), self.batch_size):
            batch = ordered[start : start + self.batch_size]
            texts = [self.chat(s, prompt.render(s.question)) for s in batch]
            images = [i.open() for s in batch for i in s.images]
            inputs = self.processor(text=texts, images=images or None, return_tensors="pt", padding=True).to(
                self.model.device, self.model.dtype
            )
            sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            if args.temperature > 0:
                torch.manual_seed(args.seed)
                sampling = {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
            out = self.model.generate(**inputs, max_new_tokens=args.max_new_tokens, repetition_penalty=1.0, **sampling)
            width = inputs["input_ids"].shape[1]
            rows = []
            for s, row, n in zip(batch, out[:, width:].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True):
                cut = next((i for i, t in enumerate(row) if t in self.end), None)
                rows.append(self._prediction(s, engine.Completion(row[:cut], None if cut is None else row[cut], n)))
            yield rows

    # -- shared prefix ------------------------------------------------------------------------------------------

    def _shared(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        """Packs in worker threads; batches come out as they finish.

        On a CPU each worker computes a pack of its own on one core, which keeps small matrices busier than splitting
        each of them over all cores would; elsewhere a second worker loads images while the first computes.
        """
        packs = pack(group_by_images(samples), self.pack_images)
        workers = max(1, min(torch.get_num_threads(), len(packs))) if self.model.device.type == "cpu" else 2
        threads = torch.get_num_threads()
        done: queue.Queue[list[Prediction] | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def work(pack: Pack) -> None:
            try:
                for batch in self._answer(pack, prompt, args, stop):
                    done.put(batch)
                done.put(None)
            except BaseException as e:  # handed to the thread that waits
                done.put(e)

        initializer = partial(torch.set_num_threads, 1) if workers > 1 and self.model.device.type == "cpu" else None
        pool = ThreadPoolExecutor(workers, initializer=initializer)
        try:
            for p in packs:
                pool.submit(work, p)
            left = len(packs)
            while left:
                item = done.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def _load(self, pack: Pack) -> tuple[list[engine.Prefix], str]:
        """Prefixes of a pack's image groups, and the chat text that closes every question."""
        tokenizer, image_processor = self.processor.tokenizer, self.processor.image_processor
        image_token = self.processor.image_token
        prefixes, tail = [], ""
        for group in pack.groups:
            head, tail = self.chat(group[0], _MARK).split(_MARK)
            pixels = image_processor(images=[i.open() for i in group[0].images], return_tensors="pt")
            for grid in pixels["image_grid_thw"]:
                count = int(grid.prod()) // image_processor.merge_size**2
                head = head.replace(image_token, "\0" * count, 1)
            ids = tokenizer(head.replace("\0", image_token), add_special_tokens=False)["input_ids"]
            prefixes.append(engine.Prefix(ids, pixels["pixel_values"], pixels["image_grid_thw"]))
        return prefixes, tail

    def _answer(self, pack: Pack, prompt: Prompt, args: GenerationArgs, stop: threading.Event) -> Iterator[list[Prediction]]:
        """A pack's predictions, in batches of questions of similar length."""
        prefixes, tail = self._load(pack)
        tokenizer = self.processor.tokenizer
        ids = tokenizer([prompt.render(s.question) + tail for s in pack.samples], add_special_tokens=False)["input_ids"]
        opening = ids[0][: engine.common_prefix(ids)]
        owners = [g for g, group in enumerate(pack.groups) for _ in group]
        rows = [(engine.Row(g, i, s.id), s) for g, i, s in zip(owners, ids, pack.samples, strict=True)]
        rows.sort(key=lambda r: len(r[0].input_ids))
        with self._computing:
            shared = engine.prefill(self.model, prefixes, opening, image_token=self._image_token, pad=tokenizer.pad_token_id)
            count = -(-len(rows) // self.batch_size)
            size = -(-len(rows) // count)  # even batches
            for start in range(0, len(rows), size):
                if stop.is_set():
                    return
                batch = rows[start : start + size]
                done = engine.complete(self.model, shared, [r for r, _ in batch], args, pad=tokenizer.pad_token_id, end=self.end)
                yield [self._prediction(s, c) for (_, s), c in zip(batch, done, strict=True)]

    def _prediction(self, sample: Sample, done: engine.Completion) -> Prediction:
        text = self.processor.tokenizer.decode(done.tokens, skip_special_tokens=True).strip()
        reasoning, answer = answers.read(text)
        return Prediction(
            sample_id=sample.id,
            text=text,
            reasoning=reasoning,
            answer=answer,
            finish="length" if done.end is None else "stop",
            prompt_tokens=done.prompt_tokens,
            completion_tokens=len(done.tokens),
        )
