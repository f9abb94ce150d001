"""Yes and no as data spell them: true/false, Y/N, 1/0, "no."."""

from __future__ import annotations

from typing import Any, Literal

from tasks.layouts.cells import empty
from tasks.layouts.rows import text

_FORMS: dict[str, Literal["yes", "no"]] = {
    "yes": "yes", "true": "yes", "y": "yes", "t": "yes", "1": "yes", "1.0": "yes",
    "no": "no", "false": "no", "n": "no", "f": "no", "0": "no", "0.0": "no",
}  # fmt: skip
#: Forms that mean yes and no wherever they stand.
PLAIN = ("yes", "no")
NUMBERS = ("1", "0", "1.0", "0.0")


def spelt(value: Any) -> str:
    """A cell's form: "true", "y", "no"; "" for what is no scalar."""
    return "" if isinstance(value, list | tuple | dict | bytes) or empty(value) else text("", value).casefold().strip(" .!。！")


def reading(value: Any) -> Literal["yes", "no"] | None:
    """What a cell says, whatever its form; None where it says neither."""
    return _FORMS.get(spelt(value))
