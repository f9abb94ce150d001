"""The registry of judges (registry.yaml): who answers for a short name, what it costs, and when it ends.

A judge that has ended is refused before any work, by name, with the way to its successor and to recorded verdicts.
"""

from __future__ import annotations

import datetime
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from harness.errors import UserError
from harness.models.usage import Price
from harness.specs import Strict

#: US dollars for a million tokens.
Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]
#: What may be sent. Nothing that would let something else answer, or nobody.
Parameter = Literal["temperature", "top_p", "max_tokens", "seed", "reasoning_effort", "verbosity"]
#: What marks a snapshot or an alias of a model.
_SNAPSHOT = re.compile(r"(-\d{4}-?\d{2}-?\d{2}|-\d{3}|-latest|[:@].*)$")

FILE = Path(__file__).with_name("registry.yaml")
#: A judge that ends within so many days is announced.
SOON = 90


class Known(Strict):
    """One judge. The keys are explained in registry.yaml."""

    model: str
    api_base: str | None = None
    price: tuple[Dollars, Dollars] | tuple[Dollars, Dollars, Dollars] | None = None
    ends: datetime.date | None = None
    successor: str | None = None
    #: The name under which it answers, where that is not the model's.
    serves: str | None = None
    parameters: dict[Parameter, Any] = {}
    source: str | None = None
    note: str | None = None

    @field_validator("parameters")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("max_tokens", 1) is None:
            raise ValueError("max_tokens must be a number: without one a verdict's price has no bound")
        return value

    def days_left(self, today: datetime.date) -> int | None:
        """None where no end is known; 0 or less once it has ended."""
        return (self.ends - today).days if self.ends else None

    def cost(self) -> Price | None:
        return Price(*self.price) if self.price else None


class Registry(Strict):
    """All of them, and the day on which they were last looked up."""

    checked: datetime.date
    judges: dict[str, Known]

    def find(self, name: str) -> tuple[str, Known] | None:
        """The entry that `name` means: a short name, or the provider name of one."""
        if name in self.judges:
            return name, self.judges[name]
        return next(((short, k) for short, k in self.judges.items() if k.model == name), None)

    def same_model(self, name: str) -> Known | None:
        """The entry of the model that `name` is a snapshot, an alias or another provider's name of."""
        return next((k for k in self.judges.values() if _bare(k.model) == _bare(name)), None)


def _bare(name: str) -> str:
    return _SNAPSHOT.sub("", name.lower().rpartition("/")[2])


def read(over: Path | None = None) -> Registry:
    """The packaged registry, with the user's own file over it. Raises UserError naming file and key."""
    registry = _read(FILE)
    if over is None:
        return registry
    own = _read(over)
    return Registry(checked=own.checked, judges=registry.judges | own.judges)


def _read(path: Path) -> Registry:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return Registry.model_validate(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, YAMLError) as e:
        raise UserError(f"{path}: cannot be read: {str(e).splitlines()[0]}") from None
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(x) for x in first["loc"]) or "top level"
        raise UserError(f"{path}: key '{where}': {first['msg']}", hint="judges/registry.yaml explains the keys") from None


def refuse_ended(name: str, known: Known, today: datetime.date) -> None:
    """Raises UserError for a judge that its vendor no longer serves."""
    left = known.days_left(today)
    if left is None or left > 0:
        return
    successor = (
        f"its successor is --judge {known.successor}, another judge (`harness judges bridge` measures the change); "
        if known.successor
        else ""
    )
    hint = f"{successor}recorded verdicts can be used with --judge replay:FILE"
    if known.successor and (command := _with({name, known.model}, known.successor)):
        hint += f"\n  with the successor:  {command}"
        hint += f"\n  --accept-successor does the same, and shows it as '{name} -> {known.successor}'"
    raise UserError(
        f"judge '{name}' was retired on {known.ends}: {known.model} is no longer served, and nothing is put in its place",
        hint=hint,
    )


def _with(names: set[str], other: str) -> str | None:
    """The command that was typed, with another judge's name in this one's place; None where it does not stand in it."""
    words = [",".join(other if part in names else part for part in word.split(",")) for word in sys.argv[1:]]
    return f"harness {shlex.join(words)}" if words != sys.argv[1:] else None


def in_its_place(known: Known, today: datetime.date) -> str | None:
    """The successor of a judge that has ended; None for one that has not, or has none."""
    left = known.days_left(today)
    return known.successor if left is not None and left <= 0 else None


def ends_soon(name: str, known: Known, today: datetime.date) -> str | None:
    """A note about a judge that will end soon."""
    left = known.days_left(today)
    if left is None or left > SOON:
        return None
    successor = f"; its successor is '{known.successor}'" if known.successor else ""
    return (
        f"judge '{name}' ends on {known.ends}, in {left} days{successor}: keep its verdicts (`harness judges export`) "
        f"and measure the change (`harness judges bridge`)"
    )
