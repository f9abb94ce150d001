"""The in-process backend: a transformers checkpoint that answers samples in shared-prefix packs or plain batches."""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar

import torch

from harness import answers
from harness.errors import DataError, ModelError, UserError
from harness.models import engine, loading, weights
from harness.prompts import Prompt, order, parts, placed
from harness.records import GenerationArgs, ModelCard, Prediction, Sample

#: Architectures whose positions and image features the shared-prefix engine knows.
SHARED_PREFIX = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
T = TypeVar("T")
R = TypeVar("R")

#: `--batch-size auto`: at most this many questions a worker (on a CPU each core is one), and no more than their keys and values
#: fit in this many MB.
MOST_ROWS = {"cpu": 32, "cuda": 256}
MOST_CACHE_MB = {"cpu": 32, "cuda": 16_000}
PACK_IMAGES = 16
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}question\N{OBJECT REPLACEMENT CHARACTER}"


def group_by_images(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples that show the same images after the same system turn, together; in order of first appearance."""
    groups: dict[tuple[str | None, ...], list[Sample]] = {}
    for s in samples:
        groups.setdefault((s.system, *(i.sha256 for i in s.images)), []).append(s)
    return list(groups.values())


def evenly(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """The fewest parts of at most `most` items, as equal as can be."""
    parts = -(-len(items) // most)
    return [items[len(items) * i // parts : len(items) * (i + 1) // parts] for i in range(parts)]


def out_of_memory(e: BaseException) -> bool:
    """Whether memory ran out: torch has a type for it on CUDA alone, elsewhere it is a RuntimeError's text."""
    if isinstance(e, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(e, RuntimeError) and any(s in str(e) for s in ("DefaultCPUAllocator", "out of memory"))


def halving(run: Callable[[Sequence[T]], R], items: Sequence[T]) -> Iterator[tuple[Sequence[T], R]]:
    """(items, run(items)); where memory runs out, the same for each half of them, and so on down to one item.

    Raises ModelError when one item alone is too much.
    """
    result = None
    try:
        result = run(items)
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        if len(items) == 1:
            raise ModelError(
                f"out of memory on a single question: {loading.first_line(e)}",
                hint="try a smaller --max-new-tokens, --dtype bfloat16, or smaller images",
            ) from e
    if result is not None:
        yield items, result
        return
    # out of the handler, whose traceback would keep the failed pass's tensors alive
    gc.collect()
    torch.cuda.empty_cache()
    half = len(items) // 2
    yield from halving(run, items[:half])
    yield from halving(run, items[half:])


class TransformersModel:
    """Fulfils harness.contracts.Model with a local or hub checkpoint.

    `batch_size` counts the questions in hand at once; None picks what fits. Either is halved when memory runs out.
    `share_prefix` is "auto" (where the architecture allows), or "off" for plain left-padded batches through `generate`;
    both give the same text in fp32. `why_plain` says why prefixes are not shared, where they are not.
    """

    def __init__(
        self,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | None = None,
        share_prefix: Literal["auto", "off"] = "auto",
        attention: str = "auto",
        tags: answers.Tags = (),
    ) -> None:
        checkpoint = loading.resolve(name)
        where = loading.pick_device(device)
        self.processor = loading.load_processor(checkpoint)
        kind = loading.pick_dtype(dtype, where)
        attention, reason = loading.pick_attention(attention, where, kind)
        self.model = loading.load_weights(checkpoint, kind, where, attention=attention)
        weights.check_vocabulary(checkpoint.label, self.model, self.processor)
        self._card = loading.model_card(checkpoint, self.model, reason)
        self._kind = where.split(":")[0]
        self._fixed_rows = batch_size
        self._token_mb = loading.kv_bytes_per_token(self.model.config, self.model.dtype.itemsize) / 1e6
        self.why_plain = "asked for" if share_prefix == "off" else self._why_plain()
        self.end = engine.end_tokens(self.model, self.processor.tokenizer)
        self._image_token = self.processor.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        self.pack_images = PACK_IMAGES
        special = {i: t.content for i, t in self.processor.tokenizer.added_tokens_decoder.items() if t.special}
        #: Special tokens that mark thinking or answer, and those that a text is read without.
        self._markers = {i for i, token in special.items() if answers.is_marker(token, tags)}
        self._unspoken = set(special) - self._markers
        self._tags, self._opened = tags, ""
        #: Held while computing on an accelerator, so that a second worker only loads; free on a CPU.
        self._computing: AbstractContextManager[Any] = nullcontext() if where == "cpu" else threading.Lock()

    @property
    def card(self) -> ModelCard:
        return self._card

    def generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        for name, why in self.refused(samples, prompt).items():
            raise DataError(f"row {name}: {why}", hint="mend the row")
        if samples:  # a template that opens the thinking itself: the text then only closes it
            self._opened = answers.left_open(self.chat(samples[0], "?"), self._tags)
        # where the question says itself where its images stand, nothing comes before it that others could share
        ahead = {s.id for s in samples if s.images and not placed(prompt.render(s.question), len(s.images))}
        if self.why_plain is None and ahead:
            yield from self._shared([s for s in samples if s.id in ahead], prompt, args)
            samples = [s for s in samples if s.id not in ahead]
        yield from self._plain(samples, prompt, args)

    def refused(self, samples: Sequence[Sample], prompt: Prompt) -> dict[str, str]:
        """The rows that this model cannot be asked, id -> why: one of its own markers in a question would be read as one.

        Raises UserError for a prompt that holds one.
        """
        markers = [t.content for t in self.processor.tokenizer.added_tokens_decoder.values() if t.special]

        def held(text: str) -> str | None:
            return next((m for m in markers if m in text), None)

        if marker := held(prompt.template):
            raise UserError(f"prompt '{prompt.name}' holds the model's own marker {marker}", hint=f"mend it in {prompt.source}")
        return {s.id: f"the question holds the model's own marker {marker}" for s in samples if (marker := held(s.question))}

    def rows_a_batch(self, tokens: int, workers: int = 1) -> int:
        """Questions that one of `workers` computes at once, where each takes at most about `tokens` tokens in all.

        `--batch-size` is what all of them have in hand together, so that a kill repeats no more than that.
        """
        if self._fixed_rows:
            return max(1, self._fixed_rows // workers)
        return max(8, min(MOST_ROWS.get(self._kind, 32), int(MOST_CACHE_MB.get(self._kind, 1_000) / (tokens * self._token_mb))))

    def _why_plain(self) -> str | None:
        """None when prefixes can be shared, else the reason."""
        architecture = type(self.model).__name__
        if architecture not in SHARED_PREFIX:
            return f"{architecture} is not a Qwen2-VL or Qwen2.5-VL"
        content = [{"type": "image"}, {"type": "text", "text": _MARK}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        tokenizer = self.processor.tokenizer
        last = tokenizer(text.split(_MARK)[0], add_special_tokens=False)["input_ids"][-1]
        if last not in tokenizer.added_tokens_decoder:
            return "the chat template puts no marker between image and question, so their tokens could merge"
        return None

    def chat(self, sample: Sample, text: str) -> str:
        """The chat template around the sample's system turn, its images and `text`."""
        content = [
            {"type": "image"} if isinstance(p, int) else {"type": "text", "text": p} for p in parts(text, len(sample.images))
        ]
        system = [{"role": "system", "content": [{"type": "text", "text": sample.system}]}] if sample.system else []
        out: str = self.processor.apply_chat_template(
            [*system, {"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return out

    # -- plain batches ------------------------------------------------------------------------------------------

    def _plain(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        ordered = sorted(samples, key=lambda s: len(s.question), reverse=True)
        # a drawn text must not depend on its batch, and `generate` draws for all rows from one seed
        for batch in evenly(ordered, 1 if args.temperature > 0 else self._fixed_rows or 32):
            for _, done in halving(lambda part: self._generate(part, prompt, args), batch):
                yield done

    @torch.inference_mode()
    def _generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> list[Prediction]:
        """One left-padded batch through the model's own `generate`."""
        texts = [self.chat(s, prompt.render(s.question)) for s in samples]
        images = [s.images[i].open() for s in samples for i in order(prompt.render(s.question), len(s.images))]
        inputs = self.processor(text=texts, images=images or None, return_tensors="pt", padding=True)
        inputs = inputs.to(self.model.device, self.model.dtype)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if args.temperature > 0:
            torch.manual_seed(engine.row_seed(args.seed, samples[0].id))
            sampling = {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
        out = self.model.generate(**inputs, max_new_tokens=args.max_new_tokens, repetition_penalty=1.0, **sampling)
        width = inputs["input_ids"].shape[1]
        rows = []
        for s, row, n in zip(samples, out[:, width:].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True):
            cut = next((i for i, t in enumerate(row) if t in self.end), None)
            rows.append(self._prediction(s, engine.Completion(row[:cut], None if cut is None else row[cut], n)))
        return rows

    # -- shared prefix ------------------------------------------------------------------------------------------

    def _shared(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        """Packs in worker threads; batches come out as they finish, and a worker goes on when its last one is stored.

        On a CPU each worker computes a pack of its own on one core, which keeps small matrices busier than splitting
        each of them over all cores would; elsewhere a second worker loads images while the first computes.
        """
        packs = evenly(group_by_images(samples), self.pack_images)
        threads = torch.get_num_threads()
        on_cpu = self.model.device.type == "cpu"
        workers = min(threads, len(packs), self._fixed_rows or threads) if on_cpu else 2
        done: queue.Queue[tuple[list[Prediction], threading.Event] | BaseException | None] = queue.Queue()
        stop = threading.Event()

        def work(groups: Sequence[list[Sample]]) -> None:
            try:
                for batch in self._answer(groups, prompt, args, workers if on_cpu else 1):
                    stored = threading.Event()
                    done.put((batch, stored))
                    while not stored.wait(0.1):
                        if stop.is_set():
                            return
                done.put(None)
            except BaseException as e:  # handed to the thread that waits
                done.put(e)

        initializer = partial(torch.set_num_threads, 1) if on_cpu and workers > 1 else None
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
                    batch, stored = item
                    yield batch
                    stored.set()  # whoever took the batch has come back for the next one
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def _answer(
        self, groups: Sequence[list[Sample]], prompt: Prompt, args: GenerationArgs, workers: int
    ) -> Iterator[list[Prediction]]:
        """A pack's predictions, in batches of questions of similar length."""
        tokenizer = self.processor.tokenizer
        prefixes = [self._prefix(g[0]) for g in groups]
        tail = self.chat(groups[0][0], _MARK).split(_MARK)[1]
        texts = [[prompt.render(s.question) + tail for s in g] for g in groups]
        ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        opening = ids[0][0][: engine.common_prefix([row for rows in ids for row in rows])]

        def prefill(pack: Sequence[int]) -> engine.Prefilled:
            return engine.prefill(
                self.model, [prefixes[g] for g in pack], opening, image_token=self._image_token, pad=tokenizer.pad_token_id
            )

        with self._computing:
            for pack, shared in halving(prefill, list(range(len(groups)))):
                rows = [(engine.Row(i, t, s.id), s) for i, g in enumerate(pack) for t, s in zip(ids[g], groups[g], strict=True)]
                rows.sort(key=lambda r: len(r[0].input_ids))

                def complete(
                    batch: Sequence[tuple[engine.Row, Sample]], shared: engine.Prefilled = shared
                ) -> list[engine.Completion]:
                    asked = [row for row, _ in batch]
                    return engine.complete(self.model, shared, asked, args, pad=tokenizer.pad_token_id, end=self.end)

                longest = shared.mask.shape[1] + max(len(t) for g in pack for t in ids[g]) + min(args.max_new_tokens, 128)
                for batch in evenly(rows, self.rows_a_batch(longest, workers)):
                    for part, done in halving(complete, batch):
                        yield [self._prediction(s, c) for (_, s), c in zip(part, done, strict=True)]

    def _prefix(self, sample: Sample) -> engine.Prefix:
        """The tokens up to the question, each image marker repeated as its size asks, and the pixels."""
        image_processor, image_token = self.processor.image_processor, self.processor.image_token
        head = self.chat(sample, _MARK).split(_MARK)[0]
        pixels = image_processor(images=[i.open() for i in sample.images], return_tensors="pt")
        for grid in pixels["image_grid_thw"]:
            head = head.replace(image_token, "\0" * (int(grid.prod()) // image_processor.merge_size**2), 1)
        ids = self.processor.tokenizer(head.replace("\0", image_token), add_special_tokens=False)["input_ids"]
        return engine.Prefix(ids, pixels["pixel_values"], pixels["image_grid_thw"])

    def _text(self, tokens: Sequence[int]) -> str:
        """The tokens' text without special tokens, but with those that mark thinking and answer: a tokenizer may count them as
        special, and the reader needs them. The marker that the chat template opened is put back."""
        tokenizer = self.processor.tokenizer
        marked = not self._markers.isdisjoint(tokens)
        spoken = [t for t in tokens if t not in self._unspoken] if marked else tokens
        text: str = tokenizer.decode(spoken, skip_special_tokens=not marked)
        return self._opened + text.strip()

    def _prediction(self, sample: Sample, done: engine.Completion) -> Prediction:
        text = self._text(done.tokens)
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
