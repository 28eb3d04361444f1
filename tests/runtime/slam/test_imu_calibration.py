"""Mounting and clock offset from simulated pairs of rotations; SciPy's `align_vectors` is the peer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.slam.imu import simulate_imu
from edge_runtime.buffers import ImuSamples
from edge_runtime.calibration.temporal import TemporalSettings
from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.slam.imu import rotation_exp, rotation_log
from edge_runtime.slam.imu_calibration import calibrate_imu_offset, calibrate_imu_rotation


def pairs(rng, n=40, size=0.3, noise=0.0):
    X, b = rotation_exp(rng.normal(0, 1.5, 3)), size * rng.normal(size=(n, 3))
    B = rotation_exp(b)
    A = X @ B @ X.T @ rotation_exp(noise * rng.normal(size=(n, 3)))
    return X, A, B


@given(st.integers(0, 2**32 - 1))
def test_exact_pairs_give_the_mounting(seed):
    X, A, B = pairs(np.random.default_rng(seed), n=12)
    found = calibrate_imu_rotation(A, B)
    np.testing.assert_allclose(found.R_image_imu, X, atol=1e-9)
    assert found.rms_rad < 1e-9


def test_as_the_peer():
    Rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    _, A, B = pairs(np.random.default_rng(2), noise=1e-3)
    found = calibrate_imu_rotation(A, B)
    peer, _ = Rotation.align_vectors(rotation_log(A), rotation_log(B), weights=found.weights)
    np.testing.assert_allclose(found.R_image_imu, peer.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("n", [15, 60])
def test_errors_are_as_large_as_said(n):
    nees = []
    for seed in range(200):
        X, A, B = pairs(np.random.default_rng(seed), n=n, noise=0.01)
        found = calibrate_imu_rotation(A, B)
        e = rotation_log(X.T @ found.R_image_imu)
        nees.append(e @ np.linalg.solve(found.covariance, e) / 3)
    assert 0.7 < np.mean(nees) < 1.5


def test_a_few_wrong_pairs_do_little():
    X, A, B = pairs(np.random.default_rng(5), n=40, noise=2e-3)
    A[::10] = A[::10] @ rotation_exp([0.3, -0.2, 0.1])
    found = calibrate_imu_rotation(A, B)
    assert np.rad2deg(np.linalg.norm(rotation_log(X.T @ found.R_image_imu))) < 0.7
    assert (found.weights[::10] < 0.1).all()


def test_one_axis_is_refused_and_named():
    rng = np.random.default_rng(0)
    b = np.outer(rng.normal(0, 0.4, 30), [0.6, 0.8, 0]) + 0.005 * rng.normal(size=(30, 3))
    with pytest.raises(GeometryError, match=r"one axis only \(-?0\.60, -?0\.80"):
        calibrate_imu_rotation(rotation_exp(b), rotation_exp(b))


def test_what_cannot_be_used_is_refused():
    rng = np.random.default_rng(0)
    X, A, B = pairs(rng, n=9)
    with pytest.raises(GeometryError, match="9 pairs"):
        calibrate_imu_rotation(A, B)
    with pytest.raises(ConfigError, match="both"):
        calibrate_imu_rotation(A, B[:8])
    with pytest.raises(ConfigError, match="no rotation matrix"):
        calibrate_imu_rotation(-np.repeat(A, 2, axis=0), np.repeat(B, 2, axis=0))
    other = rotation_exp(0.3 * rng.normal(size=(12, 3)))
    with pytest.raises(GeometryError, match="degrees only"):
        calibrate_imu_rotation(other, rotation_exp(0.3 * rng.normal(size=(12, 3))))
    assert X.shape == (3, 3)


def images(made, offset_ns, *, fps=30.0, noise=1e-3, seed=0):
    """Image times on a clock ahead by `offset_ns`, and rotations between the images with noise."""
    rng = np.random.default_rng(seed)
    t = made.samples.times_ns
    at = np.arange(1.0, t[-1] * 1e-9 - 1.0, 1 / fps) * 1e9
    at = np.round(at).astype(np.int64)
    k = np.searchsorted(t, at, side="right") - 1
    share = (at - t[k]) / (t[k + 1] - t[k])
    R = made.R_world_imu[k] @ rotation_exp(
        share[:, None] * rotation_log(np.swapaxes(made.R_world_imu[k], 1, 2) @ made.R_world_imu[k + 1])
    )
    X = rotation_exp([1.0, 2.0, -0.5])
    between = X @ np.swapaxes(R[:-1], 1, 2) @ R[1:] @ X.T
    return at + offset_ns, between @ rotation_exp(noise * rng.normal(size=(len(between), 3)))


@pytest.mark.parametrize("offset_ms", [-180.0, -3.3, 0.0, 41.7, 333.0])
def test_the_offset_is_found_below_a_sample(offset_ms):
    made = simulate_imu(2, seconds=15, rest_s=0.0)
    free = ImuSamples(
        times_ns=made.samples.times_ns, gyro_rad_s=made.samples.gyro_rad_s - made.bias,
        accel_m_s2=made.samples.accel_m_s2,
    )  # fmt: skip
    times, R = images(made, round(offset_ms * 1e6))
    found = calibrate_imu_offset(times, R, free)
    assert abs(found.offset_ns / 1e6 - offset_ms) < 1.0
    assert found.correlation > 0.95
    assert found.residuals.unit == "rad/s"


def test_offsets_that_cannot_be_told():
    made = simulate_imu(2, seconds=15, rest_s=0.0)
    times, R = images(made, 0)
    with pytest.raises(GeometryError, match="angular speed"):
        calibrate_imu_offset(times, R[::-1].copy(), made.samples)
    with pytest.raises(GeometryError, match="end of the range"):
        calibrate_imu_offset(times + 190_000_000, R, made.samples, TemporalSettings(max_offset_ms=200))
    with pytest.raises(ConfigError, match=r"N \+ 1"):
        calibrate_imu_offset(times[1:], R, made.samples)
    with pytest.raises(ConfigError, match="do not rise"):
        calibrate_imu_offset(np.zeros_like(times), R, made.samples)
