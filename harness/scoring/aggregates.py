"""Named aggregates: a benchmark's own formula over rows that are right (1) or wrong (0), by their slices.

    AGGREGATES["cv_bench"]([({"task": "Count", "type": "2D", "source": "COCO"}, 1), ...])    # {"overall": ..., ...}

A part that has no rows, and what is computed from it, is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.errors import UserError
from harness.plugins import did_you_mean

#: A row: its slices, and whether it is right.
Row = tuple[Mapping[str, str], float]
Aggregate = Callable[[Sequence[Row]], dict[str, float | None]]


def cv_bench(rows: Sequence[Row]) -> dict[str, float | None]:
    """CV-Bench's official scores and the columns of the paper's Table 2, as shares.

    Official (Tong et al. 2024, Cambrian-1; the dataset card): 2D = mean of the accuracies on ADE20K and COCO, 3D = the
    accuracy on Omni3D, overall = (2D + 3D) / 2. Table 2: Count, Relation, Depth, Distance, and `total` over all rows.

    Table 2 mixes two totals: the first four rows give `total`, the three of "RL w/ LoRA" the plain mean of the four
    columns (`column_mean`; their `total` would be 48.92, 53.90 and 59.57), and the last row (59.29) lies between its two.
    """
    ade20k = _accuracy(rows, type="2D", source="ADE20K")
    coco = _accuracy(rows, type="2D", source="COCO")
    omni3d = _accuracy(rows, type="3D", source="Omni3D")
    two = _mean(ade20k, coco)
    columns = {name: _accuracy(rows, task=name) for name in ("Count", "Relation", "Depth", "Distance")}
    return {
        "2D": two,
        "3D": omni3d,
        "overall": _mean(two, omni3d),
        "ADE20K": ade20k,
        "COCO": coco,
        "Omni3D": omni3d,
        **columns,
        "total": _accuracy(rows),
        "column_mean": _mean(*columns.values()),
    }


AGGREGATES: dict[str, Aggregate] = {"cv_bench": cv_bench}


def find(name: str) -> Aggregate:
    """An aggregate by name. Raises UserError with the nearest name."""
    if name not in AGGREGATES:
        raise UserError(f"no aggregate named '{name}'", hint=did_you_mean(name, list(AGGREGATES)))
    return AGGREGATES[name]


def _accuracy(rows: Sequence[Row], **slices: str) -> float | None:
    values = [value for have, value in rows if all(have.get(k) == v for k, v in slices.items())]
    return sum(values) / len(values) if values else None


def _mean(*parts: float | None) -> float | None:
    known = [p for p in parts if p is not None]
    return sum(known) / len(known) if len(known) == len(parts) else None
