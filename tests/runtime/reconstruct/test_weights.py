"""Weights of pixels against closed forms, and scan areas that are both a sector and a rectangle."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import FrameGeometry, Rectangle, Sector
from edge_runtime.reconstruct import (
    ClippedSector,
    ReconstructSettings,
    Sweep,
    WeightedCompounder,
    clip_area,
    depth_weights,
    detect_area,
    grid_of_sweep,
    incidence_weights,
    product_of_weights,
    reconstruct,
)

pytest.importorskip("numba")
pytest.importorskip("cv2")

GEOMETRY = FrameGeometry(row_mm=0.2, column_mm=0.3, origin="user", trusted=True)
SECTOR = Sector(apex_x=50, apex_y=-20, radius_min=30, radius_max=110, angle_min=-0.6, angle_max=0.6)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90])
def test_a_plane_is_weighted_by_the_cosine_of_its_tilt(degrees):
    y, x = np.mgrid[:150, :120]
    tilt = np.deg2rad(degrees)
    away = (x - 60) * 0.3 * np.sin(tilt) + (y - 75) * 0.2 * np.cos(tilt)
    image = np.rint(200 / (1 + np.exp(-2 * away))).astype(np.uint8)
    weights = incidence_weights(image, GEOMETRY)
    assert weights[75, 60] == pytest.approx(255 * np.cos(tilt), abs=6)


def test_rings_around_the_apex_are_met_at_a_right_angle():
    y, x = np.mgrid[:120, :100]
    geometry = FrameGeometry(row_mm=0.3, column_mm=0.3, origin="user", trusted=True, scan_area=SECTOR)
    image = np.rint(128 + 100 * np.sin(np.hypot(x - 50, y + 20) / 5)).astype(np.uint8)
    weights = incidence_weights(image, geometry)
    assert weights[SECTOR.mask((120, 100))].min() > 245
    assert (incidence_weights(np.full((9, 9), 7, np.uint8), geometry) == 255).all()
    with pytest.raises(ConfigError, match="sigma_mm 0"):
        incidence_weights(image, geometry, sigma_mm=0)
    with pytest.raises(GeometryError):
        incidence_weights(image, FrameGeometry())


def test_weights_are_multiplied():
    a, b = np.array([[255, 128, 0]], np.uint8), np.array([[128, 128, 255]], np.uint8)
    assert product_of_weights(a, b).tolist() == [[128, 64, 0]]
    assert product_of_weights(a).tolist() == a.tolist()
    with pytest.raises(ConfigError, match="one shape"):
        product_of_weights(a, b[:, :2])


def test_reconstruct_weights_pixels(noise_sweep):
    rng = np.random.default_rng(3)
    maps = rng.integers(0, 256, (12, 40, 48), np.uint8)
    settings = ReconstructSettings(kernel="nearest", spacing_mm=(0.8,) * 3, depth_halving_mm=5.0, incidence=True)
    made = reconstruct(noise_sweep, settings, confidence=maps)
    target, g = WeightedCompounder(grid_of_sweep(noise_sweep, 0.8)), noise_sweep.geometry
    for k in range(12):
        image = noise_sweep.image(k)
        weights = product_of_weights(maps[k], depth_weights((40, 48), g, 5.0), incidence_weights(image, g))
        target.insert(image, noise_sweep.T_world_image[k], g, weights)
    np.testing.assert_array_equal(made.volume.data, target.volume().data)
    np.testing.assert_array_equal(made.volume.weight, target.volume().weight)
    with pytest.raises(ConfigError, match="11 confidence maps for 12"):
        reconstruct(noise_sweep, settings, confidence=maps[:11])
    with pytest.raises(ConfigError, match="kernel 'nearest'"):
        reconstruct(noise_sweep, confidence=maps)
    with pytest.raises(ConfigError, match="average 1"):
        ReconstructSettings(kernel="nearest", average=2, incidence=True)
    with pytest.raises(ConfigError, match="depth_halving_mm is 0"):
        ReconstructSettings(kernel="nearest", depth_halving_mm=0)


def test_a_clipped_sector_is_what_both_hold():
    clip, shape = Rectangle(x0=20.5, y0=10, x1=70, y1=80), (120, 100)
    both = clip_area(SECTOR, clip)
    assert isinstance(both, ClippedSector)
    np.testing.assert_array_equal(both.mask(shape), SECTOR.mask(shape) & clip.mask(shape))
    twice = clip_area(both, Rectangle(x0=0, y0=30, x1=99, y1=99))
    np.testing.assert_array_equal(twice.mask(shape), both.mask(shape) & (np.arange(120) >= 30)[:, None])
    moved = both.moved(3, 4)
    np.testing.assert_array_equal(moved.mask((124, 103))[4:, 3:], both.mask(shape))
    assert clip_area(None, clip) == clip
    assert clip_area(clip, Rectangle(x0=0, y0=20, x1=50, y1=99)) == Rectangle(x0=20.5, y0=20, x1=50, y1=80)
    assert both != SECTOR
    assert len({both, clip_area(SECTOR, clip), SECTOR}) == 2


def test_the_sector_in_the_images_is_found():
    rng = np.random.default_rng(0)
    area = Sector(apex_x=160, apex_y=-30, radius_min=60, radius_max=250, angle_min=-0.6, angle_max=0.6)
    frames = (rng.integers(60, 255, (40, 240, 320)) * area.mask((240, 320))).astype(np.uint8)
    sweep = Sweep(frames=frames, T_world_image=np.tile(np.eye(4), (40, 1, 1)), geometry=GEOMETRY)
    found = detect_area(sweep)
    both, either = (op(found.mask((240, 320)), area.mask((240, 320))).sum() for op in (np.logical_and, np.logical_or))
    assert both / either > 0.95
