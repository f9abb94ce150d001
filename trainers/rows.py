"""Samples -> the rows that trainers read: a prompt drawn by seed, the image, the reference."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import DataError
from harness.prompts import Prompt, placed
from harness.records import ImageRef, Reference, Sample

if TYPE_CHECKING:
    from datasets import Dataset

    from trainers.recipe import Recipe


#: From a prompt's name to the prompt: a task's `get_prompt`, which knows the task's own and the harness's.
Prompts = Callable[[str], Prompt]


def draw_prompts(samples: Sequence[Sample], recipe: Recipe, prompts: Prompts) -> list[Prompt]:
    """The prompt of each sample; its style is drawn by the recipe's shares (the paper's prompting diversity).

    A row draws by its own id: it has the same prompt in every subset. `prompts_by_type` gives other shares to the rows of an
    answer type: choice, yesno or open.
    """
    by_type: Mapping[Any, Mapping[str, float]] = recipe.prompts_by_type

    def draw(sample: Sample) -> Prompt:
        rng = random.Random(f"{recipe.seed}:{sample.id}")
        mine = by_type.get(sample.reference.kind, recipe.prompts)
        return prompts(rng.choices(list(mine), list(mine.values()))[0])

    return [draw(s) for s in samples]


def has_reasoning(sample: Sample) -> bool:
    return bool((sample.reference.reasoning or "").strip())


def target(reference: Reference, form: str = "mixed") -> str:
    """What SFT teaches: reasoning and answer in the paper's tags, or the answer alone where there is no reasoning.

    `form` is the recipe's `target`: with "answer" the reasoning is never taught.
    """
    answer = next(a for a in reference.answers if a.strip())
    if form == "answer" or not (reference.reasoning or "").strip():
        return answer
    return f"<think>{reference.reasoning}</think><answer>{answer}</answer>"


def check(samples: Sequence[Sample]) -> None:
    """Raises DataError for a row without an image: these trainers are for vision-language rows."""
    if bare := next((s.id for s in samples if not s.images), None):
        raise DataError(f"row {bare}: no image, and the trainers need one", hint="leave rows without images out of the split")
    if talked := next((s.id for s in samples if s.history or not s.reference.answers), None):
        raise DataError(f"row {talked}: earlier turns, or a rubric in place of an answer, which the trainers do not take")
    if within := next((s.id for s in samples if placed(s.question, len(s.images))), None):
        raise DataError(f"row {within}: images within the question, and the trainers show them before it")


def encoded(image: ImageRef) -> bytes:
    """An image file that datasets decodes to what `ImageRef.open` shows, and the harness tests with.

    Left to itself, datasets clips grey of more than 8 bits at 255 (a 16-bit radiograph is white), drops the ground of
    transparent pictures and takes the first of several frames: such a file is written anew from what the harness sees.
    """
    if image.seen.plain:
        return image.content
    out = io.BytesIO()
    image.open().save(out, "PNG")
    return out.getvalue()


def dataset(samples: Sequence[Sample], recipe: Recipe, prompts: Prompts, *, completions: bool) -> Dataset:
    """A datasets.Dataset in TRL's conversational form with one column `images`; `prompts` is the task's `get_prompt`.

    With `completions` it has TRL's `completion` (for SFT), else `reference` as JSON (for the rewards).
    Raises DataError for a row without an image: these trainers are for vision-language rows.
    """
    from datasets import Dataset, Image, List

    check(samples)
    rows: list[dict[str, Any]] = []
    read = functools.cache(encoded)
    for s, prompt in zip(samples, draw_prompts(samples, recipe, prompts), strict=True):
        row: dict[str, Any] = {
            "sample_id": s.id,
            "images": [{"bytes": read(i), "path": None} for i in s.images],
            "prompt": [
                *([{"role": "system", "content": s.system}] if s.system else []),
                {"role": "user", "content": prompt.render(s.question)},
            ],
        }
        if completions:
            row["completion"] = [{"role": "assistant", "content": target(s.reference, recipe.target)}]
        else:
            row["reference"], row["question"] = s.reference.model_dump_json(), s.question
        rows.append(row)
    data = Dataset.from_list(rows)
    return data.cast_column("images", List(Image(mode="RGB")))
