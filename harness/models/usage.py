"""What a request to an API brought, and what requests may use and have used: replies, prices, budgets, limits, accounts."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class Reply:
    """What came back. `cost` in US dollars, None where no price is known; `tries` counts HTTP requests, of which `lost` had no
    answer and may have been billed all the same."""

    content: str
    reasoning: str | None
    finish: Literal["stop", "length", "filter"]
    served: str | None
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    tries: int
    lost: int = 0
    #: The words of a refusal, which stand apart from the content.
    refusal: str | None = None

    @property
    def text(self) -> str:
        """All that the model said: servers hand the thinking over apart from the rest, and it belongs before it.

        The tag stays open when the text was cut off inside it, as the model left it. A refusal is what the model said.
        """
        content = self.content or self.refusal or ""
        if self.reasoning is None:
            return content.strip()
        close = "" if self.finish == "length" and not content.strip() else "</think>"
        return f"<think>{self.reasoning}{close}{content}".strip()


class Price(NamedTuple):
    """US dollars for a million tokens. `cached`: for those of the prompt that the vendor had in a cache, where it takes less."""

    read: float
    written: float
    cached: float | None = None

    def of(self, read: int, written: int, cached: int = 0) -> float:
        """Dollars for so many tokens; `cached` of those that were read."""
        less = 0.0 if self.cached is None else (self.read - self.cached) * min(cached, read)
        return (self.read * read - less + self.written * written) / 1e6


def nano(dollars: float) -> int:
    """Dollars as a whole number of billionths, rounded up: sums of these are exact, and nothing costs less than is counted."""
    return math.ceil(Decimal(str(dollars)) * 10**9)


class Budget:
    """Dollars that several clients may spend between them. A request's worst price is set aside before it is sent.

    So the limit is never passed: a request that could pass it is not sent. Money is counted in whole billionths of a dollar:
    what is set aside and given back again is exactly nothing.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self._spent = self._held = 0

    @property
    def spent(self) -> float:
        return self._spent / 1e9

    @property
    def held(self) -> float:
        """Set aside for requests that are under way; 0 when there is none."""
        return self._held / 1e9

    def hold(self, worst: float) -> bool:
        """Set `worst` dollars aside; False, and nothing set aside, when that could pass the limit."""
        if self.limit is not None and self._spent + self._held + nano(worst) > nano(self.limit):
            return False
        self._held += nano(worst)
        return True

    def settle(self, worst: float, cost: float) -> None:
        """A request for which `worst` was held has cost `cost`."""
        self._held -= nano(worst)
        self._spent += nano(cost)


@dataclass(frozen=True)
class Limits:
    """Requests and tokens a minute that a vendor allows; None: no limit of ours."""

    requests: float | None = None
    tokens: float | None = None


@dataclass
class Usage:
    """What requests have used so far. `priced` are dollars over the replies with a known price."""

    answered: int = 0
    failed: int = 0
    tries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    priced: float = 0.0
    unpriced: int = 0
    #: The models that said they answered; more than one name means that the vendor changed the model during the run.
    served: Counter[str] = field(default_factory=Counter)

    @property
    def cost(self) -> float | None:
        """US dollars; None when any reply has no known price. Never 0 for want of a price."""
        return self.priced if self.answered and not self.unpriced else None

    def add(self, reply: Reply) -> None:
        self.answered += 1
        self.tries += reply.tries
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.served[reply.served or "unknown"] += 1
        if reply.cost is None:
            self.unpriced += 1
        else:
            self.priced += reply.cost

    def row(self) -> dict[str, Any]:
        """For a record: JSON values only."""
        return {
            "answered": self.answered,
            "failed": self.failed,
            "tries": self.tries,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": None if self.cost is None else round(self.cost, 6),
            "served": dict(self.served),
        }
