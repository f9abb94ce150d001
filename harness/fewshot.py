"""Worked examples before every question: a few rows of the train split, the same for all, drawn by seed.

No example shares a picture, a patient or a study (whatever the rows' clusters are) with a row that is asked, or with another
example. The answer shown is the reference's, after its reasoning in the paper's tags where the row has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.data import LoadedTask, Split
from harness.errors import DataError, UserError
from harness.places import Source
from harness.prompts import Prompt, Shot
from harness.records import BadImageError, Reference, Sample
from harness.specs import TaskSpec

SPLIT = "train"


def draw(pool: Iterable[Sample], count: int, seed: int, asked: Sequence[Sample]) -> tuple[Shot, ...]:
    """`count` examples, in an order that depends on seed and row ids alone. Raises UserError where there are not so many."""
    taken = {key for s in asked for key in _keys(s)}
    found: list[Shot] = []
    rows = sorted(pool, key=lambda s: hashlib.sha256(f"{seed}:{s.id}".encode()).digest())
    for row in rows:
        if len(found) == count:
            break
        if row.system or not any(a.strip() for a in row.reference.answers):
            continue
        try:
            keys = _keys(row)
            for image in row.images:
                image.verify()
        except BadImageError:
            continue
        if taken.isdisjoint(keys):
            taken |= keys
            found.append(Shot(row.id, row.images, row.question, told(row.reference)))
    if len(found) < count:
        raise UserError(
            f"--num-fewshot {count}: only {len(found)} of {len(rows)} rows of the train split can be shown",
            hint="each example needs an answer, and pictures that no question and no other example shows",
        )
    return tuple(found)


def _keys(sample: Sample) -> set[str]:
    """What two rows must not share: the cluster, any picture, and the question where there is no picture."""
    pictures = {i.file_sha256 for i in sample.images}
    return {sample.cluster, *pictures} if pictures else {sample.cluster, sample.question}


def told(reference: Reference) -> str:
    """The answer as the model is shown to give it."""
    answer = next(a for a in reference.answers if a.strip())
    reasoning = (reference.reasoning or "").strip()
    return f"<think>{reasoning}</think><answer>{answer}</answer>" if reasoning else answer


def before(
    prompt: Prompt, task: LoadedTask, spec_path: Path, *, system: str | None = None, count: int = 0, seed: int = 0,
    data_dir: Path | None = None, images_dir: Path | None = None, max_pixels: int | None = None,
) -> Prompt:  # fmt: skip
    """The prompt with a system turn and examples before every question of a task. Raises UserError where it cannot have them."""
    if system is not None and not system.strip():
        raise UserError("--system is empty", hint="leave it away")
    if system and (own := next((s.id for s in task.samples if s.system), None)):
        raise UserError(
            f"--system: row {own} of task '{task.spec.name}' has a system turn of its own, and only one can be shown",
            hint="leave --system away, or take the system turn out of the data",
        )
    shots: tuple[Shot, ...] = ()
    if count:
        source: Source = task.card.source if task.card.source != "file" else "auto"  # at the resolution that is asked about
        shots = draw(_pool(task.spec, spec_path, source, data_dir, images_dir, max_pixels), count, seed, task.samples)
    return Prompt(prompt.name, prompt.template, prompt.source, system, shots)


def _pool(
    spec: TaskSpec, spec_path: Path, source: Source, data_dir: Path | None, images_dir: Path | None, max_pixels: int | None
) -> Iterable[Sample]:
    if SPLIT not in spec.splits:
        known = ", ".join(spec.splits)
        raise UserError(
            f"--num-fewshot: task '{spec.name}' has no train split to take examples from", hint=f"its splits are {known}"
        )
    try:
        return list(
            Split(
                spec, spec_path, source=source, data_dir=data_dir, images_dir=images_dir, split=SPLIT, images=False,
                max_pixels=max_pixels,
            )
        )  # fmt: skip
    except DataError as e:
        raise DataError(f"--num-fewshot: the train split cannot be read: {e}", hint=e.hint) from None
