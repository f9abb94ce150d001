"""SIGTERM, which a scheduler sends before it kills (Slurm, Kubernetes, spot machines), and SIGUSR1, which Slurm can be asked for.

A step that is under way is finished, its checkpoint is saved, and the process ends with 128 + the signal's number (143 for
SIGTERM). Anything that a resumed training does again anyway (loading, scoring a checkpoint) is left at once. The grace
(Slurm: `--signal=TERM@120`) must be longer than one step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from harness.errors import Terminated

T = TypeVar("T")
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def all_ranks(mine: T) -> list[T]:
    """What each process has to say, once all have come here."""
    from accelerate import PartialState

    if PartialState().num_processes == 1:
        return [mine]
    from accelerate.utils import gather_object

    return list(gather_object([mine]))


class Stopping:
    """While this context manager is open, the signals are heard. `asked` is the number of the one that came, or None.

    Raises Terminated at once, but for what runs within `working()`, which must look at `asked` itself.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._finish_first = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen
            heard = [s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._hear) for s in heard}
        return self

    def __exit__(self, *exc: object) -> None:
        for s, before in self._before.items():
            signal.signal(s, before)
        self._before = {}

    def _hear(self, signum: int, frame: object) -> None:
        self.asked = signum
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """Raises Terminated where a signal came and nothing has to be finished first."""
        if self.asked is not None and not self._finish_first:
            raise Terminated(self.asked)

    def agreed(self) -> bool:
        """Whether any process was asked. All must come here: a scheduler may warn one before the other."""
        found = next((s for s in all_ranks(self.asked) if s is not None), None)
        if found is not None:
            self.asked = found
        return found is not None

    @contextmanager
    def working(self) -> Iterator[None]:
        """What runs here is finished first."""
        with self._set(True):
            yield

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `working()`: what runs here is left at once."""
        with self._set(False):
            self.end_if_asked()
            yield

    @contextmanager
    def _set(self, value: bool) -> Iterator[None]:
        before, self._finish_first = self._finish_first, value
        try:
            yield
        finally:
            self._finish_first = before
