"""Millimetres from regions and spacings, or the reason for none, on files made for each rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("cv2")

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.sources import DicomSource

PIXELS = bytes(48 * 64)
Make = Callable[..., Path]
MakeRegion = Callable[..., Any]


def geometry_of(path: Path, region: int | None = None) -> tuple[FrameGeometry, str]:
    with DicomSource(path, region=region) as source:
        return source.geometry, source.geometry_note


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"box": (0, 0, 65, 47)}, "lies outside"),
        ({"box": (0, 0, 63, 49)}, "lies outside"),
        ({"box": (70, 0, 80, 47)}, "lies outside"),
        ({"box": (20, 0, 20, 47)}, "lies outside"),
        ({"delta": (0.0, 0.05)}, "missing, zero or no number"),
        ({"delta": (float("nan"), 0.05)}, "missing, zero or no number"),
        ({"delta": (2.0, 2.0)}, "another unit"),
        ({"delta": (1e-5, 1e-5)}, "another unit"),
        ({"delta": (0.01, 0.05)}, "5 times longer than wide"),
        ({"kind": (1, 10)}, "none of the 1"),
        ({"kind": (3, 1)}, "none of the 1"),
        ({"units": (4, 3)}, "none of the 1"),
        ({"units": (3, 0)}, "none of the 1"),
    ],
)
def test_a_region_that_cannot_be_believed_is_withheld(
    change: dict[str, Any], reason: str, make_dicom: Make, us_region: MakeRegion
) -> None:
    geometry, _ = geometry_of(make_dicom(PIXELS, SequenceOfUltrasoundRegions=[us_region(**change)]))
    assert not geometry.trusted
    assert reason in geometry.reason
    if "outside" in reason:
        assert (geometry.scan_area, geometry.row_mm, geometry.column_mm) == (None, None, None)


@pytest.mark.parametrize("corner", [(63, 47), (64, 47), (63, 48), (64, 48)])
def test_a_last_corner_one_too_far_is_clipped(corner: tuple[int, int], make_dicom: Make, us_region: MakeRegion) -> None:
    path = make_dicom(PIXELS, SequenceOfUltrasoundRegions=[us_region(box=(2, 3, *corner))])
    geometry, note = geometry_of(path)
    assert geometry.scan_area == Rectangle(x0=2, y0=3, x1=64, y1=48)
    assert geometry.require_mm() == pytest.approx((0.5, 0.5))
    assert note == ""


def test_negative_deltas_give_positive_millimetres_and_a_note(make_dicom: Make, us_region: MakeRegion) -> None:
    path = make_dicom(PIXELS, SequenceOfUltrasoundRegions=[us_region(delta=(-0.02, -0.04))])
    geometry, note = geometry_of(path)
    assert geometry.require_mm() == pytest.approx((0.4, 0.2))
    assert "PhysicalDeltaX and Y negative" in note


def test_traces_and_bars_beside_the_image_are_passed_over(make_dicom: Make, us_region: MakeRegion) -> None:
    regions = [
        us_region(kind=(0, 0), units=(0, 0), delta=(1.0, 1.0)),
        us_region(box=(0, 0, 63, 39), delta=(0.03, 0.03)),
        us_region(box=(0, 40, 63, 47), kind=(4, 10), units=(4, 0), delta=(0.01, 0.0)),
    ]
    geometry, _ = geometry_of(make_dicom(PIXELS, SequenceOfUltrasoundRegions=regions))
    assert geometry.require_mm() == pytest.approx((0.3, 0.3))


def test_two_images_in_one_have_no_single_scale_until_one_is_chosen(make_dicom: Make, us_region: MakeRegion) -> None:
    regions = [us_region(box=(0, 0, 31, 47)), us_region(box=(32, 0, 63, 47), delta=(0.1, 0.1))]
    path = make_dicom(PIXELS, SequenceOfUltrasoundRegions=regions)
    geometry, _ = geometry_of(path)
    assert not geometry.trusted
    assert "choose one with region=0..1" in geometry.reason
    assert geometry_of(path, region=1)[0].require_mm() == pytest.approx((1.0, 1.0))
    for wrong in (-1, 2):
        with pytest.raises(ConfigError, match="has 2 2-D tissue regions"):
            geometry_of(path, region=wrong)


def test_the_same_region_written_twice_is_one(make_dicom: Make, us_region: MakeRegion) -> None:
    path = make_dicom(PIXELS, SequenceOfUltrasoundRegions=[us_region(), us_region()])
    assert geometry_of(path)[0].trusted


@pytest.mark.parametrize(
    ("spacing", "trusted"), [([0.2, 0.3], True), ([0.0, 0.3], False), ([-0.2, 0.2], False), (None, False)]
)
def test_pixel_spacing_is_used_without_regions(
    spacing: list[float] | None, trusted: bool, make_dicom: Make, us_region: MakeRegion
) -> None:
    elements = {} if spacing is None else {"PixelSpacing": spacing}
    geometry, _ = geometry_of(make_dicom(PIXELS, **elements))
    assert geometry.trusted == trusted
    if trusted:
        assert (geometry.require_mm(), geometry.origin) == ((0.2, 0.3), "pixel-spacing")
    elements["SequenceOfUltrasoundRegions"] = [us_region(kind=(2, 1), units=(4, 3))]
    assert not geometry_of(make_dicom(PIXELS, **elements))[0].trusted
