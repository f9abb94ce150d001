"""From a model's new tokens to a prediction: its text with the markers that the reader needs, cut where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness import answers
from harness.errors import UserError
from harness.models.stops import Stops
from harness.records import GenerationArgs, Prediction, Sample


@dataclass
class Completion:
    """The new tokens without the end token, which is `end` (None where the text was cut off)."""

    tokens: list[int]
    end: int | None
    prompt_tokens: int


class Written:
    """How one model's tokens are read."""

    def __init__(self, tokenizer: Any, tags: answers.Tags) -> None:
        self._tokenizer, self._tags = tokenizer, tags
        special = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        #: Special tokens that mark thinking or answer, and those that a text is read without.
        self._markers = {i for i, token in special.items() if answers.is_marker(token, tags)}
        self._unspoken = {i: token for i, token in special.items() if i not in self._markers}
        #: The marker that the chat template itself opens the thinking with: the text then only closes it.
        self.opened = ""

    def begin(self, chat: str) -> None:
        """Texts that follow go on from a rendered prompt that ends like this one."""
        self.opened = answers.left_open(chat, self._tags)

    def stops(self, args: GenerationArgs) -> Stops | None:
        """Raises UserError for a stop string that stands in no text."""
        if token := next((s for s in args.stop if s in self._unspoken.values()), None):
            raise UserError(
                f"--stop {token}: is a special token, which no text holds", hint="leave it away; end tokens end a text"
            )
        return Stops(args.stop, self.text) if args.stop else None

    def text(self, tokens: Sequence[int]) -> str:
        """The tokens' text without special tokens, but with those that mark thinking and answer: a tokenizer may count them as
        special, and the reader needs them."""
        marked = not self._markers.isdisjoint(tokens)
        spoken = [t for t in tokens if t not in self._unspoken] if marked else tokens
        return str(self._tokenizer.decode(spoken, skip_special_tokens=not marked))

    def prediction(self, sample: Sample, done: Completion, stops: Stops | None, longest: int | None) -> Prediction:
        """`longest` is how many tokens the model has positions for, if that is known."""
        tokens, end = done.tokens, done.end
        if longest is not None and done.prompt_tokens + len(tokens) > longest:
            tokens, end = tokens[: longest - done.prompt_tokens], None  # what follows was written without a position
        ended = stops.first(tokens) if stops else None
        tokens = tokens[:ended]
        text = self.text(tokens)
        kept = stops.cut(text) if stops else text
        text = self.opened + kept.strip()
        reasoning, answer = answers.read(text)
        return Prediction(
            sample_id=sample.id,
            text=text,
            reasoning=reasoning,
            answer=answer,
            finish="length" if end is None and ended is None else "stop",
            prompt_tokens=done.prompt_tokens,
            completion_tokens=len(tokens),
        )
