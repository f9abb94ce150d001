"""The in-process backend: a transformers checkpoint that answers samples in shared-prefix packs or plain batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch

from harness import answers
from harness.models import engine, loading
from harness.prompts import Prompt
from harness.records import GenerationArgs, ModelCard, Prediction, Sample

#: Architectures whose positions and image features the shared-prefix engine knows.
SHARED_PREFIX = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
DEFAULT_ROWS = {"cpu": 176, "cuda": 256}
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}question\N{OBJECT REPLACEMENT CHARACTER}"


@dataclass
class Pack:
    """Image groups that are generated together: `groups[i]` are the samples that share the i-th prefix."""

    groups: list[list[Sample]]

    @property
    def samples(self) -> list[Sample]:
        return [s for g in self.groups for s in g]


def group_by_images(samples: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for s in samples:
        groups.setdefault(tuple(i.sha256 for i in s.images), []).append(s)
    return list(groups.values())


def pack(groups: Sequence[list[Sample]], rows: int) -> list[Pack]:
    """Fill packs with whole groups up to `rows` questions; a larger group is cut."""
    packs: list[Pack] = []
    room = 0
    for group in groups:
        for start in range(0, len(group), rows):
            part = group[start : start + rows]
            if len(part) > room:
                packs.append(Pack([]))
                room = rows
            packs[-1].groups.append(part)
            room -= len(part)
    return packs


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
        packs = pack(group_by_images(samples), self.batch_size)
        with ThreadPoolExecutor(max_workers=1) as loader:  # the next pack's images load while this one decodes
            waiting = loader.submit(self._load, packs[0]) if packs else None
            for i, this in enumerate(packs):
                assert waiting is not None
                prefixes, tail = waiting.result()
                waiting = loader.submit(self._load, packs[i + 1]) if i + 1 < len(packs) else None
                yield self._answer(this, prefixes, tail, prompt, args)

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

    def _answer(
        self, pack: Pack, prefixes: list[engine.Prefix], tail: str, prompt: Prompt, args: GenerationArgs
    ) -> list[Prediction]:
        tokenizer = self.processor.tokenizer
        texts = [prompt.render(s.question) + tail for s in pack.samples]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        owners = [g for g, group in enumerate(pack.groups) for _ in group]
        rows = [engine.Row(g, i, s.id) for g, i, s in zip(owners, ids, pack.samples, strict=True)]
        image_token = tokenizer.convert_tokens_to_ids(self.processor.image_token)
        done = engine.generate(
            self.model, prefixes, rows, args, image_token=image_token, pad=tokenizer.pad_token_id, end=self.end
        )
        return [self._prediction(s, c) for s, c in zip(pack.samples, done, strict=True)]

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
