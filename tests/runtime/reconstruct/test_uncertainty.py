"""Position errors from pose covariances against Monte Carlo, and their fusion against sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import vector_to_rotation
from edge_runtime.reconstruct import (
    UncertaintyCompounder,
    VolumeGrid,
    grid_of_sweep,
    pose_uncertainty,
    position_sigma,
)

pytest.importorskip("numba")

GEOMETRY = FrameGeometry(row_mm=0.5, column_mm=0.4, shear=0.03, origin="user", trusted=True)


def covariance(rng, rotation=0.01, translation=0.4):
    """A full (6, 6) covariance: rotation and translation go together."""
    scale = np.diag([rotation] * 3 + [translation] * 3)
    root = scale @ (np.eye(6) + 0.5 * rng.normal(size=(6, 6)))
    return root @ root.T


def test_the_first_order_equals_monte_carlo(random_pose):
    """10 000 poses drawn around one, each with an exact rotation; the pixels' distances from where they were."""
    rng = np.random.default_rng(11)
    C, T = covariance(rng), random_pose(rng)
    y, x = np.mgrid[:40:13, :50:7]
    p = np.stack([x * 0.4 + 0.03 * y * 0.5, y * 0.5, 0.0 * x], -1).reshape(-1, 3)
    drawn = rng.multivariate_normal(np.zeros(6), C, 10_000)
    squares = np.zeros(len(p))
    for xi in drawn:
        moved = p @ vector_to_rotation(xi[:3]).T + xi[3:]
        squares += (((moved - p) @ T[:3, :3].T) ** 2).sum(1)
    found = position_sigma(C, GEOMETRY, (40, 50))[y, x].ravel()
    np.testing.assert_allclose(found, np.sqrt(squares / len(drawn)), rtol=0.03)


def test_a_rotation_alone_grows_with_the_distance_and_a_translation_alone_does_not():
    turn, shift = np.zeros((6, 6)), np.zeros((6, 6))
    turn[2, 2], shift[3, 3], shift[4, 4] = 0.01**2, 0.3**2, 0.4**2
    sigma = position_sigma(turn, GEOMETRY, (3, 3))
    y, x = np.mgrid[:3, :3]
    np.testing.assert_allclose(sigma, 0.01 * np.hypot(x * 0.4 + 0.03 * y * 0.5, y * 0.5), atol=1e-12)
    np.testing.assert_allclose(position_sigma(shift, GEOMETRY, (3, 3)), 0.5)


def test_the_volume_is_the_rms_of_its_pixels(noise_sweep):
    rng = np.random.default_rng(6)
    each = np.stack([covariance(rng) for _ in range(12)])
    grid, g = grid_of_sweep(noise_sweep, 0.9), noise_sweep.geometry
    area = np.ones((40, 48), bool) if g.scan_area is None else g.scan_area.mask((40, 48))
    y, x = np.nonzero(area)
    mm = np.stack([x * g.column_mm + g.shear * y * g.row_mm, y * g.row_mm, 0 * x, 1 + 0 * x], -1)
    total, hits = np.zeros(grid.shape), np.zeros(grid.shape)
    for k in range(12):
        at = tuple(np.floor(grid.to_index((mm @ noise_sweep.T_world_image[k].T)[:, :3]) + 0.5).astype(int).T)
        np.add.at(total, at, position_sigma(each[k], g, (40, 48))[y, x] ** 2)
        np.add.at(hits, at, 1)
    found = pose_uncertainty(noise_sweep, each, grid)
    np.testing.assert_array_equal(np.isnan(found), hits == 0)
    np.testing.assert_allclose(found[hits > 0], np.sqrt(total[hits > 0] / hits[hits > 0]), atol=2e-3)
    target = UncertaintyCompounder(grid)
    for k in rng.permutation(12):
        target.insert((40, 48), noise_sweep.T_world_image[k], g, each[k])
    np.testing.assert_array_equal(target.sigma_mm(), found)  # order does not matter
    for k in range(12):
        target.remove((40, 48), noise_sweep.T_world_image[k], g, each[k])
    assert np.isnan(target.sigma_mm()).all()


def test_what_is_no_covariance_is_refused(noise_sweep):
    grid = VolumeGrid(shape=(2, 2, 2), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4))
    skew = np.eye(6)
    skew[0, 1] = 0.5
    for bad, said in (
        (np.eye(5), "(6, 6) is needed"),
        (np.full((6, 6), np.nan), "finite"),
        (skew, "not symmetric"),
        (np.diag([1, 1, 1, 1, 1, -0.1]), "negative eigenvalue"),
    ):
        with pytest.raises(ConfigError) as error:
            position_sigma(bad, GEOMETRY, (3, 3))
        assert said in str(error.value)
    target = UncertaintyCompounder(grid)
    with pytest.raises(ConfigError, match="are rotations in rad"):
        target.insert((400, 400), np.eye(4), GEOMETRY, np.eye(6) * 1e4)
    with pytest.raises(ConfigError, match=r"\(12, 6, 6\) is needed"):
        pose_uncertainty(noise_sweep, np.zeros((3, 6, 6)), grid)
    with pytest.raises(ReconstructionError, match="the cap is 4"):
        UncertaintyCompounder(grid, max_voxels=4)
    target.remove((4, 4), np.eye(4), GEOMETRY, np.eye(6) * 1e-4)
    with pytest.raises(ReconstructionError, match="not in the volume"):
        target.sigma_mm()
