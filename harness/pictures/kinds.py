"""What a file is, told by its first bytes; and for what is no picture, how to make one of it."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

from harness.pictures import BadImageError

READ = "JPEG, PNG, TIFF, GIF, WebP, BMP, PPM, JPEG 2000, AVIF and DICOM are read"


class Kind(NamedTuple):
    """In words what the file is; who reads it (Pillow's name of the format, or dicom), or else what to do with it."""

    what: str
    reader: str = ""
    way_out: str = ""


_SLICES = "export the slices that are asked about as PNG or TIFF (nibabel, SimpleITK or 3D Slicer do it)"
_ARRAY = "save it as PNG (8-bit) or TIFF, for example with PIL.Image.fromarray(array).save('x.png')"
_DAMAGED = "the download or copy failed; fetch it again"
_STILL = "save the frames that are asked about as PNG, for example with ffmpeg"
_PLAIN = "save it as PNG or JPEG"
_UNKNOWN = "not a picture of a kind that is known"

#: (bytes, where they stand, kind); the first that fits.
_MAGIC: tuple[tuple[bytes, int, Kind], ...] = (
    (b"DICM", 128, Kind("DICOM", "dicom")),  # before all others: its preamble may be a TIFF's header
    (b"\xff\xd8\xff", 0, Kind("a JPEG", "JPEG")),
    (b"\x89PNG\r\n\x1a\n", 0, Kind("a PNG", "PNG")),
    (b"GIF8", 0, Kind("a GIF", "GIF")),
    (b"II*\0", 0, Kind("a TIFF", "TIFF")),
    (b"MM\0*", 0, Kind("a TIFF", "TIFF")),
    (b"II+\0", 0, Kind("a BigTIFF", "TIFF")),
    (b"MM\0+", 0, Kind("a BigTIFF", "TIFF")),
    (b"WEBP", 8, Kind("a WebP", "WEBP")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, Kind("a JPEG 2000", "JPEG2000")),
    (b"\xff\x4f\xff\x51", 0, Kind("a JPEG 2000 codestream", "JPEG2000")),
    (b"ftypavif", 4, Kind("an AVIF", "AVIF")),
    (b"ftypavis", 4, Kind("an AVIF", "AVIF")),
    *(
        (b"ftyp" + brand, 4, Kind("a HEIC/HEIF photograph", "", f"{_PLAIN}, for example with heif-convert or pillow-heif"))
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
    (b"\0\0\0\x0cJXL \r\n\x87\n", 0, Kind("a JPEG XL", "", f"{_PLAIN}, for example with djxl")),
    (b"\xff\x0a", 0, Kind("a JPEG XL", "", f"{_PLAIN}, for example with djxl")),
    (b"\xff\xd8", 0, Kind("the start of a JPEG", "", _DAMAGED)),
    (b"%PDF-", 0, Kind("a PDF", "", "save its pages as PNG, for example with pdftoppm -png")),
    (b"%!PS", 0, Kind("PostScript", "", f"{_PLAIN}, for example with Ghostscript")),
    (b"8BPS", 0, Kind("a Photoshop file", "", f"{_PLAIN}, its layers flattened")),
    (b"\0\0\1\0", 0, Kind("an icon (ICO)", "", _PLAIN)),
    (b"ftyp", 4, Kind("a video (MP4 or QuickTime)", "", _STILL)),
    (b"AVI ", 8, Kind("a video (AVI)", "", _STILL)),
    (b"\x1aE\xdf\xa3", 0, Kind("a video (Matroska or WebM)", "", _STILL)),
    (b"n+1\0", 344, Kind("a NIfTI volume", "", _SLICES)),
    (b"ni1\0", 344, Kind("a NIfTI header", "", _SLICES)),
    (b"n+2\0", 4, Kind("a NIfTI-2 volume", "", _SLICES)),
    (b"ni2\0", 4, Kind("a NIfTI-2 header", "", _SLICES)),
    (b"\x5c\1\0\0", 0, Kind("an Analyze header", "", _SLICES)),
    (b"NRRD0", 0, Kind("an NRRD volume", "", _SLICES)),
    (b"\0\0\0\1", 0, Kind("perhaps an MGH volume", "", _SLICES)),
    (b"\x93NUMPY", 0, Kind("a NumPy array", "", _ARRAY)),
    (b"MATLAB 5", 0, Kind("a MATLAB file", "", f"read the array with scipy.io.loadmat and {_ARRAY}")),
    (b"MATLAB 7", 0, Kind("a MATLAB file", "", f"read the array with h5py and {_ARRAY}")),
    (b"\x89HDF\r\n\x1a\n", 0, Kind("an HDF5 file", "", f"read the array with h5py and {_ARRAY}")),
    (b"SIMPLE  =", 0, Kind("a FITS file", "", _ARRAY)),
    (b"\x28\xb5\x2f\xfd", 0, Kind("a Zstandard archive", "", "unpack it")),
    (b"7z\xbc\xaf\x27\x1c", 0, Kind("a 7z archive", "", "unpack it")),
    (b"Rar!", 0, Kind("a RAR archive", "", "unpack it")),
    (b"BZh", 0, Kind("a bzip2 archive", "", "unpack it")),
    (b"\xfd7zXZ", 0, Kind("an xz archive", "", "unpack it")),
    (b"ustar", 257, Kind("a tar archive", "", "unpack it")),
    (b"\x80\x02", 0, Kind("a Python pickle", "", f"it may hold code and is not opened; {_ARRAY}")),
    (b"\x80\x03", 0, Kind("a Python pickle", "", f"it may hold code and is not opened; {_ARRAY}")),
    (b"\x80\x04", 0, Kind("a Python pickle", "", f"it may hold code and is not opened; {_ARRAY}")),
    (b"\x80\x05", 0, Kind("a Python pickle", "", f"it may hold code and is not opened; {_ARRAY}")),
    (b"PAR1", 0, Kind("a parquet table", "", "name it under `splits` and its column of pictures under `columns`")),
    (b"\xd0\xcf\x11\xe0", 0, Kind("an old Office file", "", _PLAIN)),
)
#: The same for texts, after blanks and a byte order mark.
_TEXTS: tuple[tuple[str, Kind], ...] = (
    (r"version https://git-lfs", Kind("a pointer of git LFS, not the picture itself", "", "fetch the files with `git lfs pull`")),
    (r"\S*/?annex/objects/|/annex/", Kind("a pointer of git-annex, not the picture itself", "", "fetch it with `git annex get`")),
    (r"(<\?xml.*?>|<!--.*?-->|<!DOCTYPE svg.*?>|\s)*<svg\b", Kind("an SVG drawing", "", f"{_PLAIN}, as rsvg-convert does")),
    (r"<(!doctype )?html|(<!--.*?-->\s*)?<html|<head|<body", Kind("a web page (HTML)", "", f"an error page? {_DAMAGED}")),
    (r"ObjectType\s*=|NDims\s*=", Kind("a MetaImage header (MHA or MHD)", "", _SLICES)),
    (r"<\?xml|<Error>", Kind("XML text", "", f"an error message of a server? {_DAMAGED}")),
    (r"[{\[]", Kind("JSON text", "", f"an error message of a server? {_DAMAGED}")),
    (r"data:image/|/9j/|iVBORw0KGgo", Kind("a picture written as base64 text", "", "store its bytes themselves")),
    (r"P[1-6fF]\s", Kind("a PPM", "PPM")),
    (r"P7\s", Kind("a PAM", "", _PLAIN)),
)  # fmt: skip


def sniff(content: bytes, name: str) -> Kind:
    """What a file's bytes are. `name` only tells what an archive's content should be. Raises BadImageError for an empty file."""
    if not content:
        raise BadImageError(f"{name}: an empty file; {_DAMAGED}")
    for magic, at, kind in _MAGIC:
        if content.startswith(magic, at):
            return _narrowed(kind, content)
    if content.startswith(b"\x1f\x8b"):
        return _gzipped(content, name)
    if content.startswith(b"PK\3\4"):
        return _zipped(content)
    if content.startswith(b"BM") and int.from_bytes(content[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return Kind("a BMP", "BMP")
    if _bare_dicom(content):
        return Kind("DICOM without its preamble", "dicom")
    if not content.strip(b"\0"):
        return Kind("zero bytes only", "", _DAMAGED)
    return _text(content) or Kind(_UNKNOWN, "", f"{READ}; {_PLAIN}")


def _narrowed(kind: Kind, content: bytes) -> Kind:
    """Some first bytes are those of several kinds, and some kinds need a Pillow that was built for them."""
    if kind.reader == "TIFF" and content[8:10] == b"CR":
        return Kind("a camera's raw file", "", f"develop it and {_PLAIN}")
    if "HEIF" in kind.what and b"avif" in content[8:64]:
        kind = Kind("an AVIF", "AVIF")
    if wanted := {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(kind.reader):
        from PIL import features

        if not features.check(wanted):
            return Kind(f"{kind.what}, which the Pillow installed here cannot read", "", _PLAIN)
    return kind


def _gzipped(content: bytes, name: str) -> Kind:
    try:
        inside = zlib.decompressobj(wbits=31).decompress(content, 4096)
    except zlib.error:
        inside = b""
    kind = sniff(inside, name) if inside else None
    if kind and "volume" in kind.what:
        return Kind(f"{kind.what}, compressed with gzip", "", kind.way_out)
    if kind and kind.what != _UNKNOWN:
        return Kind(f"{kind.what}, compressed with gzip", "", "unpack it (gunzip)")
    if re.search(r"\.nii(\.gz)?$", name, re.I):
        return Kind("a gzip file, by its name a NIfTI volume, that cannot be unpacked", "", f"{_DAMAGED}, then {_SLICES}")
    return Kind("a gzip archive", "", f"unpack it; if it is a volume, {_SLICES}")


def _zipped(content: bytes) -> Kind:
    start = content[:4096]
    if b".npy" in start:
        return Kind("NumPy arrays (npz)", "", _ARRAY)
    if b"[Content_Types].xml" in start or b"ppt/" in start or b"word/" in start:
        return Kind("an Office document", "", f"take the pictures out of it and {_PLAIN}")
    if b"data.pkl" in start:
        return Kind("a file of torch.save", "", f"it may hold code and is not opened; {_ARRAY}")
    return Kind("a zip archive", "", "unpack it, and name the pictures in it")


def _bare_dicom(content: bytes) -> bool:
    """Whether the bytes begin as DICOM's elements do: group 2 or 8, and a length that the file can hold."""
    for order, groups in (("little", (b"\2\0", b"\x08\0")), ("big", (b"\0\x08",))):
        if content[:2] in groups and len(content) > 256:
            if re.fullmatch(rb"(AE|AS|AT|CS|DA|DS|DT|IS|LO|LT|OB|OW|PN|SH|SQ|ST|TM|UI|UL|UN|US|UT)", content[4:6]):
                return True
            length = int.from_bytes(content[4:8], order)  # type: ignore[arg-type]
            if order == "little" and length % 2 == 0 and length <= 256 and content[8 + length : 10 + length] in groups:
                return True
    return False


def _text(content: bytes) -> Kind | None:
    start = content[:4096]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = start[: len(start) // 2 * 2].decode("utf-16", "replace")
    else:
        text = start.decode("latin-1").removeprefix("\xef\xbb\xbf")
    text = text.lstrip()
    for pattern, kind in _TEXTS:
        if re.match(pattern, text, re.I | re.S):
            return kind
    printable = sum(c.isprintable() or c in "\r\n\t" for c in text)
    if text and printable == len(text):
        return Kind("a text file", "", f"the path of a picture belongs into the table, not into a file; {READ}")
    return None
