"""The few frozen records that everything passes on.

A sample is asked, a prediction answers it, a verdict says whether the answer holds, and a run card
explains how all three came to be. Nothing here imports more than pydantic, the standard library and the answer reader.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from harness import pictures
from harness.answers import is_yes_no
from harness.pictures import AS_IT_IS, Reading
from harness.pictures import BadImageError as BadImageError

if TYPE_CHECKING:
    from PIL import Image


class Seen(NamedTuple):
    """What was learnt of a picture by decoding it once: (width, height), and see `harness.pictures.Decoded`."""

    size: tuple[int, int]
    changes: tuple[str, ...]
    plain: bool


@dataclass(frozen=True)
class ImageRef:
    """An image by name: the file at `path`, a `member` of the zip at `path`, or the `data` that a parquet file held.

    `name` is what records show (the path inside its archive). Nothing is read before it is asked for.
    """

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    member: str | None = None
    #: The window, the frame and the size that were asked for.
    reading: Reading = AS_IT_IS

    @property
    def content(self) -> bytes:
        """The encoded file, read anew each time. Raises BadImageError when it is missing or cannot be unpacked."""
        if self.data is not None:
            return self.data
        if self.path is None:
            raise BadImageError(f"{self.name}: no path and no bytes")
        if self.member is not None:
            from harness.zips import read_member

            try:
                return read_member(self.path, self.member)
            except ValueError as e:
                raise BadImageError(str(e)) from None
        try:
            return self.path.read_bytes()
        except (OSError, ValueError) as e:  # ValueError: a name that no file can have
            raise BadImageError(f"{self.path}: {getattr(e, 'strerror', None) or e}") from None

    @cached_property
    def file_sha256(self) -> str:
        """Hash of the encoded file: the cluster of every question about it, whichever frame it asks about."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def sha256(self) -> str:
        """Hash of the picture: the file's, or, where a frame or window is asked for, of both."""
        asked = self.reading.key
        return hashlib.sha256(f"{self.file_sha256} {asked}".encode()).hexdigest() if asked else self.file_sha256

    @property
    def pixels_key(self) -> str:
        """What the data's fingerprint says of the picture: its hash, and how it was read where that is not plain."""
        changes = self.changes
        return f"{self.sha256} pictures-{pictures.VERSION}: {'; '.join(changes)}" if changes else self.sha256

    @property
    def changes(self) -> tuple[str, ...]:
        """What was done to the picture beyond converting it to RGB; nothing where it cannot be read."""
        try:
            return self.seen.changes
        except BadImageError:
            return ()

    @cached_property
    def seen(self) -> Seen:
        """Size and treatment of the picture, decoded once. Raises BadImageError as `open`."""
        self.verify()
        return self.__dict__["seen"]  # type: ignore[no-any-return]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as `open` gives it. Raises BadImageError."""
        return self.seen.size

    def open(self) -> Image.Image:
        """The decoded image as RGB, as a viewer shows it: docs/tasks.md has the rules, `harness.pictures` the code.

        Raises BadImageError for anything that is not one whole image of sane size and shape.
        """
        return pictures.decode(self.content, self.name, self.reading).image

    def verify(self) -> tuple[int, int]:
        """Width and height, after reading the file once for its hash and decoding it. Raises BadImageError as `open`."""
        content = self.content
        self.__dict__["file_sha256"] = hashlib.sha256(content).hexdigest()
        found = pictures.decode(content, self.name, self.reading)
        self.__dict__["seen"] = Seen(found.image.size, found.changes, found.plain)
        return found.image.size


class Record(BaseModel):
    """Frozen, and strict about its keys: a misspelt field is an error, never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Criterion(Record):
    """One line of a rubric: what an answer is looked through for, and what it is worth; below 0 where it should not be found."""

    text: str
    points: float
    tags: tuple[str, ...] = ()


class Reference(Record):
    """What is held to be right: one or more acceptable answers, choices if any, reasoning if any; or a rubric, and no answer.

    A choice's place is its letter. An empty one ("") is a gap: no prompt shows it, and its letter names nothing.
    """

    answers: tuple[str, ...]
    choices: tuple[str, ...] | None = None
    reasoning: str | None = None
    rubric: tuple[Criterion, ...] = ()

    @model_serializer(mode="wrap")
    def _without_no_rubric(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was written before there were rubrics, where it has none: hashes of references stay what they were."""
        out: dict[str, Any] = write(self)
        if not self.rubric:
            out.pop("rubric", None)
        return out

    @property
    def kind(self) -> Literal["choice", "yesno", "open"]:
        """How the answer is to be read: a letter among choices, yes or no, or free text."""
        if self.choices:
            return "choice"
        if self.answers and all(is_yes_no(a) for a in self.answers):
            return "yesno"
        return "open"

    @property
    def lettered(self) -> dict[str, str]:
        """The choices by letter, without gaps."""
        return {chr(65 + i): words for i, words in enumerate(self.choices or ()) if words}


class Sample(Record):
    """One question about one or more images.

    `<image 2>` in the question is the place of the second image. Where the places name every image, each is shown at its
    first place; else all come before the text, in order (`harness.prompts.parts`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: str
    images: tuple[ImageRef, ...]
    question: str
    reference: Reference
    slices: dict[str, str] = {}
    #: What the model is told before the question, where the data say so (a system turn).
    system: str | None = None
    #: Earlier turns of the conversation, which the model is shown: (what the user said, what the assistant said).
    history: tuple[tuple[str, str], ...] = ()
    #: The patient or study, as "patient:HASH", where the data name one.
    group: str | None = None
    #: The id of the question that this is one more answer to (--num-samples).
    repeat_of: str | None = None

    @property
    def cluster(self) -> str:
        """Rows of one cluster are not independent: the patient or study where the data name one, else the images."""
        return self.group or self.pictured

    @cached_property
    def pictured(self) -> str:
        """Hash over the images, 16 hex digits; without any, the question's own id, the same for all its repeats."""
        if not self.images:
            return self.repeat_of or self.id
        if len(self.images) == 1:
            return self.images[0].file_sha256[:16]
        return hashlib.sha256("".join(i.file_sha256 for i in self.images).encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        """What a run folder keeps of the sample: everything but the pixels."""
        return {
            "id": self.id,
            "images": [i.name for i in self.images],
            "question": self.question,
            **({"system": self.system} if self.system else {}),
            **({"history": self.history} if self.history else {}),
            "reference": self.reference.model_dump(mode="json"),
            "slices": self.slices,
            "cluster": self.cluster,
            **({"pictured": self.pictured} if self.group else {}),
        }


Finish = Literal["stop", "length", "error"]


class Prediction(Record):
    """A model's text for one sample, and what the answer reader took from it.

    `answer` is None where the text gives none, or none that says yes, no or a letter where that is asked; such words stand in
    `unread`.
    """

    sample_id: str
    text: str
    reasoning: str | None
    answer: str | None
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    unread: str | None = None

    @property
    def said(self) -> str | None:
        """What stands in the place of the answer, whether or not it can be read."""
        return self.unread if self.answer is None else self.answer


class Verdict(Record):
    """A judge's word on one prediction: 1, 0, or missing with the reason. Missing is never 0."""

    sample_id: str
    judge: str
    final: Literal[0, 1] | None
    reasoning: Literal[0, 1] | None = None
    #: What the judge counts it as, where its rule is finer than right or wrong; it may be below 0.
    score: float | None = None
    missing: str | None = None
    rationale: str | None = None
    #: The judge's own words, whole, where it was a model.
    raw: str | None = None
    #: The model that said it gave the verdict.
    served: str | None = None
    #: Tokens read and written, tries, and dollars where the price is known.
    usage: dict[str, float] | None = None


class Measured(Record):
    """A prediction's values by metric, None where one does not apply; `text_sha256` is the text that was measured."""

    sample_id: str
    text_sha256: str
    values: dict[str, float | None]


class DataCard(Record):
    """Which rows were asked: where they came from, at what resolution, and a hash over all of them."""

    task: str
    split: str
    source: Literal["bundled", "local", "hub", "file"]
    resolution: str
    rows: int
    images: int
    #: Groups of rows that are not independent, and what one is: image, image set, question, patient, study ...
    clusters: int | None = None
    cluster_of: str | None = None
    #: How often each question is asked (--num-samples); its rows are ID#0, ID#1, ...
    repeats: int = 1
    #: Rows left out because they are unusable: id -> why.
    dropped: dict[str, str] = {}
    #: The window, the frame and the size of pictures that were asked for.
    reading: Reading = AS_IT_IS
    #: How many pictures were shown otherwise than by plain conversion to RGB: what was done -> pictures.
    pictures: dict[str, int] = {}
    #: How many rows the spec's `where` left out, as far as --limit let them be read.
    filtered: int = 0
    #: REPO@COMMIT, for rows of the hub.
    origin: str | None = None
    fingerprint: str
    #: The control that changed these rows (--control), and the fingerprint of the rows that it changed.
    control: str | None = None
    control_of: str | None = None
    spec_sha256: str
    #: What the spec said about sending rows to an API judge or model when they were asked.
    may_leave_machine: bool = False


class ModelCard(Record):
    """Which weights answered. `base` and `trainer` are set for an adapter the harness trained."""

    name: str
    path: str | None
    architecture: str | None = None
    parameters: int | None = None
    weights_sha256: str | None = None
    #: Hash over configuration, tokenizer, chat template and processor.
    settings_sha256: str | None = None
    base: str | None = None
    trainer: str | None = None
    dtype: str | None = None
    device: str | None = None
    attention: str | None = None
    attention_reason: str | None = None
    #: Where an adapter is: merged into its base (fp32), or beside it.
    adapter: Literal["merged", "beside"] | None = None
    #: What must be said beside its scores: an adapter on another base than it was trained on, or one that adds nothing.
    note: str | None = None
    #: "once" where the chat template writes the opening token; the harness sent it twice before it was recorded.
    opening: str | None = None
    #: What a run changed of the model's own settings; `settings_sha256` is then another.
    chat_template_kwargs: dict[str, Any] = {}
    min_pixels: int | None = None
    max_pixels: int | None = None
    backend: str = "transformers"


class GenerationArgs(Record):
    """Everything that can change a model's text."""

    model_config = ConfigDict(allow_inf_nan=False)

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    #: A text ends before the first of these.
    stop: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `stop` where there is none: a run's key is a hash over this, and runs that are there keep theirs."""
        return {k: v for k, v in dump(self).items() if k != "stop" or v}


class Example(Record):
    """A worked example that stood before every question (--num-fewshot), by its row in the train split."""

    id: str
    images: tuple[str, ...]
    question: str
    answer: str


class RunCard(Record):
    """What explains every number of a run. Written before the first prediction, closed at the end."""

    harness_version: str
    created: str
    command: list[str]
    data: DataCard
    model: ModelCard
    prompt: str
    prompt_sha256: str
    #: The system turn and the worked examples before every question, where the run asked for them.
    system: str | None = None
    examples: tuple[Example, ...] = ()
    generation: GenerationArgs
    limit: int | None
    #: Version of the reader that took the answers from the texts (harness.answers.VERSION).
    reader: int = 1
    #: Markers of the model's thinking beside those the reader knows (--reasoning-tags).
    reasoning_tags: tuple[tuple[str, str], ...] = ()
    git_sha: str | None
    packages: dict[str, str]
    hardware: str
    #: Processes that shared the work (torchrun, accelerate launch), when the run began.
    processes: int = 1
    #: Whether questions shared what was computed of their image: proved on N rows, or off and why. None where there are none.
    shared_prefix: str | None = None
    finished: str | None = None
    #: What an API model used: answered, failed, tokens, cost (None where unknown), which model served.
    usage: dict[str, Any] = {}
    #: How each judge judged, by NAME@VERSION: model, address, prompt, parameters, which model served, use and cost.
    judges: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
