"""Gyroscope and accelerometer of a probe that moves along known poses, with bias, noise, lever arm and late clock."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.interpolate import make_interp_spline
from scipy.spatial.transform import Rotation, RotationSpline

from edge_runtime.buffers import ImuSamples
from edge_sdk.simulate._checks import require

__all__ = ["GRAVITY_M_S2", "ImuModel", "ImuTruth", "simulate_imu"]

GRAVITY_M_S2 = 9.80665

Floats = npt.NDArray[np.float64]


class ImuModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A small MEMS sensor: white noise densities, constant biases and the walk of the gyro's bias.

    `gyro_noise` rad/s/sqrt(Hz), `gyro_bias` rad/s (1 sigma, constant), `gyro_walk` rad/s/sqrt(s), `accel_noise`
    m/s^2/sqrt(Hz), `accel_bias` m/s^2 (1 sigma). The sensor sits at `lever_mm` in the image frame, turned by
    `turn_rad` (rotation vector, image <- sensor). Its clock is `offset_ns` late: a sample stamped t was taken at
    t - offset_ns. `down` is the direction of gravity in the world. Raises `ConfigError` for numbers out of range.
    """

    rate_hz: float = 200.0
    gyro_noise: float = 1e-4
    gyro_bias: float = 5e-3
    gyro_walk: float = 5e-5
    accel_noise: float = 2e-3
    accel_bias: float = 0.05
    lever_mm: tuple[float, float, float] = (20.0, -80.0, 0.0)
    turn_rad: tuple[float, float, float] = (0.0, 0.0, 0.0)
    offset_ns: int = 0
    down: tuple[float, float, float] = (0.0, 1.0, 0.0)

    def __post_init__(self) -> None:
        require(20 <= self.rate_hz <= 10_000, "rate_hz", self.rate_hz, "give 20 to 10000 Hz")
        for name in ("gyro_noise", "gyro_bias", "gyro_walk", "accel_noise", "accel_bias"):
            value = getattr(self, name)
            require(bool(0 <= value <= 10), name, value, "give 0 (none) to 10")
        for name in ("lever_mm", "turn_rad", "down"):
            value = getattr(self, name)
            require(bool(np.isfinite(value).all()), name, value, "give three finite numbers")
        require(bool(abs(np.linalg.norm(self.down) - 1) < 1e-6), "down", self.down, "give a direction of length 1")
        require(abs(self.offset_ns) <= 1_000_000_000, "offset_ns", self.offset_ns, "give at most a second")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImuTruth:
    """What the samples hide: biases at every sample (N, 3), rad/s and m/s^2, and `T_image_imu` (4, 4) in mm."""

    gyro_bias_rad_s: Floats
    accel_bias_m_s2: Floats
    T_image_imu: Floats
    offset_ns: int


def simulate_imu(
    T_world_image: Floats, times_ns: npt.NDArray[np.int64], model: ImuModel, seed: int | np.random.Generator
) -> tuple[ImuSamples, ImuTruth]:
    """Samples from the first to the last of `times_ns` (N,) of a probe at `T_world_image` (N, 4, 4), N >= 4.

    Between poses the motion is smooth: quintic in position, a spline of continuous angular acceleration in rotation
    (scipy's `RotationSpline`). Rate in rad/s and specific force (acceleration less gravity) in m/s^2, in the sensor's
    axes; noise of density d has standard deviation d sqrt(rate). Raises `ConfigError` for fewer poses or equal times.
    """
    require(len(T_world_image) >= 4, "T_world_image", len(T_world_image), "give at least 4 poses")
    require(bool((np.diff(times_ns) > 0).all()), "times_ns", "not rising", "give a later time for every pose")
    rng = np.random.default_rng(seed)
    T_image_imu = np.eye(4)
    T_image_imu[:3, :3] = Rotation.from_rotvec(model.turn_rad).as_matrix()
    T_image_imu[:3, 3] = model.lever_mm
    T_world_imu = T_world_image @ T_image_imu
    seconds = (times_ns - times_ns[0]) * 1e-9
    t = np.arange(int(seconds[-1] * model.rate_hz) + 1) / model.rate_hz
    turning = RotationSpline(seconds, Rotation.from_matrix(T_world_imu[:, :3, :3]))
    place = make_interp_spline(seconds, T_world_imu[:, :3, 3] * 1e-3, k=5 if len(seconds) > 5 else 3)
    R_world_imu = turning(t).as_matrix()
    rate = turning(t, 1)  # in the axes of the body already
    force = place(t, nu=2) - GRAVITY_M_S2 * np.array(model.down)
    force = np.einsum("nji,nj->ni", R_world_imu, force)
    n, root = len(t), model.rate_hz**0.5
    walk = np.cumsum(rng.standard_normal((n, 3)), 0) * (model.gyro_walk / root)
    gyro_bias = model.gyro_bias * rng.standard_normal(3) + walk
    accel_bias = np.tile(model.accel_bias * rng.standard_normal(3), (n, 1))
    samples = ImuSamples(
        times_ns=times_ns[0] + model.offset_ns + np.rint(t * 1e9).astype(np.int64),
        gyro_rad_s=rate + gyro_bias + model.gyro_noise * root * rng.standard_normal((n, 3)),
        accel_m_s2=force + accel_bias + model.accel_noise * root * rng.standard_normal((n, 3)),
    )
    truth = ImuTruth(
        gyro_bias_rad_s=gyro_bias, accel_bias_m_s2=accel_bias, T_image_imu=T_image_imu, offset_ns=model.offset_ns
    )
    return samples, truth
