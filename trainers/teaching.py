"""What the rows of a training teach: the prompts that they are asked with, and what they and the recipe leave open."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from harness.pipeline import packages
from harness.prompts import Prompt
from harness.records import Record, Sample
from trainers import dev_scores, resuming, rows
from trainers.rewards import needs_reasoning

if TYPE_CHECKING:
    from trainers.base import Trainer


class Prompted(Record):
    """A training prompt: how many rows are asked with it, and one of them as the model reads it (with its target, in SFT)."""

    name: str
    rows: int
    template: str
    example: str


def caveats(trainer: Trainer) -> list[str]:
    """What the rows and the recipe leave open, in words."""
    said, count, explained = [], len(trainer.task.samples), trainer.explained()
    if (blind := [n for n in trainer.weights() if needs_reasoning(n)]) and explained < count:
        said.append(f"{explained} of {count} rows have reference reasoning; reward '{blind[0]}' is left out of the others")
    if len(trainer.targets()) > 1:
        forms = " and ".join(f"{n} rows the {form}" for form, n in trainer.targets().items())
        said.append(f"two formats are taught under one prompt: {forms}")
    if versions := resuming.other_versions(trainer.out, packages()):
        said.append(f"begun with other versions ({'; '.join(versions)}): the weights will not be those of one uninterrupted run")
    return said + dev_scores.caveats(trainer)


def prompted(trainer: Trainer, processor: Any) -> tuple[Prompted, ...]:
    """Each training prompt as its first row reads."""
    samples, recipe = trainer.task.samples, trainer.recipe
    drawn = rows.draw_prompts(samples, recipe, trainer.task.spec.get_prompt)
    counts = Counter(p.name for p in drawn)
    first = {p.name: (p, s) for p, s in zip(reversed(drawn), reversed(samples), strict=True)}

    def example(prompt: Prompt, sample: Sample) -> str:
        text = prompt.render(sample.question)
        target = [rows.target(sample.reference, recipe.target)] if trainer.targets() else []
        if processor.tokenizer is None:
            return " ".join([text, *target])
        asked = [{"role": "user", "content": [*({"type": "image"} for _ in sample.images), {"type": "text", "text": text}]}]
        frame = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        return "".join([str(frame), *target])

    return tuple(
        Prompted(name=name, rows=n, template=first[name][0].template, example=example(*first[name]))
        for name, n in counts.most_common()
    )
