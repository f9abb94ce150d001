"""Samples -> the rows that trainers read: a prompt drawn by seed, the image, the reference."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import DataError
from harness.prompts import PROMPTS, placed
from harness.records import ImageRef, Reference, Sample, eight_bit

if TYPE_CHECKING:
    from datasets import Dataset

    from trainers.recipe import Recipe


def draw_prompts(
    samples: Sequence[Sample], shares: Mapping[str, float], seed: int, by_type: Mapping[Any, Mapping[str, float]] | None = None
) -> list[str]:
    """The rendered prompt of each sample; its style is drawn by `shares` (the paper's prompting diversity).

    A row draws by its own id: it has the same prompt in every subset. `by_type` gives other shares to the rows of an answer
    type: choice, yesno or open.
    """

    def draw(sample: Sample) -> str:
        rng = random.Random(f"{seed}:{sample.id}")
        mine = (by_type or {}).get(sample.reference.kind, shares)
        return PROMPTS[rng.choices(list(mine), list(mine.values()))[0]].render(sample.question)

    return [draw(s) for s in samples]


def target(reference: Reference) -> str:
    """What SFT teaches: reasoning and answer in the paper's tags, or the answer alone where there is no reasoning."""
    answer = reference.answers[0]
    if reference.reasoning is None:
        return answer
    return f"<think>{reference.reasoning}</think><answer>{answer}</answer>"


def check(samples: Sequence[Sample]) -> None:
    """Raises DataError for a row without an image: these trainers are for vision-language rows."""
    if bare := next((s.id for s in samples if not s.images), None):
        raise DataError(f"row {bare}: no image, and the trainers need one", hint="leave rows without images out of the split")
    if within := next((s.id for s in samples if placed(s.question, len(s.images))), None):
        raise DataError(f"row {within}: images within the question, and the trainers show them before it")


def encoded(image: ImageRef) -> bytes:
    """An image file that datasets decodes to what `ImageRef.open` shows, and the harness tests with.

    Left to itself, datasets clips grey of more than 8 bits at 255 (a 16-bit radiograph is white) and turns an image as its
    EXIF says: such a file is written anew from what the harness sees.
    """
    from PIL import ExifTags, Image

    content = image.content
    with Image.open(io.BytesIO(content)) as im:
        if eight_bit(im) is im and im.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return content
    out = io.BytesIO()
    image.open().save(out, "PNG")
    return out.getvalue()


def dataset(samples: Sequence[Sample], recipe: Recipe, *, completions: bool) -> Dataset:
    """A datasets.Dataset in TRL's conversational form with one column `images`.

    With `completions` it has TRL's `completion` (for SFT), else `reference` as JSON (for the rewards).
    Raises DataError for a row without an image: these trainers are for vision-language rows.
    """
    from datasets import Dataset, Image, List

    check(samples)
    rows: list[dict[str, Any]] = []
    read = functools.cache(encoded)
    prompts = draw_prompts(samples, recipe.prompts, recipe.seed, recipe.prompts_by_type)
    for s, prompt in zip(samples, prompts, strict=True):
        row: dict[str, Any] = {
            "images": [{"bytes": read(i), "path": None} for i in s.images],
            "prompt": [*([{"role": "system", "content": s.system}] if s.system else []), {"role": "user", "content": prompt}],
        }
        if completions:
            row["completion"] = [{"role": "assistant", "content": target(s.reference)}]
        else:
            row["reference"] = s.reference.model_dump_json()
            row["sample_id"], row["question"] = s.id, s.question
        rows.append(row)
    data = Dataset.from_list(rows)
    return data.cast_column("images", List(Image(mode="RGB")))
