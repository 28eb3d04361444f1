"""The growing volume against the fixed one, bit for bit: growth, packing, undo, moved frames, limits."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.reconstruct import Compounder, LiveCompounder, VolumeGrid

pytest.importorskip("numba")

SPACING = 0.4


def fixed(sweep, volume, mode, kernel):
    """The same frames in a fixed volume one voxel larger on each side, cut to the lattice of `volume`."""
    T = volume.T_world_volume.copy()
    T[:3, 3] = volume.to_world((-1, -1, -1))
    shape = tuple(n + 2 for n in volume.data.shape)
    target = Compounder(
        VolumeGrid(shape=shape, spacing_mm=volume.spacing_mm, T_world_volume=T), mode=mode, kernel=kernel
    )
    for k in range(len(sweep)):
        target.insert(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k))
    whole = target.volume()
    edge = whole.weight.copy()
    edge[1:-1, 1:-1, 1:-1] = 0
    assert not edge.any(), "the growing volume lost voxels"
    return whole.data[1:-1, 1:-1, 1:-1], whole.weight[1:-1, 1:-1, 1:-1]


def fill(target, sweep, rows=None):
    for k in range(len(sweep)) if rows is None else rows:
        target.insert(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k))
    return target


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
@pytest.mark.parametrize("mode", ["mean", "max", "latest"])
def test_growing_equals_fixed(noise_sweep, mode, kernel):
    volume = fill(LiveCompounder(SPACING, mode=mode, kernel=kernel), noise_sweep).volume()
    data, weight = fixed(noise_sweep, volume, mode, kernel)
    off = np.abs(volume.data.astype(int) - data) > 0  # an address is rounded to 2^-40 voxel from another origin
    assert off.mean() < 1e-4
    np.testing.assert_allclose(volume.weight, weight, atol=1e-3 if kernel == "linear" else 0)


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
def test_packing_loses_nothing(noise_sweep, kernel):
    free = fill(LiveCompounder(SPACING, kernel=kernel), noise_sweep)
    tight = LiveCompounder(SPACING, kernel=kernel, max_mib=512, open_mib=1)
    fill(tight, noise_sweep)
    for _ in range(5):
        fill(tight, noise_sweep, [0])
        tight.remove(noise_sweep.image(0), noise_sweep.T_world_image[0], noise_sweep.geometry)
    state = tight.state
    assert state.packed_bricks > 0
    assert state.frames == 12
    one, other = free.volume(), tight.volume()
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.weight, other.weight)
    np.testing.assert_array_equal(one.T_world_volume, other.T_world_volume)


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
def test_a_moved_frame_leaves_no_trace(noise_sweep, random_pose, kernel):
    elsewhere = random_pose(np.random.default_rng(9), shift=30.0)
    target = LiveCompounder(SPACING, kernel=kernel)
    for k in range(12):
        T = elsewhere if k == 5 else noise_sweep.T_world_image[k]
        target.insert(noise_sweep.image(k), T, noise_sweep.geometry)
    target.take_dirty()
    target.move(noise_sweep.image(5), elsewhere, noise_sweep.T_world_image[5], noise_sweep.geometry)
    assert target.take_dirty()
    assert target.take_dirty() == ()
    straight = fill(LiveCompounder(SPACING, kernel=kernel), noise_sweep).volume()
    volume = target.volume()
    np.testing.assert_array_equal(volume.data, straight.data)
    np.testing.assert_array_equal(volume.weight, straight.weight)
    np.testing.assert_array_equal(volume.T_world_volume, straight.T_world_volume)


def test_a_frame_beyond_the_budget_changes_nothing(noise_sweep):
    target = LiveCompounder(SPACING, max_mib=64)
    image, T, geometry = noise_sweep.image(0), noise_sweep.T_world_image[0], noise_sweep.geometry
    target.insert(image, T, geometry)
    target._max_bytes = target.state.bytes  # no room is left
    before, state = target.volume(), target.state
    far = T.copy()
    far[0, 3] += 100
    with pytest.raises(ReconstructionError, match="MiB more than the"):
        target.insert(image, far, geometry)
    with pytest.raises(ReconstructionError, match="MiB more than the"):
        target.move(image, T, far, geometry)
    assert target.state == state
    assert state.bytes <= state.max_bytes
    np.testing.assert_array_equal(target.volume().data, before.data)


def test_bad_calls_are_refused(noise_sweep):
    image, T, geometry = noise_sweep.image(0), noise_sweep.T_world_image[0], noise_sweep.geometry
    target = LiveCompounder(SPACING)
    with pytest.raises(ReconstructionError, match="no voxel has been seen"):
        target.volume()
    with pytest.raises(ReconstructionError, match="not in the volume"):
        target.remove(image, T, geometry)
    far = T.copy()
    far[0, 3] = 1e9
    with pytest.raises(ReconstructionError, match="a million voxels"):
        target.insert(image, far, geometry)
    with pytest.raises(ConfigError, match="rigid"):
        target.insert(image, T * np.nan, geometry)
    with pytest.raises(ConfigError, match="sequence 0"):
        target.insert(image, T, geometry, sequence=0)
    target.insert(image, T, geometry)
    with pytest.raises(ReconstructionError, match=r"the cap is 10; a spacing of"):
        target.volume(max_voxels=10)
    with pytest.raises(ReconstructionError, match="cannot be undone"):
        LiveCompounder(SPACING, mode="max").remove(image, T, geometry)
    with pytest.raises(ConfigError, match="open_mib"):
        LiveCompounder(SPACING, max_mib=2, open_mib=3)
    with pytest.raises(ConfigError, match="three positive"):
        LiveCompounder(0.0)
    target.clear()
    assert target.state.bytes == 0
