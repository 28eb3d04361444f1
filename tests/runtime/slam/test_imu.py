"""Preintegration against closed form and SciPy's integrator, fusion against batch least squares and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.slam.imu import rotation_errors, simulate_imu
from edge_runtime.buffers import ImuBuffer, ImuSample, ImuSamples, PoseRefusal
from edge_runtime.errors import ConfigError
from edge_runtime.slam import Motion, se3
from edge_runtime.slam.imu import (
    ImuNoise,
    Preintegrated,
    between_images,
    fuse_rotation,
    image_rotation,
    preintegrate,
    rotation_exp,
    rotation_jacobian,
    rotation_log,
)

MS = 1_000_000
vectors = hnp.arrays(np.float64, 3, elements=st.floats(-1, 1))


def samples_of(rate, times_ns):
    times = np.asarray(times_ns, np.int64)
    return ImuSamples(times_ns=times, gyro_rad_s=rate(times * 1e-9), accel_m_s2=np.tile([0, 0, 9.81], (len(times), 1)))


def swing(t):
    """A rate whose direction turns: without the coning term the result is wrong."""
    return np.stack([3 * np.cos(9 * t), 3 * np.sin(9 * t), 0.5 + 0 * t], axis=-1)


def truth(rate, start_ns, end_ns):
    """R' = R [w]x by SciPy's Runge-Kutta of order 8."""
    integrate = pytest.importorskip("scipy.integrate")

    def slope(t, flat):
        return (flat.reshape(3, 3) @ se3.skew(rate(np.array(t)))).ravel()

    ends = (start_ns * 1e-9, end_ns * 1e-9)
    out = integrate.solve_ivp(slope, ends, np.eye(3).ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return out.y[:, -1].reshape(3, 3)


@given(hnp.arrays(np.float64, 3, elements=st.floats(-5, 5)), st.integers(1, 9 * MS), st.integers(31 * MS, 39 * MS))
def test_constant_rate_is_exact_from_any_time_to_any(rate, start, end):
    got = preintegrate(samples_of(lambda t: np.tile(rate, (len(t), 1)), np.arange(0, 50) * MS), start, end)
    np.testing.assert_allclose(got.R_start_end, rotation_exp(rate * (end - start) * 1e-9), atol=1e-13)
    assert (got.start_ns, got.end_ns, got.gap_ns) == (start, end, MS)


def test_error_falls_with_the_square_of_the_sampling_step():
    """A curved rate is known at the samples only; the straight lines between them err with the square."""
    errors = []
    for step in (8 * MS, 4 * MS, 2 * MS):
        got = preintegrate(samples_of(swing, np.arange(0, 400 * MS + step, step)), 0, 400 * MS)
        errors.append(np.linalg.norm(rotation_log(truth(swing, 0, 400 * MS).T @ got.R_start_end)))
    assert errors[-1] < 1e-4
    assert errors[0] / errors[1] > 3.5
    assert errors[1] / errors[2] > 3.5


def test_a_rate_linear_in_time_is_integrated_to_the_fourth_order():
    def rate(t):
        return np.stack([4 * t, 2 - 6 * t, 1 + 3 * t], axis=-1)

    errors = []
    for step in (40 * MS, 20 * MS, 10 * MS):
        got = preintegrate(samples_of(rate, np.arange(0, 401 * MS, step)), 0, 400 * MS)
        errors.append(np.linalg.norm(rotation_log(truth(rate, 0, 400 * MS).T @ got.R_start_end)))
    assert errors[0] / errors[1] > 12
    assert errors[1] / errors[2] > 12


def test_intervals_make_the_whole():
    samples = samples_of(swing, np.arange(0, 100) * 5 * MS)
    parts = [preintegrate(samples, a * MS, b * MS) for a, b in ((3, 101), (101, 188), (188, 402))]
    whole = preintegrate(samples, 3 * MS, 402 * MS, noise=ImuNoise(gyro_bias_walk=0.0))
    product, C = np.eye(3), np.zeros((3, 3))
    for part in parts:
        product = product @ part.R_start_end
        C = part.R_start_end.T @ C @ part.R_start_end + part.covariance
    assert np.linalg.norm(rotation_log(product.T @ whole.R_start_end)) < 1e-5  # the cut steps
    np.testing.assert_allclose(C, whole.covariance, rtol=2e-3, atol=1e-3 * C.max())


@given(vectors, vectors)
def test_bias_jacobian_is_the_derivative(bias, d):
    samples = samples_of(swing, np.arange(0, 41) * 5 * MS)
    got = preintegrate(samples, MS, 190 * MS, bias=bias)
    h = 1e-5
    ends = [preintegrate(samples, MS, 190 * MS, bias=bias + s * h * d) for s in (1, -1)]
    slope = rotation_log(ends[1].R_start_end.T @ ends[0].R_start_end) / (2 * h)
    np.testing.assert_allclose(got.bias_jacobian @ d, slope, atol=2e-5)
    moved = preintegrate(samples, MS, 190 * MS, bias=bias + 1e-3 * d)
    assert np.linalg.norm(rotation_log(got.rotation(bias + 1e-3 * d).T @ moved.R_start_end)) < 1e-6


def test_covariance_is_that_of_many_noisy_recordings():
    noise = ImuNoise(gyro_noise=5e-3, gyro_bias_walk=3e-2)
    times = np.arange(0, 101) * 5 * MS
    clean, dt = samples_of(swing, times), 5e-3
    rng = np.random.default_rng(3)
    true = preintegrate(clean, 0, 500 * MS, noise=noise)
    seen = []
    for _ in range(400):
        walk = np.cumsum(noise.gyro_bias_walk * np.sqrt(dt) * rng.normal(size=(101, 3)), axis=0)
        start = 0.01 * rng.normal(size=3)
        w = clean.gyro_rad_s + noise.gyro_noise / np.sqrt(dt) * rng.normal(size=(101, 3)) + walk - walk[0] + start
        one = ImuSamples(times_ns=times, gyro_rad_s=w, accel_m_s2=clean.accel_m_s2)
        seen.append(rotation_log(true.R_start_end.T @ preintegrate(one, 0, 500 * MS).R_start_end))
    wanted = preintegrate(clean, 0, 500 * MS, noise=noise, bias_covariance=1e-4 * np.eye(3)).covariance
    np.testing.assert_allclose(np.cov(np.array(seen).T), wanted, atol=0.2 * wanted.max())


@pytest.mark.parametrize(
    ("times", "start", "end", "reason"),
    [
        ([], 0, 10, "empty"),
        ([5, 10, 15], 4, 12, "too early"),
        ([5, 10, 15], 6, 16, "too late"),
        ([5, 10, 60, 65], 6, 62, "gap"),
        ([5, 10, 60, 65], 20, 30, "gap"),
    ],
)
def test_what_is_not_covered_is_refused(times, start, end, reason):
    got = preintegrate(samples_of(swing, np.array(times, np.int64) * MS), start * MS, end * MS)
    assert isinstance(got, PoseRefusal)
    assert got.reason == reason


def test_a_gap_elsewhere_does_no_harm():
    got = preintegrate(samples_of(swing, np.array([0, 5, 10, 60, 65]) * MS), 0, 10 * MS)
    assert isinstance(got, Preintegrated)


def test_from_a_buffer_as_from_the_samples():
    buffer = ImuBuffer(offset_ns=7 * MS)
    samples = samples_of(swing, np.arange(0, 60) * 5 * MS)
    for t, w, a in zip(samples.times_ns, samples.gyro_rad_s, samples.accel_m_s2, strict=True):
        buffer.append(ImuSample(time_ns=int(t), gyro_rad_s=w, accel_m_s2=a))
    got = between_images(buffer, 27 * MS, 101 * MS)
    wanted = preintegrate(samples, 20 * MS, 94 * MS)
    np.testing.assert_array_equal(got.R_start_end, wanted.R_start_end)
    assert between_images(buffer, 5 * MS, 30 * MS).reason == "too early"


@pytest.mark.parametrize("bad", ["order", "nan", "shape", "dtype", "ends"])
def test_bad_samples_are_named(bad):
    samples, end = samples_of(swing, np.arange(5) * MS), 3 * MS
    if bad == "order":
        samples = samples_of(swing, np.array([0, 2, 2, 3]) * MS)
    if bad == "nan":
        samples.gyro_rad_s[2, 1] = np.nan
    if bad == "shape":
        samples = ImuSamples(times_ns=samples.times_ns, gyro_rad_s=np.zeros((4, 3)), accel_m_s2=np.zeros((5, 3)))
    if bad == "dtype":
        samples = ImuSamples(
            times_ns=samples.times_ns.astype(float), gyro_rad_s=samples.gyro_rad_s, accel_m_s2=samples.accel_m_s2
        )
    if bad == "ends":
        end = 0
    with pytest.raises(ConfigError):
        preintegrate(samples, 0, end)


@pytest.mark.parametrize("change", [{"gyro_noise": 0}, {"accel_bias_m_s2": -1}, {"max_gap_ms": float("nan")}])
def test_noise_out_of_range(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        ImuNoise(**change)


def spread(rng, n, size):
    A = rng.normal(size=(n, n))
    return size**2 * (A @ A.T / n + 0.1 * np.eye(n))


def motion_of(T, covariance, **more):
    return Motion(T_prev_cur=T, covariance=covariance, time_prev_ns=0, time_ns=33 * MS, **more)


def test_rotation_in_image_axes_with_doubt_about_the_mounting():
    rng = np.random.default_rng(1)
    X, R, Cx = rotation_exp([0.4, -2, 1.0]), rotation_exp([0.2, 0.5, -0.3]), spread(rng, 3, 0.02)
    turned = Preintegrated(
        R_start_end=R, covariance=spread(rng, 3, 0.01), bias_jacobian=np.eye(3), bias=np.zeros(3), start_ns=0,
        end_ns=1, gap_ns=1,
    )  # fmt: skip
    got, C = image_rotation(turned, X, Cx)
    np.testing.assert_allclose(got @ X, X @ R, atol=1e-14)
    n = 20_000
    Xs = X @ rotation_exp(rng.multivariate_normal(np.zeros(3), Cx, n))
    Rs = R @ rotation_exp(rng.multivariate_normal(np.zeros(3), turned.covariance, n))
    seen = rotation_log(got.T @ (Xs @ Rs @ np.swapaxes(Xs, 1, 2)))
    np.testing.assert_allclose(np.cov(seen.T), C, atol=0.04 * C.max())


@given(st.integers(0, 2**32 - 1))
def test_fusion_of_small_errors_is_least_squares(seed):
    rng = np.random.default_rng(seed)
    P, C = spread(rng, 6, 1e-5), spread(rng, 3, 1e-5)
    T = se3.exp(rng.normal(size=6))
    measured = 1e-5 * rng.normal(size=3)
    got = fuse_rotation(motion_of(T, P), T[:3, :3] @ rotation_exp(measured), C)
    # batch: rows of the motion and of the rotation, each whitened
    A = np.concatenate([np.linalg.inv(np.linalg.cholesky(P)), np.linalg.inv(np.linalg.cholesky(C)) @ np.eye(3, 6)])
    b = np.concatenate([np.zeros(6), np.linalg.solve(np.linalg.cholesky(C), measured)])
    wanted = np.linalg.lstsq(A, b, rcond=None)[0]
    np.testing.assert_allclose(se3.log(se3.inverse(T) @ got.T_prev_cur), wanted, atol=1e-9)
    np.testing.assert_allclose(got.covariance, np.linalg.inv(A.T @ A), rtol=1e-3, atol=1e-4 * P.max())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_fusion_of_large_errors_is_the_most_probable_motion(seed):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(seed)
    P, C = spread(rng, 6, 0.2), spread(rng, 3, 0.2)
    T = se3.exp(rng.normal(size=6))
    R = T[:3, :3] @ rotation_exp(0.2 * rng.normal(size=3))
    LP, LC = np.linalg.cholesky(P), np.linalg.cholesky(C)

    def rest(xi):
        off = rotation_log(R.T @ (T @ se3.exp(xi))[:3, :3])
        return np.concatenate([np.linalg.solve(LP, xi), np.linalg.solve(LC, off)])

    wanted = optimize.least_squares(rest, np.zeros(6), xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    got = fuse_rotation(motion_of(T, P), R, C)
    np.testing.assert_allclose(se3.log(se3.inverse(T) @ got.T_prev_cur), wanted, atol=1e-4)


def test_fusion_keeps_what_it_does_not_know_and_says_what_it_is():
    P = np.diag([0.01, 0.01, 0.01, 1, 1, 1.0])
    T = se3.exp(np.array([0.1, 0, 0, 1, 2, 3.0]))
    motion = motion_of(T, P, lag=3, refused="too fast", flags=("reversal",))
    got = fuse_rotation(motion, T[:3, :3], 1e-6 * np.eye(3))
    assert (got.origin, got.refused, got.flags, got.lag) == ("imu+image", "too fast", ("reversal",), 3)
    np.testing.assert_allclose(got.T_prev_cur, T, atol=1e-12)
    np.testing.assert_allclose(np.diag(got.covariance), [1e-6 / (1 + 1e-4)] * 3 + [1, 1, 1], rtol=1e-9)
    far = fuse_rotation(motion, T[:3, :3] @ rotation_exp([0.8, 0, 0]), 1e-6 * np.eye(3))
    assert far.flags == ("reversal", "imu disagrees")
    np.testing.assert_allclose(far.T_prev_cur[:3, :3], T[:3, :3] @ rotation_exp([0.8, 0, 0]), atol=1e-3)


def test_a_known_rotation_and_an_exact_prior_both_hold():
    T = se3.exp(np.array([0.1, 0, 0, 1, 2, 3.0]))
    got = fuse_rotation(motion_of(T, np.zeros((6, 6))), T[:3, :3] @ rotation_exp([0, 0, 1e-3]), 1e-6 * np.eye(3))
    np.testing.assert_allclose(got.T_prev_cur, T, atol=1e-12)


@pytest.mark.parametrize(
    ("R", "C", "word"),
    [
        (2 * np.eye(3), np.eye(3), "no rotation"),
        (-np.eye(3), np.eye(3), "reflection"),
        (np.eye(4), np.eye(3), "no rotation"),
        (np.eye(3), np.zeros((3, 3)), "not positive"),
        (np.eye(3), np.triu(np.ones((3, 3))), "symmetric"),
        (np.eye(3), np.full((3, 3), np.nan), "finite"),
    ],
)
def test_fusion_refuses(R, C, word):
    with pytest.raises(ConfigError, match=word):
        fuse_rotation(motion_of(np.eye(4), np.eye(6)), R, C)


def test_simulated_errors_are_as_large_as_said():
    for origin, (errors, covariances) in rotation_errors(11, seconds=8.0).items():
        nees = np.einsum("ni,nij,nj->n", errors, np.linalg.inv(covariances), errors) / 3
        assert 0.7 < nees.mean() < 1.3, origin
        per_axis = (errors**2 / np.diagonal(covariances, axis1=1, axis2=2)).mean(axis=0)
        assert ((per_axis > 0.65) & (per_axis < 1.35)).all(), (origin, per_axis)


def test_fused_motion_errs_as_said():
    rng = np.random.default_rng(8)
    P, C = spread(rng, 6, 0.03), spread(rng, 3, 0.02)
    T = se3.exp(np.array([0.1, -0.2, 0.3, 1, 2, 3.0]))
    nees = []
    for _ in range(600):
        motion = motion_of(T @ se3.exp(rng.multivariate_normal(np.zeros(6), P)), P)
        got = fuse_rotation(motion, T[:3, :3] @ rotation_exp(rng.multivariate_normal(np.zeros(3), C)), C)
        e = se3.log(se3.inverse(T) @ got.T_prev_cur)
        nees.append(e @ np.linalg.solve(got.covariance, e) / 6)
    assert 0.9 < np.mean(nees) < 1.1


def test_simulated_rates_are_the_trajectory_s_own():
    made = simulate_imu(5, seconds=4, hertz=400, noise=ImuNoise(gyro_noise=1e-9, gyro_bias_walk=0))
    w = made.samples.gyro_rad_s - made.bias
    steps = rotation_log(np.swapaxes(made.R_world_imu[:-1], 1, 2) @ made.R_world_imu[1:]) * 400
    np.testing.assert_allclose(steps, (w[1:] + w[:-1]) / 2, atol=3e-3)
    assert np.abs(rotation_jacobian(np.zeros(3)) - np.eye(3)).max() == 0
