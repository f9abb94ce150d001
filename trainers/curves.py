"""OUT/curves.png: dev score, reward and its parts, loss, KL and completion lengths over the steps of a training."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.runs import read_jsonl

#: Colours that stay apart for colour-blind readers (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean over the last `width` values at each place (fewer at the start)."""
    return [sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width) for i in range(len(values))]


def draw(out: Path) -> Path | None:
    """Draw what OUT's logs hold so far and return the picture's path; None where nothing was logged yet."""
    log, dev = list(read_jsonl(out / "log.jsonl")), list(read_jsonl(out / "dev.jsonl"))
    panels = _panels(log, dev)
    if not panels:
        return None
    from matplotlib.figure import Figure

    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(10, 2.9 * rows), layout="constrained")
    for i, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, 2, i)
        for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
            _line(axes, name, points, colour)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        if len(lines) > 1:
            axes.legend(fontsize=8, frameon=False, ncols=2)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    path, part = out / "curves.png", out / ".curves.part"
    part.write_bytes(picture.getvalue())
    os.replace(part, path)
    return path


def _line(axes: Any, name: str, points: list[tuple[float, float]], colour: str) -> None:
    """Sparse points as they are; a value a step faintly, with its running mean over it."""
    steps, values = [p[0] for p in points], [p[1] for p in points]
    if len(points) <= 40:
        axes.plot(steps, values, color=colour, label=name, marker="o", markersize=3, linewidth=1.5)
        return
    axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
    axes.plot(steps, running_mean(values, max(5, len(points) // 20)), color=colour, label=name, linewidth=1.8)


def _panels(log: list[dict[str, Any]], dev: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Title -> name -> (step, value) points, for whatever was logged."""

    def points(rows: list[dict[str, Any]], key: str, scale: float = 1.0) -> list[tuple[float, float]]:
        found = [(r["step"], scale * r[key]) for r in rows if isinstance(r.get(key), int | float)]
        return [(s, v) for s, v in found if math.isfinite(v)]

    parts = sorted({k for r in log for k in r if k.startswith("rewards/") and k.endswith("/mean")})
    n = dev[0]["n"] if dev else 0
    wanted = {
        f"score on {n} dev rows, %": {"score": points(dev, "score", 100)},
        "reward": {"reward": points(log, "reward")},
        "reward parts (mean)": {k.removeprefix("rewards/").removesuffix("/mean"): points(log, k) for k in parts},
        "KL to the reference": {"kl": points(log, "kl")},
        "completion length, tokens": {k: points(log, f"completions/{k}_length") for k in ("mean", "max")},
        "loss": {"loss": points(log, "loss")},
        "token accuracy": {"accuracy": points(log, "mean_token_accuracy")},
        "entropy": {"entropy": points(log, "entropy")},
    }
    filled = {t: {n: p for n, p in lines.items() if p} for t, lines in wanted.items()}
    return {title: lines for title, lines in filled.items() if lines}
