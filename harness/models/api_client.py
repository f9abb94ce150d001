"""One chat request over LiteLLM: our own retries, a total deadline, errors without keys.

LiteLLM's retries are switched off: by default it makes three hits where one was asked for, and its timeout is per try.
Here a request is tried again after 408, 409, 429, any 5xx, a timeout or a lost connection, waits as long as the server's
Retry-After asks or a growing time with jitter, and ends at its deadline whatever happens.
"""

from __future__ import annotations

import asyncio
import atexit
import email.utils
import gc
import importlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from aiolimiter import AsyncLimiter

from harness.models.endpoint import Endpoint
from harness.models.usage import Limits, Price, Reply

RETRIED = (408, 409, 429)
#: Statuses that no other request to this endpoint would be spared: wrong key, no right, no such model, no credit.
FATAL = (401, 402, 403, 404)
#: With this many requests failed and none answered, none will be: a server that is down, or a model without images.
GIVE_UP_AFTER = 8
_KEY_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)", re.I)
_KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|xai|ghp|gho|AIza|ya29|AKIA|Bearer)[-_. ][A-Za-z0-9._\-]{6,}|\bAIza[\w\-]{20,}|\bAKIA[A-Z0-9]{12,}"
    r"|(?<=[?&]key=)[^&\s\"']+"
)
#: What LiteLLM puts before a vendor's own words.
_WRAPPING = re.compile(r"^(?:(?:litellm\.)?\w+(?:Error|Timeout): )*(?:\w+Exception - )?(?:Error code: \d+ - )?")
_DATA_URL = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")


class RequestFailed(Exception):
    """A request that got no answer; the message holds no key. `fatal`: the next request would fail in the same way.

    `withheld`: the server works, but gives no answer to this very request (a content filter, an empty reply).
    """

    #: Tries that got no answer and may have been billed all the same.
    lost = 0

    def __init__(self, reason: str, *, fatal: bool = False, withheld: bool = False) -> None:
        super().__init__(reason)
        self.fatal = fatal
        self.withheld = withheld


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


def secrets() -> set[str]:
    """The values of the environment's variables that are named like keys."""
    return {v for k, v in os.environ.items() if _KEY_NAMES.search(k) and len(v) >= 8}


def redact(text: str, known: Iterable[str] = ()) -> str:
    """One line of at most 500 characters without known keys, anything shaped like one, and images."""
    for value in sorted({*known, *secrets()}, key=len, reverse=True):
        text = text.replace(value, "[key]")
    text = _KEY_SHAPES.sub("[key]", _DATA_URL.sub("[image]", text))
    text = " ".join(text.split())
    return text if len(text) <= 500 else text[:497] + "..."


def retry_after(headers: Any, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None without one that can be read."""
    value = str(headers.get("retry-after") or "").strip() if headers else ""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except ValueError:
        return None


def _lost_connection(e: BaseException | None) -> bool:
    """Whether a connection that was refused or lost is at the root: the transport hands those on as timeouts."""
    import aiohttp

    while e is not None:
        if isinstance(e, aiohttp.ClientConnectionError) and not isinstance(e, aiohttp.ServerTimeoutError):
            return True
        e = e.__cause__ or e.__context__
    return False


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


@dataclass(frozen=True)
class _Failure:
    reason: str
    retried: bool
    fatal: bool
    wait: float | None
    withheld: bool
    lost: int = 0


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
        self._secrets = secrets()
        self._turns: list[tuple[AsyncLimiter, bool]] | None = None
        self._direct: Any = None
        self._jitter = random.Random()  # not seeded: several clients must not retry in step

    async def ask(self, messages: list[dict[str, Any]], **sent: Any) -> Reply:
        """The reply to one chat request; `sent` are its parameters. Raises RequestFailed when there is none by the deadline."""
        clock = asyncio.get_running_loop().time
        await self._turn(messages, sent)
        end = clock() + self.deadline  # waiting for the first turn is not the request's own time
        tries = lost = 0
        while True:
            tries += 1
            result = await self._once(messages, sent, min(self.timeout, end - clock()), tries)
            if isinstance(result, Reply):
                return replace(result, lost=lost)
            lost += result.lost
            wait = self._jitter.uniform(0.5, 1.5) * min(0.5 * 2**tries, 30.0) if result.wait is None else result.wait
            again = result.retried and tries <= self.retries and clock() + wait < end
            if again:
                await asyncio.sleep(wait)
                await self._turn(messages, sent)
            if not again or clock() >= end:
                tried = f" ({tries} tries)" if tries > 1 else ""
                if result.retried and result.wait is not None and clock() + wait >= end:
                    tried += f"; asked to wait {wait:.0f} s, past the deadline of {self.deadline:.0f} s"
                # raised outside of any `except`, so that no cause with a key hangs on it
                failed = RequestFailed(result.reason + tried, fatal=result.fatal, withheld=result.withheld)
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

    async def _once(self, messages: list[dict[str, Any]], sent: dict[str, Any], seconds: float, tries: int) -> Reply | _Failure:
        try:
            async with asyncio.timeout(seconds):  # LiteLLM's own bounds a read, not a reply that trickles
                response = await self.litellm.acompletion(
                    messages=messages, timeout=seconds, num_retries=0, max_retries=0, **self._route(), **sent
                )
            return self._reply(response, tries)
        except RequestFailed as e:
            return _Failure(str(e), False, e.fatal, None, e.withheld, lost=int(e.withheld))
        except Exception as e:  # every vendor and transport has its own
            return self._failure(e, seconds)

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
            http = httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False, timeout=None)
            base = str(e.api_base).rstrip("/")
            if e.provider.startswith("ollama") and not base.endswith("/v1"):
                base += "/v1"
            # no name is looked up for a server on this machine, so nothing that blocks is ever given to the executor
            asyncio.get_running_loop().set_default_executor(_Inline())
            self._direct = AsyncOpenAI(base_url=base, api_key=self._key or "none", max_retries=0, http_client=http)
        name = f"openai/{e.model.partition('/')[2]}"
        return {"model": name, "api_base": str(self._direct.base_url), "api_key": self._key or "none", "client": self._direct}

    def _failure(self, e: Exception, seconds: float) -> _Failure:
        status = getattr(e, "status_code", None)
        headers = getattr(e, "litellm_response_headers", None)
        if _lost_connection(e):
            return _Failure("Connection error.", True, False, None, False, lost=1)
        if isinstance(e, (TimeoutError, self.litellm.exceptions.Timeout)):
            return _Failure(f"no reply within {seconds:.0f} s", True, False, None, False, lost=1)
        status = status if isinstance(status, int) else 0
        # a lost connection is a 500 to LiteLLM, but no server said so
        said = f"{status} " if status and (headers is not None or status < 500) else ""
        words = str(e).split("Traceback (most recent call last)")[0]  # some vendors' clients put their own into the message
        text = redact(said + _WRAPPING.sub("", words), [self._key] if self._key and len(self._key) >= 8 else [])
        # an account without credit also says 429, and waiting does not help
        broke = "insufficient_quota" in text
        unsupported = isinstance(e, self.litellm.exceptions.UnsupportedParamsError)
        return _Failure(
            reason=text,
            retried=(status in RETRIED or status >= 500) and not broke,
            fatal=status in FATAL or broke or unsupported,
            wait=retry_after(headers),
            withheld=isinstance(e, self.litellm.exceptions.ContentPolicyViolationError),
        )

    def _reply(self, response: Any, tries: int) -> Reply:
        if not response.choices:
            raise RequestFailed("the reply holds no choices", withheld=True)
        choice = response.choices[0]
        content = self._hide(choice.message.content or "")
        reasoning = self._hide(getattr(choice.message, "reasoning_content", None) or "") or None
        usage = getattr(response, "usage", None)
        read = max(0, int(getattr(usage, "prompt_tokens", 0) or 0))
        written = max(0, int(getattr(usage, "completion_tokens", 0) or 0))
        if choice.finish_reason == "content_filter":
            raise RequestFailed("withheld by the vendor's content filter", withheld=True)
        if not content and not reasoning and not written and choice.finish_reason != "length":
            raise RequestFailed("an empty reply of no tokens", withheld=True)
        return Reply(
            content=content,
            reasoning=reasoning,
            finish="length" if choice.finish_reason == "length" else "stop",
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
        if self._listed and self._given_price is None:
            try:
                return float(self.litellm.completion_cost(completion_response=response))
            except Exception:  # unmapped model
                pass
        return self.price.of(read, written) if self.price else None
