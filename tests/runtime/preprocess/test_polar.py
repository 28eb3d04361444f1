"""Polar images against the closed form; points, masks and pictures there and back."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import GeometryError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, ScanArea, Sector
from edge_runtime.preprocess import (
    CropToScanArea,
    LabelPreprocessor,
    Normalize,
    PolarMap,
    Preprocessor,
    PreprocessSpec,
    ToPolar,
)

pytest.importorskip("cv2")

PIXELS = Normalize(scale=1.0)
CURVED = Sector(apex_x=160.0, apex_y=-40.0, radius_min=60.0, radius_max=270.0, angle_min=-0.55, angle_max=0.6)
PHASED = Sector(apex_x=150.3, apex_y=4.2, radius_min=0.0, radius_max=230.0, angle_min=-0.7, angle_max=0.7, aspect=1.3)


def frame(image: npt.NDArray[np.uint8], area: ScanArea | None) -> Frame:
    geometry = FrameGeometry(row_mm=0.2, column_mm=0.2, scan_area=area, origin="user", trusted=True, reason="")
    return Frame(image=image, index=0, arrival_ns=0, geometry=geometry)


def polar(height: int, width: int, value: Normalize = PIXELS) -> Preprocessor:
    return Preprocessor(PreprocessSpec(steps=(ToPolar(height=height, width=width), value)))


def field(shape: tuple[int, int], sector: Sector) -> npt.NDArray[np.float64]:
    """A smooth field of radius and angle, in grey levels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return smooth(*_polar(x, y, sector))


def _polar(x: npt.ArrayLike, y: npt.ArrayLike, sector: Sector) -> tuple[npt.NDArray[np.float64], ...]:
    dx, dy = (np.asarray(x) - sector.apex_x) / sector.aspect, np.asarray(y) - sector.apex_y
    return np.hypot(dx, dy), np.arctan2(dx, dy)


def smooth(radius: npt.NDArray[np.float64], angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 120 + 60 * np.sin(radius / 25) + 50 * np.cos(5 * angle)


@pytest.mark.parametrize("sector", [CURVED, PHASED])
@pytest.mark.parametrize("size", [(200, 256), (64, 48)])
def test_a_field_of_radius_and_angle_becomes_rows_and_columns(sector: Sector, size: tuple[int, int]) -> None:
    image = np.rint(field((240, 320), sector)).astype(np.uint8)
    found = polar(*size)(frame(image, sector)).tensor[0, 0]
    v, u = np.mgrid[: size[0], : size[1]]
    radius = sector.radius_min + (v + 0.5) / size[0] * (sector.radius_max - sector.radius_min)
    angle = sector.angle_min + (u + 0.5) / size[1] * (sector.angle_max - sector.angle_min)
    x = sector.apex_x + sector.aspect * radius * np.sin(angle)
    y = sector.apex_y + radius * np.cos(angle)
    reach = (sector.radius_max - sector.radius_min) / size[0]
    inside = (x > reach) & (x < 319 - reach) & (y > reach) & (y < 239 - reach) & (radius > 25)
    assert inside.mean() > 0.6
    assert np.abs(found - smooth(radius, angle))[inside].max() <= 2


sectors = st.builds(
    lambda x, y, inner, depth, left, right, aspect: Sector(
        apex_x=x,
        apex_y=y,
        radius_min=inner,
        radius_max=inner + depth,
        angle_min=-left,
        angle_max=right,
        aspect=aspect,
    ),
    *(st.floats(80, 240), st.floats(-80, 60), st.floats(0, 90), st.floats(60, 200)),
    *(st.floats(0.1, 1.2), st.floats(0.1, 1.2), st.floats(0.6, 1.6)),
).filter(lambda sector: sector.apex_y + sector.radius_max * min(1.0, sector.aspect) > 20)  # in the image in part


@given(sectors, st.floats(0.02, 0.98), st.floats(0.02, 0.98))
@settings(max_examples=60)
def test_points_go_there_and_back(sector: Sector, u: float, v: float) -> None:
    place = polar(50, 70)(frame(np.zeros((240, 320), np.uint8), sector)).map
    assert isinstance(place, PolarMap)
    at = np.array([u * 70 - 0.5, v * 50 - 0.5])
    assert np.allclose(place.to_network(place.to_source(at)), at, atol=1e-6)
    assert np.allclose(_polar(*place.to_source(at), sector)[0], sector.radius_min + v * place.step[1] * 50)


@given(st.floats(-0.35, 0.4), st.floats(120, 200))
@settings(max_examples=25)
def test_a_disc_drawn_in_the_source_comes_back_within_half_a_pixel(angle: float, radius: float) -> None:
    cx, cy = CURVED.apex_x + radius * math.sin(angle), CURVED.apex_y + radius * math.cos(angle)
    y, x = np.mgrid[:240, :320]
    image = np.clip(255 * (14 - np.hypot(x - cx, y - cy) + 0.5), 0, 255).astype(np.uint8)
    prepared = polar(256, 256, Normalize())(frame(image, CURVED))
    back = prepared.map.probability_to_source(prepared.tensor[0, 0])
    mask = back > 0.5
    assert math.hypot(x[mask].mean() - cx, y[mask].mean() - cy) <= 0.5
    assert abs(np.count_nonzero(mask) / (math.pi * 14**2) - 1) < 0.03
    labels = prepared.map.mask_to_source((prepared.tensor[0, 0] > 0.5).astype(np.uint8)).astype(bool)
    assert math.hypot(x[labels].mean() - cx, y[labels].mean() - cy) <= 0.5
    assert (labels & mask).sum() / (labels | mask).sum() > 0.93


@pytest.mark.parametrize("sector", [CURVED, PHASED])
def test_outside_of_the_sector_stands_nothing_and_inside_all(sector: Sector) -> None:
    place = polar(40, 60)(frame(np.zeros((240, 320), np.uint8), sector)).map
    inside = sector.mask((240, 320))
    out = np.full((240, 320), 7, np.float32)
    assert np.array_equal(place.probability_to_source(np.ones((40, 60), np.float32), out=out), inside)
    assert np.array_equal(place.mask_to_source(np.ones((40, 60), np.uint8)), inside)


def test_labels_take_the_way_of_their_frame() -> None:
    y, x = np.mgrid[:240, :320]
    mask = (np.hypot(x - 170, y - 120) < 30).astype(np.uint8)
    spec = PreprocessSpec(steps=(CropToScanArea(), ToPolar(height=128, width=128), Normalize()))
    geometry = FrameGeometry(scan_area=CURVED)
    labels = LabelPreprocessor(spec, 1)(mask, geometry)
    seen = Preprocessor(spec)(Frame(image=mask * np.uint8(255), index=0, arrival_ns=0, geometry=geometry))
    assert np.array_equal(labels, seen.tensor[0, 0] > 0.5)


def test_a_polar_image_has_no_millimetres_across() -> None:
    prepared = polar(105, 64)(frame(np.zeros((240, 320), np.uint8), CURVED))
    assert prepared.geometry.row_mm == pytest.approx(0.2 * 210 / 105)
    with pytest.raises(GeometryError, match="columns of a polar image are angles"):
        prepared.geometry.require_mm()
    with pytest.raises(GeometryError, match="no pixel scale"):
        _ = prepared.map.scale


def test_a_linear_probe_is_stretched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 120), np.uint8)
    prepared = polar(60, 80)(frame(image, Rectangle(x0=20, y0=10, x1=100, y1=70)))
    assert np.array_equal(prepared.tensor[0, 0], image[10:70, 20:100])
    assert prepared.geometry.require_mm() == (0.2, 0.2)


@pytest.mark.parametrize(
    ("area", "said"),
    [
        (None, "has no scan area, which to_polar needs"),
        (Sector(apex_x=9, apex_y=9, radius_min=5, radius_max=5, angle_min=-1, angle_max=1), "both must grow"),
        (Sector(apex_x=9, apex_y=9, radius_min=1, radius_max=5, angle_min=1, angle_max=-1), "both must grow"),
    ],
)
def test_areas_that_are_no_sector_are_refused(area: ScanArea | None, said: str) -> None:
    with pytest.raises(GeometryError, match=said):
        polar(8, 8)(frame(np.zeros((50, 50), np.uint8), area))


def test_an_absurd_sector_takes_no_more_memory_than_the_image() -> None:
    far = Sector(apex_x=25, apex_y=-1e9, radius_min=1e9, radius_max=1e9 + 50, angle_min=-1e-8, angle_max=1e-8)
    assert polar(8, 8)(frame(np.zeros((50, 50), np.uint8), far)).tensor.shape == (1, 1, 8, 8)
