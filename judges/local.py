"""Local judge (`--judge local:PATH`): a transformers model in this process, asked through LiteLLM.

PATH is a folder (text or image-text model), a hub id, `tiny`, or a .gguf file. Nothing leaves the machine. Rows that wait are
generated together, in the order they came.
"""

from __future__ import annotations

import asyncio
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.contracts import JudgeOptions
from harness.errors import ModelError, UserError
from harness.models import adapters, loading, weights
from harness.models.api_client import load_litellm
from harness.models.endpoint import Endpoint
from judges.llm import LlmJudge

#: Rows that are generated together.
BATCH = 16
PROVIDER = "harness_local"


class LocalModel:
    """Tokenizer and model of `path`; `answer` turns chats into texts, greedily."""

    def __init__(self, path: str, device: str = "auto") -> None:
        self.path, self.device = path, device
        self.file = Path(path) if path.endswith(".gguf") else None
        if self.file is not None and not self.file.is_file():
            raise ModelError(f"{path}: no such file")
        self.checkpoint = None if self.file else loading.resolve(path)

    @cached_property
    def identity(self) -> str:
        """Hash of the weights and settings."""
        if self.file is not None:
            with open(self.file, "rb") as f:
                return hashlib.file_digest(f, "sha256").hexdigest()
        assert self.checkpoint is not None
        return f"{loading.weights_sha256(self.checkpoint) or self.path} {loading.settings_sha256(self.checkpoint)}"

    def load(self) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        device = loading.pick_device(self.device)
        dtype = loading.pick_dtype("auto", device)
        if self.checkpoint is not None and self._is_image_text():
            processor = loading.load_processor(self.checkpoint)
            self.tokenizer = processor.tokenizer
            self.tokenizer.chat_template = processor.chat_template
            self.model = loading.load_weights(self.checkpoint, dtype, device)
            weights.check_vocabulary(self.path, self.model, processor)
            return
        where = str(self.file.parent) if self.file else self.checkpoint.base  # type: ignore[union-attr]
        how: dict[str, Any] = {"gguf_file": self.file.name} if self.file else {}
        self.tokenizer = loading.load_tokenizer(self.checkpoint.tokenizer if self.checkpoint else where, self.path, **how)
        self.model = weights.load(
            AutoModelForCausalLM, where, self.path, dtype=dtype, **(how if self.file else {"use_safetensors": True})
        )
        if self.checkpoint is not None and self.checkpoint.adapter:
            self.model = adapters.put_on(self.model, self.checkpoint.adapter)
        self.model = self.model.to(device).eval()
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def _is_image_text(self) -> bool:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

        assert self.checkpoint is not None
        return AutoConfig.from_pretrained(self.checkpoint.base, trust_remote_code=False).model_type in KNOWN

    def answer(self, chats: list[list[dict[str, str]]], max_tokens: int) -> list[tuple[str, bool, int, int]]:
        """(text, whether it ended by itself, tokens read, tokens written) of each chat."""
        texts = [self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
        batch = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(self.model.device)
        written = self.model.generate(
            **batch, max_new_tokens=max_tokens, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
        )[:, batch["input_ids"].shape[1] :]
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        out = []
        for read, ids in zip(batch["attention_mask"].sum(1).tolist(), written.tolist(), strict=True):
            stop = next((i for i, t in enumerate(ids) if t in ends), len(ids))
            text = self.tokenizer.decode(ids[:stop], skip_special_tokens=True)
            out.append((text, stop < len(ids), read, stop))
        return out


class Provider:
    """Registers a model with LiteLLM under harness_local/NAME and batches what is asked of it."""

    def __init__(self, name: str, model: LocalModel) -> None:
        #: Of this very model: two may have folders of one name.
        self.name, self.model = provider_of(model), model
        self.waiting: list[tuple[list[dict[str, str]], int, asyncio.Future[Any]]] = []
        self.worker: asyncio.Task[None] | None = None
        self._register(name)

    def _register(self, name: str) -> None:
        litellm = load_litellm()
        ask = self.ask

        class InProcess(litellm.CustomLLM):  # type: ignore[name-defined,misc]
            async def acompletion(self, *args: Any, **kwargs: Any) -> Any:
                limit = kwargs["optional_params"].get("max_tokens", 256)
                text, ended, read, written = await ask(kwargs["messages"], limit)
                response = kwargs["model_response"]
                response.model = name
                response.choices[0].message.content = text
                response.choices[0].finish_reason = "stop" if ended else "length"
                response.usage = litellm.Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)
                return response

        others = [p for p in litellm.custom_provider_map if p["provider"] != self.name]
        litellm.custom_provider_map = [*others, {"provider": self.name, "custom_handler": InProcess()}]
        litellm.utils.custom_llm_setup()

    async def ask(self, chat: list[dict[str, str]], max_tokens: int) -> tuple[str, bool, int, int]:
        result: asyncio.Future[tuple[str, bool, int, int]] = asyncio.get_running_loop().create_future()
        self.waiting.append((chat, max_tokens, result))
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())
        return await result

    async def _work(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            try:
                texts = await asyncio.to_thread(self.model.answer, [c for c, _, _ in batch], max(n for _, n, _ in batch))
            except Exception as e:  # out of memory, a template that refuses the chat
                for _, _, result in batch:
                    if not result.done():
                        result.set_exception(RuntimeError(f"{type(e).__name__}: {e}"))
                continue
            for (_, _, result), text in zip(batch, texts, strict=True):
                if not result.done():
                    result.set_result(text)


def provider_of(model: LocalModel) -> str:
    return f"{PROVIDER}_{hashlib.sha256(model.identity.encode()).hexdigest()[:12]}"


class LocalJudge(LlmJudge):
    """An LlmJudge whose endpoint is this process; the model is loaded when the first row needs it."""

    def __init__(self, path: str, options: JudgeOptions) -> None:
        self.model = LocalModel(path, options.device)
        short = self.model.file.stem if self.model.file else self.model.checkpoint.name  # type: ignore[union-attr]
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in short)
        self.provider: Provider | None = None
        endpoint = Endpoint(f"{provider_of(self.model)}/{name}", None, in_process=True)
        super().__init__(f"local:{name}", endpoint, options, identity=self.model.identity)

    def _settle_parameters(self) -> None:
        if self.provider is None:
            self.model.load()
            self.provider = Provider(self.name.removeprefix("local:"), self.model)
        for asked in ("seed", "temperature"):  # greedy: both mean nothing here
            self.parameters.pop(asked, None)


def create(argument: str, options: JudgeOptions) -> LocalJudge:
    """The factory behind `--judge local:PATH`."""
    if not argument:
        raise UserError("--judge local: names no model", hint="write local:PATH, with a folder, a hub id, or a .gguf file")
    return LocalJudge(argument, options)
