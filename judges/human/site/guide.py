"""The rater's guide: three rows of SLAKE, bundled with the harness, each with a model's words and the verdicts they deserve."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from harness.records import Sample

TASK = "slake_grounded"


class Example(NamedTuple):
    """A row by its id, what a model might have written, the verdicts it deserves, and why."""

    row: str
    thought: str
    answer: str
    reasoning: int
    final: int
    why: str


EXAMPLES = (
    Example(
        "11941",
        "Axial CT of the chest. There is a mass in the lower part of the patient's left lung, most likely malignant.",
        "Lung cancer",
        1,
        1,
        "Other words, the same findings: a CT of the lung, a lesion at the same place, read as cancer. Both are 1.",
    ),
    Example(
        "11968",
        "A chest X-ray with a consolidation in the upper lobe of the right lung. The heart looks enlarged.",
        "Cardiomegaly",
        0,
        1,
        "The answer is right. The reasoning rests on a finding that the reference does not have, at another place: reasoning 0.",
    ),
    Example(
        "12037",
        "A chest X-ray. A nodule lies in the upper left of the image, which is the patient's right side.",
        "Yes",
        1,
        0,
        "The findings are those of the reference. The conclusion does not follow from them: final answer 0.",
    ),
)


@cache
def rows() -> tuple[Sample, ...]:
    """The examples' rows, with their images."""
    from harness import data, specs

    path = specs.catalog()[TASK]
    found = {s.id: s for s in data.read(specs.read(path), path, source="bundled", images=False).samples}
    return tuple(found[example.row] for example in EXAMPLES)
