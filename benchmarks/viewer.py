"""How long the viewer's pages take over 1,000 runs of 1,000 samples: what `harness view` answers, measured at its client.

    python -m benchmarks.viewer                           # writes benchmarks/results/viewer.json
    python -m benchmarks.viewer --keep FOLDER             # makes the runs there, or uses those that are there

The runs are those of benchmarks/leaderboard.py: 100 models x 10 tasks, 1,000,000 verdicts. A page counts from the request to the
last byte of its HTML; each figure is over pages of different runs, the first of which may have to make a run's row file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.leaderboard import RESULTS, make_runs
from harness.pipeline import hardware
from harness.runs import find
from leaderboard.site.library import Shelf

#: Pages of each kind; a run's first page comes from another run each time.
PAGES = 40


@contextlib.contextmanager
def viewer(runs: Path) -> Iterator[str]:
    """The address of `harness view` over `runs`."""
    command = [sys.executable, "-m", "harness", "view", "--runs", str(runs), "--port", "0", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().split()[0]
        process.send_signal(signal.SIGINT)


def seconds(address: str) -> float:
    start = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        answer.read()
    return time.perf_counter() - start


def measure(runs: Path) -> dict[str, dict[str, float]]:
    """Milliseconds by kind of page: the first, the median, the slowest of the others."""
    draw = random.Random(0)
    start = time.perf_counter()
    with viewer(runs) as base:
        ready = time.perf_counter() - start
        known = sorted(Shelf([runs]).runs)
        chosen = draw.sample(known, min(PAGES, len(known)))

        def rows(run: str, **query: object) -> str:
            return f"{base}samples-{run}.html?{urlencode(query)}"

        def other(run: str) -> str:
            """Another model's run on the same task."""
            task = run.partition(".")[2].partition("-")[0]
            return draw.choice([r for r in known if f".{task}-" in r and r != run])

        kinds = {
            "a run's first page of answers": [rows(run) for run in chosen],
            "a further page of answers": [rows(chosen[0], page=draw.randint(2, 20)) for _ in range(PAGES)],
            "wrong answers about CT": [rows(run, verdict="wrong", **{"slice.modality": "CT"}) for run in chosen],
            "answers that another run flips": [rows(run, flips=other(run)) for run in chosen],
            "answers with a word": [rows(run, q=draw.choice(("effusion", "spleen", "mass"))) for run in chosen],
            "a run's page": [f"{base}run-{run}.html" for run in chosen[:10]],
            "the leaderboard": [base] * 5,
        }
        found = {}
        for kind, addresses in kinds.items():
            first, *others = [1000 * seconds(a) for a in addresses]
            found[kind] = {"first": first, "median": statistics.median(others), "slowest": max(others)}
    return {"until it answers": {"first": 1000 * ready}} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", type=Path, help="folder of the runs; made where it is empty")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        runs = options.keep or Path(made)
        if not find(runs):
            make_runs(runs)
        result = {"machine": hardware(), "runs": len(find(runs)), "milliseconds": measure(runs)}
    for kind, times in result["milliseconds"].items():
        print(f"{kind:32}", "  ".join(f"{name} {value:7.0f}" for name, value in times.items()))
    (RESULTS / "viewer.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
