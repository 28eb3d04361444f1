"""Weighted means, hits and variances against sums written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct import Compounder, VolumeGrid, WeightedCompounder, depth_weights, grid_of_sweep

pytest.importorskip("numba")


def test_weights_hits_and_variance_equal_brute_force(noise_sweep):
    rng = np.random.default_rng(8)
    weights = rng.integers(0, 256, (12, 40, 48), np.uint8)
    weights[:, ::3] = 0
    grid = grid_of_sweep(noise_sweep, 0.8)
    target = WeightedCompounder(grid)
    pixels = {}
    for k in range(12):
        image, g = noise_sweep.image(k), noise_sweep.geometry
        target.insert(image, noise_sweep.T_world_image[k], g, weights[k])
        mask = np.ones(image.shape, bool) if g.scan_area is None else g.scan_area.mask(image.shape)
        y, x = np.nonzero(mask & (weights[k] > 0))
        mm = np.stack([x * g.column_mm + g.shear * y * g.row_mm, y * g.row_mm, 0 * x, 1 + 0 * x], -1)
        at = np.floor(grid.to_index((mm @ noise_sweep.T_world_image[k].T)[:, :3]) + 0.5).astype(int)
        for index, v, w in zip(map(tuple, at), image[y, x], weights[k][y, x], strict=True):
            pixels.setdefault(index, []).append((int(v), int(w)))
    volume, hits, variance = target.volume(), target.hits(), target.variance()
    assert hits.sum() == sum(map(len, pixels.values()))
    for index, found in pixels.items():
        v, w = np.array(found, float).T
        mean = np.average(v, weights=w)
        assert hits[index] == len(found)
        assert volume.data[index] == np.floor(mean + 0.5)
        assert variance[index] == pytest.approx(np.average((v - mean) ** 2, weights=w), abs=1e-6)
    assert np.isnan(variance[hits == 0]).all()


def test_full_weights_equal_the_plain_mean_and_undo_is_exact(noise_sweep):
    grid = grid_of_sweep(noise_sweep, 0.8)
    plain, target = Compounder(grid), WeightedCompounder(grid)
    for k in range(12):
        frame = (noise_sweep.image(k), noise_sweep.T_world_image[k], noise_sweep.geometry)
        assert plain.insert(*frame) == target.insert(*frame)
    extra = (noise_sweep.image(3), noise_sweep.T_world_image[7], noise_sweep.geometry)
    target.insert(*extra)
    target.remove(*extra)
    np.testing.assert_array_equal(plain.volume().data, target.volume().data)
    np.testing.assert_array_equal(plain.volume().weight, target.volume().weight)


def test_depth_weights_halve():
    geometry = FrameGeometry(row_mm=0.5, column_mm=1.0, origin="user", trusted=True)
    weights = depth_weights((41, 3), geometry, 10.0)
    assert weights[[0, 20, 40], 1].tolist() == [255, 128, 64]
    with pytest.raises(ConfigError, match="positive"):
        depth_weights((4, 4), geometry, 0)


def test_bad_calls_are_refused():
    grid = VolumeGrid(shape=(1, 4, 4), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4))
    geometry = FrameGeometry(row_mm=1.0, column_mm=1.0, origin="user", trusted=True)
    image = np.full((4, 4), 50, np.uint8)
    target = WeightedCompounder(grid)
    with pytest.raises(ConfigError, match="as the image"):
        target.insert(image, np.eye(4), geometry, np.zeros((3, 4), np.uint8))
    with pytest.raises(ReconstructionError, match="the cap is 10"):
        WeightedCompounder(grid, max_voxels=10)
    target.remove(image, np.eye(4), geometry)
    with pytest.raises(ReconstructionError, match="not in the volume"):
        target.volume()
