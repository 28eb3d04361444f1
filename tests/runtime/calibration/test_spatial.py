"""N-wire calibration against a phantom whose crossings with the image are computed in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.calibration import (
    NWire,
    SpatialSettings,
    calibrate_image,
    middle_points,
    reprojection_error,
)
from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.geometry import invert_rigid, vector_to_rotation

WIRES = [
    NWire(
        left=np.array([[30.0, 0, z], [30, 40, z]]),
        middle=np.array([[a, 0.0, z], [b, 40, z]]),
        right=np.array([[60.0, 0, z], [60, 40, z]]),
    )
    for z, a, b in ((20.0, 55, 35), (10.0, 35, 55), (0.0, 55, 40))
]
TRUTH = np.eye(4)
TRUTH[:3, :3] = vector_to_rotation(np.array([0.4, -1.1, 0.7])) * (0.0803, 0.0745, 0.0774)
TRUTH[:3, 3] = (11.2, 48.4, -0.4)


def crossings(n, rng, noise=0.0):
    """Pixels (n, 3, 3, 2) where images cross the wires, and T_phantom_probe (n, 4, 4)."""
    pixels, poses = np.empty((n, 3, 3, 2)), np.empty((n, 4, 4))
    flat = np.diag([1, 1, 1, 1.0])
    flat[:3, :3] = np.column_stack([(1, 0, 0), (0, 0, -1), (0, 1, 0)])  # x across the wires, y down, along the wires
    for k in range(n):
        T = flat.copy()
        T[:3, :3] = vector_to_rotation(rng.normal(0, 0.15, 3)) @ flat[:3, :3]
        T[:3, 3] = np.array([25, rng.uniform(12, 28), 40]) + rng.normal(0, 1, 3)
        image = T.copy()
        image[:3, :3] = T[:3, :3] * (0.0803, 0.0745, 0.0774)
        poses[k] = image @ np.linalg.inv(TRUTH)
        for p, wire in enumerate(WIRES):
            for i, ends in enumerate((wire.left, wire.middle, wire.right)):
                normal = T[:3, 2]
                share = ((T[:3, 3] - ends[0]) @ normal) / ((ends[1] - ends[0]) @ normal)
                point = ends[0] + share * (ends[1] - ends[0])
                pixels[k, p, i] = (np.linalg.inv(image) @ (*point, 1))[:2]
    return pixels + rng.normal(0, noise, pixels.shape), poses


def test_exact_crossings_give_the_image_exactly(rng):
    pixels, poses = crossings(30, rng)
    found = calibrate_image(pixels, poses, WIRES)
    np.testing.assert_allclose(found.T_probe_image, TRUTH, atol=1e-9)
    assert found.residuals.rms < 1e-9
    assert found.residuals.n == 90


def test_noise_of_a_pixel_leaves_corners_within_half_a_millimetre_and_axes_orthogonal(rng):
    pixels, poses = crossings(200, rng, noise=1.5)
    found = calibrate_image(pixels, poses, WIRES).T_probe_image
    corners = np.array([(0, 0, 0, 1), (819, 0, 0, 1), (0, 615, 0, 1), (819, 615, 0, 1)])
    assert np.linalg.norm((corners @ (found - TRUTH).T)[:, :3], axis=1).max() < 0.5
    assert abs(found[:3, 0] @ found[:3, 1]) < 1e-12


def test_confused_wires_are_left_out(rng):
    pixels, poses = crossings(100, rng, noise=0.3)
    pixels[::10, 1, 1, 0] += 90
    found = calibrate_image(pixels, poses, WIRES)
    assert not found.residuals.used.reshape(100, 3)[::10, 1].any()
    assert found.residuals.rejected <= 15
    assert np.nanmean(reprojection_error(found.T_probe_image, *crossings(40, rng), WIRES)) < 0.1


def test_points_that_were_not_seen_are_no_observations(rng):
    pixels, poses = crossings(40, rng)
    pixels[5, 0, 2] = np.nan
    found = calibrate_image(pixels, poses, WIRES)
    assert len(found.residuals.values) == 119
    np.testing.assert_allclose(found.T_probe_image, TRUTH, atol=1e-9)
    error = reprojection_error(TRUTH, pixels, poses, WIRES)
    assert np.isnan(error[5, 0])
    assert np.nanmax(error) < 1e-9


def test_middle_points_lie_where_the_image_crosses(rng):
    pixels, poses = crossings(20, rng)
    points = middle_points(pixels, WIRES)
    back = np.einsum(
        "fij,fpj->fpi",
        np.stack([np.linalg.inv(TRUTH) @ invert_rigid(T) for T in poses]),
        np.concatenate([points, np.ones((20, 3, 1))], axis=2),
    )
    np.testing.assert_allclose(back[..., :2], pixels[:, :, 1], atol=1e-7)


def test_one_pattern_is_a_line_and_is_refused(rng):
    pixels, poses = crossings(40, rng)
    still = np.repeat(pixels[:1, :1], 40, axis=0)
    with pytest.raises(GeometryError, match="on a line"):
        calibrate_image(still, np.repeat(poses[:1], 40, axis=0), WIRES[:1])


def test_wrong_input_is_refused(rng):
    pixels, poses = crossings(20, rng)
    with pytest.raises(ConfigError, match=r"\(F, 3, 3, 2\)"):
        calibrate_image(pixels[:, :2], poses, WIRES)
    with pytest.raises(ConfigError, match="for 20 images"):
        calibrate_image(pixels, poses[:3], WIRES)
    with pytest.raises(GeometryError, match="12 are needed"):
        calibrate_image(pixels[:2], poses[:2], WIRES)
    poses[4, 0, 0] = np.nan
    with pytest.raises(ConfigError, match=r"poses \[4\]"):
        calibrate_image(pixels, poses, WIRES)
    with pytest.raises(ConfigError, match="reject"):
        SpatialSettings(reject=0)


@pytest.mark.parametrize(
    ("left", "middle", "right", "message"),
    [
        (((0, 0, 0), (0, 40, 0)), ((5, 0, 0), (15, 40, 0)), ((20, 0, 0), (30, 40, 0)), "parallel"),
        (((0, 0, 0), (0, 40, 0)), ((5, 0, 0), (5, 40, 0)), ((20, 0, 0), (20, 40, 0)), "slanted"),
        (((0, 0, 0), (0, 40, 0)), ((5, 0, 3), (15, 40, 0)), ((20, 0, 0), (20, 40, 0)), "plane"),
        (((0, 0, 0), (0, 40, 0)), ((5, 0, 0), (15, 40, 0)), ((0, 0, 0), (0, 40, 0)), "apart"),
    ],
)
def test_wires_that_are_no_n_are_refused(left, middle, right, message):
    with pytest.raises(ConfigError, match=message):
        NWire(left=np.array(left, float), middle=np.array(middle, float), right=np.array(right, float))
