"""Controls: the same questions without what they are about, to see what a score owes to the picture.

blank-image     each picture replaced by an even grey one of its size
shuffled-image  each picture by another of the task, drawn by seed: all questions about one picture see the same other one
question-only   no picture at all
options-only    no picture and no question either, only the choices

A control's rows keep ids, references, slices and clusters, so that it is compared row by row with the run that it controls; its
data have a fingerprint of their own, and no leaderboard ranks it.

    task = controlled(task, "blank-image")
"""

from __future__ import annotations

import hashlib
import io
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from harness.data import LoadedTask, fingerprint
from harness.errors import UserError
from harness.plugins import did_you_mean
from harness.records import ImageRef, Sample

#: Grey in the middle, as a picture of nothing.
GREY = (128, 128, 128)
_PLACE = re.compile(r"\s*<image \d+>\s*")

#: (samples, seed) -> the samples to ask instead.
Control = Callable[[Sequence[Sample], int], list[Sample]]


@cache
def _grey(size: tuple[int, int]) -> ImageRef:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, GREY).save(out, "PNG")
    return ImageRef(name=f"grey-{size[0]}x{size[1]}.png", data=out.getvalue())


def blank(samples: Sequence[Sample], seed: int) -> list[Sample]:
    return [_kept(s, images=tuple(_grey(i.size) for i in s.images)) for s in samples]


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Raises UserError where no other picture is there to show."""
    others: dict[str, tuple[ImageRef, ...]] = {}
    by_count: dict[int, dict[str, tuple[ImageRef, ...]]] = {}
    for s in samples:
        by_count.setdefault(len(s.images), {}).setdefault(s.pictured, s.images)
    for count, shown in by_count.items():
        if not count:
            continue
        keys = sorted(shown)
        if len(keys) == 1:
            raise UserError(
                f"shuffled-image: all rows with {count} picture(s) show the same", hint="take more rows, or blank-image"
            )
        random.Random(seed).shuffle(keys)  # each takes the next one's: nobody keeps their own
        others |= {key: shown[after] for key, after in zip(keys, [*keys[1:], keys[0]], strict=True)}
    return [_kept(s, images=others.get(s.pictured, ())) for s in samples]


def question_only(samples: Sequence[Sample], seed: int) -> list[Sample]:
    return [_kept(s, images=(), question=_PLACE.sub(" ", s.question).strip()) for s in samples]


def options_only(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Raises UserError for rows without choices."""
    if without := next((s.id for s in samples if not s.reference.choices), None):
        raise UserError(f"options-only: row {without} has no choices", hint="it is for tasks whose questions all have choices")
    return [
        _kept(s, images=(), question="\n".join(f"{letter}. {words}" for letter, words in s.reference.lettered.items()))
        for s in samples
    ]


CONTROLS: dict[str, Control] = {
    "blank-image": blank, "shuffled-image": shuffled, "question-only": question_only, "options-only": options_only,
}  # fmt: skip


def check(name: str) -> None:
    """Raises UserError for a control that does not exist."""
    if name not in CONTROLS:
        raise UserError(f"--control {name}: no such control", hint=did_you_mean(name, list(CONTROLS)))


def controlled(task: LoadedTask, name: str, seed: int = 0) -> LoadedTask:
    """The task with its rows changed as the control says. Raises UserError where they cannot be."""
    check(name)
    if not any(s.images for s in task.samples):
        raise UserError(f"--control {name}: task '{task.spec.name}' has no pictures to take away")
    samples = CONTROLS[name](task.samples, seed)
    own = hashlib.sha256(f"{name} of {task.card.fingerprint}: {fingerprint(samples)}".encode()).hexdigest()
    card = task.card.model_copy(update={"fingerprint": own, "control": name, "control_of": task.card.fingerprint})
    return replace(task, samples=samples, card=card)


def _kept(sample: Sample, **changed: object) -> Sample:
    """The changed row, in the cluster of the row that it stands for."""
    group = sample.group or f"{'image' if len(sample.images) == 1 else 'image set'}:{sample.pictured}"
    return sample.model_copy(update={"group": group, **changed})
