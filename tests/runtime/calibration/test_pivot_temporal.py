"""Pivot and temporal calibration against closed-form and synthetic truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_runtime.calibration import (
    PivotSettings,
    TemporalSettings,
    calibrate_offset,
    calibrate_pivot,
    draw_residuals,
    image_motion,
    pose_motion,
)
from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.geometry import vector_to_rotation

TIP, PIVOT = np.array([210.0, -3.0, 5.0]), np.array([30.0, 400.0, -120.0])


def tool(n, rng, *, noise=0.0, axes=3, angle=0.5):
    T = np.tile(np.eye(4), (n, 1, 1))
    for k in range(n):
        turn = np.zeros(3)
        turn[:axes] = rng.normal(0, angle, axes)
        T[k, :3, :3] = vector_to_rotation(turn)
        T[k, :3, 3] = PIVOT - T[k, :3, :3] @ TIP + rng.normal(0, noise, 3)
    return T


def test_exact_poses_give_the_tip_exactly(rng):
    found = calibrate_pivot(tool(30, rng))
    np.testing.assert_allclose(found.tip_tool, TIP, atol=1e-9)
    np.testing.assert_allclose(found.pivot_tracker, PIVOT, atol=1e-9)
    assert found.residuals.rms < 1e-9


def test_noise_of_the_tracker_is_what_the_residuals_show_and_the_tip_is_within_its_standard_error(rng):
    n, sigma = 400, 0.3
    found = calibrate_pivot(tool(n, rng, noise=sigma))
    assert found.residuals.rms == pytest.approx(sigma * np.sqrt(3), rel=0.1)
    # least squares: the covariance of the tip is sigma^2 over n times the spread of the rotations, 0.5 rad an axis
    assert np.linalg.norm(found.tip_tool - TIP) < 4 * sigma * np.sqrt(3) / np.sqrt(n) / 0.5


def test_poses_that_slipped_are_left_out(rng):
    T = tool(100, rng, noise=0.1)
    T[10:20, :3, 3] += (0, 8.0, -6.0)
    found = calibrate_pivot(T)
    assert not found.residuals.used[10:20].any()
    assert found.residuals.n >= 85
    assert np.linalg.norm(found.tip_tool - TIP) < 0.2


def test_turning_about_one_axis_is_refused(rng):
    with pytest.raises(GeometryError, match="two axes"):
        calibrate_pivot(tool(50, rng, axes=1))


def test_bad_poses_are_refused(rng):
    T = tool(20, rng)
    with pytest.raises(ConfigError, match="at least 6"):
        calibrate_pivot(T[:5])
    T[3, 0, 0] = np.nan
    with pytest.raises(ConfigError, match=r"poses \[3\] \(1 of 20\) are not rigid"):
        calibrate_pivot(T)


def test_poses_that_agree_on_nothing_are_refused(rng):
    T = tool(40, rng)
    T[:, :3, 3] = rng.normal(0, 100, (40, 3))
    found = calibrate_pivot(T, PivotSettings(max_condition=1e6))
    assert found.residuals.rms > 50, "the residuals say that there is no pivot"


@pytest.mark.parametrize("bad", [{"reject": 1.0}, {"max_condition": 0.5}])
def test_pivot_settings_out_of_range(bad):
    with pytest.raises(ConfigError):
        PivotSettings(**bad)


def times(rate, seconds, rng, start=0.0, jitter=0.1):
    n = int(rate * seconds)
    t = start + (np.arange(n) + rng.uniform(-jitter, jitter, n)) / rate
    return np.round(t * 1e9).astype(np.int64)


def motion(seconds):
    """A hand that moves up and down, not quite regularly."""
    return 10 * np.sin(2 * np.pi * 0.9 * seconds) + 4 * np.sin(2 * np.pi * 0.41 * seconds + 1)


@pytest.mark.parametrize("offset_ms", [-320.0, -37.4, 0.0, 61.3, 250.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_offset_is_recovered_below_the_sampling_of_both(rng, offset_ms, sign):
    pose_times, image_times = times(40, 24, rng), times(12, 20, rng, start=2.0)
    pose_signal = motion(pose_times / 1e9)
    image_signal = sign * 7 * motion(image_times / 1e9 - offset_ms / 1e3) + 250 + rng.normal(0, 2, len(image_times))
    found = calibrate_offset(image_times, image_signal, pose_times, pose_signal)
    assert found.offset_ns / 1e6 == pytest.approx(offset_ms, abs=2.0)
    assert found.correlation > 0.99
    assert found.residuals.rms == pytest.approx(2.0, rel=0.5)


def test_no_common_motion_is_refused(rng):
    pose_times, image_times = times(40, 24, rng), times(12, 20, rng, start=2.0)
    with pytest.raises(GeometryError, match="best correlation"):
        calibrate_offset(image_times, rng.normal(size=len(image_times)), pose_times, motion(pose_times / 1e9))


def test_an_offset_beyond_the_range_is_refused(rng):
    pose_times, image_times = times(40, 24, rng), times(12, 20, rng, start=2.0)
    moved = motion(image_times / 1e9 - 0.2)
    with pytest.raises(GeometryError, match="end of the range"):
        calibrate_offset(
            image_times, moved, pose_times, motion(pose_times / 1e9), TemporalSettings(max_offset_ms=190.0)
        )


def test_recordings_that_do_not_overlap_are_refused(rng):
    pose_times, image_times = times(40, 5, rng), times(12, 20, rng, start=30.0)
    with pytest.raises(GeometryError, match="0 images lie inside"):
        calibrate_offset(image_times, motion(image_times / 1e9), pose_times, motion(pose_times / 1e9))


def test_times_that_fall_are_refused(rng):
    pose_times, image_times = times(40, 24, rng), times(12, 20, rng, start=2.0)
    with pytest.raises(ConfigError, match="image times fall"):
        calibrate_offset(image_times[::-1].copy(), motion(image_times / 1e9), pose_times, motion(pose_times / 1e9))
    with pytest.raises(ConfigError, match="pose: times"):
        calibrate_offset(image_times, motion(image_times / 1e9), pose_times, motion(pose_times / 1e9)[:-1])


@pytest.mark.parametrize("bad", [{"max_offset_ms": 10.0}, {"min_correlation": 1.0}, {"min_images": 1}])
def test_temporal_settings_out_of_range(bad):
    with pytest.raises(ConfigError):
        TemporalSettings(**bad)


def test_the_height_of_a_tilted_line_that_fades_is_followed(rng):
    height = 60 + 25 * np.sin(np.arange(40) / 3)
    frames = np.zeros((40, 140, 160), np.uint8)
    y = np.arange(140)[:, None]
    for k, h in enumerate(height):
        line = 200 * np.exp(-((y - h - 0.1 * np.arange(160)) ** 2) / 8)
        line[:, rng.permutation(160)[:30]] = 0
        line[:, : 8 * (k % 5)] = 0
        frames[k] = np.clip(line + rng.uniform(0, 5, line.shape), 0, 255).astype(np.uint8)
    found = image_motion(frames)
    off = found - height
    assert np.abs(off - off.mean()).max() < 0.5


def test_black_and_wrong_images_are_refused():
    with pytest.raises(GeometryError, match="image 0 is black"):
        image_motion(np.zeros((3, 20, 20), np.uint8))
    with pytest.raises(ConfigError, match="uint8"):
        image_motion(np.zeros((3, 20, 20)))


def test_the_motion_of_poses_is_along_their_main_direction(rng):
    T = np.tile(np.eye(4), (50, 1, 1))
    along = np.array([1.0, 2.0, 2.0]) / 3
    s = np.sin(np.arange(50))
    T[:, :3, 3] = 7 + s[:, None] * along + rng.normal(0, 1e-4, (50, 3))
    found = pose_motion(T)
    np.testing.assert_allclose(found * np.sign(found @ s), s - s.mean(), atol=1e-3)
    with pytest.raises(GeometryError, match="does not move"):
        pose_motion(np.tile(np.eye(4), (9, 1, 1)))
    with pytest.raises(ConfigError, match="finite"):
        pose_motion(np.full((9, 4, 4), np.nan))


def test_the_picture_of_residuals_shows_what_was_rejected(rng, tmp_path):
    T = tool(60, rng, noise=0.1)
    T[5, :3, 3] += 9
    draw_residuals(calibrate_pivot(T).residuals, tmp_path / "pivot.png", title="pivot")
    picture = cv2.imread(str(tmp_path / "pivot.png"))
    red = (picture[..., 2] > 180) & (picture[..., 0] < 90)
    assert red.sum() >= 8
    assert picture.shape == (360, 900, 3)
