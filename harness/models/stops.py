"""Stop strings: a text ends before the first one in it, wherever tokens begin and end, and the same in every batch.

A row is over at the first of its tokens with which its text holds a stop string. The engine, `generate` and the reading of what
they wrote ask this one function at every token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: Tokens beyond the longest stop string's bytes that are looked at: those that are not written, and a character cut in two.
SPARE = 8


def cut(text: str, strings: Sequence[str]) -> str:
    """The text before the first of these strings in it."""
    return text[: min((at for s in strings if (at := text.find(s)) >= 0), default=len(text))]


class Stops:
    """`text` decodes tokens as the prediction's text will be, untrimmed."""

    def __init__(self, strings: Sequence[str], text: Callable[[Sequence[int]], str]) -> None:
        self.strings, self._decode = tuple(strings), text
        self._window = max(len(s.encode()) for s in strings) + SPARE

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether the last of these tokens completes a stop string."""
        return self._in(self._decode(tokens[-self._window :])) and self._in(self._decode(tokens))

    def first(self, tokens: Sequence[int]) -> int | None:
        """How many of the tokens there are when the text holds a stop string; None where it never does."""
        return next((n for n in range(1, len(tokens) + 1) if self(tokens[:n])), None)

    def cut(self, text: str) -> str:
        """The text before the first stop string in it."""
        return cut(text, self.strings)

    def _in(self, text: str) -> bool:
        return any(s in text for s in self.strings)

    def criteria(self, prompt_tokens: int) -> Any:
        """For `generate`: a row ends where it is over, the others go on."""
        import torch
        from transformers import StoppingCriteriaList

        def over(input_ids: Any, scores: Any, **_: Any) -> Any:
            return torch.tensor([self(row) for row in input_ids[:, prompt_tokens:].tolist()], device=input_ids.device)

        return StoppingCriteriaList([over])
