"""DICOM as a viewer shows it, and nothing about the patient."""

import io
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from harness.images import portable
from harness.pictures import BadImageError, Window
from tests.drawn import COLOUR, DEEP, GREY, HEIGHT, PLAIN, WIDTH, WINDOW, assert_same, dicom, ref, refusal, saved, shown, tiff

RGB = Image.fromarray(COLOUR)

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
    pages = [np.zeros_like(GREY), GREY, 255 - GREY]
    frames = np.stack([p.astype(np.uint16) << 4 for p in pages])
    content = dicom(frames.tobytes(), NumberOfFrames=3, WindowCenter=2047.5, WindowWidth=4095)
    assert "holds 3 frames" in refusal(content)
    for frame, page in ((1, 0), ("middle", 1), (3, 2)):
        assert_same(shown(content, frame=frame), pages[page], tolerance=8)


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
