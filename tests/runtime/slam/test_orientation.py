"""The orientation filter on simulated recordings whose truth is known; gravity never turns the heading."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.slam.imu import simulate_imu
from edge_runtime.buffers import ImuSamples
from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.slam.imu import GRAVITY, ImuNoise, rotation_exp, rotation_log
from edge_runtime.slam.orientation import (
    OrientationFilter,
    gravity_rotation,
    gyro_bias,
    orientations,
    stationary,
)

UP = np.array([0, 0, GRAVITY])


@given(hnp.arrays(np.float64, 3, elements=st.floats(-12, 12)).filter(lambda a: np.linalg.norm(a) > 1))
def test_gravity_points_up(accel):
    R = gravity_rotation(accel)
    np.testing.assert_allclose(R @ accel, [0, 0, np.linalg.norm(accel)], atol=1e-9)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)


def test_upside_down_too():
    np.testing.assert_allclose(gravity_rotation(-UP) @ -UP, UP, atol=1e-9)


@pytest.mark.parametrize("accel", [np.zeros(3), np.array([np.nan, 0, 9])])
def test_no_gravity_is_no_direction(accel):
    with pytest.raises(ConfigError, match="no direction"):
        gravity_rotation(accel)


def resting(seconds=2.0, hertz=100.0, bias=(0.01, -0.02, 0.005), seed=0):
    rng = np.random.default_rng(seed)
    n = round(seconds * hertz)
    return ImuSamples(
        times_ns=np.round(np.arange(n) / hertz * 1e9).astype(np.int64),
        gyro_rad_s=np.array(bias) + 2e-4 * np.sqrt(hertz) * rng.normal(size=(n, 3)),
        accel_m_s2=UP + 0.02 * rng.normal(size=(n, 3)),
    )


def test_bias_at_rest_is_the_mean_rate_with_its_doubt():
    errors = []
    for seed in range(60):
        found = gyro_bias(resting(seed=seed))
        e = found.bias - [0.01, -0.02, 0.005]
        errors.append(e @ np.linalg.solve(found.covariance, e) / 3)
        assert 1.6 < found.seconds <= 2
    assert 0.7 < np.mean(errors) < 1.3


def test_a_moving_hand_does_not_rest():
    made = simulate_imu(3, seconds=8, rest_s=1.0)
    still = stationary(made.samples)
    assert still[20:80].all()
    assert not still[110:].any()
    assert not stationary(ImuSamples(times_ns=np.zeros(0, np.int64), gyro_rad_s=np.zeros((0, 3)),
                                     accel_m_s2=np.zeros((0, 3)))).any()  # fmt: skip
    moving = simulate_imu(3, seconds=4, rest_s=0.0).samples
    with pytest.raises(ReconstructionError, match="never rests"):
        gyro_bias(moving)
    steady = resting(bias=(0.3, 0, 0))
    assert not stationary(steady).any()


def test_a_minute_s_half_is_followed_and_the_bias_found():
    made = simulate_imu(7, seconds=20)
    found = orientations(made.samples)
    vertical = np.rad2deg(np.arccos((found.R_world_imu[-1] @ made.R_world_imu[-1].T)[2, 2]))
    assert vertical < 0.8
    e = found.bias[-1] - made.bias[-1]
    assert e @ np.linalg.solve(found.bias_covariance[-1], e) < 16.3
    assert np.linalg.norm(e) < 2e-3 < np.linalg.norm(made.bias[-1])
    blind = orientations(made.samples, estimate_bias=False)
    assert np.rad2deg(np.linalg.norm(rotation_log(blind.R_world_imu[-1].T @ found.R_world_imu[-1]))) > 5
    assert found.tilted.mean() > 0.5


def test_errors_are_as_large_as_said():
    nees = []
    for seed in range(12):
        made = simulate_imu(seed, seconds=6)
        found = orientations(made.samples)
        level = rotation_exp([0, 0, rotation_log(found.R_world_imu[0] @ made.R_world_imu[0].T)[2]])
        e = rotation_log((level @ made.R_world_imu[-1]).T @ found.R_world_imu[-1])
        nees.append(e @ np.linalg.solve(found.covariance[-1], e) / 3)
    assert 0.5 < np.mean(nees) < 1.7


def test_gravity_corrects_tilt_and_never_heading():
    follow = OrientationFilter(ImuNoise(gyro_bias_walk=0, gyro_bias_rad_s=1e-12))
    follow.add(0, np.zeros(3), UP)
    follow.R_world_imu = rotation_exp([0.3, -0.2, 0.9])
    for k in range(1, 3000):
        before = follow.R_world_imu
        follow.add(k * 10_000_000, np.zeros(3), UP)
        assert abs(rotation_log(follow.R_world_imu @ before.T)[2]) < 1e-10
    assert abs(follow.R_world_imu[2, 2] - 1) < 2e-3


def test_doubt_about_the_heading_only_grows():
    follow = OrientationFilter()
    follow.add(0, np.zeros(3), UP)
    doubt = 0.0
    for k in range(1, 300):
        follow.add(k * 10_000_000, np.zeros(3), UP)
        assert follow.covariance[2, 2] > doubt
        doubt = follow.covariance[2, 2]
    assert follow.covariance[0, 0] < doubt


def test_shaken_readings_are_not_believed():
    follow = OrientationFilter()
    follow.add(0, np.zeros(3), UP)
    follow.add(10_000_000, np.zeros(3), UP + np.array([5.0, 0, 0]))
    assert not follow.tilted
    np.testing.assert_allclose(follow.R_world_imu, np.eye(3), atol=1e-12)


def test_times_that_do_not_follow_and_gaps():
    follow = OrientationFilter()
    follow.add(0, np.zeros(3), UP)
    with pytest.raises(ConfigError, match="does not follow"):
        follow.add(0, np.zeros(3), UP)
    with pytest.raises(ReconstructionError, match=r"50\.0 ms"):
        follow.add(50_000_000, np.zeros(3), UP)
    empty = ImuSamples(times_ns=np.zeros(0, np.int64), gyro_rad_s=np.zeros((0, 3)), accel_m_s2=np.zeros((0, 3)))
    with pytest.raises(ConfigError, match="no inertial samples"):
        orientations(empty)
