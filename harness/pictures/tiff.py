"""TIFFs of grey that Pillow does not know (64 bits, some signs and byte orders), through tifffile where it is installed."""

from __future__ import annotations

import io
import logging
from typing import Any

from harness.pictures import BadImageError, Decoded, Reading, check_size, pick, tone

_MEND = "save it as 8- or 16-bit grey, 32-bit float, or 8-bit RGB"


def read(content: bytes, name: str, reading: Reading) -> Decoded:
    """One page of grey. Raises BadImageError, also where tifffile is not installed."""
    try:
        import tifffile
    except ImportError:
        raise BadImageError(
            f"{name}: cannot be decoded: a TIFF that is damaged, or of a form that Pillow does not know; {_MEND}, "
            "or pip install tifffile, which may read it"
        ) from None
    try:
        logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it says about damage is said here
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            return _read(file, name, reading)
    except BadImageError:
        raise
    except Exception as e:  # a damaged file can fail in every part of tifffile
        raise BadImageError(
            f"{name}: cannot be decoded: a TIFF that is damaged, or of a form that neither Pillow nor tifffile reads "
            f"({type(e).__name__}: {e}); {_MEND}"
        ) from None


def _read(file: Any, name: str, reading: Reading) -> Decoded:
    import numpy as np

    from harness.pictures.raster import pillow, upright

    pages = [p for p in file.pages if not int(p.subfiletype) & 0b101]
    if not pages:
        raise BadImageError(f"{name}: a TIFF without a picture; {_MEND}")
    page = pages[pick(name, len(pages), reading.frame, "pages")]
    if page.samplesperpixel != 1 or page.ndim != 2 or page.dtype is None or page.dtype.kind not in "biuf" or page.photometric > 1:
        raise BadImageError(
            f"{name}: a TIFF of {page.samplesperpixel} channels of {page.dtype} ({page.photometric.name.lower()}), "
            f"which no viewer shows in one way; {_MEND}"
        )
    check_size(name, (page.imagewidth, page.imagelength), reading)
    values = page.asarray()
    changes = ["a TIFF that Pillow does not know"] + (["one frame of a stack, as named"] if len(pages) > 1 else [])
    if reading.window:
        grey = tone.windowed(values, reading.window, name)
        changes.append("grey values through the named window")
    else:
        grey = tone.levels(values)
    if page.photometric == 0:
        grey = 255 - grey
        grey[~np.isfinite(values)] = 0
        changes.append("white is zero")
    turn = page.tags.get(274)
    image = upright(pillow().fromarray(grey).convert("RGB"), int(turn.value) if turn else 1)
    return Decoded(image, tuple(changes))
