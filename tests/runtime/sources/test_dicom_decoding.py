"""Photometric rules, encapsulation and memory, on files made for each; expected values in closed form."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pydicom = pytest.importorskip("pydicom")
cv2 = pytest.importorskip("cv2")

from edge_runtime.sources import DicomSource  # noqa: E402
from edge_runtime.sources._jpeg import checked_jpeg  # noqa: E402

BIG_ENDIAN = "1.2.840.10008.1.2.2"
Make = Callable[..., Path]
Jpegs = Callable[..., list[bytes]]


def images_of(path: Path, **options: Any) -> list[npt.NDArray[np.uint8]]:
    with DicomSource(path, **options) as source:
        return [frame.image for frame in source]


def decoded(jpeg: bytes) -> npt.NDArray[np.uint8]:
    image: npt.NDArray[np.uint8] = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    return image


@pytest.mark.parametrize("fragments", [1, 3])
@pytest.mark.parametrize("table", [True, False])
def test_jpeg_frames_are_found_with_and_without_an_offset_table(
    fragments: int, table: bool, make_dicom: Make, make_jpegs: Jpegs
) -> None:
    jpegs = make_jpegs(5)
    got = images_of(make_dicom(jpegs, table=table, fragments=fragments))
    assert len(got) == 5
    for image, jpeg in zip(got, jpegs, strict=True):
        np.testing.assert_array_equal(image, decoded(jpeg))
        assert image.flags.c_contiguous


def test_one_frame_in_many_fragments_without_a_table(make_dicom: Make, make_jpegs: Jpegs) -> None:
    jpegs = make_jpegs(1)
    (image,) = images_of(make_dicom(jpegs, table=False, fragments=4))
    np.testing.assert_array_equal(image, decoded(jpegs[0]))


def test_a_wrong_offset_table_is_not_believed(make_dicom: Make, make_jpegs: Jpegs) -> None:
    jpegs = make_jpegs(3)
    path = make_dicom(jpegs)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xfe\xff\x00\xe0\x0c\x00\x00\x00") + 12
    data[at : at + 4] = b"\x01\x00\x00\x00"
    path.write_bytes(data)
    for image, jpeg in zip(images_of(path), jpegs, strict=True):
        np.testing.assert_array_equal(image, decoded(jpeg))


def rgb_jpeg(make_jpegs: Jpegs) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """A JPEG without JFIF marker whose three components are meant as R, G, B, and those components."""
    jpeg = make_jpegs(1)[0]
    length = int.from_bytes(jpeg[4:6], "big")
    assert jpeg[2:4] == b"\xff\xe0"
    bare = jpeg[:2] + jpeg[4 + length :]
    image = pytest.importorskip("PIL.Image")
    from io import BytesIO

    opened = image.open(BytesIO(bare))
    opened.draft("YCbCr", opened.size)
    return bare, np.asarray(opened)


def test_a_label_of_rgb_counts_where_the_codestream_says_nothing(make_dicom: Make, make_jpegs: Jpegs) -> None:
    bare, components = rgb_jpeg(make_jpegs)
    (as_rgb,) = images_of(make_dicom([bare], PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(as_rgb, components)
    (as_ybr,) = images_of(make_dicom([bare]))
    np.testing.assert_array_equal(as_ybr, decoded(bare))


def test_a_jfif_marker_counts_more_than_a_label_of_rgb(make_dicom: Make, make_jpegs: Jpegs) -> None:
    jpegs = make_jpegs(1)
    (image,) = images_of(make_dicom(jpegs, PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(image, decoded(jpegs[0]))


def test_an_orientation_note_in_a_jpeg_turns_nothing(make_dicom: Make, make_jpegs: Jpegs) -> None:
    (jpeg,) = make_jpegs(1)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    (image,) = images_of(make_dicom([turned]))
    assert image.shape == (48, 64, 3)


def test_restart_markers_and_padding_are_part_of_a_whole_jpeg() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    assert b"\xff\xd3" in jpeg
    info = checked_jpeg(jpeg + b"\0\0", 0)
    assert (info.rows, info.columns, info.components, info.precision) == (48, 64, 3, 8)


def test_grey_jpeg_and_its_inversion(make_dicom: Make) -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    jpeg = cv2.imencode(".jpg", ramp, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    one = {"SamplesPerPixel": 1}
    (grey,) = images_of(make_dicom([jpeg], PhotometricInterpretation="MONOCHROME2", **one))
    (inverted,) = images_of(make_dicom([jpeg], PhotometricInterpretation="MONOCHROME1", **one))
    assert grey.shape == (48, 64)
    assert np.abs(grey.astype(int) - ramp).max() <= 2
    np.testing.assert_array_equal(inverted, 255 - grey)


RAMP = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"BitsStored": 12}, RAMP / 4095 * 255),
        ({"BitsStored": 16}, RAMP / 65535 * 255),
        ({"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}, 255 - np.rint(RAMP / 4095 * 255)),
        # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) * 255
        ({"BitsStored": 12, "WindowCenter": 1000, "WindowWidth": 401}, ((RAMP - 999.5) / 400 + 0.5) * 255),
        (
            {"BitsStored": 12, "WindowCenter": 0, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT",
             "RescaleSlope": 0.5, "RescaleIntercept": -500},
            ((RAMP * 0.5 - 500) / 100 + 0.5) * 255,
        ),
        (
            {"BitsStored": 12, "WindowCenter": 1000, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
            255 / (1 + np.exp(-4 * (RAMP.astype(float) - 1000) / 400)),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("syntax", [None, BIG_ENDIAN])
def test_sixteen_bits_become_eight_by_the_stated_rule(
    elements: dict[str, Any], expected: npt.NDArray[np.float64], syntax: str | None, make_dicom: Make
) -> None:
    kind = ">u2" if syntax else "<u2"
    bits = {"BitsAllocated": 16, "HighBit": elements["BitsStored"] - 1}
    (image,) = images_of(make_dicom(RAMP.astype(kind).tobytes(), syntax=syntax, **bits, **elements))
    np.testing.assert_array_equal(image, np.clip(np.rint(expected), 0, 255).astype(np.uint8))


def test_signed_values_start_at_the_lowest(make_dicom: Make) -> None:
    values = (RAMP.astype(np.int32) - 1536).astype("<i2")
    elements = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    (image,) = images_of(make_dicom(values.tobytes(), **elements))
    np.testing.assert_array_equal(image, np.rint((values.astype(float) + 2048) / 4095 * 255).astype(np.uint8))


@pytest.mark.parametrize("syntax", [None, BIG_ENDIAN])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("color", ["native", "gray"])
def test_palette(depth: int, syntax: str | None, color: str, make_dicom: Make) -> None:
    rng = np.random.default_rng(2)
    tables = rng.integers(0, 1 << depth, (3, 200))
    first = 20
    kind = np.dtype(np.uint8 if depth == 8 else ">u2" if syntax else "<u2")
    elements: dict[str, Any] = {}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [200, first, depth]
        elements[f"{name}PaletteColorLookupTableData"] = table.astype(kind).tobytes()
    pixels = np.arange(48 * 64).reshape(48, 64).astype(np.uint8)
    data = pixels.tobytes()
    if syntax:  # 8-bit samples in OW words are swapped in a big-endian file
        data = pixels.reshape(-1, 2)[:, ::-1].tobytes()
    path = make_dicom(data, syntax=syntax, PhotometricInterpretation="PALETTE COLOR", **elements)
    (image,) = images_of(path, color=color)
    at = np.clip(pixels.astype(int) - first, 0, 199)
    expected = (np.stack([t[at] for t in tables], -1) >> depth - 8).astype(np.uint8)
    if color == "gray":
        expected = cv2.cvtColor(expected, cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(image, expected)


def test_colour_of_sixteen_bits_keeps_the_high_bits(make_dicom: Make) -> None:
    values = np.random.default_rng(3).integers(0, 1 << 12, (48, 64, 3)).astype("<u2")
    elements = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "SamplesPerPixel": 3}
    (image,) = images_of(make_dicom(values.tobytes(), PhotometricInterpretation="RGB", **elements))
    np.testing.assert_array_equal(image, (values >> 4).astype(np.uint8))


@pytest.mark.parametrize("planar", [0, 1])
def test_planes_and_pixels_give_the_same_image(planar: int, make_dicom: Make) -> None:
    values = np.random.default_rng(4).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = values if planar == 0 else values.transpose(2, 0, 1)
    elements = {"SamplesPerPixel": 3, "PlanarConfiguration": planar, "PhotometricInterpretation": "RGB"}
    (image,) = images_of(make_dicom(data.tobytes(), **elements))
    np.testing.assert_array_equal(image, values)


def test_a_big_file_is_never_whole_in_memory(make_dicom: Make, make_jpegs: Jpegs) -> None:
    side, count = 512, 120
    native = make_dicom(bytes(side * side * count), name="native.dcm", Rows=side, Columns=side, NumberOfFrames=count)
    noise = np.random.default_rng(5).integers(0, 256, (side, side, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    coded = make_dicom([jpeg] * count, name="coded.dcm", Rows=side, Columns=side)
    for path, frame_bytes in ((native, side * side), (coded, side * side * 3 + len(jpeg))):
        assert path.stat().st_size > 30e6
        tracemalloc.start()
        with DicomSource(path) as source:
            for _ in source:
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * frame_bytes + 1e6


def test_a_frame_stays_as_it_was_when_the_next_is_read(make_dicom: Make, make_jpegs: Jpegs) -> None:
    with DicomSource(make_dicom(make_jpegs(2))) as source:
        first = source.read()
        assert first is not None
        before = first.image.copy()
        source.read()
        np.testing.assert_array_equal(first.image, before)
        source.rewind()
        again = source.read()
        assert again is not None
        assert again.index == 0
        np.testing.assert_array_equal(again.image, before)
