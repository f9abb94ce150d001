"""Why a request got no answer, and whether another one could get one.

LiteLLM hands on a vendor's sentence alone. Its code (`insufficient_quota`), its true status and the transport's own error (a
certificate, a name that nobody knows) stand further down the exception's chain, so the whole chain is read. What is said holds
no key.
"""

from __future__ import annotations

import email.utils
import os
import re
import socket
import ssl
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

RETRIED = (408, 409, 429)
_KEY_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)", re.I)
_KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|xai|ghp|gho|AIza|ya29|AKIA|Bearer)[-_. ][A-Za-z0-9._\-]{6,}|\bAIza[\w\-]{20,}|\bAKIA[A-Z0-9]{12,}"
    r"|(?<=[?&]key=)[^&\s\"']+"
)
#: What LiteLLM puts before a vendor's own words.
_WRAPPING = re.compile(r"^(?:(?:litellm\.)?\w+(?:Error|Timeout): )*(?:\w+Exception - )?(?:Error code: \d+ - )?")
_DATA_URL = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]+")

#: What vendors say when an account has nothing left to pay with; some say it with status 400 or 429.
_NO_CREDIT = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|credit balance|(?:no|not enough|out of|run out of) credits?\b"
    r"|billing[_ ](?:hard[_ ]limit|not[_ ]active)|payment required|exceeded (?:your )?(?:current |monthly )?(?:quota|budget)"
    r"|budget has been exceeded|budget_exceeded|spend(?:ing)? limit|access_terminated",
    re.I,
)
#: A quota that fills up again within minutes says when.
_SOON = re.compile(r"retry[_ ]?(?:in|after|delay)", re.I)
_DAILY = re.compile(r"per_?day", re.I)
_BAD_KEY = re.compile(
    r"api_key_invalid|(?:invalid|incorrect)[_ ](?:x-)?api[_ -]?key|api key not valid|authentication_error", re.I
)
_NO_MODEL = re.compile(r"model_not_found|unknown model|no such model|model .{0,80}(?:does not exist|not found)", re.I)
_FILTERED = re.compile(r"content_filter|content_policy|responsibleaipolicy|content management policy|safety system", re.I)
_TOO_LONG = re.compile(r"context_length_exceeded|maximum context length|context window|prompt is too long", re.I)
_UNTAKEN = re.compile(
    r"unsupported|not support|n't support|unrecogni[sz]ed|unexpected|extra[_ ]|unknown|not (?:allowed|permitted|available|taken)"
    r"|deprecated|forbidden|only the default|invalid|must be|unavailable",
    re.I,
)
#: Other words for a parameter.
_MEANT = {"response_format": r"response_format|json_schema|structured[ _]outputs?|guided|grammar"}

#: busy: the server may answer later · lost: the connection or the time was · row: this request alone is refused ·
#: withheld: the server works and gives no answer to this very request · parameter: one that is not taken · final: no request
#: would be answered.
Kind = Literal["busy", "lost", "row", "withheld", "parameter", "final"]


@dataclass(frozen=True)
class Failure:
    """One try that got no answer. `wait`: seconds that the server asks for; `lost`: 1 where it may have been billed."""

    reason: str
    kind: Kind
    hint: str | None = None
    wait: float | None = None
    lost: int = 0
    parameter: str | None = None

    @property
    def again(self) -> bool:
        return self.kind in ("busy", "lost")


def secrets() -> set[str]:
    """The values of the environment's variables that are named like keys."""
    return {v for k, v in os.environ.items() if _KEY_NAMES.search(k) and len(v) >= 8}


def without_keys(text: str, known: Iterable[str] = ()) -> str:
    """The text without known keys, anything shaped like one, and images."""
    for value in sorted({*known, *secrets()}, key=len, reverse=True):
        text = text.replace(value, "[key]")
    return _KEY_SHAPES.sub("[key]", _DATA_URL.sub("[image]", text))


def redact(text: str, known: Iterable[str] = ()) -> str:
    """One line of at most 500 characters without keys and images."""
    text = " ".join(without_keys(text, known).split())
    return text if len(text) <= 500 else text[:497] + "..."


def retry_after(headers: Any, now: float | None = None) -> float | None:
    """Seconds that a server asks to wait (Retry-After as a number or a date, or OpenAI's retry-after-ms); None without any."""
    said = {str(k).lower(): str(v).strip() for k, v in dict(headers or {}).items()}
    for value, unit in ((said.get("retry-after-ms", ""), 1000), (said.get("retry-after", ""), 1)):
        try:
            if 0 <= (seconds := float(value) / unit) < float("inf"):
                return seconds
        except ValueError:
            continue
    try:
        asked = email.utils.parsedate_to_datetime(said.get("retry-after", ""))
        return max(0.0, asked.timestamp() - (time.time() if now is None else now))
    except ValueError:
        return None


def chain(e: BaseException | None) -> Iterator[BaseException]:
    """The exception and all that led to it."""
    seen: set[int] = set()
    while e is not None and id(e) not in seen:
        seen.add(id(e))
        yield e
        e = e.__cause__ or e.__context__


def read(e: Exception, *, seconds: float, sent: Collection[str], key: str | None = None, reached: bool = True) -> Failure:
    """What `e` means. `sent`: the parameters' names; `seconds`: how long was waited; `reached`: the server answered before."""
    links = list(chain(e))
    status, headers = _status(links)
    if not status and (found := _transport(links, seconds, reached)) is not None:
        return found
    codes, parameter = _codes(links)
    # some clients put their own traceback into the message
    words = _WRAPPING.sub("", str(e).split("Traceback (most recent call last)")[0])
    reason = redact(f"{status} {words}" if status else words, [key] if key and len(key) >= 8 else ())
    if "Invalid response object" in words and not status:  # it was answered, and paid for
        return Failure("a reply that LiteLLM cannot read", "withheld", lost=1)
    kind, hint, name = _meaning(f"{words} {codes}", status, parameter, sent, links)
    return Failure(reason, kind, hint, retry_after(headers), parameter=name)


def _meaning(
    said: str, status: int, parameter: str | None, sent: Collection[str], links: list[BaseException]
) -> tuple[Kind, str | None, str | None]:
    """(kind, the way out, the parameter that is not taken)."""
    names = {type(x).__name__ for x in links}
    soon = bool(_SOON.search(said)) and not _DAILY.search(said)
    if status == 402 or ("insufficient_quota" in said) or (400 <= status < 500 and _NO_CREDIT.search(said) and not soon):
        return "final", "the account has no credit or quota left: see the vendor's billing page, or use another key", None
    if status == 429 and _DAILY.search(said):
        return "final", "the quota of the day is used up: go on tomorrow, or use another key", None
    if status in (408, 409, 429) or status >= 500:
        if (name := refused(said, parameter, sent)) and status in (500, 501):
            return "parameter", None, name
        return "busy", None, None
    if status == 401 or (status in (400, 403) and _BAD_KEY.search(said)):
        return "final", "is the key right, and meant for this address?", None
    if status == 404 or (status in (400, 403) and _NO_MODEL.search(said)):
        return "final", "is the model's name the one that the server has, and may this key use it?", None
    if "ContentPolicyViolationError" in names or _FILTERED.search(said):
        return "withheld", None, None
    if status == 403:
        return "final", "this key may not use that model or address", None
    if "ContextWindowExceededError" in names or _TOO_LONG.search(said):
        return "row", None, None
    untaken = "UnsupportedParamsError" in names
    if untaken or status in (400, 422):
        if name := refused(said, parameter, sent, sure=untaken):
            return "parameter", f"this model does not take '{name}' as it was sent", name
        return ("final" if untaken else "row"), None, None
    if "plain HTTP request" in said:
        return "final", "write https:// for http://", None
    # a status below 500 was said by a server; without any, nobody said a thing
    return ("row" if status else "lost"), None, None


def refused(said: str, parameter: str | None, sent: Collection[str], *, sure: bool = False) -> str | None:
    """The sent parameter that these words refuse, if they refuse one."""
    if not (sure or _UNTAKEN.search(said)):
        return None
    if parameter in sent:
        return parameter
    return next((n for n in sent if re.search(_MEANT.get(n, rf"\b{re.escape(n)}\b"), said, re.I)), None)


def _status(links: list[BaseException]) -> tuple[int, Any]:
    """The status that the server itself gave, and its headers; 0 where no server said anything (LiteLLM then makes up a 500)."""
    headers = next((h for x in links if (h := getattr(x, "litellm_response_headers", None)) is not None), None)
    for x in reversed(links):
        response = getattr(x, "response", None)
        if response is not None and getattr(response, "headers", None):
            return int(response.status_code), headers or response.headers
    status = getattr(links[0], "status_code", None)
    # LiteLLM calls a lost connection 500 and a lost time 408, though no server said so
    made_up = not isinstance(status, int) or (headers is None and (status >= 500 or status == 408))
    return (0 if made_up else int(status)), headers  # type: ignore[arg-type]


def _codes(links: list[BaseException]) -> tuple[str, str | None]:
    """The codes and types of the server's error, in one line, and the parameter that it names."""
    codes, parameter = [], None
    for x in links:
        body = getattr(x, "body", None)
        for part in (body, body.get("error")) if isinstance(body, dict) else ():
            if isinstance(part, dict):
                codes += [str(part[k]) for k in ("code", "type", "status") if isinstance(part.get(k), str)]
                parameter = parameter or (part["param"] if isinstance(part.get("param"), str) else None)
    return " ".join(dict.fromkeys(codes)), parameter


def _transport(links: list[BaseException], seconds: float, reached: bool) -> Failure | None:
    """A failure below HTTP. What cannot change while a run waits is final, unless the server has answered before."""
    import aiohttp

    fixed: Kind = "lost" if reached else "final"
    links = links[::-1]  # the root first: what stands on it has names of its own
    for x in links:
        if isinstance(x, ssl.SSLCertVerificationError):
            return Failure(f"TLS: the server's certificate is refused: {x.verify_message}", fixed, _certificate(x.verify_code))
        if isinstance(x, ssl.SSLError):
            why = (x.reason or str(x)).replace("_", " ").lower()
            return Failure(
                f"TLS: the server does not speak it: {why}", fixed, "does this server want http:// in place of https://?"
            )
        if isinstance(x, socket.gaierror):
            unknown = fixed if x.errno == socket.EAI_NONAME else "lost"
            return Failure(
                "Connection error: no address is known for the server's name",
                unknown,
                "is the name right, and is there a network?",
            )
    for x in links:
        if isinstance(x, ConnectionRefusedError):
            return Failure("Connection error: refused", "lost", "is the server up, and its address and port right?", lost=1)
        if isinstance(x, aiohttp.ClientConnectionError) and not isinstance(x, aiohttp.ServerTimeoutError):
            hint = "is the server up, its address right, and does it want https:// (or http://)?"
            return Failure("Connection error: closed before a reply", "lost", hint, lost=1)
    if any(isinstance(x, TimeoutError) or type(x).__name__ in ("Timeout", "APITimeoutError") for x in links):
        return Failure(f"no reply within {seconds:.0f} s", "lost", "is the server up, and fast enough?", lost=1)
    return None


def _certificate(code: int) -> str:
    """The way out, by OpenSSL's code."""
    if code in (62, 63, 64):
        return "the certificate is for another name: use the name that it is for"
    if code in (9, 10):
        return "the certificate is out of date, or this machine's clock is wrong"
    return "if the server is yours, name its certificate (or its authority's): SSL_CERT_FILE=server.crt"
