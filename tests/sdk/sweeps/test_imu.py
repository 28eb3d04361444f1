"""The simulated inertial sensor against differences of its own poses."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.slam import se3

pytest.importorskip("scipy")

from edge_sdk.sweeps import ImuModel, simulate_imu


def test_rates_turn_the_sensor_as_its_poses_do_about_every_axis() -> None:
    times = np.linspace(0, 4, 60)
    xi = np.stack([0.9 * np.sin(times), 0.7 * np.cos(1.3 * times), 1.1 * times / 4, 5 * times, times, -times], axis=-1)
    T = se3.exp(xi)
    model = ImuModel(
        rate_hz=400.0, gyro_noise=0.0, gyro_walk=0.0, gyro_bias=0.0, accel_noise=0.0, accel_bias=0.0,
        turn_rad=(0.4, -0.8, 1.2),
    )  # fmt: skip
    samples, truth = simulate_imu(T, np.rint(times * 1e9).astype(np.int64), model, 0)
    # the rates, taken one after the other, turn the sensor from its first pose to its last
    steps = 0.5 * (samples.gyro_rad_s[1:] + samples.gyro_rad_s[:-1]) / model.rate_hz
    turned = np.eye(3)
    for step in steps:
        turned = turned @ se3.exp(np.append(step, np.zeros(3)))[:3, :3]
    R = (T @ truth.T_image_imu)[:, :3, :3]
    off = se3.log(np.block([[R[0].T @ R[-1] @ turned.T, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))[:3]
    assert np.linalg.norm(off) < 2e-3
    # at rest but for the turn, the specific force is the reaction to gravity
    assert np.linalg.norm(samples.accel_m_s2, axis=1) == pytest.approx(9.81, abs=0.4)
