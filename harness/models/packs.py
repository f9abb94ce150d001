"""What is computed together: samples about the same pictures, parts of about one size, and halves where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from harness.errors import ModelError
from harness.models import loading
from harness.records import Sample

T = TypeVar("T")
R = TypeVar("R")


def group_by_images(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples that show the same images after the same system turn, together; in order of first appearance."""
    groups: dict[tuple[str | None, ...], list[Sample]] = {}
    for s in samples:
        groups.setdefault((s.system, *(i.sha256 for i in s.images)), []).append(s)
    return list(groups.values())


def evenly(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """The fewest parts of at most `most` items, as equal as can be."""
    parts = -(-len(items) // most)
    return [items[len(items) * i // parts : len(items) * (i + 1) // parts] for i in range(parts)]


def balanced(groups: Sequence[list[T]], parts: int) -> list[Sequence[list[T]]]:
    """The groups in `parts` parts of at most as many groups, with about as many items in each, so that workers end together."""
    most = -(-len(groups) // parts)
    found: list[list[int]] = [[] for _ in range(parts)]
    items = [0] * parts
    for i in sorted(range(len(groups)), key=lambda i: -len(groups[i])):
        least = min((k for k in range(parts) if len(found[k]) < most), key=items.__getitem__)
        found[least].append(i)
        items[least] += len(groups[i])
    return [[groups[i] for i in sorted(part)] for part in found]


def out_of_memory(e: BaseException) -> bool:
    """Whether memory ran out: torch has a type for it on CUDA alone, elsewhere it is a RuntimeError's text."""
    if isinstance(e, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(e, RuntimeError) and any(s in str(e) for s in ("DefaultCPUAllocator", "out of memory"))


def halving(run: Callable[[Sequence[T]], R], items: Sequence[T]) -> Iterator[tuple[Sequence[T], R]]:
    """(items, run(items)); where memory runs out, the same for each half of them, and so on down to one item.

    Raises ModelError when one item alone is too much.
    """
    result = None
    try:
        result = run(items)
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        if len(items) == 1:
            raise ModelError(
                f"out of memory on a single question: {loading.first_line(e)}",
                hint="try a smaller --max-new-tokens, --dtype bfloat16, or smaller images",
            ) from e
    if result is not None:
        yield items, result
        return
    # out of the handler, whose traceback would keep the failed pass's tensors alive
    gc.collect()
    torch.cuda.empty_cache()
    half = len(items) // 2
    yield from halving(run, items[:half])
    yield from halving(run, items[half:])
