"""Tracked sweeps: exact poses, exact pixels, and a field that a plain compounding gives back."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.geometry import is_rigid
from edge_sdk.simulate import SimulatedSweep, simulate_sweep


@pytest.fixture(scope="module")
def sweep() -> SimulatedSweep:
    return simulate_sweep(3)


def world_points(sweep: SimulatedSweep, index: int) -> npt.NDArray[np.float64]:
    """(H * W, 3) world mm of the pixel centres of a frame, by homogeneous coordinates."""
    row_mm, column_mm = sweep.geometry.require_mm()
    height, width = sweep.frames.shape[1:]
    y, x = np.meshgrid(np.arange(height) * row_mm, np.arange(width) * column_mm, indexing="ij")
    image = np.stack([x.ravel(), y.ravel(), np.zeros(x.size), np.ones(x.size)])
    return (sweep.T_world_image[index] @ image)[:3].T


def test_shapes_types_and_rigid_poses(sweep: SimulatedSweep) -> None:
    assert sweep.frames.shape == (120, 128, 160)
    assert sweep.frames.dtype == np.uint8
    assert all(is_rigid(T) for T in sweep.T_world_image)
    assert (np.diff(sweep.time_ns) == 50_000_000).all()
    assert sweep.geometry.trusted


def test_a_hand_moves_unevenly_but_forward(sweep: SimulatedSweep) -> None:
    centre = np.array([world_points(sweep, i).mean(0) for i in range(0, 120, 7)])
    steps = np.diff(centre[:, 2])
    assert (steps > 0).all()
    assert steps.std() / steps.mean() > 0.05
    turn = sweep.T_world_image[:, :3, :3]
    angle = np.arccos(np.clip((np.trace(turn[60] @ turn[10].T) - 1) / 2, -1, 1))
    assert 0.001 < angle < 0.2


def test_without_noise_a_pixel_is_the_field_at_its_centre() -> None:
    clean = simulate_sweep(4, n_frames=6, speckle=0.0)
    for index in (0, 5):
        expected = np.rint(clean.field(world_points(clean, index))).reshape(128, 160)
        assert np.abs(clean.frames[index].astype(float) - expected).max() <= 1


def test_noise_has_no_mean_and_the_asked_spread(sweep: SimulatedSweep) -> None:
    error = sweep.frames[50].ravel() - sweep.field(world_points(sweep, 50))
    assert abs(error.mean()) < 0.1
    assert error.std() == pytest.approx(3.0, rel=0.06)


def test_the_field_is_smooth_grey_with_dark_fluid_and_a_bright_wire(sweep: SimulatedSweep) -> None:
    points = np.concatenate([world_points(sweep, i) for i in range(0, 120, 12)])
    grey = sweep.field(points)
    assert grey.min() >= 0
    assert grey.max() <= 255
    inside = sweep.field.vessel_distance(points) < -0.8
    assert inside.any()
    assert grey[inside].max() < 25
    near = sweep.field(points + np.array([0.1, 0.1, 0.1]))
    assert np.abs(near - grey).mean() < 1.5
    on_wire = sweep.wire[0] + np.linspace(0.05, 0.95, 50)[:, None] * (sweep.wire[1] - sweep.wire[0])
    assert sweep.field(on_wire).min() > 200


def test_plain_nearest_compounding_gives_the_field_back(sweep: SimulatedSweep) -> None:
    spacing = 0.45
    points = np.concatenate([world_points(sweep, i) for i in range(len(sweep.frames))])
    origin = points.min(0)
    index = np.rint((points - origin) / spacing).astype(int)
    size = index.max(0) + 1
    flat = np.ravel_multi_index(tuple(index.T), tuple(size))
    weight = np.bincount(flat, minlength=size.prod())
    total = np.bincount(flat, sweep.frames.ravel().astype(float), size.prod())
    seen = weight > 0
    centres = np.stack(np.unravel_index(np.flatnonzero(seen), tuple(size)), 1) * spacing + origin
    volume = total[seen] / weight[seen]
    assert np.abs(volume - sweep.field(centres)).mean() < 3.0
    middle = np.abs(centres[:, 2] - sweep.wire.mean(0)[2]) < spacing / 2
    brightest = centres[middle][volume[middle].argmax()]
    share = (brightest[2] - sweep.wire[0, 2]) / (sweep.wire[1, 2] - sweep.wire[0, 2])
    expected = sweep.wire[0] + share * (sweep.wire[1] - sweep.wire[0])
    assert np.abs(brightest - expected).max() <= spacing


def test_the_same_seed_gives_the_same_sweep() -> None:
    a, b, c = (simulate_sweep(seed, n_frames=4) for seed in (1, 1, 2))
    assert np.array_equal(a.frames, b.frames)
    assert np.array_equal(a.T_world_image, b.T_world_image)
    assert not np.array_equal(a.T_world_image, c.T_world_image)


@pytest.mark.parametrize(
    "bad",
    [
        {"n_frames": 1},
        {"shape": (2, 2)},
        {"pixel_mm": 0.0},
        {"spacing_mm": math.nan},
        {"fps": 0.0},
        {"tilt_rad": 2.0},
        {"speckle": -1.0},
        {"seed": -1},
    ],
)
def test_bad_arguments_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        simulate_sweep(**({"seed": 0, "n_frames": 3} | bad))  # type: ignore[arg-type]
