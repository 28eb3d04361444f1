"""DICOM files made on the spot, and the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
cv2 = pytest.importorskip("cv2")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage  # noqa: E402

PATIENT = "DOE^JANE^SECRET"
MakeDicom = Callable[..., Path]


@pytest.fixture(scope="session")
def dicom_folder() -> Path:
    data = os.environ.get("POCUS_DATA")
    if not data or not Path(data, "dicom").is_dir():
        pytest.skip("POCUS_DATA does not name the folder of real data")
    return Path(data, "dicom")


def jpeg_frames(count: int, size: tuple[int, int] = (48, 64), seed: int = 0) -> list[bytes]:
    """Smooth coloured pictures, each another, as JPEG 4:4:4."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
        frames.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    return frames


@pytest.fixture
def make_dicom(tmp_path: Path) -> MakeDicom:
    """`make_dicom(pixels, **elements)`: write an image of these bytes (or encapsulated frames) and elements."""

    def make(
        pixels: bytes | list[bytes] | None,
        *,
        name: str = "made.dcm",
        syntax: str | None = None,
        table: bool = True,
        fragments: int = 1,
        edit: Callable[[Any], None] | None = None,
        **elements: Any,
    ) -> Path:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        coded = isinstance(pixels, list)
        uid = pydicom.uid.UID(syntax or (JPEGBaseline8Bit if coded else ExplicitVRLittleEndian))
        ds.file_meta.TransferSyntaxUID = uid
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UltrasoundMultiFrameImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = pydicom.uid.generate_uid()
        ds.PatientName = ds.PatientID = PATIENT
        ds.Rows, ds.Columns, ds.SamplesPerPixel = 48, 64, 3 if coded else 1
        ds.PhotometricInterpretation = "YBR_FULL_422" if coded else "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation, ds.PlanarConfiguration = 7, 0, 0
        if isinstance(pixels, list):
            ds.NumberOfFrames = len(pixels)
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        if pixels is not None:
            data = encapsulate(pixels, fragments, has_bot=table) if isinstance(pixels, list) else pixels
            ds.add_new(0x7FE00010, "OB" if coded else "OW", data)
        if edit is not None:
            edit(ds)
        path = tmp_path / name
        little, implicit = uid.is_little_endian, uid.is_implicit_VR
        ds.save_as(path, enforce_file_format=True, little_endian=little, implicit_vr=implicit)
        return path

    return make


def region(
    box: tuple[int, int, int, int] = (0, 0, 63, 47),
    delta: tuple[float, float] = (0.05, 0.05),
    kind: tuple[int, int] = (1, 1),
    units: tuple[int, int] = (3, 3),
) -> Dataset:
    """One item of the sequence of ultrasound regions."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = *kind, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box
    item.PhysicalUnitsXDirection, item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta
    return item


@pytest.fixture
def us_region() -> Callable[..., Dataset]:
    return region


@pytest.fixture
def make_jpegs() -> Callable[..., list[bytes]]:
    return jpeg_frames
