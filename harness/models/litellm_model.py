"""The API backend: any LiteLLM model, or any OpenAI-compatible server (vLLM, transformers serve, Ollama).

    LitellmModel("openai/gpt-4o-mini", allow_external=True)
    LitellmModel("openai/NAME@http://127.0.0.1:8000/v1")
    LitellmModel("hosted_vllm/NAME", api_base="http://127.0.0.1:8000/v1")

Requests run concurrently and finish in any order. One that fails in the end is a prediction with finish "error" and the
reason: a judge counts it as missing, never as a wrong answer.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from harness import answers
from harness.errors import ModelError, UserError
from harness.images import MAX_BYTES, portable
from harness.models.api_client import GIVE_UP_AFTER, IN_A_ROW, Client, RequestFailed
from harness.models.endpoint import Endpoint
from harness.models.flight import in_flight
from harness.models.overrides import Overrides
from harness.models.stops import cut
from harness.models.usage import Usage
from harness.prompts import Prompt, parts
from harness.records import BadImageError, GenerationArgs, ImageRef, ModelCard, Prediction, Sample

#: Seconds after which finished predictions are handed on, though the batch is not full.
FLUSH = 2.0


@functools.lru_cache(maxsize=64)
def data_url(image: ImageRef) -> str:
    """The image as a data URL, without metadata and small enough for any vendor. Raises BadImageError."""
    sent = portable(image, max_bytes=MAX_BYTES)
    return f"data:{sent.media_type};base64,{base64.b64encode(sent.data).decode()}"


def request_seed(seed: int, sample_id: str) -> int:
    """A row's own seed, as in process: several samples of one question would all be the same text under one seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()[:4], "big") >> 1


def by_image(samples: Sequence[Sample]) -> list[Sample]:
    """Questions about one image stand together, so that a server with a prefix cache meets it once."""
    groups: dict[str, list[Sample]] = {}
    for s in samples:
        groups.setdefault("|".join(i.name for i in s.images), []).append(s)
    return [s for group in groups.values() for s in group]


def _user(text: str, images: Sequence[ImageRef]) -> dict[str, Any]:
    """A user's turn."""
    if not images:
        return {"role": "user", "content": text}
    content: list[dict[str, Any]] = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image_url", "image_url": {"url": data_url(images[p])}}
        for p in parts(text, len(images))
    ]
    return {"role": "user", "content": content}


class LitellmModel:
    """Fulfils harness.contracts.Model over HTTP.

    At most `max_in_flight` requests are open at once; predictions are handed on in batches of `batch_size`, or every two
    seconds. `timeout` (one try) and `deadline` (one request with its retries) are seconds. Raises ModelError for a
    name that cannot be used or a vendor whose key is not set, UserError for an external endpoint without `allow_external`;
    whether a task's rows may leave is asked of harness.models.endpoint.check_may_leave first.
    """

    def __init__(
        self,
        name: str,
        *,
        api_base: str | None = None,
        allow_external: bool = False,
        max_in_flight: int = 16,
        batch_size: int = 32,
        timeout: float = 120.0,
        deadline: float = 600.0,
        retries: int = 5,
        overrides: Overrides | None = None,
    ) -> None:
        self.endpoint = Endpoint.parse(name, api_base)
        if not self.endpoint.is_local and not allow_external:
            raise UserError(f"{name}: answered by {self.endpoint.where}", hint="pass --allow-external if rows may leave")
        self._overrides = overrides or Overrides()
        self._check_overrides()
        self.client = Client(self.endpoint, timeout=timeout, deadline=deadline, retries=retries)
        self.max_in_flight, self.batch_size = max_in_flight, batch_size
        self.usage = Usage()
        #: What the user should know about how requests are sent.
        self.notes: list[str] = []
        litellm = self.client.litellm
        try:
            model, provider, _, _ = litellm.get_llm_provider(self.endpoint.model, api_base=self.endpoint.api_base)
        except Exception:
            raise ModelError(f"{name}: LiteLLM knows no such provider", hint="write PROVIDER/NAME") from None
        self.supported = set(litellm.get_supported_openai_params(model=model, custom_llm_provider=provider) or ())
        self._silent = self._filtered = 0
        if "seed" not in self.supported:
            self.notes.append(f"{self.endpoint.model} takes no seed: a text may differ from run to run")
        if self.endpoint.api_base is None:
            needed = litellm.validate_environment(self.endpoint.model)
            if not needed["keys_in_environment"] and needed["missing_keys"]:
                raise ModelError(f"{name}: no key", hint=f"set {' and '.join(needed['missing_keys'])}")

    @property
    def left_away(self) -> list[str]:
        """Parameters that the server refused, and was asked without."""
        return [name for name, other in self.client.untaken.items() if other is None]

    @property
    def card(self) -> ModelCard:
        """The name asked for, and as `path` the address that answers. `usage.served` tells which model answered."""
        return self._overrides.on_card(ModelCard(name=self.endpoint.model, path=self.endpoint.api_base, backend="litellm"))

    def _check_overrides(self) -> None:
        """Raises UserError for what cannot be sent: a server makes its pictures smaller itself, a vendor has its own template."""
        if self._overrides.min_pixels or self._overrides.max_pixels:
            raise UserError(
                "--min-pixels and --max-pixels are settings of a model in process",
                hint="give them to the server, as in: vllm serve NAME --mm-processor-kwargs '{\"max_pixels\": 1003520}'",
            )
        if self._overrides.chat_template_kwargs and not self.endpoint.takes_template_kwargs:
            raise UserError(
                f"--chat-template-kwargs: {self.endpoint.where} takes none", hint="only servers named by --api-base do"
            )

    def generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        """Yield finished predictions. Raises ModelError where no further request could succeed (a wrong key, a server that is
        down); what was finished before is yielded first."""
        if samples:
            self._check(self._sent(samples[0], args))
        jobs = (functools.partial(self._answer, s, prompt, args) for s in by_image(samples))
        return in_flight(jobs, at_most=self.max_in_flight, batch=self.batch_size, flush=FLUSH, close=self.client.close)

    def _check(self, sent: dict[str, Any]) -> None:
        """Raises ModelError where LiteLLM knows, before anything is sent, that the model does not take what would be."""
        try:
            self.client.drop_untaken(sent, optional=("seed",))
        except RequestFailed as e:
            raise ModelError(f"{self.endpoint.model}: {e}", hint=self._hint(e)) from None

    async def _answer(self, sample: Sample, prompt: Prompt, args: GenerationArgs) -> Prediction:
        try:
            reply = await self.client.ask(self._messages(sample, prompt), optional=("seed",), **self._sent(sample, args))
        except RequestFailed as e:
            return self._failed(sample, e)
        except BadImageError as e:
            return self._error(sample, str(e))
        self._silent = 0
        self.usage.add(reply)
        if reply.finish == "filter":
            self._filtered += 1
            if GIVE_UP_AFTER <= self._filtered == self.usage.answered:
                raise ModelError(
                    f"{self.endpoint.model}: the vendor's content filter withheld the first {self._filtered} answers"
                )
            return self._error(sample, "withheld by the vendor's content filter")
        text = cut(reply.text, args.stop)  # a server may leave a stop string in, or not know of any
        reasoning, answer = answers.read(text)
        finish = reply.finish if text == reply.text else "stop"
        return Prediction(
            sample_id=sample.id, text=text, reasoning=reasoning, answer=answer, finish=finish,
            prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens,
        )  # fmt: skip

    def _failed(self, sample: Sample, e: RequestFailed) -> Prediction:
        """The row's error. Raises ModelError where no further request could succeed."""
        self.usage.failed += 1
        self._silent = self._silent + 1 if e.silent else 0
        where = f"{self.endpoint.model} at {self.endpoint.api_base or self.endpoint.where}"
        if e.fatal:
            raise ModelError(f"{where}: {e}", hint=self._hint(e)) from None
        if not (e.withheld or self.usage.answered) and self.usage.failed >= GIVE_UP_AFTER:
            asked = "is the server up, its address right, and its model one that takes images?"
            raise ModelError(f"{where}: the first {self.usage.failed} requests all failed: {e}", hint=e.hint or asked) from None
        if self._silent >= IN_A_ROW:
            raise ModelError(
                f"{where}: {self._silent} requests in a row got no answer: {e}",
                hint="answers so far are kept; run the same command again when the server answers",
            ) from None
        return self._error(sample, str(e))

    @staticmethod
    def _error(sample: Sample, reason: str) -> Prediction:
        return Prediction(
            sample_id=sample.id, text="", reasoning=None, answer=None, finish="error", prompt_tokens=0, completion_tokens=0,
            error=reason,
        )  # fmt: skip

    @staticmethod
    def _messages(sample: Sample, prompt: Prompt) -> list[dict[str, Any]]:
        """System turn, examples, images and text in the order in which a model in process sees them."""
        system = sample.system or prompt.system
        chat: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        for shot in prompt.shots:
            chat.append(_user(prompt.render(shot.question), shot.images))
            chat.append({"role": "assistant", "content": shot.answer})
        for said, answer in sample.history:
            chat += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        return [*chat, _user(prompt.render(sample.question), sample.images)]

    def _sent(self, sample: Sample, args: GenerationArgs) -> dict[str, Any]:
        sent: dict[str, Any] = {"temperature": args.temperature, "max_tokens": args.max_new_tokens}
        if args.stop:
            sent["stop"] = list(args.stop)
        if self._overrides.chat_template_kwargs:
            sent["extra_body"] = {"chat_template_kwargs": dict(self._overrides.chat_template_kwargs)}
        # a vendor may refuse top_p beside temperature; a server may have another default in the model's folder
        if args.top_p != 1 or self.endpoint.api_base is not None:
            sent["top_p"] = args.top_p
        if "seed" in self.supported:
            sent["seed"] = args.seed if args.temperature <= 0 else request_seed(args.seed, sample.id)
        return sent

    def _hint(self, e: RequestFailed) -> str:
        if e.kind == "parameter" and "temperature" in f"{e} {e.hint}":
            return "this model takes no such temperature; try --temperature 1"
        if self.endpoint.key_variable == "HARNESS_API_KEY":
            return f"{e.hint or 'the server refuses every request'} (its key is read from HARNESS_API_KEY)"
        return e.hint or "check the model's name and the vendor's key"
