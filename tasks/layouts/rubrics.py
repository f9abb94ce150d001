"""Rubrics: criteria with points, as HealthBench writes them.

[{"criterion": "Advises to see a doctor", "points": 5, "tags": ["axis:completeness"]}, ...]
"""

from __future__ import annotations

import math
from typing import Any

from harness.records import Criterion
from tasks.layouts.cells import BadCell, literal, short


def read(value: Any, column: str) -> tuple[Criterion, ...]:
    """The criteria of a row. Raises BadCell for what is none, and where no criterion is worth anything."""
    if isinstance(value, str):
        value = literal(value, most=1 << 20)
    if not isinstance(value, list) or not value:
        raise BadCell(f"column '{column}': expected a list of criteria")
    found = tuple(_criterion(one, f"column '{column}', criterion {i}") for i, one in enumerate(value, start=1))
    if not any(c.points > 0 for c in found):
        raise BadCell(f"column '{column}': no criterion has points above 0, so there is nothing to reach")
    return found


def _criterion(value: Any, where: str) -> Criterion:
    if not isinstance(value, dict):
        raise BadCell(f"{where}: expected an object with criterion and points, not {short(value)}")
    text = next((value[k] for k in ("criterion", "text", "description") if isinstance(value.get(k), str)), "").strip()
    points = next((value[k] for k in ("points", "weight") if value.get(k) is not None), None)
    if not text:
        raise BadCell(f"{where}: no text under `criterion`")
    if isinstance(points, bool) or not isinstance(points, int | float) or not math.isfinite(points) or points == 0:
        raise BadCell(f"{where}: points are {short(points)}, expected a number that is not 0")
    tags = value.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
        raise BadCell(f"{where}: tags are {short(tags)}, expected a list of texts")
    return Criterion(text=text, points=float(points), tags=tuple(tags or ()))
