"""Several processes, one run. Each rank answers its own images.

    accelerate launch --multi_gpu -m harness run ...    a process a GPU
    torchrun --nproc_per_node 2 -m harness run ...      on a CPU, where accelerate starts one process whatever it is told

Launchers tell each process its rank through RANK and WORLD_SIZE; alone, everything here is free and does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from harness.records import Sample


@dataclass(frozen=True)
class Rank:
    """This process among `count`. Rank 0 owns the run folder."""

    index: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.index == 0

    @property
    def device(self) -> str:
        """The rank's own device: its GPU, or the CPU."""
        import torch

        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def share(self, text: str | None) -> str | None:
        """What rank 0 has to tell, when every rank has come here."""
        if self.count == 1:
            return text
        from accelerate.utils import broadcast_object_list

        return cast(str | None, broadcast_object_list([text])[0])


def current() -> Rank:
    """This process's rank; joins the others' process group on the first call (gloo where there is no GPU)."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Rank()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Rank(state.process_index, state.num_processes)


def shard(samples: Sequence[Sample], rank: Rank) -> list[Sample]:
    """The rank's own samples: whole image groups, dealt out largest first to whoever has least."""
    if rank.count == 1:
        return list(samples)
    groups: dict[str, list[Sample]] = {}
    for s in samples:
        groups.setdefault(s.cluster, []).append(s)
    loads = [0] * rank.count
    mine: list[Sample] = []
    for group in sorted(groups.values(), key=lambda g: (-len(g), g[0].cluster)):
        least = loads.index(min(loads))
        loads[least] += len(group)
        if least == rank.index:
            mine += group
    return mine
