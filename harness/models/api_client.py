"""One chat request over LiteLLM: our own retries, a total deadline, errors without keys.

LiteLLM's retries are switched off: by default it makes three hits where one was asked for, and its timeout is per try.
Here a request is tried again after 408, 409, 429, any 5xx, a timeout or a lost connection, waits as long as the server's
Retry-After asks or a growing time with jitter, and ends at its deadline whatever happens.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import json
import logging
import os
import random
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from aiolimiter import AsyncLimiter

from harness.models import failures
from harness.models.endpoint import Endpoint
from harness.models.failures import Failure, Kind
from harness.models.usage import Limits, Price, Reply

#: With this many requests failed and none answered, none will be: a server that is down, or a model without images.
GIVE_UP_AFTER = 8
#: A server that has answered before is given up when this many requests in a row, each with all its tries, get no answer.
IN_A_ROW = 32


class RequestFailed(Exception):
    """A request that got no answer; the message holds no key. `hint` is the way out, where one is known."""

    #: Tries that got no answer and may have been billed all the same.
    lost = 0

    def __init__(self, reason: str, kind: Kind, hint: str | None = None) -> None:
        super().__init__(reason)
        self.kind, self.hint = kind, hint

    @property
    def fatal(self) -> bool:
        """The next request would fail in the same way."""
        return self.kind in ("final", "parameter")

    @property
    def withheld(self) -> bool:
        """The server works, but gives no answer to this very request (a content filter, an empty reply)."""
        return self.kind == "withheld"

    @property
    def silent(self) -> bool:
        """The server gave no answer within all tries."""
        return self.kind in ("busy", "lost")


def load_litellm() -> Any:
    """Import LiteLLM (4-8 s) so that it fetches no price list, reads no .env file and prints nothing of its own."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    import litellm

    gc.freeze()  # a hundred thousand objects that no later collection need look at: a tenth of a request's time
    atexit.register(gc.unfreeze)  # the last collection must see them
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = False  # a temperature is never dropped in silence
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # its warnings quote requests
    return litellm


def encodable(text: str) -> str:
    """The text with every lone half of a character pair replaced: no file could hold it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def worst_tokens(messages: Iterable[dict[str, Any]]) -> int:
    """More tokens than these messages of text can take: a token is at least a byte, and a message's frame takes a few."""
    return sum(len(str(m["content"]).encode()) + 16 for m in messages)


def _as_taken(sent: dict[str, Any], untaken: dict[str, str | None]) -> dict[str, Any]:
    """What is sent to a server that does not take some parameters, or takes them under another name."""
    named = {untaken.get(k, k): v for k, v in sent.items()}
    return {k: v for k, v in named.items() if k is not None}


def _words(message: Any) -> tuple[str, str, str]:
    """(content, thinking, refusal): what a model said, wherever it stands. A call of a tool is what it said with it."""
    extra = getattr(message, "provider_specific_fields", None) or {}
    refusal = getattr(message, "refusal", None) or extra.get("refusal") or ""
    content = message.content or ""
    if not content:
        calls = [getattr(c, "function", None) for c in getattr(message, "tool_calls", None) or ()]
        calls.append(getattr(message, "function_call", None))
        content = "\n".join(str(c.arguments) for c in calls if c is not None and c.arguments)
    return str(content), str(getattr(message, "reasoning_content", None) or ""), str(refusal)


async def _plain_content(response: Any) -> None:
    """Make content that is a list of parts, or an object, one text: LiteLLM takes no other for an answer."""
    body = await response.aread()
    try:
        reply = json.loads(body)
        messages = [choice["message"] for choice in reply["choices"]]
        if all(isinstance(m.get("content"), str | None) for m in messages):
            return
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    for message in messages:
        parts = message["content"]
        if not isinstance(parts, list):
            message["content"] = parts if isinstance(parts, str | None) else json.dumps(parts)
            continue
        texts: dict[bool, list[str]] = {True: [], False: []}
        for part in parts:
            thought = isinstance(part, dict) and str(part.get("type", "")).startswith(("think", "reason"))
            texts[thought].append(_part(part))
        message["content"] = "".join(texts[False])
        if texts[True]:
            message["reasoning_content"] = "".join(texts[True])
    response._content = json.dumps(reply).encode()


def _part(part: Any) -> str:
    """The text of one part of a message, which may hold parts of its own."""
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "".join(map(_part, part))
    if not isinstance(part, dict):
        return json.dumps(part)
    found = next((part[k] for k in ("text", "thinking", "reasoning", "refusal", "content") if k in part), None)
    return json.dumps(part) if found is None else _part(found)


class _Inline(ThreadPoolExecutor):
    """Runs what it is given at once, in the loop's own thread.

    LiteLLM prepares each request in a worker thread, a millisecond of pure Python: 64 of them and the loop wait for each other.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as e:
            done.set_exception(e)
        return done


class Client:
    """Asks one endpoint. `timeout` is for one try and `deadline` for a request with all its tries, both in seconds."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float = 120.0,
        deadline: float = 600.0,
        retries: int = 5,
        limits: Limits | None = None,
        price: Price | None = None,
    ) -> None:
        self.endpoint, self.timeout, self.deadline, self.retries = endpoint, timeout, deadline, retries
        self.limits = limits or Limits()
        self.litellm = load_litellm()
        if endpoint.is_local and not endpoint.in_process:
            importlib.import_module("openai.resources.chat")  # a second that the first request would wait for
            # LiteLLM looks every reply's price up, ten times over; in a list that lacks the model that takes half a millisecond
            name = endpoint.model.partition("/")[2]
            known = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0}
            self.litellm.register_model({name: known, f"openai/{name}": known})
        self._key = endpoint.api_key()
        self._given_price = price
        #: None where it is not known; it is never taken to be nothing.
        self.price = price or self._list_price()
        self._secrets = failures.secrets()
        #: Parameters that the server has refused, and what is sent in their place.
        self.untaken: dict[str, str | None] = {}
        self._reached = False
        self._turns: list[tuple[AsyncLimiter, bool]] | None = None
        self._direct: Any = None
        self._jitter = random.Random()  # not seeded: several clients must not retry in step

    def drop_untaken(self, sent: dict[str, Any], optional: Collection[str]) -> None:
        """Find out, without asking anyone, which of `sent` LiteLLM knows the model not to take; `optional` ones are left away.

        Raises RequestFailed where another one is not taken.
        """
        e = self.endpoint
        model, provider, _, _ = self.litellm.get_llm_provider(e.model, api_base=e.api_base)
        for name, value in sent.items():
            if name == "extra_body":  # for the server alone
                continue
            try:
                self.litellm.utils.get_optional_params(model=model, custom_llm_provider=provider, **{name: value})
            except self.litellm.exceptions.UnsupportedParamsError as error:
                if name not in optional:
                    hint = f"this model does not take '{name}' as it would be sent"
                    raise RequestFailed(failures.redact(str(error).split("To drop")[0]), "parameter", hint) from None
                self.untaken[name] = None

    async def ask(self, messages: list[dict[str, Any]], *, optional: Collection[str] = (), **sent: Any) -> Reply:
        """The reply to one chat request; `sent` are its parameters. Raises RequestFailed when there is none by the deadline.

        Those of `optional` that the server does not take are left away, from then on for every request: `untaken` tells.
        """
        clock = asyncio.get_running_loop().time
        await self._turn(messages, sent)
        end = clock() + self.deadline  # waiting for the first turn is not the request's own time
        tries = lost = 0
        without: dict[str, str | None] = {}
        while True:
            tries += 1
            seconds = min(self.timeout, end - clock())
            result = await self._once(messages, _as_taken(sent, self.untaken | without), seconds, tries - len(without))
            if isinstance(result, Reply):
                self.untaken |= without
                return replace(result, lost=lost, tries=tries)
            lost += result.lost
            renamed = result.parameter == "max_tokens" and "max_completion_tokens" in result.reason
            if (name := result.parameter) and name not in without and (name in optional or renamed):
                without[name] = "max_completion_tokens" if renamed else None
                continue
            wait = self._jitter.uniform(0.5, 1.5) * min(0.5 * 2**tries, 30.0) if result.wait is None else result.wait
            again = result.again and tries - len(without) <= self.retries and clock() + wait < end
            if again:
                await asyncio.sleep(wait)
                await self._turn(messages, sent)
            if not again or clock() >= end:
                tried = f" ({tries} tries)" if tries > 1 else ""
                if result.again and result.wait is not None and clock() + wait >= end:
                    tried += f"; asked to wait {wait:.0f} s, past the deadline of {self.deadline:.0f} s"
                # raised outside of any `except`, so that no cause with a key hangs on it
                failed = RequestFailed(result.reason + tried, result.kind, result.hint)
                failed.lost = lost
                raise failed

    async def _turn(self, messages: list[dict[str, Any]], sent: dict[str, Any]) -> None:
        """Wait until the limits allow one more request. Requests are spread evenly; tokens are counted over ten seconds."""
        if self._turns is None:
            requests, tokens = self.limits.requests, self.limits.tokens
            self._turns = [(AsyncLimiter(1, 60 / requests), False)] if requests else []
            self._turns += [(AsyncLimiter(tokens / 6, 10), True)] if tokens else []
        for limiter, by_token in self._turns:
            size = worst_tokens(messages) / 4 + sent.get("max_tokens", 0) if by_token else 1
            await limiter.acquire(min(size, limiter.max_rate))

    async def close(self) -> None:
        """Close the connections that LiteLLM keeps for this event loop."""
        self._turns = None  # they belong to this loop
        if self._direct is not None:
            await self._direct.close()
            self._direct = None
        await self.litellm.close_litellm_async_clients()

    async def _once(self, messages: list[dict[str, Any]], sent: dict[str, Any], seconds: float, tries: int) -> Reply | Failure:
        try:
            async with asyncio.timeout(seconds):  # LiteLLM's own bounds a read, not a reply that trickles
                response = await self.litellm.acompletion(
                    messages=messages, timeout=seconds, num_retries=0, max_retries=0, **self._route(), **sent
                )
            self._reached = True
            return self._reply(response, tries)
        except Exception as e:  # every vendor and transport has its own
            found = failures.read(e, seconds=seconds, sent=sent, key=self._key, reached=self._reached)
            self._reached = self._reached or found.kind not in ("lost", "final")
            return found

    def _hide(self, reply: str) -> str:
        """A reply without our keys: a vendor may quote one."""
        for value in self._secrets:
            reply = reply.replace(value, "[key]")
        return encodable(reply)

    def _route(self) -> dict[str, Any]:
        """Where LiteLLM sends a request. A server on this machine is asked directly: no redirect or proxy takes it elsewhere."""
        e = self.endpoint
        if e.in_process or not e.is_local:
            return {"model": e.model, "api_base": e.api_base, "api_key": self._key}
        if self._direct is None:
            import httpx
            from httpx_aiohttp import AiohttpTransport
            from openai import AsyncOpenAI

            # httpx's own pool takes a millisecond a request at 64 open ones
            transport = AiohttpTransport(limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))
            http = httpx.AsyncClient(
                transport=transport,
                follow_redirects=False,
                trust_env=False,
                timeout=None,
                event_hooks={"response": [_plain_content]},
            )
            base = str(e.api_base).rstrip("/")
            if e.provider.startswith("ollama") and not base.endswith("/v1"):
                base += "/v1"
            # no name is looked up for a server on this machine, so nothing that blocks is ever given to the executor
            asyncio.get_running_loop().set_default_executor(_Inline())
            self._direct = AsyncOpenAI(base_url=base, api_key=self._key or "none", max_retries=0, http_client=http)
        name = f"openai/{e.model.partition('/')[2]}"
        return {"model": name, "api_base": str(self._direct.base_url), "api_key": self._key or "none", "client": self._direct}

    def _reply(self, response: Any, tries: int) -> Reply | Failure:
        if not response.choices:
            return Failure("the reply holds no choices", "withheld", lost=1)
        choice = response.choices[0]
        content, reasoning, refusal = (self._hide(t) for t in _words(choice.message))
        usage = getattr(response, "usage", None)
        read = max(0, int(getattr(usage, "prompt_tokens", 0) or 0))
        written = max(0, int(getattr(usage, "completion_tokens", 0) or 0))
        filtered = choice.finish_reason == "content_filter"
        if not filtered and not (content or reasoning or refusal or written) and choice.finish_reason != "length":
            return Failure("an empty reply of no tokens", "withheld", lost=1)
        return Reply(
            content=content,
            reasoning=reasoning or None,
            refusal=refusal or None,
            finish="filter" if filtered else "length" if choice.finish_reason == "length" else "stop",
            served=served if isinstance(served := getattr(response, "model", None), str) else None,
            prompt_tokens=read,
            completion_tokens=written,
            cost=self._cost(response, read, written),
            tries=tries,
        )

    def _list_price(self) -> Price | None:
        if not self._listed:
            return None
        try:
            known = self.litellm.get_model_info(self.endpoint.model)
            return Price(known["input_cost_per_token"] * 1e6, known["output_cost_per_token"] * 1e6)
        except Exception:  # unmapped, or priced by something else than tokens
            return None

    @property
    def _listed(self) -> bool:
        """Whether LiteLLM's price list can apply: a server of one's own has none, whatever its model is called."""
        return self.endpoint.api_base is None and not self.endpoint.in_process

    def _cost(self, response: Any, read: int, written: int) -> float | None:
        """Dollars, with the vendor's discount on cached tokens where its price is known."""
        if self._listed and self._given_price is None:
            try:
                return float(self.litellm.completion_cost(completion_response=response))
            except Exception:  # unmapped model
                pass
        details = getattr(getattr(response, "usage", None), "prompt_tokens_details", None)
        cached = int(getattr(details, "cached_tokens", 0) or 0)
        return self.price.of(read, written, max(0, cached)) if self.price else None
