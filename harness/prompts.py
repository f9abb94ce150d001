"""The named prompts: the paper's two for inference and three for training, word for word, and `question`.

A prompt is a template with one `{question}`. The image comes before the text, unless the question says where each of its
images stands (`parts`). Task specs may add more. A run may put a system turn and worked examples before the question.

The paper quotes only the opening of its two inference prompts (section 3.3); the question follows them in the
`User: ... Assistant:` frame of its appendix A.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.records import ImageRef


@dataclass(frozen=True)
class Shot:
    """A worked example: a user's turn with its pictures, and the answer that the model is shown as its own."""

    id: str
    images: tuple[ImageRef, ...]
    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """A template, split at its question so that what comes before can be shared by all questions; before it stand a system turn
    and worked examples, where a run asks for them."""

    name: str
    template: str
    source: str
    system: str | None = None
    shots: tuple[Shot, ...] = ()

    def __post_init__(self) -> None:
        if self.template.count("{question}") != 1:
            raise ValueError(f"prompt '{self.name}': the template needs exactly one {{question}}")

    @property
    def before(self) -> str:
        return self.template.split("{question}")[0]

    @property
    def after(self) -> str:
        return self.template.split("{question}")[1]

    @property
    def sha256(self) -> str:
        """Hash over everything that every question is asked with."""
        if self.system is None and not self.shots:
            return hashlib.sha256(self.template.encode()).hexdigest()
        shots = [[s.question, s.answer, [i.pixels_key for i in s.images]] for s in self.shots]
        return hashlib.sha256(json.dumps([self.template, self.system, shots]).encode()).hexdigest()

    @property
    def label(self) -> str:
        """The name, and what a run put before the question; with a few digits of the hash, as two of a kind are not the same."""
        more = (["system turn"] if self.system else []) + ([f"{len(self.shots)}-shot"] if self.shots else [])
        return " + ".join([self.name, *more]) + (f" ({self.sha256[:6]})" if more else "")

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """The pictures that are shown before those of any question."""
        return tuple(i for s in self.shots for i in s.images)

    def render(self, question: str) -> str:
        return self.before + question + self.after


_PLACE = re.compile(r"<image (\d+)>")


def placed(text: str, images: int) -> bool:
    """Whether the text says where each of so many images stands."""
    return images > 0 and {int(n) for n in _PLACE.findall(text)} == set(range(1, images + 1))


def parts(text: str, images: int) -> list[int | str]:
    """A message's parts in order: images by number from 0, and texts.

    Images come first, unless `<image 1>` ... name a place for each of them: then each stands at the first of its places, and
    a later one stays in the text.

    >>> parts("Compare <image 1> and <image 2>.", 2), parts("What is it?", 1)
    (['Compare ', 0, ' and ', 1, '.'], [0, 'What is it?'])
    """
    if not placed(text, images):
        return [*range(images), text]
    out: list[int | str] = []
    shown: set[int] = set()
    at = 0
    for m in _PLACE.finditer(text):
        number = int(m.group(1)) - 1
        if number not in shown:
            shown.add(number)
            out += [text[at : m.start()], number]
            at = m.end()
    return [p for p in [*out, text[at:]] if p != ""]


def order(text: str, images: int) -> list[int]:
    """The numbers of the images in the order in which they are shown."""
    return [p for p in parts(text, images) if isinstance(p, int)]


_PAPER = [
    Prompt(
        "reasoning",
        "A conversation between a User and a Medical Assistant. The User asks a question about the image, and the "
        "Assistant solves it. The Assistant first thinks through the reasoning process step-by-step, then provides "
        "the answer to the User. User: {question} Assistant:",
        "RARL, section 3.3, reasoning prompting",
    ),
    Prompt(
        "non_reasoning",
        "A conversation between a User and a Medical Assistant. The Assistant provides the answer to the User. "
        "User: {question} Assistant:",
        "RARL, section 3.3, non-reasoning prompting",
    ),
    Prompt(
        "explanation",
        "You are a Medical Assistant. Carefully analyze the medical image and the User's question. Think through the "
        "problem step by step using clinical reasoning and relevant visual cues. Present your thinking process clearly "
        "within <think> </think> tags, and then provide a well-justified answer within <answer> </answer> tags. "
        "User: {question} Assistant: Let me solve this step by step.",
        "RARL, appendix A, Explanation-Required Answer Prompt",
    ),
    Prompt(
        "short_form",
        "You are a Medical Assistant. Read the User's question and the associated medical image. Provide your thinking "
        "within <think> </think> tags and a concise factual answer within <answer> </answer> tags. "
        "User: {question} Assistant:",
        "RARL, appendix A, Short-Form Answer Prompt",
    ),
    Prompt(
        "open_ended",
        "You are a Medical Assistant. The User askes a question based on the provided medical image. Consider all "
        "visual and contextual details. Share your reasoning freely within <think> </think> tags, and conclude with "
        "your best judgment within <answer> </answer> tags. User: {question} Assistant:",
        "RARL, appendix A, Open-Ended Answer Prompt (its spelling kept)",
    ),
    Prompt("question", "{question}", "the bare question"),
]

PROMPTS: dict[str, Prompt] = {p.name: p for p in _PAPER}

#: The training prompts that RARL's prompting diversity draws from (appendix A).
TRAINING_STYLES = ("explanation", "short_form", "open_ended")
