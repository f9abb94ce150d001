"""The four contracts that a plugin fulfils. Each is found by entry point (see harness/plugins.py).

group                what it names
harness.tasks        a folder of task YAMLs (a Path)
harness.layouts      reader(view: View) -> Iterator[Sample]      (harness/data.py says what a view is)
harness.judges       factory(argument: str, options: JudgeOptions) -> Judge      (`--judge NAME` or `NAME:argument`);
                     `litellm` is asked for every NAME that no other judge has
harness.trainers     a Trainer class                           (`harness train NAME`)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from harness.data import View
from harness.models.endpoint import Outgoing
from harness.models.usage import Budget, Limits
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


@dataclass(frozen=True)
class JudgeOptions:
    """What the judges of one command share; each takes what concerns it."""

    #: The judge prompt, by name (judges/prompts).
    prompt: str = "rarl-v2"
    #: Verdicts of LLM judges and certificates are kept under this folder of runs, for all of them.
    runs: Path = Path("runs")
    allow_external: bool = False
    #: Dollars that all of them may spend.
    budget: Budget = field(default_factory=Budget)
    limits: Limits = field(default_factory=Limits)
    max_in_flight: int = 64
    #: Seconds for one verdict with all its tries.
    deadline: float = 300.0
    seed: int = 0
    #: A YAML file over the registry of judges.
    registry: Path | None = None
    device: str = "auto"
    #: Whether verdicts in the store are used again; a test-retest asks anew, and keeps nothing.
    use_store: bool = True
    #: Whether a judge is asked again about rows that it has answered, and been paid for, without a verdict.
    ask_again: bool = False
    #: Whether a retired judge's registered successor answers in its place, under both names.
    accept_successor: bool = False


@runtime_checkable
class Judge(Protocol):
    """Gives a verdict on each prediction. `version` changes whenever a verdict could. Subclass it for the defaults below."""

    name: str
    version: str
    #: Whether a run forgets the verdicts of this judge's other versions: they can be made again from what it reads.
    supersedes: ClassVar[bool] = False

    def prepare(self, rows: Sequence[Outgoing]) -> list[str]:
        """Called once, before any work: notes to be shown, such as what will be sent to whom and for how much.

        Raises UserError where these rows cannot be judged: no key, or they may not leave this machine.
        """
        return []

    def probe(self, sample: Sample) -> None:
        """Called once, before any answer is generated, with a row that will be judged.

        Raises UserError where this judge cannot be asked at all: what would be found out after hours is known now.
        """
        return

    def card(self) -> dict[str, Any]:
        """What explains the verdicts, for the run's card; JSON values."""
        return {}

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
