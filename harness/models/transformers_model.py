"""The in-process backend: a transformers checkpoint that answers samples in shared-prefix packs or plain batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch

from harness import answers
from harness.errors import DataError, ModelError, UserError
from harness.models import engine, loading, proof, refusals, weights
from harness.models.families import parts
from harness.models.families.prompting import Ask, IndivisibleError, Openings, Prompting, asked
from harness.models.overrides import Overrides
from harness.models.packs import balanced, evenly, group_by_images, halving, out_of_memory
from harness.models.written import Completion, Written
from harness.prompts import Prompt, placed
from harness.records import BadImageError, GenerationArgs, ImageRef, ModelCard, Prediction, Sample
from harness.threads import on_all_cores

#: `--batch-size auto`: at most this many questions a worker (on a CPU each core is one), and no more than their keys and values
#: fit in this many MB.
MOST_ROWS = {"cpu": 64, "cuda": 256, "mps": 64}
MOST_CACHE_MB = {"cpu": 32, "cuda": 16_000, "mps": 2_000}
#: Pictures that are read together: at most so many, and so many of their tokens.
PACK_IMAGES = 32
PACK_TOKENS = {"cpu": 8_192, "cuda": 32_768, "mps": 16_384}


class TransformersModel:
    """Fulfils harness.contracts.Model with a local or hub checkpoint.

    `batch_size` counts the questions in hand at once; None picks what fits. Either is halved when memory runs out.
    `share_prefix` is "auto" (where the architecture allows), or "off" for plain left-padded batches through `generate`;
    both give the same text in fp32. `why_plain` says why prefixes are not shared, where that is known before a run;
    `sharing` what the last run found on its own rows.
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
        overrides: Overrides | None = None,
        spread: bool = False,
    ) -> None:
        checkpoint = loading.resolve(name)
        where = loading.pick_device(device)
        self.processor = loading.load_processor(checkpoint)
        overrides = overrides or Overrides()
        overrides.set_on(self.processor, checkpoint.name)
        self.prompting = Prompting(self.processor, checkpoint.name, overrides.chat_template_kwargs)
        kind = loading.pick_dtype(dtype, where)
        attention, reason = loading.pick_attention(attention, where, kind)
        self.model = loading.load_weights(checkpoint, kind, where, attention=attention, spread=spread)
        weights.check_vocabulary(checkpoint.label, self.model, self.processor)
        self._card = overrides.on_card(loading.model_card(checkpoint, self.model, reason))
        if self.prompting.writes_opening():
            self._card = self._card.model_copy(update={"opening": "once"})
        self._kind = where.split(":")[0]
        self._fixed_rows = batch_size
        self._label = checkpoint.label
        with self._in_words("its configuration says too little"):
            self._token_mb = loading.kv_bytes_per_token(self.model.config, self.model.dtype.itemsize) / 1e6
            self.longest = parts.longest_prompt(self.model.config)
        why = self._why_plain()
        self.why_plain: str | None = "asked for" if share_prefix == "off" else why
        #: How the last run's pictures were read; for its card.
        self.sharing: str | None = None
        self.end = engine.end_tokens(self.model, self.processor.tokenizer)
        self.pack_images = PACK_IMAGES  # fewer where they take many tokens, as the proof finds
        self.written = Written(self.processor.tokenizer, tags)
        #: Held while computing on an accelerator, so that a second worker only loads; free on a CPU.
        self._computing: AbstractContextManager[Any] = nullcontext() if where == "cpu" else threading.Lock()

    @property
    def card(self) -> ModelCard:
        return self._card

    def generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        for name, bad in self.refused(samples, prompt).items():
            raise DataError(f"row {name}: {bad}", hint="mend the row")
        if samples:
            self.written.begin(self.prompting.texts([asked(prompt, samples[0])._replace(text="?")])[0])
        # where the question says itself where its images stand, nothing comes before it that others could share
        ahead = [s for s in samples if s.images and not s.history and not placed(prompt.render(s.question), len(s.images))]
        why = self.why_plain or (self._prove(ahead, prompt) if ahead else None)
        self.sharing = f"off: {why}" if why else f"proved on {min(len(ahead), proof.ROWS)} rows" if ahead else None
        if ahead and why is None:
            yield from self._shared(ahead, prompt, args)
            done = {s.id for s in ahead}
            samples = [s for s in samples if s.id not in done]
        yield from self._plain(samples, prompt, args)

    def refused(self, samples: Sequence[Sample], prompt: Prompt) -> dict[str, str]:
        """The rows that this model cannot be asked, id -> why. Raises UserError for a prompt that it cannot."""
        return refusals.refused(self.prompting, self.longest, self.card.name, samples, prompt)

    def rows_a_batch(self, tokens: int, workers: int = 1) -> int:
        """Questions that one of `workers` computes at once, where each takes at most about `tokens` tokens in all.

        `--batch-size` is what all of them have in hand together, so that a kill repeats no more than that.
        """
        if self._fixed_rows:
            return max(1, self._fixed_rows // workers)
        return max(8, min(MOST_ROWS.get(self._kind, 32), int(MOST_CACHE_MB.get(self._kind, 1_000) / (tokens * self._token_mb))))

    def _why_plain(self) -> str | None:
        """None when prefixes can be shared as far as can be known before a run, else the reason.

        Raises ModelError for a processor that cannot make a prompt of a picture and a question.
        """
        from PIL import Image

        picture, text = Image.linear_gradient("L").convert("RGB"), "What is shown?"
        with self._in_words("its processor cannot read a picture and a question"):
            official = self.prompting.inputs([Ask([picture], text)])["input_ids"][0].tolist()
        if why := parts.why_not_shared(self.model):
            return why
        try:
            found = self.prompting.openings([[picture]])
            chats = self.prompting.texts([Ask(1, text)])
            ours = found.inputs["input_ids"][0].tolist() + self.prompting.tails(found.border, chats)[0]
        except IndivisibleError as e:
            return str(e)
        return None if ours == official else "a prompt in two parts has other tokens than the model's own"

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        """An error of the checkpoint's own parts as a ModelError; want of memory stays what it is."""
        try:
            yield
        except Exception as e:
            if out_of_memory(e) or isinstance(e, UserError | BadImageError):
                raise
            raise ModelError(
                f"{self._label}: {what}: {type(e).__name__}: {loading.first_line(e)}",
                hint="is it an image-text model that chats? a server may know it: give --model openai/NAME --api-base URL",
            ) from e

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The processor's outputs where the model is, pixels in its number format."""
        return parts.on_device(inputs, self.model.device, self.model.dtype)

    # -- plain batches ------------------------------------------------------------------------------------------

    def _plain(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        by_images: dict[int, list[Sample]] = {}
        for s in sorted(samples, key=lambda s: len(s.question), reverse=True):
            by_images.setdefault(len(s.images), []).append(s)  # many processors take one number of pictures at a time
        # a drawn text must not depend on its batch, and `generate` draws for all rows from one seed
        most = 1 if args.temperature > 0 else self._fixed_rows or 32
        for alike in by_images.values():
            for batch in evenly(alike, most):
                for _, done in halving(lambda part: self._generate(part, prompt, args), batch):
                    yield done

    def _asked(self, samples: Sequence[Sample], prompt: Prompt) -> dict[str, Any]:
        """The model's inputs for a batch, by transformers' own call."""
        rows = [asked(prompt, s, _shown) for s in samples]
        with self._in_words("its processor cannot make a prompt"):
            return self._on_device(self.prompting.inputs(rows))

    @torch.inference_mode()
    def _generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> list[Prediction]:
        """One left-padded batch through the model's own `generate`."""
        inputs = self._asked(samples, prompt)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if args.temperature > 0:
            torch.manual_seed(engine.row_seed(args.seed, samples[0].id))
            sampling = {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
        width = inputs["input_ids"].shape[1]
        if stops := self.written.stops(args):
            sampling["stopping_criteria"] = stops.criteria(width)
        with self._in_words("its generate fails"):
            out = self.model.generate(**inputs, max_new_tokens=args.max_new_tokens, repetition_penalty=1.0, **sampling)
        rows = []
        for s, row, n in zip(samples, out[:, width:].tolist(), inputs["attention_mask"].sum(1).tolist(), strict=True):
            cut = next((i for i, t in enumerate(row) if t in self.end), None)
            rows.append(
                self.written.prediction(s, Completion(row[:cut], None if cut is None else row[cut], n), stops, self.longest)
            )
        return rows

    # -- shared prefix ------------------------------------------------------------------------------------------

    def _shared(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        """Packs in worker threads; batches come out as they finish, and a worker goes on when its last one is stored.

        On a CPU each worker computes a pack of its own on one core, which keeps small matrices busier than splitting
        each of them over all cores would; elsewhere a second worker loads images while the first computes.
        """
        threads = torch.get_num_threads()
        on_cpu = self.model.device.type == "cpu"
        workers = min(threads, self._fixed_rows or threads) if on_cpu else 2
        packs = self._packs(samples, workers if on_cpu else 1)
        workers = min(workers, len(packs)) if on_cpu else workers
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

    def _packs(self, samples: Sequence[Sample], workers: int = 1) -> list[Sequence[list[Sample]]]:
        """Groups of samples about the same pictures, some groups together; those of a pack have as many pictures and the same
        system turn.

        Every one of `workers` gets as many packs as the others, if there are enough groups, and packs have as many questions.
        """
        alike: dict[tuple[int, str | None], list[list[Sample]]] = {}
        for group in group_by_images(samples):
            alike.setdefault((len(group[0].images), group[0].system), []).append(group)
        packs: list[Sequence[list[Sample]]] = []
        for groups in alike.values():
            count = -(-len(groups) // self.pack_images)
            packs += balanced(groups, min(len(groups), -(-count // workers) * workers))
        return packs

    def _answer(
        self, groups: Sequence[list[Sample]], prompt: Prompt, args: GenerationArgs, workers: int
    ) -> Iterator[list[Prediction]]:
        """A pack's predictions, in batches of questions of similar length."""
        try:
            yield from self._answer_pack(self._open(groups, prompt), groups, prompt, args, workers)
        except IndivisibleError as e:  # raised before the pack's first row is answered
            self.sharing = f"off for some pictures: {e}"
            with self._computing:
                yield from self._plain([s for g in groups for s in g], prompt, args)

    def _open(self, groups: Sequence[list[Sample]], prompt: Prompt) -> tuple[Openings, list[list[list[int]]]]:
        """A pack's openings, and each question's tokens after them."""
        openings = self._read([g[0] for g in groups], prompt)
        chats = self.prompting.texts([asked(prompt, s) for g in groups for s in g])
        tails = iter(self.prompting.tails(openings.border, chats))
        return openings, [[next(tails) for _ in g] for g in groups]

    def _read(self, firsts: Sequence[Sample], prompt: Prompt) -> Openings:
        """The openings of prompts about these samples' pictures. Raises IndivisibleError."""
        rows = [asked(prompt, s, _shown) for s in firsts]
        return self.prompting.openings([row.pictures for row in rows], rows[0].system, rows[0].shots)

    def _answer_pack(
        self,
        read: tuple[Openings, list[list[list[int]]]],
        groups: Sequence[list[Sample]],
        prompt: Prompt,
        args: GenerationArgs,
        workers: int,
    ) -> Iterator[list[Prediction]]:
        openings, ids = read
        opening = _opening(ids)
        stops = self.written.stops(args)

        def prefill(pack: Sequence[int]) -> engine.Prefilled:
            inputs = openings.inputs
            if len(pack) < len(groups):  # memory ran out: read these alone
                inputs = self._read([groups[g][0] for g in pack], prompt).inputs
            return engine.prefill(self.model, self._on_device(inputs), opening)

        with self._computing:
            for pack, shared in halving(prefill, list(range(len(groups)))):
                rows = [(engine.Row(i, t, s.id), s) for i, g in enumerate(pack) for t, s in zip(ids[g], groups[g], strict=True)]
                rows.sort(key=lambda r: len(r[0].input_ids))

                def complete(batch: Sequence[tuple[engine.Row, Sample]], shared: engine.Prefilled = shared) -> list[Completion]:
                    rows = [row for row, _ in batch]
                    return engine.complete(self.model, shared, rows, args, pad=self.prompting.pad, end=self.end, over=stops)

                width, longest = shared.mask.shape[1], max(len(t) for g in pack for t in ids[g])
                most = self.rows_a_batch(width + longest + min(args.max_new_tokens, 128), workers)
                for batch in evenly(rows, most):
                    for part, done in halving(complete, batch):
                        yield [self.written.prediction(s, c, stops, self.longest) for (_, s), c in zip(part, done, strict=True)]

    def _prove(self, samples: Sequence[Sample], prompt: Prompt) -> str | None:
        """None where a few of the first pack's rows get the same text on a shared prefix and by `generate`, else why not."""
        groups = sorted(self._packs(samples)[0], key=len, reverse=True)[: proof.PICTURES]
        try:
            openings, ids = self._open(groups, prompt)
            self.pack_images = max(1, min(PACK_IMAGES, PACK_TOKENS.get(self._kind, 8_192) // max(openings.lengths)))
            chosen = proof.choose([len(g) for g in groups], ids)
            rows = [groups[g][i] for g, i in chosen]
            inputs = self._asked(rows, prompt)
            heads = [_unpadded(openings.inputs, g) for g, _ in chosen]
            if [head + ids[g][i] for head, (g, i) in zip(heads, chosen, strict=True)] != [
                _unpadded(inputs, k) for k in range(len(chosen))
            ]:
                return "a prompt in two parts has other tokens than the model's own"
        except Exception as e:
            return _why_apart(e)

        def shared() -> list[proof.Trace] | str | None:
            try:
                prefixes = engine.prefill(self.model, self._on_device(openings.inputs), _opening(ids))
                batch = [engine.Row(g, ids[g][i], str(i)) for g, i in chosen]
                return proof.shared(self.model, prefixes, batch, self.prompting.pad, self.end)
            except Exception as e:
                return _why_apart(e)

        def alone() -> list[proof.Trace]:
            return [t for s in rows for t in proof.generated(self.model, self._asked([s], prompt), self.end)]

        def plain() -> list[proof.Trace]:
            with self._in_words("its generate fails"):
                return proof.generated(self.model, inputs, self.end)

        ways: list[Callable[[], Any]] = [shared, plain]
        found, own = on_all_cores(lambda way: way(), ways) if self._kind == "cpu" else [way() for way in ways]
        if not isinstance(found, list):
            return found  # type: ignore[no-any-return]
        return proof.why_not(found, own, alone, self.model.dtype)


def _shown(image: ImageRef) -> Any:
    """The decoded picture. Raises DataError where it has gone since it was checked."""
    try:
        return image.open()
    except BadImageError as e:
        raise DataError(str(e), hint="is the file still there? run the same command again") from None


def _why_apart(e: Exception) -> str | None:
    """Why an unknown model's prefix is not shared, whatever it raised: its own `generate` decides what is an error."""
    if out_of_memory(e):
        return None  # the run itself makes its packs smaller
    if isinstance(e, IndivisibleError):
        return str(e)
    return f"the model cannot go on from a shared prefix ({type(e).__name__}: {loading.first_line(e)})"


def _opening(ids: Sequence[Sequence[list[int]]]) -> list[int]:
    """The tokens that every question begins with."""
    return ids[0][0][: engine.common_prefix([row for rows in ids for row in rows])]


def _unpadded(inputs: dict[str, Any], row: int) -> list[int]:
    """A left-padded row's own tokens."""
    return inputs["input_ids"][row][inputs["attention_mask"][row].bool()].tolist()  # type: ignore[no-any-return]
