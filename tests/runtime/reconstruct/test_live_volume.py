"""The volume that follows a live one, against filling the whole of it each time."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.reconstruct import LiveCompounder, LiveVolume, fill_holes

pytest.importorskip("numba")

SPACING = 0.4


def insert(target, sweep, rows):
    for k in rows:
        target.insert(sweep.image(k), sweep.T_world_image[k], sweep.geometry_of(k))


def assert_same(found, wanted):
    """`wanted` lies in `found`, and there is nothing around it."""
    start = np.rint(found.grid.to_index(wanted.to_world((0, 0, 0)))).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(start, wanted.data.shape, strict=True))
    for name in ("data", "weight", "filled"):
        array, part = getattr(found, name), getattr(wanted, name)
        np.testing.assert_array_equal(array[box], np.zeros(wanted.data.shape, bool) if part is None else part)
        around = array.copy()
        around[box] = 0
        assert not around.any(), name


@pytest.mark.parametrize("fill", ["gaussian", "inverse-distance", "nearest", "stick", None])
@pytest.mark.parametrize(("mode", "kernel"), [("mean", "nearest"), ("mean", "linear"), ("max", "linear")])
def test_each_refresh_is_the_whole_volume_filled(noise_sweep, fill, mode, kernel):
    source = LiveCompounder(SPACING, mode=mode, kernel=kernel)
    live = LiveVolume(source, fill=fill, limit_mm=1.3)
    for rows in ([0], [5, 6], [1, 2], [], range(3, len(noise_sweep))):
        insert(source, noise_sweep, rows)
        whole = source.volume()
        assert_same(live.refresh(), whole if fill is None else fill_holes(whole, fill, limit_mm=1.3))


def test_what_is_taken_out_leaves_no_filling_behind(noise_sweep):
    source = LiveCompounder(SPACING)
    live = LiveVolume(source, limit_mm=2.0)
    insert(source, noise_sweep, range(len(noise_sweep)))
    live.refresh()
    for k in range(2, len(noise_sweep)):
        source.remove(noise_sweep.image(k), noise_sweep.T_world_image[k], noise_sweep.geometry_of(k))
    assert_same(live.refresh(), fill_holes(source.volume(), limit_mm=2.0))
    source.clear()
    assert not live.refresh().known.any()


def test_a_refresh_touches_only_what_changed(noise_sweep, monkeypatch):
    source = LiveCompounder(SPACING)
    live = LiveVolume(source)
    insert(source, noise_sweep, range(len(noise_sweep)))
    live.refresh()
    read: list[tuple[int, int, int]] = []
    brick = source.brick
    monkeypatch.setattr(source, "brick", lambda lowest: read.append(lowest) or brick(lowest))
    first = live.refresh()
    assert read == []
    insert(source, noise_sweep, [0])
    second = live.refresh()
    assert 0 < len(read) < source.state.open_bricks
    assert first.data is not second.data


def test_bad_use_is_refused(noise_sweep):
    source = LiveCompounder(SPACING)
    with pytest.raises(ReconstructionError, match="no voxel has been seen"):
        LiveVolume(source).refresh()
    with pytest.raises(ConfigError, match="begins no brick"):
        source.brick((0, 0, 31))
    insert(source, noise_sweep, [0])
    small = LiveVolume(source, max_voxels=1000)
    with pytest.raises(ReconstructionError, match="the cap is 1000"):
        small.refresh()
    with pytest.raises(ConfigError, match="limit_mm"):
        LiveVolume(source, limit_mm=-1.0)
