"""Lossless transfer syntaxes that pydicom can write come back bit for bit; codestreams that lie are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("cv2")

from edge_runtime.errors import CorruptFrameError  # noqa: E402
from edge_runtime.sources import DicomSource  # noqa: E402

Make = Callable[..., Path]
RLE, JPEG_LS, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


def compressed(make: Make, syntax: str, samples: int, count: int = 3) -> tuple[Path, np.ndarray]:
    shape = (count, 48, 64, 3) if samples == 3 else (count, 48, 64)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    elements: dict[str, Any] = {"SamplesPerPixel": samples, "NumberOfFrames": count}
    if samples == 3:
        elements["PhotometricInterpretation"] = "RGB"
    ds = pydicom.dcmread(make(images.tobytes(), **elements))
    ds.compress(syntax, generate_instance_uid=False)
    path = Path(ds.filename).with_name("compressed.dcm")
    ds.save_as(path)
    return path, images


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, J2K], ids=["rle", "jpeg-ls", "jpeg-2000"])
def test_lossless_coding_changes_nothing(syntax: str, samples: int, make_dicom: Make) -> None:
    path, images = compressed(make_dicom, syntax, samples)
    with DicomSource(path) as source:
        for frame, image in zip(source, images, strict=True):
            np.testing.assert_array_equal(frame.image, image)


@pytest.mark.parametrize(
    ("syntax", "marker", "offset", "value"),
    [
        (J2K, b"\xff\x4f\xff\x51", 8, struct.pack(">2L", 60000, 60000)),
        (J2K, b"\xff\x4f\xff\x51", 24, struct.pack(">2L", 0, 64)),
        (J2K, b"\xff\x4f\xff\x51", 40, struct.pack(">H", 3)),
        (J2K, b"\xff\x4f\xff\x51", 0, b"\0\0"),
        (JPEG_LS, b"\xff\xf7", 5, struct.pack(">2H", 60000, 60000)),
        (JPEG_LS, b"\xff\xf7", 9, b"\x04"),
        (JPEG_LS, b"\xff\xd8\xff\xf7", 2, b"\xff\xc0"),
    ],
    ids=["size", "no-tiles", "components", "no-start", "ls-size", "ls-components", "ls-not-ls"],
)
def test_a_codestream_that_lies_is_refused_before_a_decoder_sees_it(
    syntax: str, marker: bytes, offset: int, value: bytes, make_dicom: Make
) -> None:
    path, images = compressed(make_dicom, syntax, 1)
    data = bytearray(path.read_bytes())
    at = data.index(marker, data.index(marker) + 4) + offset  # in the second frame
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with DicomSource(path) as source:
        first = source.read()
        with pytest.raises(CorruptFrameError) as caught:
            source.read()
        third = source.read()
    assert caught.value.index == 1
    assert first is not None
    assert third is not None
    np.testing.assert_array_equal(third.image, images[2])
