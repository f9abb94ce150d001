"""Pictures as a viewer shows them: an encoded file's bytes -> 8-bit RGB, or the reason why not and what to do.

    seen = pictures.decode(content, "scan.dcm", Reading(window=Window(center=40, width=400)))
    seen.image, seen.changes

What a file is, is told by its content (`kinds`), never by its name. Pictures that Pillow reads are in `raster`, DICOM in `dicom`,
and how grey values and transparency become 8-bit colours in `tone`. Everything that shows, sends, trains on or exports a picture
takes it from here (through `harness.records.ImageRef`), so that all see the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from PIL import Image

#: Refuse images with more pixels than this: a decompression bomb, not a radiograph. --max-image-pixels allows more.
MAX_PIXELS = 100_000_000
#: Refuse images with one side more than so many times the other: Qwen2-VL's processor takes none, and a strip shows nothing.
MAX_ASPECT = 200
#: A picture of more pixels than this takes gigabytes as RGB.
SLIDE = 1_000_000_000
#: Of the pixels of pictures with `changes`: raise it where such a picture comes out otherwise than before.
VERSION = 2


class BadImageError(ValueError):
    """An image that cannot be read; the message names it and says why."""


def _frame(value: Any) -> int | str:
    if value in ("first", "middle", "last") or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value  # type: ignore[no-any-return]
    raise ValueError(f"'{value}' is no frame; give a number from 1, or first, middle or last")


#: Which frame of a stack or an animation: counted from 1, as viewers do, or by its place.
Frame = Annotated[
    int | str,
    BeforeValidator(_frame, json_schema_input_type=Annotated[int, Field(ge=1)] | Literal["first", "middle", "last"]),
]


class Window(BaseModel):
    """The grey values that are shown: center - width / 2 becomes black, center + width / 2 white."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    center: float
    """In the values of the scan: Hounsfield units for a CT in DICOM, else what the file stores."""
    width: Annotated[float, Field(gt=0)]


class Reading(BaseModel):
    """What was asked about how pictures are read: a window for grey of more than 8 bits, a frame of stacks, the size allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Window | None = None
    frame: Frame | None = None
    max_pixels: int = MAX_PIXELS

    @property
    def key(self) -> str:
        """What of it can change pixels, as text; empty where nothing was asked."""
        asked = [f"frame={self.frame}"] if self.frame is not None else []
        return " ".join([*asked, f"window={self.window.center!r}/{self.window.width!r}"] if self.window else asked)


#: Nothing was asked.
AS_IT_IS = Reading()


@dataclass(frozen=True)
class Decoded:
    """A picture as 8-bit RGB."""

    image: Image.Image
    #: What was done beyond Pillow's plain conversion to RGB; where there is something, versions of the harness before it saw
    #: other pixels, or none.
    changes: tuple[str, ...] = ()
    #: Whether whatever opens the file with Pillow and converts it to RGB has these pixels.
    plain: bool = False


def decode(content: bytes, name: str, reading: Reading) -> Decoded:
    """The picture that a file holds. Raises BadImageError for anything that is not one whole picture of sane size and shape."""
    from harness.pictures import kinds

    kind = kinds.sniff(content, name)
    if kind.reader == "dicom":
        from harness.pictures import dicom

        return dicom.read(content, name, reading)
    if kind.reader:
        from harness.pictures import raster

        return raster.read(content, name, reading, kind)
    raise BadImageError(f"{name}: cannot be decoded as a picture: {kind.what}; {kind.way_out}")


def check_size(name: str, size: tuple[int, int], reading: Reading) -> None:
    """Raises BadImageError for a picture that is too large, or too long for its width, to be one."""
    width, height = size
    shown = f"{width}x{height} pixels"
    if width < 1 or height < 1:
        raise BadImageError(f"{name}: {shown}, so there is nothing to see; export it again")
    if width * height > reading.max_pixels:
        raise too_large(name, shown, width * height, reading)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImageError(f"{name}: {shown}, one side more than {MAX_ASPECT} times the other; cut out what is asked about")


def too_large(name: str, shown: str, pixels: int, reading: Reading) -> BadImageError:
    """The error for a picture of so many pixels. What no memory would hold is not said to be allowed by a flag."""
    way_out = f"store it smaller, or allow it with --max-image-pixels {pixels}"
    if pixels > SLIDE:
        way_out = "a whole slide? export the region that is asked about, or a lower level, for example with OpenSlide"
    return BadImageError(f"{name}: {shown}, above the limit of {reading.max_pixels}; {way_out}")


def pick(name: str, count: int, frame: int | str | None, what: str = "frames") -> int:
    """The 0-based index of the frame asked for. Raises BadImageError where none is named of several, or there is no such."""
    if frame is None:
        if count > 1:
            raise BadImageError(
                f"{name}: holds {count} {what}, and nothing says which one is asked about; name it in the row "
                f"({name}#1 to #{count}), or for all rows by `frame: 1` (a number, first, middle or last) in the task's YAML"
            )
        return 0
    index = {"first": 0, "middle": (count - 1) // 2, "last": count - 1}[frame] if isinstance(frame, str) else frame - 1
    if index >= count:
        raise BadImageError(f"{name}: there is no frame {frame}: it holds {count} {what if count > 1 else 'picture'}")
    return index
