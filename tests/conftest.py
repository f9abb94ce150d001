"""Shared fixtures: real rows, the real tiny model, one process-wide load of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

from harness import data, specs
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
