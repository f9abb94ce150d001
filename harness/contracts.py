"""The four contracts that a plugin fulfils. Each is found by entry point (see harness/plugins.py).

group                what it names
harness.tasks        a folder of task YAMLs (a Path)
harness.layouts      reader(view: View) -> Iterator[Sample]      (harness/data.py says what a view is)
harness.judges       factory(argument: str) -> Judge          (`--judge NAME` or `--judge NAME:argument`)
harness.trainers     a Trainer class                           (`harness train NAME`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from harness.data import View
from harness.prompts import Prompt
from harness.records import DataCard, GenerationArgs, ModelCard, Prediction, Sample, Verdict
from harness.specs import TaskSpec

#: Yields an archive's samples in its own order; raises DataError naming file and row.
Layout = Callable[[View], Iterator[Sample]]


class Task(Protocol):
    """Rows to ask, and the card that says which rows they are."""

    @property
    def samples(self) -> Sequence[Sample]: ...
    @property
    def card(self) -> DataCard: ...
    @property
    def spec(self) -> TaskSpec: ...


@runtime_checkable
class Model(Protocol):
    """Answers samples. Batching is its own business and must never change a text."""

    @property
    def card(self) -> ModelCard: ...

    def generate(self, samples: Sequence[Sample], prompt: Prompt, args: GenerationArgs) -> Iterator[list[Prediction]]:
        """Yield finished predictions, one list a batch, in any order; each sample exactly once."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Gives a verdict on each prediction. `version` changes whenever a verdict could."""

    name: str
    version: str

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterable[Verdict]:
        """One verdict a pair, in any order. A judge that cannot say gives a missing verdict with the reason."""
        ...


class Trainer(Protocol):
    """Turns a base model and a task's rows into a checkpoint that `harness run --model` loads."""

    name: ClassVar[str]
    summary: ClassVar[str]

    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        ...

    def plan(self, gpu_memory: float | None = None) -> BaseModel:
        """What would be trained, on what, with how much memory; loads no weights."""
        ...

    def fit(self, resume: Path | None = None) -> Path:
        """Train, going on from a checkpoint where one is given, and return the folder of the trained model."""
        ...

    def export(self, folder: Path, *, merge: bool = False) -> Path:
        """Write the trained model alone to `folder`, an adapter merged into its base where asked."""
        ...
