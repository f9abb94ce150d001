"""Generation with a shared prefix: what several rows have in common is computed once.

`prefill` reads each image's prefix (chat opening, image tokens, and whatever text opens every question) once.
`complete` expands its keys and values over questions of similar length and decodes them together; rows that have
finished leave the batch. In fp32 the tokens equal those of plain `generate`, row by row (tests/test_engine.py), for any model
whose cache is keys and values by position (tests/test_families.py).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from harness.models.families import parts
from harness.models.families.prompting import BY_TOKEN, IndivisibleError
from harness.models.written import Completion as Completion
from harness.records import GenerationArgs


@dataclass(frozen=True)
class Row:
    """One question: the tokens after its prefix. `key` seeds its own random numbers when sampling."""

    prefix: int
    input_ids: list[int]
    key: str


def common_prefix(rows: Sequence[list[int]]) -> int:
    """How many leading tokens all rows share, leaving at least one token to each."""
    n = min(len(r) for r in rows) - 1
    for i in range(n):
        if any(r[i] != rows[0][i] for r in rows):
            return i
    return n


def left_pad(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (rows, longest)."""
    width = max(len(r) for r in rows)
    ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def row_seed(seed: int, key: str) -> int:
    """A row's own seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:7], "big")


class Sampler:
    """The next token of each row: the likeliest at temperature 0, else drawn with the row's own seeded noise.

    Each row draws from a generator of its own, so that a text depends on (seed, key) and never on the batch.
    """

    def __init__(self, args: GenerationArgs, keys: Sequence[str]) -> None:
        self.args = args
        self.generators = []
        if args.temperature > 0:
            for key in keys:
                self.generators.append(torch.Generator().manual_seed(row_seed(args.seed, key)))

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """logits (live rows, vocabulary) -> token ids (live rows,)."""
        if self.args.temperature <= 0:
            return logits.argmax(-1)
        probs = torch.softmax(logits.float() / self.args.temperature, -1)
        if self.args.top_p < 1:
            ordered, index = probs.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.args.top_p
            beyond[..., 0] = False  # the likeliest token is in any nucleus
            probs = probs.scatter(-1, index, ordered.masked_fill(beyond, 0))
        # argmax(p / Exp(1)) is a draw from p (the exponential race), one noise vector a row
        noise = torch.stack([torch.empty(probs.shape[-1]).exponential_(generator=self.generators[r]) for r in rows])
        return (probs / noise.to(probs.device)).argmax(-1)


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    eos = model.generation_config.eos_token_id
    eos = eos if eos is not None else tokenizer.eos_token_id
    return set(eos) if isinstance(eos, list | tuple) else {eos}


@dataclass
class Prefilled:
    """Prefixes that have been read: one cache row for each, left-padded."""

    cache: Any
    mask: torch.Tensor  # (prefixes, longest)
    following: torch.Tensor  # (prefixes,) the position after each prefix
    axes: int | None  # of the positions, where there are several
    goes_on: dict[str, torch.Tensor]  # (prefixes, 1, ...) inputs that later tokens need as the last one had them
    lengths: list[int]
    opening: int  # how many of each row's own tokens are in the prefix already


def read_prompts(model: Any, inputs: dict[str, Any]) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """One pass over left-padded prompts and their images, keeping keys and values (and gradients, if any).

    `inputs` is what the processor made of them. Returns the model's output, with the logits of the last token; the positions,
    (rows, length) or (axes, rows, length); and the position that follows each row.
    """
    positions = parts.positions(model, inputs)
    out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    last = positions.masked_fill(inputs["attention_mask"] == 0, 0).amax(-1)
    return out, positions, (last.amax(0) if last.dim() == 2 else last) + 1


def followed_by(inputs: dict[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    """The same prompts with these tokens of text after each."""
    if not tokens:
        return inputs
    ids = inputs["input_ids"]
    new = ids.new_tensor([list(tokens)] * len(ids))
    return continued(inputs, new, torch.ones_like(new))


def continued(
    inputs: dict[str, Any], ids: torch.Tensor, mask: torch.Tensor, written: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """The same prompts with text after each: ids and mask (rows, length). `written` has the value of other inputs by token."""
    new = {"input_ids": ids, "attention_mask": mask}
    for name in BY_TOKEN[2:]:
        if name in inputs:
            last = inputs[name][:, -1:]
            text = last if name in parts.GOES_ON else torch.full_like(last, (written or {}).get(name, 0))
            new[name] = text.expand(-1, ids.shape[1], *last.shape[2:])
    return inputs | {k: torch.cat([inputs[k], v.to(inputs[k])], 1) for k, v in new.items()}


@torch.inference_mode()
def prefill(model: Any, inputs: dict[str, Any], opening: Sequence[int] = ()) -> Prefilled:
    """Read each prefix and then `opening`, the tokens that all rows begin with. Raises IndivisibleError."""
    inputs = followed_by(inputs, opening)
    out, positions, following = read_prompts(model, inputs)
    if why := parts.why_cache_not_expanded(out.past_key_values):
        raise IndivisibleError(why)
    mask = inputs["attention_mask"]
    goes_on = {k: inputs[k][:, -1:] for k in parts.GOES_ON if k in inputs}
    axes = positions.shape[0] if positions.dim() == 3 else None
    return Prefilled(out.past_key_values, mask, following, axes, goes_on, mask.sum(1).tolist(), len(opening))


def expanded(cache: Any, owner: torch.Tensor) -> Any:
    """A cache of its own with row `owner[i]` of this one as row i."""
    out = copy.copy(cache)
    out.layers = [copy.copy(layer) for layer in cache.layers]
    out.batch_select_indices(owner)
    return out


#: Tokens that a cache has room for beyond those it holds. More room is made when they are written.
ROOM = 32


class Roomy(DynamicLayer):  # type: ignore[misc]
    """Keys and values with room behind them: a token is written in its place, where DynamicLayer copies all before it."""

    def __init__(self, layer: DynamicLayer) -> None:
        self.__dict__ |= layer.__dict__
        self.held: tuple[Any, ...] = (
            layer.keys,
            layer.values,
        )  # whole buffers, of which keys and values are the part that is written

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        length = self.get_seq_length()
        whole = length + key_states.shape[-2]
        if whole > self.held[0].shape[-2]:
            self.held = tuple(F.pad(h[..., :length, :], (0, 0, 0, whole - length + ROOM)) for h in self.held)
        for held, new in zip(self.held, (key_states, value_states), strict=True):
            held[..., length:whole, :] = new
        self.keys, self.values = (h[..., :whole, :] for h in self.held)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        self.held = tuple(h[indices] for h in self.held)
        self.keys, self.values = (h[..., :length, :] for h in self.held)


class RoomyWindow(Roomy, DynamicSlidingWindowLayer):  # type: ignore[misc]
    """The same for a sliding window that is never reached."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        found = super().update(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        return found


def with_room(cache: Any, length: int) -> Any:
    """The same cache, of which layers that only grow up to `length` tokens are written in place."""

    def roomy(layer: Any) -> Any:
        if not layer.is_initialized:
            return layer
        if type(layer) is DynamicLayer:
            return Roomy(layer)
        return RoomyWindow(layer) if type(layer) is DynamicSlidingWindowLayer and length < layer.sliding_window else layer

    cache.layers = [roomy(layer) for layer in cache.layers]
    return cache


#: Called as watch(live rows, their logits) at every step.
Watch = Callable[[Sequence[int], torch.Tensor], None]


def joined(caches: Sequence[Any]) -> Any:
    """Caches of rows of different length as one, each row's keys and values at the right end."""
    out = copy.copy(caches[0])
    out.layers = []
    for layers in zip(*(c.layers for c in caches), strict=True):
        one = copy.copy(layers[0])
        if isinstance(one.keys, torch.Tensor):
            width = max(layer.keys.shape[-2] for layer in layers)
            for name in ("keys", "values"):
                held = [getattr(layer, name) for layer in layers]
                setattr(one, name, torch.cat([F.pad(h, (0, 0, width - h.shape[-2], 0)) for h in held]))
        if hasattr(one, "cumulative_length"):
            one.cumulative_length = max(layer.cumulative_length for layer in layers)
        out.layers.append(one)
    return out


def forward(
    model: Any,
    shared: Prefilled,
    ids: torch.Tensor,
    attention: torch.Tensor,
    position: torch.Tensor,
    cache: Any,
    goes_on: dict[str, torch.Tensor],
) -> torch.Tensor:
    """The logits (rows, vocabulary) after some more tokens (rows, length) at positions (rows, length)."""
    out = model(
        input_ids=ids,
        attention_mask=attention,
        position_ids=position if shared.axes is None else position.expand(shared.axes, -1, -1),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **{k: v.expand(-1, ids.shape[1], *v.shape[2:]) for k, v in goes_on.items()},
    )
    return out.logits[:, -1]  # type: ignore[no-any-return]


def read_tails(
    model: Any,
    shared: Prefilled,
    tails: Sequence[list[int]],
    owner: torch.Tensor,
    goes_on: dict[str, torch.Tensor],
    pad: int,
    new_tokens: int,
) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor]:
    """Each row's own tokens after its prefix: (logits, cache, attention mask, position of the last token).

    Padding stands between prefix and question. A sliding window would count it: where one is shorter than a row, rows of one
    length are read together, and what was read of all is joined at the right end.
    """
    longest = max(len(t) for t in tails)
    window = parts.window(shared.cache)
    together = window is None or shared.mask.shape[1] + longest + new_tokens < window
    lengths = [longest if together else len(t) for t in tails]
    read, order = [], []
    for length in sorted(set(lengths)):
        mine = [i for i, n in enumerate(lengths) if n == length]
        index = torch.tensor(mine, device=owner.device)
        of, cache = owner[index], expanded(shared.cache, owner[index])
        current, tail = left_pad([tails[i] for i in mine], pad, owner.device)
        attention = torch.cat([shared.mask[of], tail], 1)
        position = (tail.cumsum(1) - 1).clamp(min=0) + shared.following[of][:, None]
        seen = {k: v[index] for k, v in goes_on.items()}
        logits = forward(model, shared, current, attention, position, cache, seen)
        read.append((logits, cache, F.pad(attention, (longest - length, 0)), position[:, -1:]))
        order += mine
    if len(read) == 1:
        return read[0]
    back = torch.tensor(order, device=owner.device).argsort()
    cache = joined([r[1] for r in read])
    cache.batch_select_indices(back)
    logits, attention, position = (torch.cat([r[k] for r in read])[back] for k in (0, 2, 3))
    return logits, cache, attention, position


@torch.inference_mode()
def complete(
    model: Any,
    shared: Prefilled,
    rows: Sequence[Row],
    args: GenerationArgs,
    *,
    pad: int,
    end: set[int],
    never: Sequence[int] = (),
    watch: Watch | None = None,
    over: Callable[[list[int]], bool] | None = None,
) -> list[Completion]:
    """Completions of `rows`, in their order; a row of which `over` says so after a token is written no further.

    `shared` is left as it was and serves any number of calls. `never` lists tokens that must not be written (image
    markers, in training).
    """
    device = model.device
    owner = torch.tensor([r.prefix for r in rows], device=device)
    goes_on = {k: v[owner] for k, v in shared.goes_on.items()}
    tails = [r.input_ids[shared.opening :] for r in rows]
    logits, cache, attention, position = read_tails(model, shared, tails, owner, goes_on, pad, args.max_new_tokens)
    cache = with_room(cache, attention.shape[1] + args.max_new_tokens)

    sampler = Sampler(args, [r.key for r in rows])
    tokens: list[list[int]] = [[] for _ in rows]
    ended: list[int | None] = [None] * len(rows)
    live = list(range(len(rows)))
    for step in range(args.max_new_tokens):
        if watch:
            watch(live, logits)
        if never:
            logits[:, list(never)] = -torch.inf
        chosen = sampler(logits, live)
        keep = []
        for i, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
            if token in end:
                ended[row] = token
            else:
                tokens[row].append(token)
                if over is None or not over(tokens[row]):
                    keep.append(i)
        if not keep or step + 1 == args.max_new_tokens:
            break
        if len(keep) < len(live):
            live = [live[i] for i in keep]
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            attention, position, chosen = attention[index], position[index], chosen[index]
            goes_on = {k: v[index] for k, v in goes_on.items()}
        attention = torch.cat([attention, attention.new_ones(len(live), 1)], 1)
        position = position + 1
        logits = forward(model, shared, chosen[:, None], attention, position, cache, goes_on)
    own = [shared.lengths[r.prefix] + len(r.input_ids) - shared.opening for r in rows]
    return [Completion(tokens[i], ended[i], n) for i, n in enumerate(own)]
