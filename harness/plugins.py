"""Discovery by entry point: the only way the harness learns of tasks, layouts, judges and trainers."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import UserError

GROUPS = ("tasks", "layouts", "judges", "trainers")


def did_you_mean(name: str, valid: list[str]) -> str:
    """A hint with the nearest valid name, or all of them when none is near."""
    from rapidfuzz import fuzz, process

    match = process.extractOne(name, valid, scorer=fuzz.ratio, score_cutoff=60)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(sorted(valid)) or 'none'}"


def available(group: str) -> dict[str, EntryPoint]:
    """The plugins of a group by name. A name that two packages claim is refused: neither wins in silence."""
    assert group in GROUPS, f"unknown plugin group {group!r}"
    found: dict[str, EntryPoint] = {}
    for ep in entry_points(group=f"harness.{group}"):
        if ep.name in found and found[ep.name].value != ep.value:
            raise UserError(
                f"two packages register '{ep.name}' under harness.{group}: {found[ep.name].value} and {ep.value}",
                hint="uninstall one of them",
            )
        found[ep.name] = ep
    return found


def load(group: str, name: str) -> Any:
    """The plugin object. Raises UserError with the nearest name when there is none, or when its import fails."""
    found = available(group)
    if name not in found:
        raise UserError(f"no {group.removesuffix('s')} named '{name}'", hint=did_you_mean(name, list(found)))
    try:
        return found[name].load()
    except ImportError as e:
        raise UserError(f"{group.removesuffix('s')} '{name}' ({found[name].value}) cannot be imported: {e}") from e
