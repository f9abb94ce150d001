"""All cores for many small computations: each core takes whole ones, which keeps it busier than a share of each would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """[work(item) for item in items] on as many threads as torch uses, each computing on one core. For a CPU."""
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, len(items))
    if workers <= 1:
        return [work(i) for i in items]
    try:
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)
