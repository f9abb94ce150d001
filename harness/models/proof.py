"""Proof that sharing a prefix changes nothing: before a run shares any, a few of its own rows are answered both ways.

A family that nobody tried may count positions, windows or masks in a way of its own. So some questions about two of the run's own
pictures are answered on a shared prefix and by the model's own `generate`, greedily and for a few tokens, and the logits of every
step are compared as long as the texts agree. In fp32 the texts must be equal and the logits within 1e-4 of their size. In a
shorter format the model's own `generate` gives other logits in a batch than alone: twice that spread, on the same rows, is the
tolerance, and never less than one step of the format itself (rows of one length are often computed alike in a batch and alone,
and then the spread is zero by chance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.models import engine
from harness.records import GenerationArgs

PICTURES = 2
ROWS = 4
STEPS = 8
#: Of the largest logit: rounding of fp32 sums taken in another order.
ROUNDING = 1e-4


@dataclass
class Trace:
    """What one row's greedy decoding gave: the tokens, and the logits that each was chosen from."""

    tokens: list[int] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)

    def add(self, logits: torch.Tensor) -> None:
        self.logits.append(logits.float().cpu())
        self.tokens.append(int(logits.argmax()))


def choose(sizes: Sequence[int], ids: Sequence[Sequence[list[int]]]) -> list[tuple[int, int]]:
    """(group, row) of the questions to ask: the shortest, the longest, and some between."""
    rows = sorted(((g, i) for g, n in enumerate(sizes) for i in range(n)), key=lambda row: len(ids[row[0]][row[1]]))
    return list(dict.fromkeys(rows[round(k * (len(rows) - 1) / (ROWS - 1))] for k in range(ROWS)))


def shared(model: Any, prefixes: engine.Prefilled, rows: Sequence[engine.Row], pad: int, end: set[int]) -> list[Trace]:
    """The rows' traces on shared prefixes."""
    traces = [Trace() for _ in rows]

    def watch(live: Sequence[int], logits: torch.Tensor) -> None:
        for i, row in zip(live, logits, strict=True):
            traces[i].add(row)

    engine.complete(model, prefixes, rows, GenerationArgs(max_new_tokens=STEPS), pad=pad, end=end, watch=watch)
    return traces


@torch.inference_mode()
def generated(model: Any, inputs: dict[str, Any], end: set[int]) -> list[Trace]:
    """The rows' traces by the model's own `generate`."""
    out = model.generate(
        **inputs, max_new_tokens=STEPS, do_sample=False, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    traces = [Trace() for _ in inputs["input_ids"]]
    for logits in out.logits:
        for trace, row in zip(traces, logits, strict=True):
            if not (trace.tokens and trace.tokens[-1] in end):
                trace.add(row)
    return traces


def apart(these: Sequence[Trace], those: Sequence[Trace]) -> float:
    """The largest difference of two sets of logits relative to their size, up to where the texts part."""
    most = 0.0
    for a, b in zip(these, those, strict=True):
        for i, (x, y) in enumerate(zip(a.logits, b.logits, strict=False)):
            finite = torch.isfinite(x) & torch.isfinite(y)
            most = max(most, float((x - y)[finite].abs().max() / y[finite].abs().max().clamp(min=1)))
            if a.tokens[i] != b.tokens[i]:
                break
    return most


def why_not(
    shared: Sequence[Trace], plain: Sequence[Trace], alone: Callable[[], Sequence[Trace]], dtype: torch.dtype
) -> str | None:
    """None where the shared prefix gives what `generate` gives, else what differs.

    `alone` answers the rows one by one; `dtype` is what they are computed in.
    """
    equal = sum(a.tokens == b.tokens for a, b in zip(shared, plain, strict=True))
    difference = apart(shared, plain)
    if difference != difference:
        return "the model's logits are not numbers"
    if equal == len(plain) and difference <= ROUNDING:
        return None
    if dtype != torch.float32:
        one_by_one = alone()
        spread = apart(plain, one_by_one)
        if min(difference, apart(shared, one_by_one)) <= max(torch.finfo(dtype).eps, 2 * spread):
            return None
        beyond = f", where batching alone makes {spread:.1g}"
    else:
        beyond = ""
    texts = f"{len(plain) - equal} of {len(plain)} texts differ" if equal < len(plain) else "texts agree, but not logits"
    return f"compared with the model's own generate, {texts} (by {difference:.1g} of their size{beyond})"
