"""Several processes, one run. Each rank answers its own images.

    accelerate launch --multi_gpu -m harness run ...    a process a GPU
    torchrun --nproc_per_node 2 -m harness run ...      on a CPU, where accelerate starts one process whatever it is told

Launchers tell each process its rank through RANK and WORLD_SIZE; alone, everything here is free and does nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from harness.errors import RanksError
from harness.records import Sample
from harness.runs import write_atomic

T = TypeVar("T")

#: One rank may have much more to do than another, and the others wait for it.
PATIENCE = datetime.timedelta(days=2)
#: Seconds after which a file that another host wrote must be seen.
SEEN_WITHIN = 10.0


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

            with self._together():
                PartialState().wait_for_everyone()

    def share(self, text: str | None) -> str | None:
        """What rank 0 has to tell, when every rank has come here."""
        if self.count == 1:
            return text
        from accelerate.utils import broadcast_object_list

        with self._together():
            return cast(str | None, broadcast_object_list([text])[0])

    def every(self, value: T) -> list[T]:
        """What each rank has to tell, by rank, when every rank has come here."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        with self._together():
            return cast(list[T], gather_object([value]))

    def agree(self, work: dict[str, str]) -> None:
        """Raises RanksError, on every rank, unless all of them are about to do the same `work`: what it is made of, by name."""
        told = self.every(work)
        for index, other in enumerate(told):
            if differ := [name for name in told[0] if other.get(name) != told[0][name]]:
                raise RanksError(
                    f"rank {index} works on other {' and '.join(differ)} than rank 0",
                    hint="every rank, on every host, needs the same command, data, model and version of the harness",
                )

    def see(self, folder: Path) -> None:
        """Raises RanksError, on every rank, unless all of them see the `folder` that rank 0 has made."""
        if self.count == 1:
            return
        mark = folder / ".ranks"
        token = secrets.token_hex(8) if self.main else None
        if token is not None:
            write_atomic(mark, token)
        token = self.share(token)
        seen = self.every(_holds(mark, token))
        if self.main:
            mark.unlink(missing_ok=True)
        if blind := [i for i, saw in enumerate(seen) if not saw]:
            raise RanksError(
                f"{folder}: rank {blind[0]} does not see the folder that rank 0 writes",
                hint="give --runs a folder that all hosts share; the answers are gathered through it",
            )

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """A rank that is waited for may have ended."""
        try:
            yield
        except RuntimeError as e:  # what torch's process groups raise
            raise RanksError(
                f"another rank has ended: {(str(e).splitlines() or ['?'])[0]}",
                hint="its own output says why; run the same command again and it goes on",
            ) from None


def label() -> str:
    """ "rank 1 of 2: " before what one of several processes has to say; nothing where there is one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return f"rank {os.environ.get('RANK', '?')} of {count}: " if count > 1 else ""


def _holds(file: Path, token: str | None) -> bool:
    """Whether `file` says `token`, at the latest when a network file system has brought it."""
    end = time.monotonic() + SEEN_WITHIN
    while True:
        with contextlib.suppress(OSError):
            if file.read_text(encoding="utf-8") == token:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def current() -> Rank:
    """This process's rank; joins the others' process group on the first call (gloo where there is no GPU)."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Rank()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
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
