"""One drawn picture, the ways to store it, and what the harness sees of a file."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from harness.pictures import BadImageError, Reading
from harness.records import ImageRef

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
