"""An image's bytes for other programs: the pixels the harness itself sees, and nothing else of the file.

A file goes out as it is when any reader would take the same pixels from it. One with metadata (EXIF, comments, which can
hold a patient's name, and an orientation that some readers apply and others do not), transparency, CMYK, several frames or
more than 8 bits, and DICOM, is written anew as a PNG of exactly what `ImageRef.open` gives.
"""

from __future__ import annotations

import io
from typing import Literal, NamedTuple

from harness.pictures import BadImageError
from harness.records import ImageRef

#: Vendors refuse images of about 5 MB or more; one above this is sent as a JPEG of the same size in pixels.
MAX_BYTES = 4_500_000
#: What Pillow reports of a file that holds pixels alone.
_HARMLESS = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform", "progressive", "progression",
             "dpi", "gamma", "srgb", "aspect", "interlace", "chromaticity"}  # fmt: skip
_SEGMENTS = {"APP0", "APP14"}


class Portable(NamedTuple):
    """Encoded bytes, their media type, and whether they are the file's own."""

    data: bytes
    media_type: Literal["image/jpeg", "image/png"]
    untouched: bool

    @property
    def suffix(self) -> str:
        return ".jpg" if self.media_type == "image/jpeg" else ".png"


def _media_type(image: ImageRef, content: bytes) -> Literal["image/jpeg", "image/png"] | None:
    """The media type of a file that any reader sees as `ImageRef.open` does and that holds only pixels, else None."""
    from PIL import Image

    if not image.seen.plain:
        return None
    with Image.open(io.BytesIO(content)) as im:
        if im.format not in ("JPEG", "PNG") or im.mode not in ("RGB", "L") or (im.format == "PNG" and content[24] > 8):
            return None
        im.load()  # a PNG's later chunks are known only now
        segments = {name for name, _ in getattr(im, "applist", [])}
        if set(im.info) - _HARMLESS or segments - _SEGMENTS or len(getattr(im, "text", ())):
            return None
        return "image/jpeg" if im.format == "JPEG" else "image/png"


def portable(image: ImageRef, *, max_bytes: int | None = None) -> Portable:
    """The image to send or to export, at most `max_bytes` long where given. Raises BadImageError when it cannot be read."""
    content = image.content
    media_type = _media_type(image, content)
    if media_type and (max_bytes is None or len(content) <= max_bytes):
        return Portable(content, media_type, True)
    pixels = image.open()
    if media_type is None:
        out = io.BytesIO()
        pixels.save(out, "PNG")
        if max_bytes is None or out.tell() <= max_bytes:
            return Portable(out.getvalue(), "image/png", False)
    for quality in (95, 85, 70):
        out = io.BytesIO()
        pixels.save(out, "JPEG", quality=quality, subsampling=0)
        if max_bytes is None or out.tell() <= max_bytes:
            return Portable(out.getvalue(), "image/jpeg", False)
    raise BadImageError(f"{image.name}: {pixels.width}x{pixels.height} pixels do not fit in {max_bytes} bytes; make it smaller")
