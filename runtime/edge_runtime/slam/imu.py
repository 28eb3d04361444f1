"""Rotation from a gyroscope: preintegration between two images, and its fusion with what the images say.

Acceleration is never integrated: 0.05 m/s^2 of bias are 0.6 m after 5 s. Formulas: Forster, Carlone, Dellaert and
Scaramuzza, On-manifold preintegration (IEEE T-RO 33, 2017), rotation part, with a finer step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import ImuBuffer, ImuSamples, PoseRefusal
from edge_runtime.errors import ConfigError
from edge_runtime.slam import se3
from edge_runtime.slam.motion import Motion

__all__ = [
    "GRAVITY",
    "ImuNoise",
    "Preintegrated",
    "between_images",
    "check_samples",
    "fuse_rotation",
    "image_rotation",
    "preintegrate",
    "rotation_exp",
    "rotation_jacobian",
    "rotation_log",
]

GRAVITY = 9.80665  # m/s^2
DISAGREES = 16.27  # 99.9 % of chi square with 3 degrees of freedom

Floats = npt.NDArray[np.float64]


class ImuNoise(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of a sensor; the defaults are those of a cheap MEMS part held in a hand. `ConfigError` otherwise.

    `gyro_noise` rad/s/sqrt(Hz), white; `gyro_bias_walk` rad/s^2/sqrt(Hz), random walk of the bias; `gyro_bias_rad_s`,
    spread of the bias before anything is known. `accel_noise` m/s^2 per axis, how far a reading is from gravity, the
    hand's own acceleration included, and `accel_correlation_s`, how long such an error lasts; `accel_bias_m_s2`, spread
    of what stays. A reading tells the tilt while its length is within `gravity_gate_m_s2` of g. Samples more than
    `max_gap_ms` apart are not integrated across.
    """

    gyro_noise: float = 2e-4
    gyro_bias_walk: float = 1e-5
    gyro_bias_rad_s: float = 0.02
    accel_noise_m_s2: float = 0.15
    accel_correlation_s: float = 0.1
    accel_bias_m_s2: float = 0.03
    gravity_gate_m_s2: float = 0.3
    max_gap_ms: float = 40.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value, least = getattr(self, name), 0.0
            strictly = name in ("gyro_noise", "gyro_bias_rad_s", "accel_noise_m_s2", "gravity_gate_m_s2", "max_gap_ms")
            if not (value > least if strictly else value >= least) or not np.isfinite(value):
                raise ConfigError(f"{name} is {value}; a finite number {'above' if strictly else 'of at least'} 0")


def rotation_exp(vectors: npt.ArrayLike) -> Floats:
    """Rotations (..., 3, 3) of rotation vectors (..., 3) in rad."""
    return np.ascontiguousarray(se3.exp(_padded(vectors))[..., :3, :3])


def rotation_log(rotations: Floats) -> Floats:
    """Rotation vectors (..., 3) in rad, of length up to pi, of rotations (..., 3, 3)."""
    T = np.zeros((*rotations.shape[:-2], 4, 4))
    T[..., :3, :3], T[..., 3, 3] = rotations, 1
    return np.ascontiguousarray(se3.log(T)[..., :3])


def rotation_jacobian(vectors: npt.ArrayLike) -> Floats:
    """(..., 3, 3) with `Exp(v + d) = Exp(v) Exp(rotation_jacobian(v) d)` to first order in d."""
    return np.ascontiguousarray(se3.right_jacobian(_padded(vectors))[..., :3, :3])


def _padded(vectors: npt.ArrayLike) -> Floats:
    v = np.asarray(vectors, np.float64)
    return np.concatenate([v, np.zeros_like(v)], axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Preintegrated:
    """How the sensor turned from `start_ns` to `end_ns`: its axes at the end seen in those at the start.

    `R_start_end` (3, 3); `covariance` (3, 3) rad^2 for a right perturbation, white noise, random walk and the doubt
    about the bias together; `bias_jacobian` (3, 3) s: what a change of the bias from `bias` (3,) rad/s adds on the
    right; `gap_ns`: the longest step between samples that was integrated over.
    """

    R_start_end: Floats
    covariance: Floats
    bias_jacobian: Floats
    bias: Floats
    start_ns: int
    end_ns: int
    gap_ns: int

    def rotation(self, bias: Floats) -> Floats:
        """`R_start_end` (3, 3) for another bias (3,) rad/s, to first order: nothing is integrated again."""
        return np.asarray(self.R_start_end @ rotation_exp(self.bias_jacobian @ (bias - self.bias)))


def preintegrate(
    samples: ImuSamples,
    start_ns: int,
    end_ns: int,
    *,
    noise: ImuNoise | None = None,
    bias: Floats | None = None,
    bias_covariance: Floats | None = None,
) -> Preintegrated | PoseRefusal:
    """The rotation from `start_ns` to `end_ns` (host time), or why there is none; that is common, so raises nothing.

    `samples` must reach over both ends, where the rate is interpolated. The rate is taken as linear between samples and
    the rotation of each step is the Magnus series to its second term, the mean rate and (dt^2 / 12) w0 x w1 (coning),
    so that the error falls with dt^4. Each step adds gyro_noise^2 dt, so covariances of intervals that follow each
    other add up to that of the whole. Raises `ConfigError` when the end is not after the start, or for bad samples.
    """
    noise = noise or ImuNoise()
    bias = np.zeros(3) if bias is None else np.asarray(bias, np.float64)
    check_samples(samples)
    if end_ns <= start_ns:
        raise ConfigError(f"end_ns {end_ns} is not after start_ns {start_ns}; give the earlier time first")
    times = samples.times_ns
    if len(times) == 0:
        return PoseRefusal(reason="empty", gap_ns=0)
    if times[0] > start_ns:
        return PoseRefusal(reason="too early", gap_ns=int(times[0]) - start_ns)
    if times[-1] < end_ns:
        return PoseRefusal(reason="too late", gap_ns=end_ns - int(times[-1]))
    first = int(np.searchsorted(times, start_ns, side="right")) - 1
    last = int(np.searchsorted(times, end_ns, side="left"))
    gap = int(np.diff(times[first : last + 1]).max())
    if gap > noise.max_gap_ms * 1e6:
        return PoseRefusal(reason="gap", gap_ns=gap)
    inner = times[(times > start_ns) & (times < end_ns)]
    knots = np.concatenate([[start_ns], inner, [end_ns]]).astype(np.int64)
    near = samples.times_ns[first : last + 1] - start_ns
    rates = np.stack([np.interp(knots - start_ns, near, w) for w in samples.gyro_rad_s[first : last + 1].T], axis=1)
    R, covariance, jacobian = _integrate(np.diff(knots) * 1e-9, rates - bias, noise)
    if bias_covariance is not None:
        covariance = covariance + jacobian @ bias_covariance @ jacobian.T
    return Preintegrated(
        R_start_end=R,
        covariance=covariance,
        bias_jacobian=jacobian,
        bias=bias,
        start_ns=int(start_ns),
        end_ns=int(end_ns),
        gap_ns=gap,
    )


def _integrate(seconds: Floats, rates: Floats, noise: ImuNoise) -> tuple[Floats, Floats, Floats]:
    """Rotation, covariance and bias Jacobian of steps (N,) s between rates (N + 1, 3) rad/s."""
    dt = seconds[:, None]
    turns = 0.5 * dt * (rates[:-1] + rates[1:]) + dt**2 / 12 * np.cross(rates[:-1], rates[1:])
    steps, onto = rotation_exp(turns), rotation_jacobian(turns)
    by_bias = -dt[:, :, None] * np.eye(3) + dt[:, :, None] ** 2 / 12 * se3.skew(np.diff(rates, axis=0))
    R, covariance, jacobian, passed = np.eye(3), np.zeros((3, 3)), np.zeros((3, 3)), 0.0
    for step, J, B, s in zip(steps, onto, by_bias, seconds, strict=True):
        R = R @ step
        walk = noise.gyro_bias_walk**2 * s * (passed * (passed + s) + s**2 / 3)  # of the bias since the start
        covariance = step.T @ covariance @ step + J @ J.T * (noise.gyro_noise**2 * s + walk)
        jacobian = step.T @ jacobian + J @ B
        passed += s
    return R, covariance, jacobian


def check_samples(samples: ImuSamples) -> None:
    """Raise `ConfigError` for samples of other shapes, with times that do not rise, or that are not finite."""
    n = len(samples.times_ns)
    if samples.times_ns.dtype != np.int64 or samples.gyro_rad_s.shape != (n, 3) or samples.accel_m_s2.shape != (n, 3):
        raise ConfigError(
            f"times {samples.times_ns.shape} {samples.times_ns.dtype}, gyro {samples.gyro_rad_s.shape}, accel "
            f"{samples.accel_m_s2.shape}: (N,) int64, (N, 3) and (N, 3) are needed"
        )
    if not (np.isfinite(samples.gyro_rad_s).all() and np.isfinite(samples.accel_m_s2).all()):
        raise ConfigError("a rate or acceleration is not finite; leave such samples out")
    steps = np.diff(samples.times_ns)
    if (steps <= 0).any():
        k = int(np.argmax(steps <= 0))
        raise ConfigError(f"sample {k + 1} is at {samples.times_ns[k + 1]} ns, not after {samples.times_ns[k]} ns")


def between_images(
    buffer: ImuBuffer,
    start_ns: int,
    end_ns: int,
    *,
    noise: ImuNoise | None = None,
    bias: Floats | None = None,
    bias_covariance: Floats | None = None,
) -> Preintegrated | PoseRefusal:
    """`preintegrate` with the samples of `buffer` about the two host times."""
    noise = noise or ImuNoise()
    beyond = int(noise.max_gap_ms * 1e6)
    samples = buffer.between(start_ns - beyond, end_ns + beyond + 1)
    return preintegrate(samples, start_ns, end_ns, noise=noise, bias=bias, bias_covariance=bias_covariance)


def image_rotation(
    turned: Preintegrated, R_image_imu: Floats, covariance: Floats | None = None
) -> tuple[Floats, Floats]:
    """`R_prev_cur` (3, 3) of the image's axes and its covariance (3, 3) rad^2, of a rotation of the sensor's.

    `covariance` (3, 3) is that of `R_image_imu`, right perturbation, as the hand-eye calibration gives it.
    """
    R = turned.R_start_end
    inner = turned.covariance
    if covariance is not None:
        G = R.T - np.eye(3)  # X Exp(d) R Exp(-d) X' = X R X' Exp(X (R' - I) d)
        inner = inner + G @ covariance @ G.T
    return np.asarray(R_image_imu @ R @ R_image_imu.T), np.asarray(R_image_imu @ inner @ R_image_imu.T)


def fuse_rotation(motion: Motion, rotation: Floats, covariance: Floats) -> Motion:
    """`motion` with `rotation` (3, 3), an independent measurement of its `R_prev_cur`, taken into account.

    `covariance` (3, 3) rad^2, right perturbation. The most probable motion under both, found by an iterated Kalman
    update, which is Gauss-Newton (Bell and Cathey, IEEE TAC 38, 1993) and the sum of the informations where both have
    one; a translation that errs together with the rotation is corrected with it. The origin becomes "imu+image"; what
    was refused stays refused. When the two differ by more than 99.9 % of cases would, the flag "imu disagrees" is
    added. Raises `ConfigError` for a matrix that is no rotation or a covariance that is not symmetric and positive.
    """
    _check_rotation(rotation, covariance)
    R0 = motion.T_prev_cur[:3, :3]
    prior = motion.covariance
    xi, H = np.zeros(6), np.zeros((3, 6))
    differs = rotation_log(R0.T @ rotation)
    for _ in range(6):
        off = rotation_log(rotation.T @ R0 @ rotation_exp(xi[:3]))
        H[:, :3] = np.linalg.solve(rotation_jacobian(off), rotation_jacobian(xi[:3]))
        gain = np.linalg.solve(H @ prior @ H.T + covariance, H @ prior).T
        step = gain @ (H @ xi - off) - xi
        xi = xi + step
        if np.abs(step).max() < 1e-12:
            break
    rest = np.eye(6) - gain @ H
    J = se3.right_jacobian(xi)
    fused = J @ (rest @ prior @ rest.T + gain @ covariance @ gain.T) @ J.T
    odd = float(differs @ np.linalg.solve(prior[:3, :3] + covariance, differs)) > DISAGREES
    flags = (*motion.flags, "imu disagrees") if odd else motion.flags
    return replace(
        motion, T_prev_cur=motion.T_prev_cur @ se3.exp(xi), covariance=fused, origin="imu+image", flags=flags
    )


def _check_rotation(rotation: Floats, covariance: Floats) -> None:
    if rotation.shape != (3, 3) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6):
        raise ConfigError(f"rotation of shape {rotation.shape} is no rotation matrix (3, 3)")
    if np.linalg.det(rotation) < 0:
        raise ConfigError("rotation is a reflection: its determinant is -1; check the order and signs of the axes")
    if covariance.shape != (3, 3) or not np.isfinite(covariance).all() or not np.allclose(covariance, covariance.T):
        raise ConfigError(f"covariance of shape {covariance.shape}: symmetric, finite (3, 3) in rad^2 is needed")
    if np.linalg.eigvalsh(covariance)[0] <= 0:
        raise ConfigError("the rotation's covariance is not positive; a measurement without doubt is none")
