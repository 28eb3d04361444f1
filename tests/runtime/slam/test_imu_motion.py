"""A motion gets the gyro's rotation, or says why not; the page's section on inertial sensors runs."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.slam.imu import simulate_imu
from edge_runtime.buffers import ImuBuffer, ImuSample
from edge_runtime.errors import ConfigError
from edge_runtime.slam import Motion, se3
from edge_runtime.slam.imu import preintegrate, rotation_exp, rotation_log
from edge_runtime.slam.imu_files import write_imu
from edge_runtime.slam.imu_motion import fuse_imu, level_prior

PAGE = Path(__file__).parents[3] / "docs" / "slam.md"


def filled(samples):
    buffer = ImuBuffer()
    for t, w, a in zip(samples.times_ns, samples.gyro_rad_s, samples.accel_m_s2, strict=True):
        buffer.append(ImuSample(time_ns=int(t), gyro_rad_s=w, accel_m_s2=a))
    return buffer


def standing(start_ns, end_ns):
    return Motion(T_prev_cur=np.eye(4), covariance=np.eye(6), time_prev_ns=start_ns, time_ns=end_ns)


def test_the_rotation_is_that_of_the_image_s_axes():
    made = simulate_imu(1, seconds=4)
    X = rotation_exp([0.5, 1.0, -2.0])
    got = fuse_imu(standing(2 * 10**9, 3 * 10**9), filled(made.samples), X, bias=made.bias[200])
    true = X @ made.R_world_imu[200].T @ made.R_world_imu[300] @ X.T
    assert np.linalg.norm(rotation_log(true.T @ got.T_prev_cur[:3, :3])) < 3e-3
    assert got.origin == "imu+image"
    assert (np.diag(got.covariance)[:3] < 1e-6).all()
    np.testing.assert_allclose(np.diag(got.covariance)[3:], 1, rtol=0.3)


def test_what_the_sensor_did_not_see_is_flagged():
    buffer = filled(simulate_imu(1, seconds=4).samples)
    for start, end, word in (
        (-(10**9), 0, "too early"),
        (39 * 10**8, 41 * 10**8, "too late"),
        (90 * 10**9, 91 * 10**9, "empty"),
    ):
        got = fuse_imu(standing(start, end), buffer, np.eye(3))
        assert got.flags == (f"no imu: {word}",)
        assert got.origin == "image"
        np.testing.assert_array_equal(got.covariance, np.eye(6))


@given(st.integers(0, 2**32 - 1))
def test_level_is_level_and_leaves_heading_and_place(seed):
    rng = np.random.default_rng(seed)
    T, up_world = se3.exp(rng.normal(size=6)), rng.normal(size=3)
    up_image = T[:3, :3].T @ up_world + 0.3 * rng.normal(size=3) * np.linalg.norm(up_world)
    got, C = level_prior(T, up_world, up_image, 0.01)
    unit = up_image / np.linalg.norm(up_image)
    np.testing.assert_allclose(got[:3, :3] @ unit, up_world / np.linalg.norm(up_world), atol=1e-9)
    assert abs(rotation_log(got[:3, :3] @ T[:3, :3].T) @ up_world) < 1e-7 * np.linalg.norm(up_world)
    np.testing.assert_array_equal(got[:3, 3], T[:3, 3])
    np.testing.assert_allclose(unit @ C[:3, :3] @ unit, 10)
    assert np.linalg.eigvalsh(C[:3, :3])[0] == pytest.approx(1e-4)


def test_tilts_take_the_drift_of_tilt_out_of_a_graph():
    pytest.importorskip("numba")
    pytest.importorskip("scipy")
    from edge_runtime.slam.graph import PoseGraph

    rng = np.random.default_rng(3)
    steps = se3.exp(np.concatenate([0.1 * rng.normal(size=(30, 3)), rng.normal(size=(30, 3))], axis=1))
    drifting = steps @ se3.exp(np.array([0.02, -0.01, 0.004, 0, 0, 0]))
    truth, graph, up = [np.eye(4)], PoseGraph(), np.array([0.1, -0.9, 0.2])
    graph.add_pose(np.eye(4), fixed=True)
    for k in range(30):
        truth.append(truth[-1] @ steps[k])
        graph.extend(k, drifting[k], np.diag([4e-4] * 3 + [1e-2] * 3))
    before = graph.poses[-1]
    for k in range(2, 31, 2):
        graph.add_prior(k, *level_prior(graph.poses[k], up, truth[k][:3, :3].T @ up, 0.005))
    graph.optimise("huber")

    def tilt(T):
        return np.arccos(np.clip(T[:3, :3].T @ up @ (truth[-1][:3, :3].T @ up) / (up @ up), -1, 1))

    assert tilt(before) > 0.2
    assert tilt(graph.poses[-1]) < 0.02


@pytest.mark.parametrize(
    ("up_world", "up_image", "sigma", "word"),
    [
        ([0, 0, 0], [0, 0, 1], 0.1, "two directions"),
        ([0, 0, 1], [0, np.nan, 1], 0.1, "two directions"),
        ([0, 0, 1], [0, 0, 1], 0.0, "a number"),
        ([0, 0, 1], [0, 0, -1], 0.1, "the pose's down"),
    ],
)
def test_what_is_no_tilt_is_refused(up_world, up_image, sigma, word):
    with pytest.raises(ConfigError, match=word):
        level_prior(np.eye(4), np.array(up_world, float), np.array(up_image, float), sigma)


def test_the_page_s_section_runs(tmp_path, monkeypatch):
    section = PAGE.read_text(encoding="utf-8").split("\n## IMU\n")[1].split("\n## ")[0]
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    made = simulate_imu(4, seconds=12)
    samples = type(made.samples)(
        times_ns=made.samples.times_ns,
        gyro_rad_s=made.samples.gyro_rad_s - made.bias,
        accel_m_s2=made.samples.accel_m_s2,
    )
    write_imu("imu.csv", samples)
    X, at, far = rotation_exp([0.5, 1.0, -2.0]), np.arange(150, 1050, 3), np.arange(150, 1050, 40)

    def between(k):
        return X @ np.swapaxes(made.R_world_imu[k[:-1]], 1, 2) @ made.R_world_imu[k[1:]] @ X.T

    names = {
        "buffer": filled(samples),
        "motion": standing(2 * 10**9, 2 * 10**9 + 33_000_000),
        "image_times_ns": made.samples.times_ns[at],
        "image_rotations": between(at),
        "long_image_rotations": between(far),
        "imu_rotations": np.stack(
            [
                preintegrate(samples, int(samples.times_ns[a]), int(samples.times_ns[b])).R_start_end
                for a, b in pairwise(far)
            ]
        ),
    }
    exec(code, names)
    assert names["fused"].origin == "imu+image"
    assert abs(names["offset"].offset_ns) < 1_000_000
    assert np.linalg.norm(rotation_log(X.T @ names["mounted"].R_image_imu)) < 5e-3
