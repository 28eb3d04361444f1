"""Volumes laid on each other again, and the cases in which there is no answer, or more than one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.reconstruct import Sweep
from edge_runtime.slam import se3
from edge_runtime.slam._fit import around, coarser, field_of, smooth
from edge_runtime.slam.contrast import axial_contrast
from edge_runtime.slam.join import JoinSettings, register_sweeps, register_volumes
from tests.runtime.slam.scene import Blobs, picture, volume

pytest.importorskip("numba")

SCENE, FIXED = Blobs(), volume(Blobs(), seed=5)
QUICK = JoinSettings(points=4000, levels_mm=(4.0, 2.0))


def motion(seed, mm=8.0, degrees=5.0):
    shift, axis = np.random.default_rng(seed).normal(size=(2, 3))
    T = se3.exp([*np.radians(degrees) * axis / np.linalg.norm(axis), 0, 0, 0])
    T[:3, 3] = mm * shift / np.linalg.norm(shift)
    return T


@pytest.mark.parametrize("seed", range(4))
def test_an_offset_is_recovered(seed):
    truth = motion(seed)
    found = register_volumes(FIXED, volume(SCENE, truth, seed=seed), None, JoinSettings(points=8000))
    xi = se3.log(se3.inverse(truth) @ found.T_fixed_moving)
    assert np.linalg.norm(xi[3:]) < 0.15
    assert np.degrees(np.linalg.norm(xi[:3])) < 0.4
    assert 0 < np.sqrt(found.covariance[3, 3]) < 0.2
    assert found.ncc > 0.8
    assert found.lead > 0.1


def test_a_start_beyond_reach_can_be_given():
    truth = motion(7, mm=16.0, degrees=30.0)
    start = truth @ motion(8, mm=3.0, degrees=2.0)
    found = register_volumes(FIXED, volume(SCENE, truth), start, JoinSettings(points=8000))
    xi = se3.log(se3.inverse(truth) @ found.T_fixed_moving)
    assert np.linalg.norm(xi[3:]) < 0.3


def test_the_answer_does_not_depend_on_gain_and_offset():
    moving = volume(SCENE, motion(1))
    darker = replace(moving, data=(0.5 * moving.data + 20).round().astype(np.uint8))
    a, b = (register_volumes(FIXED, m, None, QUICK).T_fixed_moving for m in (moving, darker))
    assert np.abs(a - b).max() < 0.1


def repeated(points):
    """The same every 6 mm along x."""
    return (
        120 + 60 * np.sin(2 * np.pi * points[..., 0] / 6) + 40 * np.sin(points[..., 1] / 4) * np.cos(points[..., 2] / 5)
    )


def test_anatomy_that_repeats_itself_has_no_one_answer():
    with pytest.raises(ReconstructionError, match="in two ways"):
        register_volumes(volume(repeated), volume(repeated, seed=3), None, JoinSettings(start_mm=6.0, points=4000))


def test_what_shows_nothing_along_one_axis_is_not_registered():
    scene = Blobs(long=True)
    settings = JoinSettings(start_mm=0, start_deg=0, points=4000, min_lead=0)
    with pytest.raises(ReconstructionError, match="directions are held"):
        register_volumes(volume(scene, noise=0), volume(scene, motion(0, 1.0, 0.0), noise=0), None, settings)


def test_other_anatomy_and_empty_volumes_are_refused():
    with pytest.raises(ReconstructionError, match=r"agree|start"):
        register_volumes(FIXED, volume(Blobs(seed=99)), None, JoinSettings(points=4000, min_ncc=0.85))
    empty = replace(FIXED, weight=np.zeros(FIXED.data.shape, np.float32))
    with pytest.raises(ReconstructionError, match="moving volume has fewer"):
        register_volumes(FIXED, empty)
    flat = replace(FIXED, data=np.full(FIXED.data.shape, 50, np.uint8))
    with pytest.raises(ReconstructionError, match="correlates"):
        register_volumes(FIXED, flat, None, QUICK)
    with pytest.raises(ConfigError, match="not a rigid"):
        register_volumes(FIXED, FIXED, 2 * np.eye(4))


@pytest.mark.parametrize(
    "wrong",
    [{"levels_mm": ()}, {"levels_mm": (1.0, 2.0)}, {"points": 3}, {"min_ncc": 1.0}, {"start_mm": -1}, {"block_mm": 0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="need"):
        JoinSettings(**wrong)


def test_coarser_fields_lie_where_the_fine_one_does():
    ramp = volume(lambda p: 100 + 2 * p[..., 0] + p[..., 1] - p[..., 2], noise=0)
    field = field_of(ramp)
    coarse = coarser(field, (3, 2, 4))
    index = np.argwhere(np.isfinite(coarse.levels))
    at = coarse.grid.to_world(index)
    whole = (np.abs(at) < 15).all(axis=1)
    wanted = 100 + at @ [2, 1, -1]
    assert np.abs(coarse.levels[tuple(index.T)] - wanted)[whole].max() < 0.6
    part = around(ramp, np.array([[1.0, 2.0, 3.0], [4.0, 2.0, 5.0]]), 2.0)
    index = np.argwhere(np.isfinite(part.levels))
    assert np.abs(part.levels[tuple(index.T)] - (100 + part.grid.to_world(index) @ [2, 1, -1])).max() < 0.6
    assert part.levels.shape[0] < 10
    outside = around(ramp, np.array([[500.0, 0, 0]]), 1.0)
    assert min(outside.levels.shape) >= 2


def test_smoothing_keeps_a_ramp_and_the_unknown():
    levels = np.add.outer(np.arange(6.0), 2 * np.arange(5.0))
    levels[2, 2] = np.nan
    out = smooth(levels)
    assert np.isnan(out[2, 2])
    assert np.isfinite(out).sum() == 29
    assert out[4, 3] == pytest.approx(levels[4, 3], abs=0.3)


def shadowed_sweep(tilt, T_scene_world, steps=40):
    """A sweep whose pictures carry shadows along their own beams, which no other sweep sees in the same place."""
    geometry = FrameGeometry(row_mm=0.5, column_mm=0.5, origin="simulated", trusted=True)
    T = np.tile(se3.exp([0, 0, tilt, 0, 0, 0]), (steps, 1, 1))
    frames = []
    x = np.arange(80) * 0.5
    shade = 1 - 0.5 * np.exp(-((x - 15 - 30 * tilt) ** 2) / 8) - 0.4 * np.exp(-((x - 28 + 25 * tilt) ** 2) / 6)
    for k in range(steps):
        T[k, :3, 3] = (-20, -20, k - steps / 2)
        image = picture(SCENE, T_scene_world @ T[k], (80, 80), seed=k, geometry=geometry)
        frames.append((image * shade).astype(np.uint8))
    return Sweep(frames=np.stack(frames), T_world_image=T, geometry=geometry)


def test_sweeps_with_shadows_are_registered_by_what_changes_along_the_beam():
    pytest.importorskip("scipy")
    fixed, truth = shadowed_sweep(0.0, np.eye(4)), motion(3, mm=4.0, degrees=3.0)
    moving = shadowed_sweep(0.15, truth)
    found = register_sweeps(fixed, moving, None, JoinSettings(points=8000, contrast_mm=3.0))
    xi = se3.log(se3.inverse(truth) @ found.T_fixed_moving)
    assert np.linalg.norm(xi[3:]) < 0.5
    assert np.degrees(np.linalg.norm(xi[:3])) < 1.0


def test_axial_contrast_takes_out_what_is_constant_along_the_beam():
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    columns = rng.integers(20, 200, 48).astype(np.uint8)
    geometry = FrameGeometry(row_mm=0.5, column_mm=0.5, origin="user", trusted=True)
    image = np.tile(columns, (64, 1))
    assert (axial_contrast(image, geometry, 4.0) == 128).all()
    area = Rectangle(x0=5, y0=8, x1=40, y1=60)
    masked = axial_contrast(image, replace(geometry, scan_area=area), 4.0)
    assert (masked == 128).all()
    lines = image.copy()
    lines[30:34] += 50
    assert axial_contrast(lines, geometry, 4.0)[31].min() > 160
    with pytest.raises(ConfigError, match="sigma_mm"):
        axial_contrast(image, geometry, 0.0)


def test_a_volume_lies_on_itself():
    found = register_volumes(FIXED, FIXED, motion(2, 3.0, 2.0), QUICK)
    assert found.ncc == pytest.approx(1, abs=1e-3)
    assert np.abs(found.T_fixed_moving - np.eye(4)).max() < 1e-2
