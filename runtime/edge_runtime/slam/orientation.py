"""Orientation from gyroscope and gravity: an error-state filter of a rotation and a gyro bias, and the bias at rest.

The world's z axis points up; its heading is that of the first sample, for an IMU without a compass knows no other.
Error-state filter: Sola, Quaternion kinematics for the error-state Kalman filter (arXiv 1711.02508), sections 5 to 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import ImuSamples
from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.geometry import vector_to_rotation
from edge_runtime.slam import se3
from edge_runtime.slam.imu import GRAVITY, ImuNoise, check_samples

__all__ = [
    "GyroBias",
    "OrientationFilter",
    "Orientations",
    "gravity_rotation",
    "gyro_bias",
    "orientations",
    "stationary",
]

STILL_S = 0.5  # how long the sensor must rest
EDGE_S = 0.1  # left out at both ends of a rest, where the motion may have begun
STILL_RATE = 0.003  # rad/s, spread of the rate per axis beyond the sensor's noise that still is rest
STILL_ACCEL = 0.05  # m/s^2
STILL_MEAN = 0.1  # rad/s; above it a steady turn is more likely than a bias

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GyroBias:
    """`bias` (3,) rad/s and its covariance (3, 3), from `seconds` of rest."""

    bias: Floats
    covariance: Floats
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Orientations:
    """At `times_ns` (N,): `R_world_imu` (N, 3, 3), its covariance (N, 3, 3) rad^2, `bias` (N, 3) rad/s.

    Right perturbation; `bias_covariance` (N, 3, 3). `tilted` (N,): whether gravity was believed at that sample.
    """

    times_ns: npt.NDArray[np.int64]
    R_world_imu: Floats
    covariance: Floats
    bias: Floats
    bias_covariance: Floats
    tilted: npt.NDArray[np.bool_]


def gravity_rotation(accel_m_s2: Floats) -> Floats:
    """`R_world_imu` (3, 3) that turns a reading (3,) of a sensor at rest to +z, by the shortest way.

    At rest an accelerometer reads g upwards. Raises `ConfigError` for a reading shorter than 1 m/s^2.
    """
    length = float(np.linalg.norm(accel_m_s2))
    if not np.isfinite(length) or length < 1:
        raise ConfigError(f"the acceleration {accel_m_s2} has no direction; about {GRAVITY:.2f} m/s^2 are needed")
    x, y, z = accel_m_s2 / length
    axis = np.array([y, -x, 0.0])  # (x, y, z) x (0, 0, 1)
    sine = float(np.linalg.norm(axis))
    axis = axis / sine if sine > 1e-12 else np.array([1.0, 0.0, 0.0])
    return vector_to_rotation(axis * np.arctan2(sine, z))


def stationary(samples: ImuSamples, noise: ImuNoise | None = None) -> npt.NDArray[np.bool_]:
    """(N,) whether each sample lies in at least 0.5 s of rest: rate and acceleration steady, and hardly any rate.

    0.1 s at both ends of a rest are left out. A slow steady turn looks the same as a bias; above 0.1 rad/s it is held
    for a turn. A probe on a table rests; a hand trembles more than this allows.
    """
    check_samples(samples)
    noise = noise or ImuNoise()
    times = samples.times_ns
    still = np.zeros(len(times), bool)
    if len(times) < 2:
        return still
    white = noise.gyro_noise**2 / (float(np.median(np.diff(times))) * 1e-9)
    limit = np.array([STILL_RATE**2 + 1.4 * white] * 3 + [STILL_ACCEL**2] * 3)
    columns = np.concatenate([samples.gyro_rad_s, samples.accel_m_s2], axis=1)
    middle = columns.mean(axis=0)
    sums = np.concatenate([np.zeros((1, 6)), np.cumsum(columns - middle, axis=0)])
    squares = np.concatenate([np.zeros((1, 6)), np.cumsum((columns - middle) ** 2, axis=0)])
    ends = np.searchsorted(times, times + int(STILL_S * 1e9), side="right")
    count = (ends - np.arange(len(times)))[:, None]
    mean = (sums[ends] - sums[:-1]) / count
    spread = (squares[ends] - squares[:-1]) / count - mean**2
    rests = (spread < limit).all(axis=1) & (np.abs(mean + middle)[:, :3] < STILL_MEAN).all(axis=1)
    rests &= (count[:, 0] >= 10) & (times <= times[-1] - int(STILL_S * 1e9))
    for k in np.flatnonzero(rests):
        first, last = np.searchsorted(times, times[k] + np.array([EDGE_S, STILL_S - EDGE_S]) * 1e9)
        still[first:last] = True
    return still


def gyro_bias(samples: ImuSamples, noise: ImuNoise | None = None) -> GyroBias:
    """The mean rate while the sensor rests. Raises `ReconstructionError` when it never does for 0.5 s."""
    noise = noise or ImuNoise()
    still = stationary(samples, noise)
    if not still.any():
        raise ReconstructionError(
            f"the sensor never rests for {STILL_S:g} s in {len(still)} samples; begin with the probe laid down"
        )
    step = float(np.median(np.diff(samples.times_ns))) * 1e-9
    seconds = float(still.sum()) * step
    rates = samples.gyro_rad_s[still]
    white = max(noise.gyro_noise**2 / step, float(rates.var(axis=0).mean()))
    span = float(samples.times_ns[still][-1] - samples.times_ns[still][0]) * 1e-9
    variance = white * step / seconds + noise.gyro_bias_walk**2 * span
    return GyroBias(bias=rates.mean(axis=0), covariance=variance * np.eye(3), seconds=seconds)


class OrientationFilter:
    """Sample by sample: the gyro turns, gravity corrects the tilt, rest tells the bias.

    State: `R_world_imu` (3, 3), `bias` (3,) rad/s, `accel_bias` (3,) m/s^2, and the covariance (9, 9) of the three, the
    rotation by right perturbation. The accelerometer's bias is a state because it turns with the probe: left out, it
    passes for a bias of the gyro.
    Heading is never corrected by gravity: the gain about the vertical is set to zero, and the covariance is that of the
    gain used (Joseph's form). With `estimate_bias=False` the bias stays as given and its doubt counts for nothing: what
    a plain complementary filter does.
    """

    def __init__(
        self, noise: ImuNoise | None = None, bias: GyroBias | None = None, *, estimate_bias: bool = True
    ) -> None:
        self.noise = noise or ImuNoise()
        self.estimate_bias = estimate_bias
        self.R_world_imu = np.eye(3)
        self.bias = np.zeros(3) if bias is None else bias.bias.copy()
        self.accel_bias = np.zeros(3)
        self._P = np.zeros((9, 9))
        self._P[6:, 6:] = self.noise.accel_bias_m_s2**2 * np.eye(3)
        if estimate_bias:
            spread = self.noise.gyro_bias_rad_s**2 * np.eye(3)
            self._P[3:6, 3:6] = spread if bias is None else bias.covariance
        self._last: tuple[int, Floats] | None = None
        self.tilted = False

    @property
    def covariance(self) -> Floats:
        """(3, 3) rad^2 of `R_world_imu`, right perturbation; the heading's from the start on."""
        return self._P[:3, :3].copy()

    @property
    def bias_covariance(self) -> Floats:
        """(3, 3) of `bias`."""
        return self._P[3:6, 3:6].copy()

    def add(self, time_ns: int, gyro_rad_s: Floats, accel_m_s2: Floats, *, still: bool = False) -> None:
        """Take the next sample; `still` when the sensor is known to rest.

        Raises `ConfigError` when the time does not follow, `ReconstructionError` for a gap above `max_gap_ms`: the
        heading is lost there, begin a new filter.
        """
        if self._last is None:
            self.R_world_imu = gravity_rotation(accel_m_s2)
            by_accel = se3.skew(self.R_world_imu[2]) / GRAVITY  # the tilt that an error of the reading makes
            self._P[:3, :3] = self.noise.accel_noise_m_s2**2 * by_accel @ by_accel.T
            self._P[:3, :3] += by_accel @ self._P[6:, 6:] @ by_accel.T
            self._P[:3, 6:] = by_accel @ self._P[6:, 6:]
            self._P[6:, :3] = self._P[:3, 6:].T
            self._last = (int(time_ns), gyro_rad_s)
            return
        step_ns = int(time_ns) - self._last[0]
        if step_ns <= 0:
            raise ConfigError(f"a sample at {time_ns} ns does not follow that at {self._last[0]} ns")
        if step_ns > self.noise.max_gap_ms * 1e6:
            raise ReconstructionError(
                f"no sample for {step_ns / 1e6:.1f} ms before {time_ns} ns, {self.noise.max_gap_ms:g} ms are allowed; "
                "the heading is lost, begin again after the gap"
            )
        self._turn(step_ns * 1e-9, gyro_rad_s)
        self._tilt(step_ns * 1e-9, accel_m_s2)
        if still and self.estimate_bias:
            self._correct(
                np.eye(3, 9, 3), gyro_rad_s - self.bias, self.noise.gyro_noise**2 / (step_ns * 1e-9) * np.eye(3)
            )
        self._last = (int(time_ns), gyro_rad_s)

    def _vertical(self) -> Floats:
        return np.outer(self.R_world_imu[2], self.R_world_imu[2])

    def _turn(self, dt: float, gyro: Floats) -> None:
        assert self._last is not None
        before, after = self._last[1] - self.bias, gyro - self.bias
        turn = 0.5 * dt * (before + after) + dt**2 / 12 * np.cross(before, after)
        step, W = vector_to_rotation(turn), se3.skew(turn)
        J = np.eye(3) - W / 2 + W @ W / 6  # a step turns by some mrad
        F = np.eye(9)
        F[:3, :3] = step.T
        if self.estimate_bias:
            F[:3, 3:6] = -J * dt
        self.R_world_imu = self.R_world_imu @ step
        self._P = F @ self._P @ F.T
        self._P[:3, :3] += self.noise.gyro_noise**2 * dt * np.eye(3)
        if self.estimate_bias:
            self._P[3:6, 3:6] += self.noise.gyro_bias_walk**2 * dt * np.eye(3)

    def _tilt(self, dt: float, accel: Floats) -> None:
        """Up in the sensor's axes is R' z; Exp(d) on the right makes it up + up x d."""
        length = float(np.linalg.norm(accel))
        off = abs(length - GRAVITY)
        self.tilted = off < self.noise.gravity_gate_m_s2
        if not self.tilted:
            return
        up = self.R_world_imu[2]
        level = np.eye(3) - np.outer(up, up)
        H = np.concatenate([se3.skew(up), np.zeros((3, 3)), level / GRAVITY], axis=1)
        lasting = max(1.0, 2 * self.noise.accel_correlation_s / dt)
        variance = (self.noise.accel_noise_m_s2**2 + off**2) / GRAVITY**2 * lasting
        differs = accel / length - up - level @ self.accel_bias / GRAVITY
        self._correct(H, differs, variance * np.eye(3), level=True)

    def _correct(self, H: Floats, differs: Floats, R: Floats, *, level: bool = False) -> None:
        gain = np.linalg.solve(H @ self._P @ H.T + R, H @ self._P).T
        if level:
            gain[:3] -= self._vertical() @ gain[:3]
        if not self.estimate_bias:
            gain[3:6] = 0
        change = gain @ differs
        self.R_world_imu = self.R_world_imu @ vector_to_rotation(change[:3])
        self.bias = self.bias + change[3:6]
        self.accel_bias = self.accel_bias + change[6:]
        rest = np.eye(9) - gain @ H
        self._P = rest @ self._P @ rest.T + gain @ R @ gain.T


def orientations(
    samples: ImuSamples,
    noise: ImuNoise | None = None,
    bias: GyroBias | None = None,
    *,
    estimate_bias: bool = True,
) -> Orientations:
    """`OrientationFilter` over a whole recording, its stretches of rest found by `stationary`.

    `bias` is what was known before: that of these samples would count their rest twice.

    Raises `ConfigError` for no samples or bad ones, `ReconstructionError` for a gap.
    """
    still = stationary(samples, noise)
    n = len(still)
    if n == 0:
        raise ConfigError("there are no inertial samples; check the recording and its clock offset")
    follow = OrientationFilter(noise, bias, estimate_bias=estimate_bias)
    R, P, b, B = np.empty((n, 3, 3)), np.empty((n, 3, 3)), np.empty((n, 3)), np.empty((n, 3, 3))
    tilted = np.zeros(n, bool)
    for k in range(n):
        follow.add(int(samples.times_ns[k]), samples.gyro_rad_s[k], samples.accel_m_s2[k], still=bool(still[k]))
        R[k], P[k], b[k], B[k] = follow.R_world_imu, follow.covariance, follow.bias, follow.bias_covariance
        tilted[k] = follow.tilted
    return Orientations(
        times_ns=samples.times_ns, R_world_imu=R, covariance=P, bias=b, bias_covariance=B, tilted=tilted
    )
