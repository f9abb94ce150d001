"""The few frozen records that everything passes on.

A sample is asked, a prediction answers it, a verdict says whether the answer holds, and a run card
explains how all three came to be. Nothing here imports more than pydantic and the standard library.
"""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from PIL import Image

#: Refuse images with more pixels than this: a decompression bomb, not a radiograph.
MAX_PIXELS = 100_000_000
#: Refuse images with one side more than so many times the other: Qwen2-VL's processor takes none, and a strip shows nothing.
MAX_ASPECT = 200


class BadImageError(ValueError):
    """An image that cannot be read; the message names it and says why."""


@dataclass(frozen=True)
class ImageRef:
    """An image by name: the file at `path`, a `member` of the zip at `path`, or the `data` that a parquet file held.

    `name` is what records show (the path inside its archive). Nothing is read before it is asked for.
    """

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    member: str | None = None

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
    def sha256(self) -> str:
        """Hash of the encoded file: the cluster of every question about it."""
        return hashlib.sha256(self.content).hexdigest()

    def open(self) -> Image.Image:
        """The decoded image as RGB; grey, CMYK, palette and transparent ones are converted.

        Grey of more than 8 bits (16-bit CT and X-ray exports, 32-bit, float) is scaled linearly from the image's own darkest
        and brightest value to 0..255, as a viewer opens a file that names no window. Raises BadImageError for anything
        that is not a whole image of sane size and shape.
        """
        return self._decode(self.content)

    def verify(self) -> tuple[int, int]:
        """Width and height, after reading the file once for its hash and decoding it. Raises BadImageError as `open`."""
        content = self.content
        self.__dict__["sha256"] = hashlib.sha256(content).hexdigest()
        return self._decode(content).size

    def _decode(self, content: bytes) -> Image.Image:
        try:
            with _pillow().open(io.BytesIO(content)) as im:
                size = f"{im.width}x{im.height} pixels"
                if im.width * im.height > MAX_PIXELS:
                    raise BadImageError(f"{self.name}: {size}, above the limit of {MAX_PIXELS}")
                if max(im.size) > MAX_ASPECT * min(im.size):
                    raise BadImageError(f"{self.name}: {size}, one side more than {MAX_ASPECT} times the other")
                return eight_bit(im).convert("RGB")
        except BadImageError:
            raise
        except Exception as e:  # PIL raises a dozen kinds for a broken file
            raise BadImageError(f"{self.name}: cannot be decoded ({type(e).__name__}: {e})") from None


@functools.cache
def _pillow() -> Any:
    """PIL.Image, its advice about large images off the screen: MAX_PIXELS decides."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image


def eight_bit(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits, scaled linearly from its own minimum..maximum to 0..255; any other as it is.

    Pillow's own conversion clips at 255, which turns a 16-bit radiograph white. Values that are no number become 0, and so
    does an image of one value.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    scaled = np.where(finite, values - low, 0) * (255 / (high - low) if high > low else 0)
    return _pillow().fromarray(np.rint(scaled).astype(np.uint8))  # type: ignore[no-any-return]


class Record(BaseModel):
    """Frozen, and strict about its keys: a misspelt field is an error, never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(Record):
    """What is held to be right: one or more acceptable answers, choices if any, reasoning if any."""

    answers: tuple[str, ...]
    choices: tuple[str, ...] | None = None
    reasoning: str | None = None

    @property
    def kind(self) -> Literal["choice", "yesno", "open"]:
        """How the answer is to be read: a letter among choices, yes or no, or free text."""
        if self.choices:
            return "choice"
        if self.answers and all(a.strip().lower().rstrip(".") in ("yes", "no") for a in self.answers):
            return "yesno"
        return "open"


class Sample(Record):
    """One question about one or more images. `cluster` groups the questions that share an image."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: str
    images: tuple[ImageRef, ...]
    question: str
    reference: Reference
    slices: dict[str, str] = {}
    #: The id of the question that this is one more answer to (--num-samples).
    repeat_of: str | None = None

    @cached_property
    def cluster(self) -> str:
        """Hash over the images, 16 hex digits; without any, the question's own id, the same for all its repeats."""
        if not self.images:
            return self.repeat_of or self.id
        if len(self.images) == 1:
            return self.images[0].sha256[:16]
        return hashlib.sha256("".join(i.sha256 for i in self.images).encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        """What a run folder keeps of the sample: everything but the pixels."""
        return {
            "id": self.id,
            "images": [i.name for i in self.images],
            "question": self.question,
            "reference": self.reference.model_dump(mode="json"),
            "slices": self.slices,
            "cluster": self.cluster,
        }


Finish = Literal["stop", "length", "error"]


class Prediction(Record):
    """A model's text for one sample, and what the answer reader took from it."""

    sample_id: str
    text: str
    reasoning: str | None
    answer: str | None
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None


class Verdict(Record):
    """A judge's word on one prediction: 1, 0, or missing with the reason. Missing is never 0."""

    sample_id: str
    judge: str
    final: Literal[0, 1] | None
    reasoning: Literal[0, 1] | None = None
    missing: str | None = None
    rationale: str | None = None
    #: The judge's own words, whole, where it was a model.
    raw: str | None = None
    #: The model that said it gave the verdict.
    served: str | None = None
    #: Tokens read and written, tries, and dollars where the price is known.
    usage: dict[str, float] | None = None


class DataCard(Record):
    """Which rows were asked: where they came from, at what resolution, and a hash over all of them."""

    task: str
    split: str
    source: Literal["bundled", "local", "hub", "file"]
    resolution: str
    rows: int
    images: int
    #: How often each question is asked (--num-samples); its rows are ID#0, ID#1, ...
    repeats: int = 1
    #: Rows left out because they are unusable: id -> why.
    dropped: dict[str, str] = {}
    #: How many rows the spec's `where` left out, as far as --limit let them be read.
    filtered: int = 0
    #: REPO@COMMIT, for rows of the hub.
    origin: str | None = None
    fingerprint: str
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
    #: "once" where the chat template writes the opening token; the harness sent it twice before it was recorded.
    opening: str | None = None
    backend: str = "transformers"


class GenerationArgs(Record):
    """Everything that can change a model's text."""

    model_config = ConfigDict(allow_inf_nan=False)

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class RunCard(Record):
    """What explains every number of a run. Written before the first prediction, closed at the end."""

    harness_version: str
    created: str
    command: list[str]
    data: DataCard
    model: ModelCard
    prompt: str
    prompt_sha256: str
    generation: GenerationArgs
    limit: int | None
    #: Version of the reader that took the answers from the texts (harness.answers.VERSION).
    reader: int = 1
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
