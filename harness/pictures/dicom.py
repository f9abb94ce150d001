"""DICOM through pydicom (the extra `dicom`): photometric interpretation, rescale, the file's own window or a named one.

Only the elements that make the picture are read; no other tag of the file, a patient's name least of all, comes as far as a
record or a message.
"""

from __future__ import annotations

import functools
import io
import logging
import re
import warnings
from typing import Any

from harness.pictures import BadImageError, Decoded, Reading, Window, check_size, pick, tone

#: All that is read of a file.
_TAGS = [
    "SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope",
    "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData", "PixelData", "FloatPixelData",
    "DoubleFloatPixelData", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: Below this relative difference pixels count as square.
_SQUARE = 0.01


@functools.cache
def _pydicom() -> Any:
    """pydicom, silent: what it warns about are a file's values. Raises ImportError."""
    import pydicom
    import pydicom.pixels

    warnings.filterwarnings("ignore", module=r"pydicom|harness\.pictures")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    return pydicom


def read(content: bytes, name: str, reading: Reading) -> Decoded:
    """The picture of a DICOM file. Raises BadImageError."""
    try:
        pydicom = _pydicom()
    except ImportError:
        raise BadImageError(f"{name}: DICOM, which is read through pydicom; pip install 'medvlm-harness[dicom]'") from None
    try:
        ds = pydicom.dcmread(io.BytesIO(content), force=True, specific_tags=_TAGS)
        return _read(ds, name, reading)
    except BadImageError:
        raise
    except Exception as e:  # a damaged file can fail in every part of pydicom; its words may hold values of the file
        raise BadImageError(
            f"{name}: cannot be decoded: DICOM that is damaged or incomplete ({type(e).__name__}); copy it again, "
            "or export it as PNG from a DICOM viewer"
        ) from None


def _read(ds: Any, name: str, reading: Reading) -> Decoded:
    if not any(p in ds for p in _PIXELS):
        raise BadImageError(f"{name}: {_without_pixels(ds)}")
    decoder = _decoder(ds, name)
    check_size(name, (int(ds.Columns), int(ds.Rows)), reading)
    count = int(ds.get("NumberOfFrames") or 1)
    index = pick(name, count, reading.frame)
    changes = ["DICOM"] + (["one frame of a stack, as named"] if count > 1 else [])
    stored, photometric = _stored(ds, decoder, name, index)
    if photometric.startswith("MONOCHROME"):
        grey = _grey(ds, stored, name, index, reading, changes)
        if photometric == "MONOCHROME1":
            grey = 255 - grey
            changes.append("white is zero")
        if (padding := _padding(ds, stored)) is not None:
            grey[padding] = 0
        image = _pillow().fromarray(grey).convert("RGB")
    else:
        if reading.window:
            changes.append("of 8 bits or in colour, to which no window applies")
        image = _pillow().fromarray(_colour(ds, stored, photometric, name)).convert("RGB")
    return Decoded(_square(ds, image, name, index, reading, changes), tuple(changes))


def _pillow() -> Any:
    from harness.pictures.raster import pillow

    return pillow()


def _without_pixels(ds: Any) -> str:
    uid = ds.get("SOPClassUID") or getattr(ds, "file_meta", {}).get("MediaStorageSOPClassUID")
    what = getattr(uid, "name", "") or ""
    if "Directory" in what:
        return "a DICOMDIR, which lists a folder's files; name the image files themselves"
    if "PDF" in what:
        return "a DICOM file that wraps a PDF; take it out and save its pages as PNG"
    if not what or "Image Storage" in what:
        return "cannot be decoded: DICOM that is damaged or incomplete, as it ends before its pixels; copy it again"
    shown = f" ({what})" if not re.fullmatch(r"[\d.]+", what) else ""
    return f"DICOM without pixels{shown}; name the image that it belongs to"


# -- from the file to stored values ---------------------------------------------------------------------------------------


def _decoder(ds: Any, name: str) -> Any:
    """What unpacks the pixels. Raises BadImageError where it is not installed, or there is none."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if getattr(ds, "file_meta", None) is None:
        ds.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        ds.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        )
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        found = get_decoder(syntax)
    except NotImplementedError:
        raise BadImageError(
            f"{name}: DICOM stored as {syntax.name}, which pydicom cannot decode; export it as PNG from a DICOM viewer"
        ) from None
    if not found.is_available:
        raise BadImageError(
            f"{name}: DICOM stored as {syntax.name}, for which a decoder is missing; pip install {_packages(found)}"
        )
    return found


def _stored(ds: Any, decoder: Any, name: str, index: int) -> tuple[Any, str]:
    """(one frame's values, their photometric interpretation): shape (rows, columns) or (rows, columns, 3)."""
    syntax = ds.file_meta.TransferSyntaxUID
    bits, high = ds.get("BitsStored"), ds.get("HighBit")
    shift = int(high) + 1 - int(bits) if bits and high and not syntax.is_encapsulated and int(high) >= int(bits) else 0
    if shift:  # values that do not begin at the lowest bit, as old scanners wrote them: taken whole, and moved down
        ds.BitsStored = int(bits) + shift
    try:
        values, found = decoder.as_array(ds, index=index)
    except (RuntimeError, NotImplementedError):
        if not syntax.is_encapsulated:
            raise
        more = f"; perhaps pip install {p}" if (p := _packages(decoder)) else ""
        raise BadImageError(
            f"{name}: cannot be decoded: DICOM stored as {syntax.name} that is damaged, or needs another decoder{more}"
        ) from None
    if shift:
        ds.BitsStored, values = bits, values >> shift
    return values, str(found["photometric_interpretation"])


def _packages(decoder: Any) -> str:
    """What to install for a transfer syntax, as pydicom names it: packages that need no compiler first."""
    wanted = [line for line in decoder.missing_dependencies if not line.startswith("gdcm")]
    names = re.findall(r"[a-z][a-z0-9-]*(?=>=)", wanted[-1]) if wanted else []
    return " ".join(names)


def _padding(ds: Any, stored: Any) -> Any:
    """A mask of the pixels that only fill the frame up, or None."""
    low, high = ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")
    if not isinstance(low, int) or "PixelData" not in ds:
        return None
    low, high = sorted((low, high if isinstance(high, int) else low))
    return (stored >= low) & (stored <= high)


# -- from stored values to what is seen -------------------------------------------------------------------------------------


def _group(ds: Any, sequence: str, index: int) -> Any:
    """The item of a frame's functional group, or of all frames'; the file itself where it has no such groups."""
    frames, shared = ds.get("PerFrameFunctionalGroupsSequence"), ds.get("SharedFunctionalGroupsSequence")
    for item in ([frames[index]] if frames and index < len(frames) else []) + ([shared[0]] if shared else []):
        if found := item.get(sequence):
            return found[0]
    return ds


def _grey(ds: Any, stored: Any, name: str, index: int, reading: Reading, changes: list[str]) -> Any:
    """Grey as uint8 before any inversion: modality values through the named window, the file's first one, or from end to end."""
    import numpy as np
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = apply_modality_lut(stored, _group(ds, "PixelValueTransformationSequence", index))
    if reading.window:
        changes.append("grey values through the named window")
        return tone.windowed(values, reading.window, name)
    voi = _group(ds, "FrameVOILUTSequence", index)
    if voi.get("VOILUTSequence"):
        changes.append("grey values through the file's own table")
        bits = int(voi.VOILUTSequence[0].LUTDescriptor[2])
        shown = apply_voi(np.rint(values).astype(np.int64), voi)
        return np.rint(np.clip(shown / (2**bits - 1), 0, 1) * 255).astype(np.uint8)
    if window := _own_window(voi):
        changes.append("grey values through the file's own window")
        shape = str(voi.get("VOILUTFunction") or "LINEAR").upper()
        if shape not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            raise BadImageError(
                f"{name}: DICOM with a window of an unknown kind; name one by `window: {{center: C, width: W}}` in the YAML"
            )
        return tone.windowed(values, window, name, shape=shape, whose="the file's own window")  # type: ignore[arg-type]
    bits = int(ds.get("BitsStored") or 32)
    if bits <= 8 and np.array_equal(values, stored) and not int(ds.get("PixelRepresentation") or 0):
        return np.rint(stored.astype(np.float64) * 255 / (2**bits - 1)).astype(np.uint8)
    changes.append("grey values from darkest to brightest, the file naming no window")
    return tone.levels(values, _padding(ds, stored))


def _own_window(voi: Any) -> Window | None:
    """The first window of the file that is one."""

    def first(value: Any) -> float | None:
        value = next(iter(value), None) if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else value
        return None if value in (None, "") else float(value)

    center, width = first(voi.get("WindowCenter")), first(voi.get("WindowWidth"))
    least = 0 if str(voi.get("VOILUTFunction") or "LINEAR").upper() != "LINEAR" else 1
    return Window(center=center, width=width) if center is not None and width and width >= least and width > 0 else None


def _colour(ds: Any, stored: Any, photometric: str, name: str) -> Any:
    """Colours as uint8 (rows, columns, 3)."""
    import numpy as np
    from pydicom.pixels.processing import apply_color_lut

    if photometric == "PALETTE COLOR":
        table = apply_color_lut(stored, ds)[..., :3]
        bits = 16 if table.dtype == np.uint16 and table.max() > 255 else 8
    elif photometric in ("RGB", "YBR_RCT", "YBR_ICT") and stored.ndim == 3 and stored.shape[-1] == 3:
        table, bits = stored, int(ds.BitsStored)
    else:
        raise BadImageError(f"{name}: DICOM whose colours are stored as {photometric}; export it as PNG from a DICOM viewer")
    return np.rint(table.astype(np.float64) * 255 / (2**bits - 1)).astype(np.uint8)


def _square(ds: Any, image: Any, name: str, index: int, reading: Reading, changes: list[str]) -> Any:
    """The picture with square pixels, its coarser side stretched as a viewer does."""
    measures = _group(ds, "PixelMeasuresSequence", index)
    spacing = next(
        (s for tag in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing") if (s := measures.get(tag))), None
    )
    sides = [float(x) for x in (spacing or ds.get("PixelAspectRatio") or (1, 1))]  # down, across
    if len(sides) != 2 or min(sides) <= 0 or abs(sides[0] / sides[1] - 1) < _SQUARE:
        return image
    down, across = (x / min(sides) for x in sides)
    size = round(image.width * across), round(image.height * down)
    check_size(name, size, reading)
    changes.append("stretched to square pixels")
    return image.resize(size, resample=_pillow().Resampling.BILINEAR)
