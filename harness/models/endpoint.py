"""Where an API model's requests go, and whether a task's rows may go there.

    Endpoint.parse("openai/gpt-4o-mini")                            a vendor: external
    Endpoint.parse("openai/NAME@http://127.0.0.1:8000/v1")          a server of one's own: local
    Endpoint.parse("hosted_vllm/NAME", "http://gpu7:8000/v1")       a vLLM server on another machine: external

Local means this machine (a loopback address), for that is what the promise is about: no row leaves it unasked.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness.data import LoadedTask
from harness.errors import ModelError, UserError
from harness.records import ImageRef
from harness.shown import asked

#: LiteLLM's providers that take images; a name that starts with one of them is an API model, any other owner/name a hub id.
PROVIDERS = (
    "anthropic", "azure", "azure_ai", "bedrock", "cohere", "dashscope", "databricks", "deepinfra", "deepseek", "fireworks_ai",
    "gemini", "github", "groq", "hosted_vllm", "litellm_proxy", "lm_studio", "mistral", "moonshot", "nvidia_nim", "ollama",
    "ollama_chat", "openai", "openrouter", "perplexity", "sagemaker", "sambanova", "snowflake", "together_ai", "vertex_ai",
    "watsonx", "xai",
)  # fmt: skip
#: Providers that are a server of the user's own and have no address until one is given.
_NEED_BASE = ("hosted_vllm", "litellm_proxy", "lm_studio", "ollama", "ollama_chat")
#: Providers whose servers speak the OpenAI API: with an address on this machine, nothing but that address is asked.
_OPENAI_LIKE = ("openai", "hosted_vllm", "litellm_proxy", "lm_studio", "ollama", "ollama_chat")
_AT_SERVER = re.compile(r"(?P<model>.+?)@(?P<base>https?://.+)")


def is_api_model(name: str) -> bool:
    """Whether `--model NAME` means a LiteLLM name and not a folder or a hub id. A folder of that name wins."""
    if _AT_SERVER.fullmatch(name):
        return True
    return name.partition("/")[0] in PROVIDERS and "/" in name and not Path(name).exists()


@dataclass(frozen=True)
class Endpoint:
    """A LiteLLM model name and the address that answers for it (None: the vendor's own)."""

    model: str
    api_base: str | None
    #: Holds the key to send, when it is not the variable that LiteLLM reads for the vendor.
    key_variable: str | None = None
    #: Answered by this very process (LiteLLM's CustomLLM): nothing is sent anywhere.
    in_process: bool = False

    @classmethod
    def parse(cls, name: str, api_base: str | None = None) -> Endpoint:
        """Read `--model` and `--api-base`. Raises ModelError for a name or an address that cannot be used.

        An address given by the environment (OPENAI_BASE_URL, ...) is taken here, so that it is checked and recorded. A vendor's
        key (OPENAI_API_KEY) goes to the vendor, or to the address that stands beside it in the environment; to an
        address named on the command line goes HARNESS_API_KEY, so that a key never reaches a server it is not for.
        """
        key_variable = None
        if found := _AT_SERVER.fullmatch(name):
            if api_base is not None:
                raise ModelError(f"{name}: names a server, and so does --api-base", hint="give one of the two")
            name, api_base = found["model"], found["base"]
        provider, _, rest = name.partition("/")
        if not rest and api_base is not None:
            provider, name = "openai", f"openai/{name}"
        elif not rest:
            raise ModelError(f"{name}: not a LiteLLM name", hint="write PROVIDER/NAME, as openai/gpt-4o-mini")
        if api_base is not None:
            key_variable = "HARNESS_API_KEY"
        else:
            for variable in (f"{provider.upper()}_BASE_URL", f"{provider.upper()}_API_BASE"):
                if os.environ.get(variable):
                    api_base, key_variable = os.environ[variable], f"{provider.upper()}_API_KEY"
                    break
        if api_base is None and provider in _NEED_BASE:
            raise ModelError(f"{name}: needs its server's address", hint="give --api-base http://HOST:PORT/v1")
        if api_base is not None:
            try:
                parts = urlsplit(api_base)
            except ValueError as e:  # half a bracket
                raise ModelError(f"--api-base {api_base}: not an address: {e}", hint="give http://HOST:PORT/v1") from None
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ModelError(f"--api-base {api_base}: not an address", hint="give http://HOST:PORT/v1")
            if parts.username or parts.password or parts.query:
                shown = f"{parts.scheme}://{parts.hostname}"
                raise ModelError(f"--api-base {shown}: holds a user, password or query", hint="put the key in HARNESS_API_KEY")
        return cls(name, api_base, key_variable)

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]

    @property
    def host(self) -> str | None:
        return urlsplit(self.api_base).hostname if self.api_base else None

    @property
    def where(self) -> str:
        """Who receives a request, in words."""
        if self.in_process:
            return "this process"
        if self.provider not in _OPENAI_LIKE:
            return f"the vendor '{self.provider}'"
        return self.host or f"the vendor '{self.provider}'"

    @property
    def is_local(self) -> bool:
        """Whether requests stay on this machine.

        An address here is not enough: the other providers' clients sign in elsewhere first, or do not heed it.
        """
        if self.host is None:
            return self.in_process
        if self.provider not in _OPENAI_LIKE:
            return False
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def takes_template_kwargs(self) -> bool:
        """Whether it is a server of open weights, which renders a chat template (vLLM, SGLang, LMDeploy)."""
        return self.api_base is not None and self.provider in _OPENAI_LIKE

    def api_key(self) -> str | None:
        """The key to send; None leaves it to LiteLLM, "none" is for a server that wants none."""
        if self.key_variable is None:
            return None
        return os.environ.get(self.key_variable) or ("none" if self.key_variable == "HARNESS_API_KEY" or self.is_local else None)


@dataclass(frozen=True)
class Outgoing:
    """What asking about a task sends: requests, distinct images, and bytes of images as files (a third more on the wire)."""

    task: str
    questions: int
    #: The spec's word on whether its rows may leave this machine.
    may_leave: bool
    images: int = 0
    image_bytes: int = 0
    #: How often each question is asked (--num-samples); `questions` counts the requests.
    repeats: int = 1

    def __str__(self) -> str:
        pictures = f", {self.images} images ({self.image_bytes / 1e6:.1f} MB over all requests)" if self.images else ""
        return f"{self.task}: {asked(self.questions, self.repeats)}{pictures}"


def outgoing(task: LoadedTask, *, images: bool = True, before: Sequence[ImageRef] = ()) -> Outgoing:
    """Count what would be sent; `before` are pictures of examples, which go with every question.

    Without `images` only text is sent (a judge never gets the image).
    """
    sizes: dict[str, int] = {}
    total = 0
    for sample in task.samples if images else ():
        for image in (*before, *sample.images):
            if image.name not in sizes:
                sizes[image.name] = len(image.content)
            total += sizes[image.name]
    return Outgoing(task.spec.name, len(task.samples), task.spec.may_leave_machine, len(sizes), total, task.card.repeats)


def check_may_leave(sent: Sequence[Outgoing], endpoint: Endpoint, *, allow_external: bool) -> str | None:
    """What will be sent, to whom and how much, to be shown before it is; None when nothing leaves this machine.

    Raises UserError unless the user allowed external calls and every task's spec says `may_leave_machine: true`. No flag
    overrides a spec.
    """
    if endpoint.is_local:
        return None
    if kept := [o.task for o in sent if not o.may_leave]:
        raise UserError(
            f"task '{kept[0]}' may not leave this machine, and {endpoint.model} is answered by {endpoint.where}",
            hint="use a local model; where licence and ethics permit it, its YAML can say may_leave_machine: true",
        )
    what = "; ".join(str(o) for o in sent)
    if not allow_external:
        raise UserError(
            f"this would be sent to {endpoint.where}: {what}", hint="pass --allow-external if these rows may leave this machine"
        )
    return f"sending to {endpoint.where} (as {endpoint.model}): {what}"
