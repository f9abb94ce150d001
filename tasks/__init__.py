"""The benchmarks: one YAML each, the readers of their official archives, and small real data to run offline."""

from pathlib import Path

#: The folder of built-in task specs, found by the harness through the `harness.tasks` entry point.
SPECS = Path(__file__).parent
