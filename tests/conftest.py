"""Shared fixtures: real rows, the real tiny model, one process-wide load of each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker is a core's; commands that tests start inherit this
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.pop("COLUMNS", None)  # the console takes its width from here once, when it is made

from harness import data, specs
from harness.cli import ui as ui
from harness.data import LoadedTask

SHARED = Path(__file__).parents[2] / "shared" / "data"


def load(name: str, **options: object) -> LoadedTask:
    ((spec, path),) = specs.find(name)
    return data.load(spec, path, source="bundled", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def slake() -> LoadedTask:
    return load("slake")


@pytest.fixture(scope="session")
def tiny():
    from harness.models.transformers_model import TransformersModel

    return TransformersModel("tiny", device="cpu")


@pytest.fixture(scope="session")
def archives() -> Path:
    """The official archives, where a developer has them; tests that need them skip elsewhere."""
    if not (SHARED / "slake" / "test.json").exists():
        pytest.skip("the official archives are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def viewed(tiny, tmp_path_factory):
    """Runs and a checkpoint to look at (tests/viewed.py). Read only: tests that write copy them."""
    from tests import viewed

    return viewed.make(tmp_path_factory.mktemp("viewed"), tiny, load)


@pytest.fixture(scope="session")
def judged(tiny, tmp_path_factory) -> Path:
    """A real run: the tiny model on 120 rows of SLAKE, judged exactly. Copy it before writing."""
    root = tmp_path_factory.mktemp("judged")
    from harness import pipeline
    from harness.prompts import PROMPTS
    from harness.records import GenerationArgs
    from judges.exact import ExactJudge

    task, args = load("slake", limit=120), GenerationArgs(max_new_tokens=16)
    return pipeline.run(task, tiny, PROMPTS["non_reasoning"], args, [ExactJudge()], root).path


@pytest.fixture
def run(judged, tmp_path) -> Path:
    """A copy of that run in a folder of runs of its own."""
    place = tmp_path / "runs" / "tiny" / judged.name
    shutil.copytree(judged, place)
    return place


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["harness", *map(str, words)])
        from harness.cli.main import _run

        code = _run()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
