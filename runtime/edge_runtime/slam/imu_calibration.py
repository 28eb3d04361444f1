"""How the sensor lies in the probe, and how its clock lies to the images': from rotations that both have seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import ImuSamples
from edge_runtime.calibration.temporal import TemporalCalibration, TemporalSettings, calibrate_offset
from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.slam import se3
from edge_runtime.slam.imu import check_samples, rotation_log

__all__ = ["HandEye", "calibrate_imu_offset", "calibrate_imu_rotation"]

LEAST_PAIRS = 10
LEAST_TURN = np.deg2rad(3.0)  # rms rotation about axes other than the main one
WORST_DEGREES = 5.0  # standard deviation of the least certain axis
ROUNDS = 10
HUBER = 1.345

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HandEye:
    """`R_image_imu` (3, 3): the sensor's axes seen in the image's, `covariance` (3, 3) rad^2, right perturbation.

    `residuals_rad` (N,): length of image rotation less turned sensor rotation, per pair; `weights` (N,) in (0, 1], less
    than 1 for pairs that do not fit. `rms_rad` is that of the residuals, weighted. `other_axes_rad`: rms rotation about
    axes other than the main one, which the certainty about the main axis rests on.
    """

    R_image_imu: Floats
    covariance: Floats
    residuals_rad: Floats
    weights: Floats
    rms_rad: float
    other_axes_rad: float


def calibrate_imu_rotation(image_rotations: Floats, imu_rotations: Floats) -> HandEye:
    """`R_image_imu` from N pairs (N, 3, 3) of rotations over the same intervals: A X = X B, rotation part.

    A are `R_prev_cur` of the image (of tracked poses, or of odometry), B `R_start_end` of the sensor. The rotation
    vectors obey log A = X log B (Park and Martin, IEEE T-RA 10, 1994), solved by singular values, which keeps X a
    rotation under noise, with Huber's weights (1.345) for pairs that do not fit. Long intervals, in which the probe
    turns by 10 degrees and more, tell most. Raises `ConfigError` for other shapes, and `GeometryError` for fewer than
    10 pairs, for turns about one axis only (the sensor could be turned about it at will), or for rotations that do not
    agree.
    """
    shapes = image_rotations.shape, imu_rotations.shape
    if shapes[0] != shapes[1] or image_rotations.ndim != 3 or shapes[0][1:] != (3, 3):
        raise ConfigError(f"image rotations {shapes[0]} and sensor rotations {shapes[1]}: both (N, 3, 3) are needed")
    for name, R in (("image", image_rotations), ("sensor", imu_rotations)):
        if not np.allclose(R @ np.swapaxes(R, 1, 2), np.eye(3), atol=1e-6) or (np.linalg.det(R) < 0).any():
            raise ConfigError(f"an {name} rotation is no rotation matrix; leave out what was refused or invalid")
    if len(image_rotations) < LEAST_PAIRS:
        raise GeometryError(f"{len(image_rotations)} pairs of rotations; at least {LEAST_PAIRS} are needed")
    a, b = rotation_log(image_rotations), rotation_log(imu_rotations)
    others = _other_axes(b)
    weights = np.ones(len(a))
    X = _turned(a, b, weights)
    for _ in range(ROUNDS):
        size = np.linalg.norm(a - b @ X.T, axis=1)
        scale = max(float(np.median(size)) / 1.538, 1e-12)  # the median length of three unit normals
        weights = np.minimum(1.0, HUBER * np.sqrt(3) * scale / np.maximum(size, 1e-15))
        X = _turned(a, b, weights)
    return _judged(a, b, X, weights, others)


def _other_axes(b: Floats) -> float:
    """Rms rotation about axes other than the main one; `GeometryError` when that is too little."""
    size, axes = np.linalg.eigh(b.T @ b / len(b))
    others = float(np.sqrt(max(size[0] + size[1], 0.0)))
    if others < LEAST_TURN:
        main = ", ".join(f"{c:.2f}" for c in axes[:, 2])
        raise GeometryError(
            f"the probe turned about one axis only ({main} of the sensor): {np.rad2deg(others):.2f} degrees rms about "
            f"others, {np.rad2deg(LEAST_TURN):g} are needed; tilt, rock and rotate it in turn"
        )
    return others


def _turned(a: Floats, b: Floats, weights: Floats) -> Floats:
    """The rotation X that makes the weighted sum of |a - X b|^2 least (Kabsch, Acta Cryst. A32, 1976)."""
    U, _, Vt = np.linalg.svd((weights[:, None] * a).T @ b)
    return np.asarray(U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt)


def _judged(a: Floats, b: Floats, X: Floats, weights: Floats, others: float) -> HandEye:
    rest = a - b @ X.T
    J = -X @ se3.skew(b)
    inverse = np.linalg.inv(np.einsum("n,nij,nik->jk", weights, J, J))
    variance = float((weights * (rest**2).sum(axis=1)).sum()) / (3 * len(a) - 3)
    covariance = max(variance, 1e-18) * inverse
    worst = float(np.rad2deg(np.sqrt(np.linalg.eigvalsh(covariance)[2])))
    if worst > WORST_DEGREES:
        raise GeometryError(
            f"the rotation between sensor and image is known to {worst:.1f} degrees only, {WORST_DEGREES:g} are "
            "allowed; the rotations of image and sensor disagree: check the time offset, or record larger turns"
        )
    size = np.linalg.norm(rest, axis=1)
    return HandEye(
        R_image_imu=X,
        covariance=covariance,
        residuals_rad=size,
        weights=weights,
        rms_rad=float(np.sqrt((weights * size**2).sum() / weights.sum())),
        other_axes_rad=others,
    )


def calibrate_imu_offset(
    image_times_ns: npt.NDArray[np.int64],
    image_rotations: Floats,
    samples: ImuSamples,
    settings: TemporalSettings | None = None,
) -> TemporalCalibration:
    """The image's clock less the sensor's, from the angular speed that both have seen; what `ImuBuffer` takes.

    `image_times_ns` (N + 1,), `image_rotations` (N, 3, 3): `R_prev_cur` from each image to the next. The length of the
    sensor's rate, averaged over the images' interval, is correlated with the images' angle per second, in steps of 1
    ms, and the peak refined by a parabola. Speeds need no hand-eye rotation; a bias of the gyro must be taken off
    before. Raises `ConfigError` for lengths or times that do not fit and `GeometryError` when the two do not turn
    alike, or the best offset lies at the end of the range.
    """
    check_samples(samples)
    steps = np.diff(image_times_ns)
    if image_rotations.shape != (len(image_times_ns) - 1, 3, 3) or image_times_ns.dtype != np.int64 or len(steps) < 3:
        raise ConfigError(
            f"{image_times_ns.shape} times {image_times_ns.dtype} and rotations {image_rotations.shape}: (N + 1,) "
            "int64 and (N, 3, 3), N of at least 3, are needed"
        )
    if (steps <= 0).any():
        raise ConfigError(f"the image times do not rise (a step of {int(steps.min())} ns); leave out repeated images")
    image_speed = np.linalg.norm(rotation_log(image_rotations), axis=1) / (steps * 1e-9)
    middle = image_times_ns[:-1] + steps // 2
    times, speed = _averaged(samples, int(np.median(steps)))
    try:
        found = calibrate_offset(middle, image_speed, times, speed, settings)
    except GeometryError as error:
        raise GeometryError(
            f"image and sensor, by angular speed: {error} (for a sensor: turn the probe to and fro, unevenly)"
        ) from error
    seen = np.interp(middle - found.offset_ns, times, speed)
    if (seen - seen.mean()) @ (image_speed - image_speed.mean()) < 0:
        raise GeometryError("the sensor turns fast where the images turn slowly; the two are not of one recording")
    return replace(found, residuals=replace(found.residuals, unit="rad/s"))


def _averaged(samples: ImuSamples, width_ns: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Length of the rate averaged over `width_ns` about each sample time that has room for it."""
    t = samples.times_ns - samples.times_ns[0]
    steps = np.diff(t)[:, None]
    areas = np.concatenate(
        [np.zeros((1, 3)), np.cumsum(0.5 * steps * (samples.gyro_rad_s[1:] + samples.gyro_rad_s[:-1]), axis=0)]
    )
    room = (t >= width_ns / 2) & (t <= t[-1] - width_ns / 2)
    at = t[room]
    turned = [np.interp(at + width_ns / 2, t, c) - np.interp(at - width_ns / 2, t, c) for c in areas.T]
    return samples.times_ns[room], np.asarray(np.linalg.norm(np.stack(turned, axis=1), axis=1) / width_ns)
