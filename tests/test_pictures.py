"""Pictures arrive as a viewer shows them, or are refused with what they are and what to do."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from harness.pictures import Window
from tests.drawn import COLOUR, DEEP, GREY, HEIGHT, PLAIN, WIDTH, assert_same, ref, refusal, saved, shown, tiff

# -- the right way up ------------------------------------------------------------------------------------------------

T = Image.Transpose
#: EXIF orientation -> how a picture that is shown upright was stored.
STORED = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE,
          8: T.ROTATE_270}  # fmt: skip


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", STORED)
def test_every_orientation_is_upright(turn, kind):
    exif = Image.Exif()
    exif[0x0112] = turn
    image = PLAIN if STORED[turn] is None else PLAIN.transpose(STORED[turn])
    content = saved(image, kind, exif=exif)
    assert_same(shown(content))
    picture = ref(content)
    assert picture.size == (WIDTH, HEIGHT)
    assert bool(picture.changes) == (turn != 1 and kind != "TIFF")  # Pillow has always turned a TIFF


def test_an_orientation_after_the_pixels_is_obeyed():
    exif = Image.Exif()
    exif[0x0112] = 3
    content = saved(PLAIN.transpose(T.ROTATE_180), "PNG", exif=exif)
    at = content.index(b"eXIf") - 4
    size = struct.unpack(">I", content[at : at + 4])[0] + 12
    end = content.index(b"IEND") - 4
    assert_same(shown(content[:at] + content[at + size : end] + content[at : at + size] + content[end:]))


@pytest.mark.parametrize("turn", [0, 9, 65535])
def test_an_orientation_that_is_none_is_passed_over(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    assert_same(shown(saved(PLAIN, "JPEG", exif=exif)))


# -- grey of any depth and sign --------------------------------------------------------------------------------------

HOLE = DEEP.astype(np.float32)
HOLE[5, 20] = np.nan
DEPTHS = {
    "uint16": tiff(DEEP),
    "uint16 big-endian": tiff(DEEP, byteorder=">"),
    "uint16, 12 bits of it": tiff(DEEP >> 4),
    "int16": tiff((DEEP.astype(np.int32) - 32768).astype(np.int16)),
    "int8": tiff((GREY.astype(np.int16) - 128).astype(np.int8)),
    "int32, below zero": tiff(GREY.astype(np.int32) * 9 - 1024),
    "uint32, above 2**31": tiff(GREY.astype(np.uint32) * 0x01010101),
    "float32": tiff(DEEP.astype(np.float32) - 1000),
    "float32 with a hole": tiff(HOLE),
    "bilevel": saved(PLAIN.point(lambda v: 255 * (v > 99)).convert("1"), "TIFF"),
    "white is zero, 1 bit": tiff(GREY <= 99, photometric="miniswhite"),
    "white is zero, 8 bits": tiff(255 - GREY, photometric="miniswhite"),
    "white is zero, 16 bits": tiff(65535 - DEEP, photometric="miniswhite"),
    "white is zero, int16": tiff((32767 - DEEP.astype(np.int32)).astype(np.int16), photometric="miniswhite"),
    "white is zero, 16 bits, big-endian": tiff(65535 - DEEP, photometric="miniswhite", byteorder=">"),
    "float64": tiff(DEEP.astype(np.float64) / 7),
    "float64, turned": tiff(DEEP[::-1].astype(np.float64), extratags=[(274, 3, 1, 4, True)]),
    "uint32, big-endian": tiff(GREY.astype(np.uint32) * 0x01010101, byteorder=">"),
    "white is zero, float": tiff(-DEEP.astype(np.float32), photometric="miniswhite"),
    "PNG of 16 bits": saved(Image.fromarray(DEEP), "PNG"),
    "PNG of 12 bits in 16": saved(Image.fromarray(DEEP >> 4), "PNG"),
    "PGM of 16 bits": b"P5 64 48 65535\n" + DEEP.astype(">u2").tobytes(),
    "JPEG 2000 of 16 bits": saved(Image.fromarray(DEEP), "JPEG2000"),
    "BigTIFF": tiff(DEEP, bigtiff=True),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_depths_and_signs(depth):
    expected = np.where(GREY > 99, 255, 0) if depth in ("bilevel", "white is zero, 1 bit") else GREY
    assert_same(shown(DEPTHS[depth]), expected)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_hole_is_black(photometric, kind):
    assert tuple(shown(tiff(HOLE.astype(kind), photometric=photometric))[5, 20]) == (0, 0, 0)


@pytest.mark.parametrize("values", [np.dstack([DEEP] * 5), DEEP.astype(np.complex64)], ids=["5 channels", "complex"])
def test_a_tiff_that_no_viewer_shows_says_what_to_save(values):
    message = refusal(tiff(values, photometric="minisblack", planarconfig="contig" if values.ndim == 3 else None))
    assert f"a TIFF of {5 if values.ndim == 3 else 1} channels of {values.dtype}" in message
    assert "save it as" in message


def test_without_tifffile_a_rare_tiff_says_what_to_save(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    message = refusal(DEPTHS["float64"])
    assert "save it as 8- or 16-bit grey" in message
    assert "pip install tifffile" in message


def test_a_named_window_applies_to_deep_grey_alone():
    window = Window(center=1000, width=500)
    values = np.tile(np.array([0, 750, 1000, 1250, 4000], np.uint16), (4, 1))
    assert shown(tiff(values), window=window)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    eight = saved(PLAIN, "PNG")
    assert_same(shown(eight, window=window))
    assert ref(eight, window=window).changes == ("of 8 bits or in colour, to which no window applies",)
    assert "shows one grey only" in refusal(tiff(values), window=Window(center=-5000, width=2))


# -- colours and grounds ---------------------------------------------------------------------------------------------

RGB = Image.fromarray(COLOUR)
HALF = np.full_like(GREY, 128)


def palette_with_hole():
    image = Image.fromarray((GREY // 16).astype(np.uint8), "P")
    image.putpalette([v for i in range(16) for v in (i * 16,) * 3])
    return saved(image, "PNG", transparency=0)


GROUNDS = {
    "RGBA, opaque": (saved(RGB.convert("RGBA"), "PNG"), COLOUR, None),
    "LA, opaque": (saved(PLAIN.convert("LA"), "PNG"), GREY, None),
    "half transparent": (saved(Image.fromarray(np.dstack([COLOUR, HALF])), "PNG"), (COLOUR.astype(int) + 255) / 2, "white"),
    "black ink": (saved(Image.fromarray(np.dstack([COLOUR * 0, 255 - GREY])), "PNG"), GREY, "white"),
    "white ink": (saved(Image.fromarray(np.dstack([COLOUR * 0 + 255, GREY])), "PNG"), GREY, "black"),
    "black ink, WebP": (saved(Image.fromarray(np.dstack([COLOUR * 0, 255 - GREY])), "WEBP", lossless=True), GREY, "white"),
    "black ink, TIFF": (tiff(np.dstack([COLOUR * 0, 255 - GREY]), photometric="rgb", extrasamples=["unassalpha"]), GREY, "white"),
    "grey and premultiplied alpha": (
        tiff(np.dstack([GREY * 0, 255 - GREY]), photometric="minisblack", extrasamples=["assocalpha"], planarconfig="contig"),
        GREY, "white"),
    "grey and alpha": (saved(Image.fromarray(np.dstack([GREY * 0, 255 - GREY]), "LA"), "PNG"), GREY, "white"),
    "palette with a hole": (palette_with_hole(), np.where(GREY // 16 == 0, 255, GREY), "white"),
    "16-bit grey with a hole": (
        saved(Image.fromarray(DEEP), "PNG", transparency=0), np.where(GREY == 0, 255, GREY), "white"),
    "16-bit RGB": (tiff(COLOUR.astype(np.uint16) * 257, photometric="rgb"), COLOUR, None),
    "CMYK JPEG": (saved(RGB.convert("CMYK"), "JPEG", quality=95), COLOUR, None),
    "CMYK TIFF": (saved(RGB.convert("CMYK"), "TIFF"), COLOUR, None),
    "nothing at all": (saved(Image.new("RGBA", (WIDTH, HEIGHT)), "PNG"), np.full_like(GREY, 255), "white"),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUNDS)
def test_grounds(case):
    content, expected, ground = GROUNDS[case]
    assert_same(shown(content), expected, tolerance=8)
    changes = ref(content).changes
    assert (f"{ground} ground" in changes[0]) if ground else not changes


def png16(channels, values):
    """A PNG of 16 bits a channel, which Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [16, 12])
def test_16_bit_grey_with_alpha(depth):
    grey, full = DEEP >> (16 - depth), np.full_like(DEEP, 65535)
    assert_same(shown(png16(2, np.dstack([grey, full]))))


def test_16_bit_colour_with_alpha():
    deep = COLOUR.astype(np.uint16) * 257
    assert_same(shown(png16(3, deep)), COLOUR)
    assert_same(shown(png16(4, np.dstack([deep, np.full_like(DEEP, 32768)]))), (COLOUR.astype(int) + 255) / 2)


# -- stacks and animations -------------------------------------------------------------------------------------------

PAGES = [np.zeros_like(GREY), GREY, 255 - GREY]
IMAGES = [Image.fromarray(p).convert("RGB") for p in PAGES]
STACKS = {
    "TIFF": tiff(np.stack(PAGES), photometric="minisblack"),
    "GIF": saved(IMAGES[0], "GIF", save_all=True, append_images=IMAGES[1:]),
    "APNG": saved(IMAGES[0], "PNG", save_all=True, append_images=IMAGES[1:]),
    "WebP": saved(IMAGES[0], "WEBP", save_all=True, append_images=IMAGES[1:], lossless=True),
}


@pytest.mark.parametrize("kind", STACKS)
def test_one_of_a_stack_is_never_shown_in_silence(kind):
    content = STACKS[kind]
    message = refusal(content, "x.tif")
    assert "holds 3 " in message
    assert "x.tif#1 to #3" in message
    assert "`frame: 1`" in message
    for frame, page in ((1, 0), (2, 1), (3, 2), ("first", 0), ("middle", 1), ("last", 2)):
        assert_same(shown(content, frame=frame), PAGES[page], tolerance=8)
    assert "there is no frame 4: it holds 3" in refusal(content, frame=4)


def test_a_frame_of_a_single_picture():
    one = saved(PLAIN, "GIF")
    assert_same(shown(one))
    for frame in (1, "first", "middle", "last"):
        assert_same(shown(one, frame=frame))
    assert "there is no frame 2" in refusal(one, frame=2)


def pyramid(kinds, pages):
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as w:
        for kind, page in zip(kinds, pages, strict=True):
            w.write(page, subfiletype=kind, photometric="minisblack", metadata=None)
    return out.getvalue()


def test_previews_and_masks_are_no_frames():
    small = GREY[::2, ::2]
    assert_same(shown(pyramid([0, 1, 1], [GREY, small, small[::2, ::2]])))
    assert_same(shown(pyramid([1, 0], [small, GREY])))
    preview, mask = (b"\xfe\0\4\0\1\0\0\0" + bytes([kind]) for kind in (1, 4))
    assert_same(shown(pyramid([0, 1], [GREY, GREY * 0]).replace(preview, mask)))
    assert "holds only a preview" in refusal(pyramid([1], [small]))
    assert "holds 2 pages" in refusal(pyramid([0, 0], [GREY, small]))


def test_an_imagej_stack_of_one_page_is_a_stack():
    page = tiff(GREY, description="ImageJ=1.53\nimages=7\nslices=7\n", metadata=None)
    assert "holds 7 planes" in refusal(page)


# -- what is no picture ----------------------------------------------------------------------------------------------


def boxed(brand):
    return b"\0\0\0\x18ftyp" + brand + bytes(40)


def archived(name, content=b"x"):
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr(name, content)
    return out.getvalue()


def gz(content):
    import gzip

    return gzip.compress(content)


NIFTI = struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(100)
OTHERS = {
    "empty": (b"", "an empty file", "fetch it again"),
    "zeros": (bytes(500), "zero bytes only", "fetch it again"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "a web page (HTML)", "fetch it again"),
    "bare html": (b"<html>404</html>", "a web page (HTML)", "fetch it again"),
    "svg": (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="..."/>', "an SVG drawing", "as PNG"),
    "xml": (b"<?xml version='1.0'?><Error/>", "XML text", "fetch it again"),
    "json": (b'{"error": "no"}', "JSON text", "fetch it again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git LFS", "git lfs pull"),
    "annex": (b"/annex/objects/MD5E-s1--0.png\n", "git-annex", "git annex get"),
    "text": (b"imgs/other.png\n", "a text file", "are read"),
    "pdf": (b"%PDF-1.7\n", "a PDF", "as PNG"),
    "nii": (NIFTI, "a NIfTI volume", "export the slices"),
    "nii.gz": (gz(NIFTI), "a NIfTI volume, compressed with gzip", "export the slices"),
    "nii2": (struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600), "a NIfTI-2 volume", "export the slices"),
    "nrrd": (b"NRRD0004\ntype: short\n", "an NRRD volume", "export the slices"),
    "mha": (b"ObjectType = Image\nNDims = 3\n", "a MetaImage", "export the slices"),
    "npy": (b"\x93NUMPY\1\0" + bytes(80), "a NumPy array", "save it as PNG"),
    "npz": (archived("arr_0.npy"), "NumPy arrays (npz)", "save it as PNG"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform", "a MATLAB file", "save it as PNG"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file", "save it as PNG"),
    "zip": (archived("a.png"), "a zip archive", "unpack it"),
    "png.gz": (gz(saved(PLAIN, "PNG")), "a PNG, compressed with gzip", "unpack it"),
    "heic": (boxed(b"heic"), "a HEIC/HEIF photograph", "heif-convert"),
    "jxl": (b"\xff\x0a" + bytes(90), "a JPEG XL", "djxl"),
    "mp4": (boxed(b"isom"), "a video", "ffmpeg"),
    "psd": (b"8BPS\0\1" + bytes(90), "a Photoshop file", "flattened"),
    "pickle": (b"\x80\x04\x95" + bytes(90), "a Python pickle", "not opened"),
    "noise": (bytes(range(7, 250)), "not a picture of a kind that is known", "are read"),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("name", ["x.png", "x.dcm"])
def test_other_files_are_named_by_their_content(case, name):
    content, what, way_out = OTHERS[case]
    message = refusal(content, name)
    assert message.startswith(f"{name}: ")
    assert what in message
    assert way_out in message
    assert "BytesIO" not in message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "JPEG2000", "AVIF"])
def test_a_truncated_file_is_damaged_whatever_its_kind(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = saved(noise, kind)
    for share in (0.9, 0.5):
        message = refusal(content[: int(len(content) * share)])
        assert "cannot be decoded" in message
        assert "copy it again" in message or "save it" in message
        assert "BytesIO" not in message


def test_a_name_does_not_make_a_kind():
    assert_same(shown(saved(PLAIN, "PNG")))
    assert_same(np.asarray(ref(saved(PLAIN, "PNG"), "x.dcm").open()).astype(int))
