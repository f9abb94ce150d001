"""The live panel of a training: where it is, what the rewards say, how fast it goes. Silent where stderr is no terminal."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

from harness.cli import ui


class Panel:
    """A context manager that is called as report(step, steps, log) after every step."""

    def __init__(self, label: str, steps: int) -> None:
        self.label, self.steps, self.step = label, steps, 0
        self.log: dict[str, float] = {}
        self.times: deque[tuple[float, float]] = deque(maxlen=20)  # (when, tokens seen)
        self.live: Any = None

    def __enter__(self) -> Panel:
        if ui.err.is_terminal and not ui.err.quiet:
            from rich.live import Live

            self.live = Live(self.render(), console=ui.err, refresh_per_second=4)
            self.live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.__exit__(kind, value, trace)

    def __call__(self, step: int, steps: int, log: dict[str, float]) -> None:
        self.step, self.steps = max(self.step, step), steps
        self.log |= log
        if "num_tokens" in log:
            self.times.append((time.monotonic(), log["num_tokens"]))
        if self.live:
            self.live.update(self.render())

    def seconds_a_step(self) -> float | None:
        """The median of the last steps; a checkpoint's scoring between two of them does not move it."""
        gaps = [b[0] - a[0] for a, b in zip(self.times, list(self.times)[1:], strict=False)]
        return statistics.median(gaps) if gaps else None

    def tokens_a_second(self) -> float | None:
        if len(self.times) < 2 or self.times[-1][0] == self.times[0][0]:
            return None
        return (self.times[-1][1] - self.times[0][1]) / (self.times[-1][0] - self.times[0][0])

    def facts(self) -> list[tuple[str, str]]:
        """What the panel shows, by name, as far as it is known."""
        parts = {k.split("/")[1]: v for k, v in self.log.items() if k.startswith("rewards/") and k.endswith("/mean")}
        found = [(k, f"{v:.3f}") for k, v in parts.items()]
        named = {"reward": "reward", "kl": "KL", "loss": "loss", "mean_token_accuracy": "token accuracy"}
        found += [(name, f"{self.log[k]:.3f}") for k, name in named.items() if k in self.log]
        if "completions/mean_length" in self.log:
            found.append(("length", f"{self.log['completions/mean_length']:.0f} tokens"))
        if "dev" in self.log:
            found.append(("dev", f"{100 * self.log['dev']:.1f} %"))
        if (rate := self.tokens_a_second()) is not None:
            found.append(("speed", f"{rate:,.0f} tokens/s"))
        found.append(("memory", f"{memory() / 1e9:.1f} GB"))
        if (seconds := self.seconds_a_step()) is not None:
            found.append(("left", clock(seconds * (self.steps - self.step))))
        return found

    def render(self) -> Any:
        from rich.columns import Columns
        from rich.panel import Panel as Box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        lines = Table.grid(expand=True)
        lines.add_row(Text.assemble((self.label, "bold"), f"   step {self.step} of {self.steps}"))
        lines.add_row(ProgressBar(total=self.steps, completed=self.step))
        cells = [Text.assemble((f"{name} ", "dim"), value) for name, value in self.facts()]
        lines.add_row(Columns(cells, padding=(0, 3)))
        return Box(lines, border_style="dim")


def memory() -> float:
    """Bytes at the peak: the GPU's where one is in use, else this process's."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return float(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as few as say it.

    >>> clock(59), clock(61), clock(7260)
    ('59 s', '1 min 1 s', '2 h 1 min')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if m else f"{s} s"
