"""vLLM in process: the model's own prompts, computed by vLLM.

    VllmModel("ckpt/", dtype="float32")              # harness run --backend vllm

vLLM gets the tokens of the chat template and the decoded pictures, and expands the pictures' markers itself. On the first rows
its prompt is compared with the one that the model's own processor makes, token for token. Its new tokens are read as those of
the transformers backend are. vLLM wants an environment of its own, in which the harness is installed too (docs/backends.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from harness import answers
from harness.errors import DataError, ModelError
from harness.models import loading, refusals
from harness.models.engine import end_tokens, row_seed
from harness.models.families import parts
from harness.models.families.prompting import Prompting, asked
from harness.models.overrides import Overrides
from harness.models.written import Completion, Written
from harness.prompts import Prompt
from harness.records import GenerationArgs, ImageRef, ModelCard, Prediction, Sample

#: Rows that are given to vLLM at once: it batches them itself, and what is finished is on disk before the next.
ROWS = 256
#: Rows whose prompts are compared with the model's own.
COMPARED = 4


class VllmModel:
    """Fulfils harness.contracts.Model with vLLM's engine. `images` is the most that one prompt shows, examples included."""

    def __init__(
        self,
        name: str,
        *,
        dtype: str = "auto",
        batch_size: int | None = None,
        images: int = 1,
        tags: answers.Tags = (),
        overrides: Overrides | None = None,
    ) -> None:
        loading.check_vllm()
        checkpoint = loading.resolve(name)
        if checkpoint.adapter:
            raise ModelError(f"{name}: is an adapter", hint="merge it for vLLM: harness train export CKPT OUT --merge")
        overrides = overrides or Overrides()
        self.processor = loading.load_processor(checkpoint)
        overrides.set_on(self.processor, checkpoint.name)
        self.prompting = Prompting(self.processor, checkpoint.name, overrides.chat_template_kwargs)
        config, rules = _settings(checkpoint.base)
        if why := parts.why_not_shared(SimpleNamespace(generation_config=rules)):
            raise ModelError(f"{name}: {why}", hint="use --backend transformers")
        self.end = end_tokens(SimpleNamespace(generation_config=rules), self.processor.tokenizer)
        bounds = {k: v for k, v in overrides.given().items() if k.endswith("pixels")}
        os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}  # nothing leaves the machine unasked
        from vllm import LLM

        try:
            self.llm = LLM(
                model=checkpoint.base, dtype=dtype, seed=0, trust_remote_code=False, load_format="safetensors",
                generation_config="vllm", max_model_len=-1, limit_mm_per_prompt={"image": max(1, images), "video": 0},
                **({"mm_processor_kwargs": bounds} if bounds else {}),
            )  # fmt: skip
        except Exception as e:  # whatever vLLM meets first: an architecture it has not, memory, a broken file
            raise ModelError(
                f"{name}: vLLM cannot load it: {loading.first_line(e)}",
                hint="use --backend transformers, or see vLLM's own output",
            ) from e
        found = self.llm.llm_engine.model_config
        self.longest = min(found.max_model_len, parts.longest_prompt(config) or found.max_model_len)
        self.written = Written(self.processor.tokenizer, tags)
        self._rows = batch_size or ROWS
        self._card = overrides.on_card(
            ModelCard(
                name=checkpoint.name, path="tiny" if checkpoint.name == "tiny" else checkpoint.base, backend="vllm",
                architecture=next(iter(config.architectures or ()), None), dtype=str(found.dtype).removeprefix("torch."),
                weights_sha256=loading.weights_sha256(checkpoint), settings_sha256=loading.settings_sha256(checkpoint),
                device=_device(), trainer=checkpoint.trainer, opening="once" if self.prompting.writes_opening() else None,
            )
        )  # fmt: skip

    @property
    def card(self) -> ModelCard:
        return self._card

    def refused(self, samples: Sequence[Sample], prompt: Prompt) -> dict[str, str]:
        """The rows that this model cannot be asked, id -> why. Raises UserError for a prompt that it cannot."""
        return refusals.refused(self.prompting, self.longest, self.card.name, samples, prompt)

    def generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        """Raises ModelError where vLLM's prompt is not the model's own."""
        for name, bad in self.refused(samples, prompt).items():
            raise DataError(f"row {name}: {bad}", hint="mend the row")
        if samples:
            self.written.begin(self.prompting.texts([asked(prompt, samples[0])._replace(text="?")])[0])
        stops = self.written.stops(args)
        ordered = sorted(samples, key=lambda s: [i.sha256 for i in s.images])  # vLLM's prefix cache meets each picture once
        for start in range(0, len(ordered), self._rows):
            batch = ordered[start : start + self._rows]
            done = self.llm.generate(
                [self._prompt(prompt, s) for s in batch], [self._sampling(s, args) for s in batch], use_tqdm=False
            )
            if not start:
                self._compare(batch[:COMPARED], prompt, done)
            yield [
                self.written.prediction(s, self._completion(out), stops, self.longest) for s, out in zip(batch, done, strict=True)
            ]

    def _prompt(self, prompt: Prompt, sample: Sample) -> dict[str, Any]:
        """The chat template's tokens, one marker for each picture, and the pictures."""
        (chat,) = self.prompting.texts([asked(prompt, sample)])
        pictures = asked(prompt, sample, ImageRef.open).pictures
        found = {"prompt_token_ids": self.prompting.tokens([chat])[0]}
        return found | ({"multi_modal_data": {"image": list(pictures)}} if pictures else {})

    def _sampling(self, sample: Sample, args: GenerationArgs) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=args.max_new_tokens, temperature=args.temperature, top_p=args.top_p, stop=list(args.stop) or None,
            stop_token_ids=sorted(self.end), seed=row_seed(args.seed, sample.id) if args.temperature > 0 else None,
        )  # fmt: skip

    def _completion(self, out: Any) -> Completion:
        tokens = list(out.outputs[0].token_ids)
        end = tokens.pop() if tokens and tokens[-1] in self.end else None
        return Completion(tokens, end, len(out.prompt_token_ids))

    def _compare(self, samples: Sequence[Sample], prompt: Prompt, done: Sequence[Any]) -> None:
        for sample, out in zip(samples, done, strict=False):
            own = self.prompting.inputs([asked(prompt, sample, ImageRef.open)])["input_ids"][0].tolist()
            if own != list(out.prompt_token_ids):
                raise ModelError(
                    f"{self.card.name}: vLLM's prompt for row {sample.id} is not the model's own "
                    f"({len(out.prompt_token_ids)} tokens, {len(own)} by its processor)",
                    hint="use --backend transformers",
                )


def _settings(base: str) -> tuple[Any, Any]:
    """A checkpoint's configuration, and its rules of generation. Raises ModelError."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except Exception as e:  # a broken file raises whatever its reader meets first
        raise ModelError(f"{base}: cannot be loaded: {loading.first_line(e)}", hint="is the checkpoint whole?") from None
    try:
        return config, GenerationConfig.from_pretrained(base)
    except OSError:  # there is none
        return config, GenerationConfig.from_model_config(config)


def _device() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.device_type)
