from __future__ import annotations

import logging
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, GeometryError, MissingDependencyError, ReconstructionError
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.reconstruct import Compounder, Sweep, VolumeGrid, compound, grid_of_sweep, warm_up

numba = pytest.importorskip("numba")

MM = FrameGeometry(row_mm=1.0, column_mm=1.0, origin="user", trusted=True)


def positions(sweep, grid, k):
    """Grey levels (N,) and voxel positions (N, 3) (z, y, x), of the scan area of frame k, in raster order."""
    image, g = sweep.image(k), sweep.geometry_of(k)
    mask = np.ones(image.shape, bool) if g.scan_area is None else g.scan_area.mask(image.shape)
    y, x = np.nonzero(mask)
    mm = np.stack([x * g.column_mm + g.shear * y * g.row_mm, y * g.row_mm, 0 * x, 1 + 0 * x], -1)
    return image[mask].astype(np.int64), grid.to_index((mm @ sweep.T_world_image[k].T)[:, :3])


def brute_nearest(sweep, grid, mode):
    total, count = np.zeros(grid.shape, np.int64), np.zeros(grid.shape, np.int64)
    best, last = np.zeros(grid.shape, np.int64), np.zeros(grid.shape, np.int64)
    for k in range(len(sweep)):
        value, p = positions(sweep, grid, k)
        i = np.floor(p + 0.5).astype(int)
        inside = ((i >= 0) & (i < grid.shape)).all(1)
        for v, index in zip(value[inside], map(tuple, i[inside]), strict=True):
            total[index] += v
            count[index] += 1
            best[index] = max(best[index], v)
            last[index] = v
    mean = np.floor(total / np.maximum(count, 1) + 0.5)
    return {"mean": mean, "max": best, "latest": last}[mode], count


def brute_linear(sweep, grid, mode, quantum=None):
    total, weight, best = np.zeros(grid.shape), np.zeros(grid.shape), np.zeros(grid.shape)
    for k in range(len(sweep)):
        value, p = positions(sweep, grid, k)
        p = p if quantum is None else np.floor(p / quantum + 0.5) * quantum
        low = np.floor(p).astype(int)
        inside = ((low >= 0) & (low < np.array(grid.shape) - 1)).all(1)
        value, p, low = value[inside], p[inside], low[inside]
        for corner in np.ndindex(2, 2, 2):
            w = np.where(corner, p - low, 1 - (p - low)).prod(1)
            index = tuple((low + corner).T)
            np.add.at(total, index, w * value)
            np.add.at(weight, index, w)
            np.maximum.at(best, index, np.where(w >= 0.125, value, 0))
    return (total / np.maximum(weight, 1e-12) if mode == "mean" else best), weight


@pytest.mark.parametrize("mode", ["mean", "max", "latest"])
def test_nearest_equals_brute_force_bit_for_bit(noise_sweep, mode):
    volume = compound(noise_sweep, 0.8, mode)
    truth, count = brute_nearest(noise_sweep, volume.grid, mode)
    assert count.sum() == sum(len(positions(noise_sweep, volume.grid, k)[0]) for k in range(12)), "grid too small"
    np.testing.assert_array_equal(volume.data, truth)
    np.testing.assert_array_equal(volume.weight > 0, count > 0)
    if mode != "latest":
        np.testing.assert_array_equal(volume.weight, count)


def test_linear_mean_is_within_one_level_of_float64(noise_sweep):
    volume = compound(noise_sweep, 0.8, "mean", "linear")
    truth, weight = brute_linear(noise_sweep, volume.grid, "mean")
    seen = volume.weight > 0
    assert (seen == (weight >= 0.125)).mean() > 0.999
    assert np.abs(volume.data[seen] - truth[seen]).max() <= 1
    np.testing.assert_allclose(volume.weight[seen], weight[seen], rtol=0.02)


def test_linear_max_takes_pixels_of_at_least_an_eighth(noise_sweep):
    volume = compound(noise_sweep, 0.8, "max", "linear")
    truth, _ = brute_linear(noise_sweep, volume.grid, "max")
    assert (volume.data == truth).mean() > 0.998


def test_linear_latest_prefers_the_later_frame():
    frames = np.stack([np.full((9, 9), v, np.uint8) for v in (200, 30)])
    sweep = Sweep(frames=frames, T_world_image=np.tile(np.eye(4), (2, 1, 1)), geometry=MM)
    volume = compound(sweep, 1.0, "latest", "linear")
    assert set(np.unique(volume.data[volume.swept])) == {30}


def test_grid_cuts_frames_like_the_brute_force(noise_sweep):
    """A grid smaller than the sweep, turned against it: clipping is exact on every side.

    Linear positions are rounded to 2^-40 voxel, so that a pixel at the very border counts the same in both.
    """
    T = np.eye(4)
    T[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    T[:3, 3] = (9, 2, 1)
    grid = VolumeGrid(shape=(5, 7, 9), spacing_mm=(0.9, 0.7, 0.8), T_world_volume=T)
    for kernel, brute in (("nearest", brute_nearest), ("linear", partial(brute_linear, quantum=2**-40))):
        volume = compound(noise_sweep, mode="mean", kernel=kernel, grid=grid)
        truth, weight = brute(noise_sweep, grid, "mean")
        seen = volume.weight > 0
        assert seen.any()
        np.testing.assert_array_equal(seen, weight >= 0.125)
        assert np.abs(volume.data[seen] - truth[seen]).max() <= (0 if kernel == "nearest" else 0.5 + 1e-9)


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(order=st.permutations(range(12)))
def test_any_order_of_frames_gives_the_same_bits(noise_sweep, kernel, order):
    straight = compound(noise_sweep, 1.0, kernel=kernel)
    for mode in ("mean", "max", "latest"):
        target = Compounder(straight.grid, mode=mode, kernel=kernel)
        mixed = Compounder(straight.grid, mode=mode, kernel=kernel)
        for source, indices in ((target, range(12)), (mixed, order)):
            for k in indices:
                source.insert(noise_sweep.image(k), noise_sweep.T_world_image[k], noise_sweep.geometry, sequence=k + 1)
        np.testing.assert_array_equal(mixed.volume().data, target.volume().data)
        np.testing.assert_array_equal(mixed.volume().weight, target.volume().weight)


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
def test_remove_undoes_insert(noise_sweep, kernel):
    before = compound(noise_sweep, 1.0, kernel=kernel)
    target = Compounder(before.grid, kernel=kernel)
    rng = np.random.default_rng(5)
    extra = rng.integers(0, 256, (40, 48), np.uint8)
    T = noise_sweep.T_world_image
    for k in range(12):
        target.insert(noise_sweep.image(k), T[k], noise_sweep.geometry)
        added = target.insert(extra, T[11 - k], noise_sweep.geometry)
    for k in reversed(range(12)):
        removed = target.remove(extra, T[11 - k], noise_sweep.geometry)
    assert added > 0
    assert removed > 0
    assert target.frames == 12
    np.testing.assert_array_equal(target.volume().data, before.data)
    np.testing.assert_array_equal(target.volume().weight, before.weight)


def test_threads_that_insert_together_give_the_same_bits(noise_sweep):
    straight = compound(noise_sweep, 1.0, kernel="linear")
    target = Compounder(straight.grid, kernel="linear")

    def insert(indices):
        for k in indices:
            target.insert(noise_sweep.image(k), noise_sweep.T_world_image[k], noise_sweep.geometry)

    threads = [threading.Thread(target=insert, args=(range(a, 12, 3),)) for a in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(target.volume().data, straight.data)


def test_mean_does_not_saturate_or_drift_over_many_hits():
    """1000 hits per voxel of 100 and 101 in turn: an 8-bit running mean would stick at 100 or fall."""
    target = Compounder(VolumeGrid(shape=(1, 4, 4), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4)))
    for k in range(1000):
        target.insert(np.full((4, 4), 100 + (k % 4 != 0), np.uint8), np.eye(4), MM)
    volume = target.volume()
    assert (volume.data == 101).all()
    assert (volume.weight == 1000).all()


def test_a_single_pixel_lands_where_the_convention_says():
    """x lateral to X, y axial to Y, translation along world z to Z; origin at the centre of pixel (0, 0)."""
    image = np.zeros((3, 4), np.uint8)
    image[2, 1] = 77
    T = np.eye(4)
    T[:3, 3] = (10, 20, 30)
    sweep = Sweep(frames=image[None], T_world_image=T[None], geometry=MM)
    volume = compound(sweep, 1.0)
    z, y, x = np.argwhere(volume.data == 77)[0]
    assert np.abs(volume.to_world((z, y, x)) - (11, 22, 30)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
@pytest.mark.parametrize("offset", [(1e3, 0, 0), (0, -1e7, 0), (0, 0, 1e15)])
def test_frames_outside_the_grid_change_nothing(kernel, offset):
    grid = VolumeGrid(shape=(4, 4, 4), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4))
    target = Compounder(grid, kernel=kernel)
    T = np.eye(4)
    T[:3, 3] = offset
    assert target.insert(np.full((8, 8), 9, np.uint8), T, MM) == 0
    assert not target.volume().swept.any()


def test_bad_calls_are_refused_with_reasons(noise_sweep):
    grid = VolumeGrid(shape=(4, 4, 4), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4))
    image = np.zeros((4, 4), np.uint8)
    target = Compounder(grid)
    scaled = np.diag([0.1, 0.1, 1, 1])
    nan = np.full((4, 4), np.nan)
    for bad in (scaled, nan, np.eye(3)):
        with pytest.raises(ConfigError, match="rigid"):
            target.insert(image, bad, MM)
    for bad in (image[None], image.astype(float), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ConfigError, match="uint8"):
            target.insert(bad, np.eye(4), MM)
    with pytest.raises(GeometryError, match="no millimetres"):
        target.insert(image, np.eye(4), FrameGeometry())
    with pytest.raises(ConfigError, match="sequence"):
        target.insert(image, np.eye(4), MM, sequence=0)
    with pytest.raises(ConfigError, match="modes are mean, max, latest"):
        Compounder(grid, mode="median")
    with pytest.raises(ReconstructionError, match="the cap is 10"):
        Compounder(grid, max_voxels=10)
    with pytest.raises(ConfigError, match="either"):
        compound(noise_sweep)
    away = np.eye(4)
    away[:3, 3] = 500
    with pytest.raises(ReconstructionError, match="meets the grid"):
        compound(noise_sweep, grid=VolumeGrid(shape=(4, 4, 4), spacing_mm=(1.0,) * 3, T_world_volume=away))


def test_undo_is_refused_where_it_would_be_wrong():
    grid = VolumeGrid(shape=(1, 4, 4), spacing_mm=(1.0,) * 3, T_world_volume=np.eye(4))
    image = np.full((4, 4), 50, np.uint8)
    for mode in ("max", "latest"):
        target = Compounder(grid, mode=mode)
        target.insert(image, np.eye(4), MM)
        with pytest.raises(ReconstructionError, match="cannot be undone"):
            target.remove(image, np.eye(4), MM)
    target = Compounder(grid)
    with pytest.raises(ReconstructionError, match="no frame"):
        target.remove(image, np.eye(4), MM)
    target.insert(image, np.eye(4), MM)
    for other in (np.full((4, 4), 60, np.uint8), np.full((4, 4), 40, np.uint8)):
        target.remove(other, np.eye(4), MM)
        with pytest.raises(ReconstructionError, match="not in the volume"):
            target.volume()
        target.insert(other, np.eye(4), MM)
    assert (target.volume().data == 50).all()
    target.clear()
    assert target.frames == 0
    assert not target.volume().swept.any()


def test_a_volume_over_the_cap_names_a_spacing_that_fits(noise_sweep):
    with pytest.raises(ReconstructionError, match="A spacing of") as caught:
        grid_of_sweep(noise_sweep, 0.01, max_voxels=10_000)
    fit = float(str(caught.value).split("spacing of (")[1].split(",")[0])
    assert grid_of_sweep(noise_sweep, fit, max_voxels=10_000).voxels <= 10_000


def test_only_the_scan_area_is_used():
    geometry = FrameGeometry(
        row_mm=1.0, column_mm=1.0, origin="user", trusted=True, scan_area=Rectangle(x0=2, y0=1, x1=4, y1=3)
    )
    image = np.full((6, 6), 200, np.uint8)
    image[1:3, 2:4] = 90
    volume = compound(Sweep(frames=image[None], T_world_image=np.eye(4)[None], geometry=geometry), 1.0)
    assert volume.weight.sum() == 4
    assert set(volume.data[volume.swept]) == {90}


def test_without_numba_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingDependencyError, match=r"pocus-edge-runtime\[recon\]"):
        warm_up()


def test_importing_the_package_does_not_import_numba_or_opencv():
    code = "import sys, edge_runtime.reconstruct; assert not {'numba', 'cv2', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_machine_without_a_writable_cache_still_compiles(monkeypatch, caplog):
    from edge_runtime import compiled

    real = numba.njit

    def refuse(*functions, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*functions, **options)

    monkeypatch.setattr(compiled.numba, "njit", refuse)
    with caplog.at_level(logging.WARNING):
        add = compiled.compiled(lambda a, b: a + b)
    assert add(2, 3) == 5
    assert "NUMBA_CACHE_DIR" in caplog.text


@pytest.mark.parametrize("kernel", ["nearest", "linear"])
@pytest.mark.parametrize("mode", ["mean", "max", "latest"])
def test_warm_up_runs_every_kernel(mode, kernel):
    warm_up(mode, kernel)
