"""Reference reasoning written by rule from SLAKE's own expert annotation, for `slake_grounded`.

SLAKE gives each image its modality, body part and named boxes (`detection.json`, pixels). This turns them into
a few plain sentences: what the image is, which findings are marked and where, and the answer. It is derived
text, not a physician's words; every task that uses it says so.

Sides follow the radiological convention that SLAKE's answers use: the image's left is the patient's right.
Sagittal slices have no patient's side; SLAKE does not record the plane, so a side is given only for findings in
the lung, the one body part whose images are all frontal or axial.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Box names that are organs, after "Left" and "Right" are taken off. Every other name is a finding.
ORGANS = frozenset({
    "bladder", "brain stem", "colon", "duodenum", "ear", "esophagus", "eye", "femoral head", "heart", "kidney", "larynx",
    "liver", "lung", "mandible", "parotid", "rectum", "small bowel", "spinal cord", "spleen", "stomach", "temporal lobe",
    "tooth", "trachea",
})  # fmt: skip

_MODALITY = {"CT": "a CT", "MRI": "an MRI", "X-Ray": "an x-ray"}


def findings(boxes: Sequence[dict[str, Sequence[float]]]) -> list[tuple[str, float, float]]:
    """The boxes that are not organs, as (name, centre x, centre y) in pixels."""
    out = []
    for box in boxes:
        for name, (x, y, w, h) in box.items():
            if name.lower().removeprefix("left ").removeprefix("right ") not in ORGANS:
                out.append((name.lower(), x + w / 2, y + h / 2))
    return out


def reasoning(row: dict[str, Any], boxes: Sequence[dict[str, Sequence[float]]], width: int, height: int) -> str:
    """The sentences for one SLAKE row (its English fields) and its image's boxes and size in pixels."""
    part = row["location"].replace("_", " ").lower()
    lung = "lung" in part or "chest" in part
    places: list[str] = []
    for name, x, y in findings(boxes):
        across = "left" if x < width / 2 else "right"
        place = f"{name} in the {'upper' if y < height / 2 else 'lower'} {across} quadrant"
        if lung:
            place += f", on the patient's {'right' if across == 'left' else 'left'} side"
        if place not in places:
            places.append(place)
    shown = "It shows " + "; ".join(places) + "." if places else "No lesion is marked."
    return f"This is {_MODALITY[row['modality']]} of the {part}. {shown} So the answer is {row['answer'].strip().lower()}."
