from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, Sector

SECTOR = Sector(apex_x=31.3, apex_y=-7.6, radius_min=12.0, radius_max=50.0, angle_min=-0.7, angle_max=0.5, aspect=1.25)
GEOMETRY = FrameGeometry(
    row_mm=0.2, column_mm=0.25, shear=0.01, scan_area=SECTOR, origin="user", trusted=True, reason=""
)


def test_a_rectangle_is_half_open():
    mask = Rectangle(x0=1, y0=2, x1=4, y1=3).mask((5, 6))
    assert mask.sum() == 3
    assert mask[2, 1:4].all()
    assert not Rectangle(x0=-5, y0=-5, x1=0, y1=0).mask((5, 6)).any()
    assert Rectangle(x0=-5, y0=-5, x1=50, y1=50).mask((5, 6)).all()


def test_a_sector_is_the_set_of_points_in_range():
    mask = SECTOR.mask((60, 64))
    for y in range(0, 60, 3):
        for x in range(0, 64, 3):
            dx, dy = (x - 31.3) / 1.25, y + 7.6
            inside = 12 <= math.hypot(dx, dy) <= 50 and -0.7 <= math.atan2(dx, dy) <= 0.5
            assert mask[y, x] == inside
    assert mask.any()


def test_a_sector_in_pixels_that_are_not_square_is_a_circle_in_space():
    """`aspect` is the height over the width of a pixel: with 0.2 mm rows and 0.1 mm columns, radii in mm agree."""
    sector = Sector(apex_x=100, apex_y=0, radius_min=0, radius_max=40, angle_min=-1.5, angle_max=1.5, aspect=0.2 / 0.1)
    y, x = np.nonzero(sector.mask((60, 201)))
    mm = np.hypot((x - 100) * 0.1, y * 0.2)
    assert mm.max() == pytest.approx(40 * 0.2, abs=0.05)
    assert np.ptp(x) * 0.1 / 2 == pytest.approx(40 * 0.2 * math.sin(1.5), abs=0.1)


@given(dx=st.integers(-9, 9), dy=st.integers(-9, 9))
def test_a_moved_area_masks_the_moved_pixels(dx, dy):
    """Cropping or padding by whole pixels: the mask of the moved area is the moved mask."""
    for area in (SECTOR, Rectangle(x0=20.5, y0=18.2, x1=40, y1=33)):
        big = area.mask((80, 90))
        moved = area.moved(dx, dy).mask((80, 90))
        np.testing.assert_array_equal(moved[10 + dy : 70 + dy, 10 + dx : 80 + dx], big[10:70, 10:80])


@given(sx=st.sampled_from([0.5, 1.0, 2.0, 3.0]), sy=st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_a_scaled_area_contains_the_scaled_points(sx, sy):
    for area in (SECTOR, Rectangle(x0=20.5, y0=18.2, x1=40, y1=33)):
        before = area.mask((60, 64))
        scaled = area.moved(0.0, 0.0, sx, sy)
        y, x = np.mgrid[:60:6, :64:7]
        for py, px in zip(y.ravel(), x.ravel(), strict=True):
            shifted = scaled.moved(-px * sx, -py * sy)
            assert shifted.mask((1, 1))[0, 0] == before[py, px]


def test_millimetres_follow_a_move():
    moved = GEOMETRY.moved(5, -3, 2.0, 0.5)
    assert moved.require_mm() == (0.4, 0.125)
    assert moved.pixel_area_mm2 == pytest.approx(GEOMETRY.pixel_area_mm2 / (2.0 * 0.5))
    assert FrameGeometry(reason="none").moved(1, 1, 2, 2).row_mm is None
    assert moved.scan_area is not None


def test_a_move_keeps_the_circle_round():
    moved = GEOMETRY.moved(0, 0, 2.0, 0.5)
    assert moved.scan_area.aspect == pytest.approx(SECTOR.aspect * 4)
    assert moved.scan_area.radius_max * moved.row_mm == pytest.approx(SECTOR.radius_max * GEOMETRY.row_mm)


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["row_mm", "column_mm"])
def test_a_pixel_size_must_be_a_length(name, value):
    with pytest.raises(ConfigError, match=name):
        FrameGeometry(**{name: value})


def test_trust_needs_numbers_and_doubt_needs_a_reason():
    with pytest.raises(ConfigError, match="needs row_mm and column_mm"):
        FrameGeometry(row_mm=0.1, trusted=True)
    with pytest.raises(ConfigError, match="needs a reason"):
        FrameGeometry(reason="")


def test_without_trust_no_length_comes_out():
    doubtful = FrameGeometry(row_mm=0.1, column_mm=0.1, reason="the region lies outside the image")
    for ask in (doubtful.require_mm, lambda: doubtful.pixel_area_mm2):
        with pytest.raises(GeometryError, match="outside the image"):
            ask()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_a_frame_refuses_other_images(image):
    with pytest.raises(ConfigError, match="frame 7"):
        Frame(image=image, index=7, arrival_ns=0)


def test_the_shape_of_a_frame_has_no_channels():
    assert Frame(image=np.zeros((4, 5, 3), np.uint8), index=0, arrival_ns=0).shape == (4, 5)
    assert Frame(image=np.zeros((4, 5), np.uint8), index=0, arrival_ns=0).shape == (4, 5)


@pytest.mark.parametrize(
    "view",
    [
        np.zeros((8, 8), np.uint8)[:, ::2],
        np.zeros((8, 6), np.uint8).T,
        np.zeros((8, 8, 3), np.uint8)[..., ::-1],
        np.zeros((8, 8, 4), np.uint8)[..., :3],
        np.zeros((8, 8), np.uint8)[:, 2:6],
    ],
)
def test_a_frame_refuses_an_image_with_gaps_and_says_what_to_do(view):
    with pytest.raises(ConfigError, match="ascontiguousarray"):
        Frame(image=view, index=7, arrival_ns=0)
    assert Frame(image=np.ascontiguousarray(view), index=7, arrival_ns=0).shape == view.shape[:2]


def test_rows_of_a_frame_are_a_frame():
    assert Frame(image=np.zeros((8, 8), np.uint8)[2:5], index=0, arrival_ns=0).shape == (3, 8)
