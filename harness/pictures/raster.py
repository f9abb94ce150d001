"""Pictures that Pillow reads: JPEG, PNG, TIFF and the like, the right way up, of any depth, on a ground, and one of a stack only
when it is named."""

from __future__ import annotations

import functools
import io
import re
import warnings
import zlib
from typing import Any

from harness.pictures import BadImageError, Decoded, Reading, check_size, pick, tone, too_large
from harness.pictures.kinds import Kind

#: TIFF tags.
_SUBFILE, _BITS, _PHOTOMETRIC, _DESCRIPTION, _FORMAT, _DEPTH = 254, 258, 262, 270, 339, 32997
_ORIENTATION = 0x0112


@functools.cache
def pillow() -> Any:
    """PIL.Image, its advice about large images off the screen: `Reading.max_pixels` decides."""
    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image


def _opened(content: bytes, kind: Kind, reading: Reading) -> Any:
    image = pillow()
    if image.MAX_IMAGE_PIXELS is not None:  # Pillow refuses at twice this, before a size can be told
        image.MAX_IMAGE_PIXELS = max(image.MAX_IMAGE_PIXELS, reading.max_pixels)
    return image.open(io.BytesIO(content), formats=(kind.reader,))


def read(content: bytes, name: str, reading: Reading, kind: Kind) -> Decoded:
    """The picture in a file that Pillow reads. Raises BadImageError."""
    try:
        with _opened(content, kind, reading) as im:
            return _read(im, name, reading, content)
    except BadImageError:
        raise
    except pillow().DecompressionBombError as e:  # Pillow's own limit, which it keeps before it says the size
        pixels = int(next(iter(re.findall(r"\d+", str(e))), 0))
        raise too_large(name, f"{pixels} pixels", pixels, reading) from None
    except Exception as e:  # PIL raises a dozen kinds for a broken file
        unknown = type(e).__name__ == "UnidentifiedImageError"  # its words name a buffer, not what is wrong
        if unknown and kind.reader == "TIFF":
            from harness.pictures import tiff

            return tiff.read(content, name, reading)
        why = "in its header" if unknown else f"({type(e).__name__}: {e})"
        raise BadImageError(
            f"{name}: cannot be decoded: {kind.what} that is damaged or incomplete {why}; copy it again, or save it anew as PNG"
        ) from None


def _read(im: Any, name: str, reading: Reading, content: bytes) -> Decoded:
    check_size(name, im.size, reading)
    pages = _pages(im, name)
    index = pick(name, len(pages), reading.frame, "pages" if im.format == "TIFF" else "frames")
    changes = []
    if len(pages) > 1:
        im.seek(pages[index])
        check_size(name, im.size, reading)
        changes.append("one frame of a stack, as named")
    elif pages[0] != 0:
        im.seek(pages[0])
        check_size(name, im.size, reading)
        changes.append("the full picture of a file that begins with a preview")
    if im.format == "PNG":
        im.load()  # its orientation may stand after the pixels
    turn = 1 if im.format == "TIFF" else _orientation(im)  # Pillow turns a TIFF itself
    grey = _grey(im)
    if grey is not None:
        image = pillow().fromarray(_shown(im, grey, name, reading, changes))
        image = image.convert("RGB")
    elif im.format == "PNG" and content[24:26] == b"\x10\x04" and len(pages) == 1:
        image = _grey_with_alpha(content, name, reading, changes)
    else:
        if reading.window:
            changes.append("of 8 bits or in colour, to which no window applies")
        image = _flat(im, name, changes)
    if turn != 1:
        image = upright(image, turn)
        changes.append("turned as the EXIF orientation says")
    return Decoded(image, tuple(changes), plain=grey is None and not changes)


# -- one of several -----------------------------------------------------------------------------------------------------


def _pages(im: Any, name: str) -> list[int]:
    """The indices of the pictures that are there to be seen; previews, masks and thumbnails are none.

    Raises BadImageError for a file that holds a preview only, or more planes than Pillow can reach.
    """
    if im.format == "TIFF":
        return _tiff_pages(im, name)
    if im.format == "MPO":  # a photograph first; the rest are its depths and previews, unless they say that they are equals
        entries = (im.mpinfo or {}).get(0xB002, [])
        kinds = [str(e.get("Attribute", {}).get("MPType", "")) for e in entries]
        return list(range(im.n_frames)) if any("Multi-Frame" in k for k in kinds) else [0]
    return list(range(im.n_frames)) if getattr(im, "is_animated", False) else [0]


def _tiff_pages(im: Any, name: str) -> list[int]:
    count = im.n_frames
    description = str(im.tag_v2.get(_DESCRIPTION, ""))
    planes = re.match(r"ImageJ=.*?^images=(\d+)", description, re.S | re.M)  # of a large stack one page is listed
    held = max(int(planes.group(1)) if planes else 1, int(im.tag_v2.get(_DEPTH, 1) or 1))
    if count == 1 and held > 1:
        raise BadImageError(f"{name}: holds {held} planes in one page; save the plane that is asked about alone")
    kept = []
    for i in range(count):
        im.seek(i)
        if not int(im.tag_v2.get(_SUBFILE, 0) or 0) & 0b101:  # 1: a smaller version of another page; 4: its mask
            kept.append(i)
    im.seek(0)
    if not kept:
        raise BadImageError(
            f"{name}: a TIFF that holds only a preview (a camera's raw file?); save the picture itself as PNG or TIFF"
        )
    return kept


# -- the right way up -----------------------------------------------------------------------------------------------------


def _orientation(im: Any) -> int:
    """1 to 8 (EXIF); 1 where nothing, or nothing that can be understood, is said."""
    try:
        found = im.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF, which viewers pass over too
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def upright(image: Any, orientation: int) -> Any:
    """Stored pixels the right way up, as their EXIF (or TIFF) orientation says."""
    from PIL.Image import Transpose as t

    turns = {
        2: t.FLIP_LEFT_RIGHT, 3: t.ROTATE_180, 4: t.FLIP_TOP_BOTTOM, 5: t.TRANSPOSE, 6: t.ROTATE_270, 7: t.TRANSVERSE,
        8: t.ROTATE_90,
    }  # fmt: skip
    return image.transpose(turns[orientation]) if orientation in turns else image


# -- grey of other kinds than 0..255 ----------------------------------------------------------------------------------------


def _grey(im: Any) -> Any:
    """The values of grey that is not 0..255, as numbers; None for every other picture."""
    import numpy as np

    tags = getattr(im, "tag_v2", {})
    form, bits = _first(tags.get(_FORMAT, 1)), _first(tags.get(_BITS, 8))
    if im.mode in ("I", "F") or im.mode.startswith("I;16"):
        values = np.asarray(im)
        return values.view(np.uint32) if (form, bits) == (1, 32) and values.dtype == np.int32 else values
    if im.mode == "L" and im.format == "TIFF" and (form, bits) == (2, 8):  # Pillow takes signed bytes for unsigned ones
        return np.asarray(im).view(np.int8)
    return None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _shown(im: Any, grey: Any, name: str, reading: Reading, changes: list[str]) -> Any:
    """Grey values as uint8: through the window that is named, else from darkest to brightest."""
    import numpy as np

    hole = im.info.get("transparency")
    hidden = grey == hole if isinstance(hole, int) else None
    if grey.dtype.itemsize == 1 or grey.dtype.name == "uint32":
        changes.append("grey values of their own sign")
    if reading.window:
        found = tone.windowed(grey, reading.window, name)
        changes.append("grey values through the named window")
    else:
        found = tone.levels(grey, hidden)
    if _first(getattr(im, "tag_v2", {}).get(_PHOTOMETRIC)) == 0:
        found = 255 - found
        found[~np.isfinite(grey)] = 0
        changes.append("white is zero")
    if hidden is not None and hidden.any():
        found = found.copy()
        found[hidden] = 255
        changes.append("transparent, on a white ground")
    return found


def _grey_with_alpha(content: bytes, name: str, reading: Reading, changes: list[str]) -> Any:
    """A PNG of 16-bit grey with alpha, of which Pillow keeps the upper bytes: its four bytes a pixel are read as 8-bit RGBA."""
    import numpy as np

    head = content[12:24] + bytes([8, 6]) + content[26:29]
    patched = content[:12] + head + zlib.crc32(head).to_bytes(4, "big") + content[33:]
    high, low, alpha, _ = np.moveaxis(np.asarray(pillow().open(io.BytesIO(patched))), -1, 0)
    values = high.astype(np.uint16) << 8 | low
    changes.append("16-bit grey with alpha")
    shown = tone.windowed(values, reading.window, name) if reading.window else tone.levels(values, alpha == 0)
    return _flat(pillow().fromarray(np.dstack([shown, alpha])), name, changes)


def _flat(im: Any, name: str, changes: list[str]) -> Any:
    """A picture of 8 bits as RGB, on a ground where it is transparent."""
    if im.mode == "LAB":
        raise BadImageError(f"{name}: its colours are stored as LAB; save it as RGB")
    if not im.has_transparency_data:
        return im.convert("RGB")
    image, done = tone.on_ground(im, name)
    if done:
        changes.append(done)
    return image
