"""Pictures arrive as a viewer shows them, or are refused with what they are and what to do."""

import io
import json
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from harness import data, pictures, specs
from harness.errors import DataError, SpecError
from harness.images import portable
from harness.pictures import BadImageError, Reading, Window
from harness.records import ImageRef

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)  # fmt: skip

#: A picture that looks the same in no other orientation, and not as its own negative.
HEIGHT, WIDTH = 48, 64
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
GREY = np.clip(x * 2 + y * 2.0 - 40, 0, 255).astype(np.uint8)
GREY[2:10, 3:9] = 255
GREY[0, 0], GREY[0, 1] = 0, 255
DEEP = GREY.astype(np.uint16) * 257
PLAIN = Image.fromarray(GREY)
COLOUR = np.dstack([GREY, 255 - GREY, np.full_like(GREY, 90)])


def ref(content, name="picture", **reading):
    return ImageRef(name, data=content, reading=Reading(**reading))


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def tiff(values, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def shown(content, **reading):
    return np.asarray(ref(content, **reading).open()).astype(int)


def assert_same(found, expected=GREY, tolerance=4):
    expected = np.asarray(expected).astype(int)
    expected = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < tolerance


def refusal(content, name="picture", **reading):
    with pytest.raises(BadImageError) as e:
        ref(content, name, **reading).open()
    return str(e.value)


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


def test_a_hole_is_black():
    assert tuple(shown(DEPTHS["float32 with a hole"])[5, 20]) == (0, 0, 0)


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


# -- DICOM -----------------------------------------------------------------------------------------------------------


def dicom(pixels=DEEP >> 4, *, kind="MONOCHROME2", bits=12, signed=0, syntax=ExplicitVRLittleEndian, preamble=True, **tags):
    """A DICOM file of these pixels: an array, or bytes already encoded."""
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    d.SOPClassUID, d.SOPInstanceUID = d.file_meta.MediaStorageSOPClassUID, "1.2.3"
    d.PatientName, d.PatientID, d.PatientBirthDate = "Nobody^Secret", "ID-SECRET", "19000101"
    d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = HEIGHT, WIDTH, 1, kind
    allocated = 8 if bits <= 8 else 16
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = allocated, bits, bits - 1, signed
    if isinstance(pixels, bytes):
        d.PixelData = pixels
    else:
        if pixels.ndim == 3:
            d.SamplesPerPixel, d.PlanarConfiguration = 3, 0
        d.PixelData = pixels.astype(f"<{'i' if signed else 'u'}{allocated // 8}").tobytes()
    for name, value in tags.items():
        setattr(d, name, value)
    out = io.BytesIO()
    if not preamble:
        meta, d.file_meta = d.file_meta, FileMetaDataset()
        d.save_as(out, implicit_vr=meta.TransferSyntaxUID.is_implicit_VR, little_endian=True)
        return out.getvalue()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


WINDOW = {"WindowCenter": 2047.5, "WindowWidth": 4095}
SHARP = [0, 750, 1000, 1250, 4000]
HU = np.tile(np.array(SHARP, np.int16), (HEIGHT, WIDTH // 5 + 1))[:, :WIDTH]


def item(**tags):
    d = Dataset()
    for name, value in tags.items():
        setattr(d, name, value)
    return [d]


SCANS = {
    "MONOCHROME2": dicom(**WINDOW),
    "MONOCHROME1": dicom(4095 - (DEEP >> 4), kind="MONOCHROME1", **WINDOW),
    "no window": dicom(),
    "MONOCHROME1, no window": dicom(4095 - (DEEP >> 4), kind="MONOCHROME1"),
    "8 bits": dicom(GREY, bits=8),
    "8 bits, MONOCHROME1": dicom(255 - GREY, kind="MONOCHROME1", bits=8),
    "signed": dicom((DEEP >> 4).astype(np.int32) - 2048, signed=1, bits=16, WindowCenter=0, WindowWidth=4096),
    "signed, 12 bits": dicom((DEEP >> 4).astype(np.int32) - 2048, signed=1, bits=12),
    "rescaled": dicom(RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=3071, WindowWidth=8190),
    "two windows": dicom(WindowCenter=[2047.5, 9], WindowWidth=[4095, 3]),
    "an empty window": dicom(WindowCenter="", WindowWidth=""),
    "a window of no width": dicom(WindowCenter=100, WindowWidth=0),
    "exact": dicom(WindowCenter=2047.5, WindowWidth=4095, VOILUTFunction="LINEAR_EXACT"),
    "table": dicom(GREY, bits=8, VOILUTSequence=item(LUTDescriptor=[256, 0, 8], LUTData=np.arange(256, dtype="<u2").tobytes())),
    "modality table": dicom(
        GREY, bits=8, WindowCenter=128, WindowWidth=256,
        ModalityLUTSequence=item(LUTDescriptor=[256, 0, 16], LUTData=np.arange(256, dtype="<u2").tobytes(), ModalityLUTType="US"),
    ),
    "no preamble": dicom(preamble=False, **WINDOW),
    "no preamble, implicit": dicom(preamble=False, syntax=ImplicitVRLittleEndian, **WINDOW),
    "implicit": dicom(syntax=ImplicitVRLittleEndian, **WINDOW),
    "enhanced": dicom(
        NumberOfFrames=1,
        SharedFunctionalGroupsSequence=item(FrameVOILUTSequence=item(**WINDOW)),
        PerFrameFunctionalGroupsSequence=item(
            PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
        ),
    ),
    "shifted high bit": dicom((DEEP >> 4).astype(np.uint16) << 4, HighBit=15, **WINDOW),
}  # fmt: skip


@pytest.mark.parametrize("case", SCANS)
def test_dicom(case):
    assert_same(shown(SCANS[case]), tolerance=6)
    assert "DICOM" in ref(SCANS[case]).changes


def test_dicom_windows():
    def row(**tags):
        reading = {"window": tags.pop("window")} if "window" in tags else {}
        return shown(dicom(HU, signed=1, bits=16, **tags), **reading)[0, :5, 0].tolist()

    assert row(WindowCenter=1000, WindowWidth=500) == [0, 0, 128, 255, 255]
    assert row(WindowCenter=1000, WindowWidth=500, VOILUTFunction="SIGMOID") == [0, 30, 128, 225, 255]
    assert row(WindowCenter=0, WindowWidth=500, RescaleIntercept=-1000, RescaleSlope=1) == [0, 0, 128, 255, 255]
    assert row(WindowCenter=9, WindowWidth=1, window=Window(center=1000, width=500)) == [0, 0, 128, 255, 255]
    hounsfield = Window(center=0, width=500)
    assert row(RescaleIntercept=-1000, RescaleSlope=1, window=hounsfield) == [0, 0, 128, 255, 255]
    assert row(PixelPaddingValue=4000) == [0, 153, 204, 255, 0]
    message = refusal(dicom(HU, signed=1, bits=16, WindowCenter=-9000, WindowWidth=10))
    assert "the file's own window" in message
    assert "shows one grey only" in message
    assert "`window:" in message


def test_dicom_padding_is_black_in_a_negative_too():
    pixels = 4095 - (DEEP >> 4)
    pixels[20:30, 20:30] = 0
    found = shown(dicom(pixels, kind="MONOCHROME1", PixelPaddingValue=0, **WINDOW))
    assert not found[20:30, 20:30].any()


def test_dicom_read_through_its_preamble_is_still_dicom():
    content = dicom(4095 - (DEEP >> 4), kind="MONOCHROME1", **WINDOW)
    negative = tiff(255 - GREY)
    assert_same(shown(negative[:8] + content[8:]))  # Pillow would take the first bytes for a TIFF's


def ybr(colour):
    return np.asarray(Image.fromarray(colour).convert("YCbCr"))


def halved(colour):
    """YBR_FULL_422: Y Y Cb Cr."""
    found = ybr(colour).reshape(HEIGHT, WIDTH // 2, 2, 3)
    return np.dstack([found[:, :, 0, 0], found[:, :, 1, 0], found[:, :, 0, 1], found[:, :, 0, 2]]).astype(np.uint8)


def table_of(channel):
    return {
        f"{channel}PaletteColorLookupTableDescriptor": [256, 0, 16],
        f"{channel}PaletteColorLookupTableData": (np.arange(256, dtype=np.uint16) * 257).astype("<u2").tobytes(),
    }


EVEN = np.repeat(COLOUR[:, ::2], 2, axis=1)
COLOURS = {
    "RGB": (dicom(COLOUR, kind="RGB", bits=8), COLOUR),
    "planes": (dicom(COLOUR.transpose(2, 0, 1).tobytes(), kind="RGB", bits=8, SamplesPerPixel=3, PlanarConfiguration=1), COLOUR),
    "YBR_FULL": (dicom(ybr(COLOUR), kind="YBR_FULL", bits=8), COLOUR),
    "YBR_FULL_422": (
        dicom(halved(EVEN).tobytes(), kind="YBR_FULL_422", bits=8, SamplesPerPixel=3, PlanarConfiguration=0), EVEN),
    "palette": (
        dicom(GREY, kind="PALETTE COLOR", bits=8, **table_of("Red"), **table_of("Green"), **table_of("Blue")), GREY),
    "JPEG": (
        dicom(encapsulate([saved(RGB, "JPEG", quality=95)]), kind="YBR_FULL_422", bits=8, SamplesPerPixel=3,
              PlanarConfiguration=0, syntax=JPEGBaseline8Bit), COLOUR),
    "grey JPEG": (dicom(encapsulate([saved(PLAIN, "JPEG", quality=95)]), bits=8, syntax=JPEGBaseline8Bit), GREY),
    "JPEG 2000": (dicom(encapsulate([saved(PLAIN, "JPEG2000", no_jp2=True)]), bits=8, syntax=JPEG2000Lossless), GREY),
}  # fmt: skip


@pytest.mark.parametrize("case", COLOURS)
def test_dicom_colours_and_compression(case):
    content, expected = COLOURS[case]
    assert_same(shown(content), expected, tolerance=8)


def test_dicom_run_lengths():
    d = pydicom.dcmread(io.BytesIO(dicom(**WINDOW)))
    d.compress(RLELossless)
    out = io.BytesIO()
    d.save_as(out)
    assert_same(shown(out.getvalue()), tolerance=6)


@pytest.mark.parametrize(("syntax", "package"), [(JPEGLosslessSV1, "pylibjpeg-libjpeg"), (JPEGLSLossless, "pyjpegls")])
def test_a_missing_decoder_is_named(syntax, package):
    from pydicom.pixels.decoders.base import get_decoder

    if get_decoder(syntax).is_available:
        pytest.skip("it is installed")
    message = refusal(dicom(encapsulate([b"\xff\xd8\xff\xd9"]), syntax=syntax))
    assert f"DICOM stored as {syntax.name}" in message
    assert "pip install" in message
    assert package in message


def test_dicom_frames():
    frames = np.stack([p.astype(np.uint16) << 4 for p in PAGES])
    content = dicom(frames.tobytes(), NumberOfFrames=3, WindowCenter=2047.5, WindowWidth=4095)
    assert "holds 3 frames" in refusal(content)
    for frame, page in ((1, 0), ("middle", 1), (3, 2)):
        assert_same(shown(content, frame=frame), PAGES[page], tolerance=8)


def test_dicom_with_oblong_pixels_is_stretched():
    picture = ref(dicom(PixelSpacing=[1.5, 0.5], **WINDOW))
    assert picture.open().size == picture.size == (WIDTH, HEIGHT * 3)
    assert "stretched to square pixels" in picture.changes
    assert ref(dicom(PixelAspectRatio=[1, 2], **WINDOW)).size == (WIDTH * 2, HEIGHT)
    assert ref(dicom(PixelSpacing=[0.5, 0.501], **WINDOW)).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        ("1.2.840.10008.5.1.4.1.1.88.11", "DICOM without pixels (Basic Text SR Storage)"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "wraps a PDF"),
        ("1.2.840.10008.1.3.10", "a DICOMDIR"),
    ],
)
def test_dicom_without_pixels(uid, words):
    d = pydicom.dcmread(io.BytesIO(dicom()))
    del d.PixelData
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = uid
    out = io.BytesIO()
    d.save_as(out)
    message = refusal(out.getvalue())
    assert words in message
    assert "SECRET" not in message.upper()


def test_dicom_says_nothing_of_the_patient(caplog, recwarn, capsys):
    for content in (SCANS["MONOCHROME2"], SCANS["MONOCHROME2"][:-2000], dicom(Rows=0), dicom(PhotometricInterpretation="HSV"),
                    dicom(WindowCenter=-9e9, WindowWidth=1)):  # fmt: skip
        picture = ref(content, "x.dcm")
        try:
            said = repr(picture) + str(picture.changes) + str(portable(picture))
        except BadImageError as e:
            said = str(e)
        assert "SECRET" not in said.upper()
    everything = caplog.text + "".join(str(w.message) for w in recwarn) + "".join(capsys.readouterr())
    assert "SECRET" not in everything.upper()
    assert "DICOM" not in caplog.text


def test_without_pydicom_the_extra_is_named(monkeypatch):
    from harness.pictures import dicom as reader

    monkeypatch.setitem(sys.modules, "pydicom", None)
    reader._pydicom.cache_clear()
    try:
        assert "pip install 'medvlm-harness[dicom]'" in refusal(SCANS["MONOCHROME2"])
    finally:
        monkeypatch.undo()
        reader._pydicom.cache_clear()
    assert_same(shown(SCANS["MONOCHROME2"]))


# -- the same pixels everywhere --------------------------------------------------------------------------------------

exif6 = Image.Exif()
exif6[0x0112] = 6
EVERYWHERE = {
    "plain": (saved(RGB, "JPEG", quality=95), {}),
    "turned": (saved(PLAIN.transpose(T.ROTATE_90), "JPEG", exif=exif6), {}),
    "ink": (GROUNDS["black ink"][0], {}),
    "deep": (DEPTHS["white is zero, 16 bits"], {}),
    "windowed": (DEPTHS["uint16"], {"window": Window(center=30000, width=9000)}),
    "frame": (STACKS["APNG"], {"frame": 2}),
    "dicom": (SCANS["MONOCHROME1"], {}),
    "16-bit PNG": (png16(3, COLOUR.astype(np.uint16) * 257), {}),
    "palette": (palette_with_hole(), {}),
}


@pytest.mark.parametrize("case", EVERYWHERE)
def test_everyone_gets_the_same_pixels(case):
    from datasets import Dataset, List
    from datasets import Image as Feature

    from leaderboard.site.pictures import encode
    from trainers.rows import encoded

    content, reading = EVERYWHERE[case]
    picture = ref(content, **reading)
    expected = np.asarray(picture.open())
    assert picture.size == picture.open().size
    for sent in (portable(picture).data, encode(picture), portable(picture, max_bytes=50_000).data):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent)).convert("RGB")), expected)
    rows = Dataset.from_list([{"images": [{"bytes": encoded(picture), "path": None}]}])
    trained = rows.cast_column("images", List(Feature(mode="RGB")))[0]["images"][0]
    assert np.array_equal(np.asarray(trained), expected)


# -- in a task -------------------------------------------------------------------------------------------------------

MINE = """name: mine
title: Mine
license: none
local:
  splits: {{test: rows.jsonl}}
  images: imgs
  columns: {{image: img}}
{more}"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of pictures, and a function that writes a table about some of them and loads it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imgs").mkdir()
    for name, content in (
        ("plain.png", saved(PLAIN, "PNG")), ("turned.jpg", EVERYWHERE["turned"][0]), ("stack.tif", STACKS["TIFF"]),
        ("scan.dcm", SCANS["MONOCHROME1"]), ("ink.png", GROUNDS["black ink"][0]), ("odd#2.png", saved(PLAIN, "PNG")),
    ):  # fmt: skip
        (tmp_path / "imgs" / name).write_bytes(content)

    def load(*names, more="", **options):
        rows = [{"img": n, "question": f"Is {i} here?", "answer": "yes"} for i, n in enumerate(names)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (tmp_path / "mine.yaml").write_text(MINE.format(more=more))
        ((spec, path),) = specs.find("mine.yaml")
        return data.load(spec, path, **options)

    return load


def opened(sample):
    return np.asarray(sample.images[0].open()).astype(int)


def test_a_row_names_its_frame(own):
    task = own("stack.tif#2", "stack.tif#3", "odd#2.png")
    for sample, page in zip(task.samples, (GREY, 255 - GREY, GREY), strict=True):
        assert_same(opened(sample), page)
    first, second, odd = (s.images[0] for s in task.samples)
    assert [i.name for i in (first, second, odd)] == ["imgs/stack.tif#2", "imgs/stack.tif#3", "imgs/odd#2.png"]
    assert first.sha256 != second.sha256
    assert task.samples[0].cluster == task.samples[1].cluster != task.samples[2].cluster  # of one scan
    assert task.card.images == 3


def test_rows_about_two_frames_never_share_a_prefix(own):
    from harness.models.transformers_model import group_by_images

    assert len(group_by_images(own("stack.tif#2", "stack.tif#3", "stack.tif#2").samples)) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stack.tif", "holds 3 pages"),
        ("stack.tif#4", "there is no frame 4"),
        ("stack.tif#0", "frames are counted from 1"),
        ("plain.png#2", "there is no frame 2"),
        ("none.tif#2", "No such file"),
    ],
)
def test_a_frame_that_is_not_there_is_a_bad_row(own, name, words):
    with pytest.raises(DataError, match=words):
        own("plain.png", name)
    assert len(own("plain.png", name, on_bad_row="skip").samples) == 1


def test_the_yaml_names_a_frame_and_a_row_its_own(own):
    task = own("stack.tif", "stack.tif#3", "plain.png", more="frame: middle\n")
    for sample, page in zip(task.samples, (GREY, 255 - GREY, GREY), strict=True):
        assert_same(opened(sample), page)
    assert task.card.reading.frame == "middle"


@pytest.mark.parametrize("frame", ["0", "-1", "true", "second", "1.5", "'3'"])
def test_a_frame_that_is_none_is_refused(own, frame):
    with pytest.raises(SpecError, match=r"mine\.yaml:8: key 'frame': .*is no frame; give a number from 1, or first"):
        own("plain.png", more=f"frame: {frame}\n")


@pytest.mark.parametrize(
    "window", ["{center: 1}", "{center: 1, width: 0}", "{center: 1, width: 2, level: 3}", "{center: .nan, width: 1}"]
)
def test_a_window_that_is_none_is_refused(own, window):
    with pytest.raises(SpecError, match=r"mine\.yaml:8: .*window"):
        own("plain.png", more=f"window: {window}\n")


def test_a_window_of_the_yaml_changes_pixels_and_fingerprint(own):
    plain = own("scan.dcm")
    windowed = own("scan.dcm", more="window: {center: 3000, width: 200}\n")
    assert not np.array_equal(opened(plain.samples[0]), opened(windowed.samples[0]))
    assert plain.card.fingerprint != windowed.card.fingerprint
    assert windowed.card.reading.window == Window(center=3000, width=200)


def test_ordinary_pictures_keep_their_fingerprint_and_others_say_so(own, monkeypatch):
    ordinary, turned = own("plain.png"), own("plain.png", "turned.jpg", "ink.png")
    assert not [n for n in ordinary.notes if "viewer" in n]
    (note,) = (n for n in turned.notes if "viewer" in n)
    assert "1 turned as the EXIF orientation says; 1 transparent, on a white ground" in note
    assert turned.card.pictures == {"turned as the EXIF orientation says": 1, "transparent, on a white ground": 1}
    monkeypatch.setattr(pictures, "VERSION", pictures.VERSION + 1)
    assert own("plain.png").card.fingerprint == ordinary.card.fingerprint
    assert own("plain.png", "turned.jpg", "ink.png").card.fingerprint != turned.card.fingerprint


def test_a_flag_allows_large_pictures(own, tmp_path, command):
    Image.new("L", (12_000, 9_000)).save(tmp_path / "imgs" / "slide.png")
    with pytest.raises(DataError, match=r"12000x9000 pixels, above the limit .*--max-image-pixels 108000000"):
        own("slide.png")
    code, out, _ = command("tasks", "validate", "mine.yaml", "--max-image-pixels", "108000000", "--json")
    assert code == 0
    (report,) = json.loads(out)
    assert report["reading"]["max_pixels"] == 108_000_000
    task = own("slide.png", max_pixels=200_000_000)
    assert task.samples[0].images[0].size == (12_000, 9_000)


def test_the_viewer_shows_the_frame_that_was_asked_about(own, tmp_path):
    from types import SimpleNamespace

    from leaderboard.site.pictures import Pictures

    task = own("stack.tif", more="frame: 2\n")
    card = SimpleNamespace(data=task.card)
    own("stack.tif", more="frame: 3\n")  # the YAML as it is today
    ((spec, path),) = specs.find("mine.yaml")
    row = SimpleNamespace(id="0", cluster=task.samples[0].cluster, images=["imgs/stack.tif"])
    (found,) = Pictures(tasks=[(spec, path)]).find(card, row)
    assert_same(np.asarray(found.open()).astype(int), GREY)


def test_an_export_writes_each_frame(own, tmp_path):
    from harness.lm_eval_export import export

    task = own("stack.tif#2", "stack.tif#3")
    export(task, task.spec.get_prompt("question"), tmp_path / "out")
    (rows,) = (tmp_path / "out").glob("*/metadata.jsonl")
    files = [json.loads(line)["file_names"][0] for line in rows.read_text().splitlines()]
    for file, page in zip(files, (GREY, 255 - GREY), strict=True):
        assert_same(np.asarray(Image.open(rows.parent / file).convert("RGB")).astype(int), page)
