"""Frames taken out and moved: the volume is that of the remaining frames, to the bit, in every mode."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ReconstructionError
from edge_runtime.reconstruct import Compounder, EditableCompounder, grid_of_sweep

pytest.importorskip("numba")

MODES = [(mode, kernel) for mode in ("mean", "max", "latest") for kernel in ("nearest", "linear")]


def same(a, b):
    np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_array_equal(a.weight, b.weight)


@pytest.mark.parametrize(("mode", "kernel"), MODES)
def test_what_is_left_is_as_if_nothing_else_had_been(noise_sweep, random_pose, mode, kernel):
    rng = np.random.default_rng(9)
    sweep, g, spacing = noise_sweep, noise_sweep.geometry, 0.35  # many bricks
    grid = grid_of_sweep(sweep, spacing)
    target = EditableCompounder(grid, mode=mode, kernel=kernel)
    keys = [target.insert(sweep.image(k), sweep.T_world_image[k], g) for k in range(12)]
    target.remove(keys[3])
    target.remove(keys[11])
    after = {keys[5]: random_pose(rng, z=2), keys[0]: random_pose(rng, z=4), keys[7]: np.eye(4)}
    far = np.eye(4)
    far[:3, 3] = 1e7
    target.move({keys[8]: far})
    target.move(after)
    assert target.frames == tuple(key for key in keys if key not in (keys[3], keys[11]))
    plain = Compounder(grid, mode=mode, kernel=kernel)
    for k, key in enumerate(keys):
        if k not in (3, 8, 11):
            plain.insert(sweep.image(k), after.get(key, sweep.T_world_image[k]), g, sequence=key)
    same(target.volume(), plain.volume())
    target.move({keys[8]: sweep.T_world_image[8]})
    for key, T in zip((keys[5], keys[0], keys[7]), sweep.T_world_image[[5, 0, 7]], strict=True):
        target.move({key: T})
    plain.clear()
    for k, key in enumerate(keys):
        if k not in (3, 11):
            plain.insert(sweep.image(k), sweep.T_world_image[k], g, sequence=key)
    same(target.volume(), plain.volume())
    for key in target.frames:
        target.remove(key)
    assert not target.volume().swept.any()


def test_what_is_not_there_cannot_be_edited(noise_sweep):
    target = EditableCompounder(grid_of_sweep(noise_sweep, 1.0), mode="max")
    key = target.insert(noise_sweep.image(0), noise_sweep.T_world_image[0], noise_sweep.geometry)
    before = target.volume()
    with pytest.raises(ReconstructionError, match="frame 99 is not in the volume"):
        target.move({key: np.eye(4), 99: np.eye(4)})
    same(target.volume(), before)
    target.remove(key)
    with pytest.raises(ReconstructionError, match=f"frame {key} is not in the volume"):
        target.remove(key)
    with pytest.raises(ReconstructionError, match="the cap is 8"):
        EditableCompounder(grid_of_sweep(noise_sweep, 1.0), max_voxels=8)
