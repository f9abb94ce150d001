"""How often the intervals of `harness calibrate` hold, and how wide they are, on made-up verdicts whose truth is known.

    python -m benchmarks.calibration [--draws 1000]

96 images x 11 questions whose right answers are correlated within an image (beta-binomial, 0.15), a judge of a given sensitivity
and specificity on all of them, people on a few drawn at random. Writes benchmarks/results/calibration.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from leaderboard.calibration import calibrate

RESULTS = Path(__file__).parent / "results" / "calibration.json"
#: (labels, share that people call right, the judge's sensitivity and specificity)
CASES = (
    (60, 0.6, 0.92, 0.78), (148, 0.6, 0.92, 0.78), (300, 0.6, 0.92, 0.78), (60, 0.93, 0.92, 0.78), (148, 0.95, 0.92, 0.78),
    (100, 0.08, 0.8, 0.95), (148, 0.6, 0.5, 0.5),
)  # fmt: skip

MadeUp = tuple[dict[str, int], dict[str, int], dict[str, float], dict[str, int]]


def made_up(
    rng: np.random.Generator, labels: int, score: float, sensitivity: float, specificity: float, *,
    groups: int = 96, per: int = 11, icc: float = 0.15,
) -> MadeUp:  # fmt: skip
    """What `calibrate` takes: a judge's verdicts, people's on a few, their weights, and each row's image."""
    shares = rng.beta(score * (1 / icc - 1), (1 - score) * (1 / icc - 1), groups)
    right = (rng.random((groups, per)) < shares[:, None]).astype(int).ravel()
    says = np.where(rng.random(right.size) < np.where(right == 1, sensitivity, 1 - specificity), 1, 0)
    ids = [str(i) for i in range(right.size)]
    drawn = [ids[i] for i in rng.choice(right.size, labels, replace=False)]
    given = {i: int(right[int(i)]) for i in drawn}
    return dict(zip(ids, says.tolist(), strict=True)), given, dict.fromkeys(drawn, 1.0), {i: int(i) // per for i in ids}


def measure(
    rng: np.random.Generator, draws: int, labels: int, score: float, sensitivity: float, specificity: float
) -> dict[str, float]:
    """Shares of draws whose interval holds the truth, and mean widths."""
    found = [calibrate(*made_up(rng, labels, score, sensitivity, specificity)) for _ in range(draws)]
    out: dict[str, float] = {"labels": labels, "score": score, "sensitivity": sensitivity, "specificity": specificity}
    for name, intervals in (
        ("calibrated", [c.calibrated for c in found]), ("people", [c.people for c in found]), ("judge", [c.judge for c in found]),
    ):  # fmt: skip
        out[f"{name}_covers"] = sum(i.low <= score <= i.high for i in intervals) / draws
        out[f"{name}_width"] = float(np.mean([i.high - i.low for i in intervals]))
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    rows = [measure(rng, draws, *case) for case in CASES]
    for row in rows:
        print("  ".join(f"{k} {v:.3f}" for k, v in row.items()))
    RESULTS.write_text(json.dumps({"draws": draws, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
