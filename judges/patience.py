"""When a judge is given up: the first replies are all no verdicts, or many in a row, or a server has gone silent.

What is wrong with every row (another model that answers, a judge that refuses, a server that is down) is seen at the first
few, and not paid for hundreds of times.
"""

from __future__ import annotations

from collections import Counter

from harness.models.api_client import GIVE_UP_AFTER, IN_A_ROW


class Patience:
    """Counts replies and failures. Each method gives, in words, why to stop; None to go on."""

    def __init__(self) -> None:
        self.seen = False
        self.answered = self.failed = self.silent = self.foreign = 0
        self.barren: Counter[str] = Counter()

    def verdict(self) -> None:
        """A verdict came, or is in the store."""
        self.seen, self.foreign, self.barren = True, 0, Counter()

    def no_verdict(self, why: str, foreign: bool) -> str | None:
        """A reply was no verdict; `foreign`: another model gave it, which is no chance of one row."""
        self.barren[why] += 1
        self.foreign = self.foreign + 1 if foreign else 0
        count = sum(self.barren.values())
        if self.foreign < GIVE_UP_AFTER and count < (IN_A_ROW if self.seen else GIVE_UP_AFTER):
            return None
        reasons = ", ".join(f"{reason} ({n})" for reason, n in self.barren.most_common(3))
        return (
            f"{f'{count} replies in a row were' if self.seen else f'the first {count} replies were all'} no verdicts: {reasons}"
        )

    def reply(self) -> None:
        """The server answered, whatever it said."""
        self.answered, self.silent = self.answered + 1, 0

    def no_reply(self, why: str, silent: bool) -> str | None:
        """A request got no reply at the end; `silent`: the server said nothing, or that it is busy, over all tries."""
        self.failed, self.silent = self.failed + 1, self.silent + 1 if silent else 0
        if self.failed >= GIVE_UP_AFTER and not (self.answered or self.seen):
            return f"the first {self.failed} requests all failed: {why}"
        return f"{self.silent} requests in a row got no answer: {why}" if self.silent >= IN_A_ROW else None
