"""Generation with a shared prefix: what several rows have in common is computed once.

`prefill` reads each image's prefix (chat opening, image tokens, and whatever text opens every question) once.
`complete` expands its keys and values over questions of similar length and decodes them together; rows that have
finished leave the batch. In fp32 the tokens equal those of plain `generate`, row by row (tests/test_engine.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from harness.records import GenerationArgs


@dataclass
class Prefix:
    """One image group's opening, ready for the model."""

    input_ids: list[int]
    pixel_values: torch.Tensor | None  # (patches, patch features)
    grid_thw: torch.Tensor | None  # (images, 3)


@dataclass(frozen=True)
class Row:
    """One question: the tokens after its prefix. `key` seeds its own random numbers when sampling."""

    prefix: int
    input_ids: list[int]
    key: str


@dataclass
class Completion:
    """The new tokens without the end token, which is `end` (None where the text was cut off)."""

    tokens: list[int]
    end: int | None
    prompt_tokens: int


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
    """Prefixes that have been read: one cache row a prefix, left-padded."""

    cache: Any
    mask: torch.Tensor  # (prefixes, longest)
    following: torch.Tensor  # (prefixes,) the rotary position after each prefix
    lengths: list[int]
    opening: int  # how many of each row's own tokens are in the prefix already


def read_prompts(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_token: int,
    patches: Sequence[torch.Tensor],
    grids: Sequence[torch.Tensor],
) -> tuple[Any, torch.Tensor]:
    """One pass over left-padded prompts (rows, length) and their images, keeping keys and values (and gradients, if any).

    Returns the model's output, with the logits of the last token, and the rotary position that follows each row.
    """
    kinds = (ids == image_token).int()
    grid = torch.cat(list(grids)).to(model.device) if grids else None
    positions, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid, attention_mask=mask)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        mm_token_type_ids=kinds,
        image_grid_thw=grid,
        pixel_values=torch.cat(list(patches)).to(model.device) if patches else None,
        use_cache=True,
        logits_to_keep=1,
    )
    return out, positions.masked_fill(mask[None] == 0, 0).amax((0, 2)) + 1


@torch.inference_mode()
def prefill(model: Any, prefixes: Sequence[Prefix], opening: Sequence[int], *, image_token: int, pad: int) -> Prefilled:
    """Read each prefix and then `opening`, the tokens that all rows begin with."""
    ids, mask = left_pad([p.input_ids + list(opening) for p in prefixes], pad, model.device)
    grids = [p.grid_thw for p in prefixes if p.grid_thw is not None]
    patches = [p.pixel_values for p in prefixes if p.pixel_values is not None]
    out, following = read_prompts(model, ids, mask, image_token, patches, grids)
    return Prefilled(out.past_key_values, mask, following, mask.sum(1).tolist(), len(opening))


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
) -> list[Completion]:
    """Completions of `rows`, in their order. The model is a Qwen2-VL-like one (3-axis rotary positions).

    `shared` is left as it was and serves any number of calls. `never` lists tokens that must not be written (image
    markers, in training).
    """
    device = model.device
    owner = torch.tensor([r.prefix for r in rows], device=device)
    cache = DynamicCache()
    for i, layer in enumerate(shared.cache.layers):
        cache.update(layer.keys[owner], layer.values[owner], i)
    current, tail = left_pad([r.input_ids[shared.opening :] for r in rows], pad, device)
    attention = torch.cat([shared.mask[owner], tail], 1)
    position = ((tail.cumsum(1) - 1).clamp(min=0) + shared.following[owner][:, None]).expand(3, -1, -1)

    sampler = Sampler(args, [r.key for r in rows])
    tokens: list[list[int]] = [[] for _ in rows]
    ended: list[int | None] = [None] * len(rows)
    live = list(range(len(rows)))
    for step in range(args.max_new_tokens):
        out = model(
            input_ids=current,
            attention_mask=attention,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = out.logits[:, -1]
        if never:
            logits[:, list(never)] = -torch.inf
        chosen = sampler(logits, live)
        keep = []
        for i, (row, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
            if token in end:
                ended[row] = token
            else:
                tokens[row].append(token)
                keep.append(i)
        if not keep or step + 1 == args.max_new_tokens:
            break
        if len(keep) < len(live):
            live = [live[i] for i in keep]
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            attention, position, chosen = attention[index], position[:, index], chosen[index]
        current = chosen[:, None]
        attention = torch.cat([attention, attention.new_ones(len(live), 1)], 1)
        position = position[:, :, -1:] + 1
    own = [shared.lengths[r.prefix] + len(r.input_ids) - shared.opening for r in rows]
    return [Completion(tokens[i], ended[i], n) for i, n in enumerate(own)]
