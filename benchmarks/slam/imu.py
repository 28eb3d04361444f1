"""`imu_rotation`: what a gyroscope in the probe knows of its orientation, simulated; rotations for `consistency`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure, judged
from edge_runtime.buffers import ImuSamples, PoseRefusal
from edge_runtime.slam import Motion, se3
from edge_runtime.slam.imu import (
    GRAVITY,
    ImuNoise,
    fuse_rotation,
    image_rotation,
    preintegrate,
    rotation_exp,
    rotation_jacobian,
    rotation_log,
)
from edge_runtime.slam.orientation import gyro_bias, orientations

__all__ = ["SimulatedImu", "measure_imu_rotation", "rotation_errors", "simulate_imu"]

SECONDS = 60.0
RECORDINGS = 16
REST_S = 1.0
MINUTE_GOAL = "<= 1.5 deg; extra, simulated"
AXES = ("tilt", "heading")
ESTIMATED, HELD, ZERO = "bias estimated", "bias of the first second held", "bias taken as 0"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedImu:
    """Samples, the true `R_world_imu` (N, 3, 3) at their times, and the true bias (N, 3) rad/s."""

    samples: ImuSamples
    R_world_imu: Floats
    bias: Floats


def simulate_imu(
    seed: int, *, seconds: float = SECONDS, hertz: float = 100.0, rest_s: float = REST_S, noise: ImuNoise | None = None
) -> SimulatedImu:
    """A hand that rests, then tilts, rocks and rotates a probe by some tens of degrees, as a sensor would see it.

    Rotation vector: three sums of sines of 0.1 to 1.2 Hz, so the rates are exact; acceleration of the hand: first-order
    Gauss-Markov, as `noise` states it, but not at rest; constant accelerometer bias; gyro bias with its walk.
    """
    noise = noise or ImuNoise()
    rng = np.random.default_rng(seed)
    n, dt = round(seconds * hertz) + 1, 1 / hertz
    t = np.arange(n) * dt
    begun = np.clip((t - rest_s) / 0.5, 0, 1)
    grown = np.clip(t - rest_s, 0, None)
    vector, slope = np.zeros((n, 3)), np.zeros((n, 3))
    window, d_window = begun**2 * (3 - 2 * begun), 6 * begun * (1 - begun) / 0.5
    for axis in range(3):
        for frequency, size in zip(rng.uniform(0.1, 1.2, 4), rng.uniform(0.02, 0.2, 4), strict=True):
            w = 2 * np.pi * frequency
            size *= 0.4 / frequency if frequency > 0.4 else 1.0
            phase = rng.uniform(0, 2 * np.pi)
            wave, d_wave = size * np.sin(w * grown + phase), size * w * np.cos(w * grown + phase)
            vector[:, axis] += window * wave
            slope[:, axis] += d_window * wave + window * np.where(t > rest_s, d_wave, 0)
    start = rotation_exp(rng.normal(0, 0.5, 3))
    R = start @ rotation_exp(vector)
    rate = (rotation_jacobian(vector) @ slope[..., None])[..., 0]
    bias = rng.normal(0, noise.gyro_bias_rad_s, 3) + np.cumsum(
        noise.gyro_bias_walk * np.sqrt(dt) * rng.normal(size=(n, 3)), axis=0
    )
    gyro = rate + bias + noise.gyro_noise / np.sqrt(dt) * rng.normal(size=(n, 3))
    hand = _hand(rng, n, dt, noise) * window[:, None]
    accel = np.swapaxes(R, 1, 2) @ np.array([0, 0, GRAVITY])
    accel = accel + hand + rng.normal(0, noise.accel_bias_m_s2, 3) + rng.normal(0, 0.02, (n, 3))
    times = np.round(t * 1e9).astype(np.int64)
    return SimulatedImu(samples=ImuSamples(times_ns=times, gyro_rad_s=gyro, accel_m_s2=accel), R_world_imu=R, bias=bias)


def _hand(rng: np.random.Generator, n: int, dt: float, noise: ImuNoise) -> Floats:
    """The hand's acceleration (N, 3)."""
    keep = np.exp(-dt / max(noise.accel_correlation_s, 1e-6))
    driven = noise.accel_noise_m_s2 * np.sqrt(1 - keep**2) * rng.normal(size=(n, 3))
    driven[0] = noise.accel_noise_m_s2 * rng.normal(size=3)
    for k in range(1, n):
        driven[k] += keep * driven[k - 1]
    return np.asarray(driven)


def measure_imu_rotation() -> list[Figure]:
    """Orientation error 60 s after the start, tilt and heading apart, with the bias estimated and without; NEES."""
    errors: dict[str, list[Floats]] = {ESTIMATED: [], HELD: [], ZERO: []}
    nees = []
    for seed in range(RECORDINGS):
        made = simulate_imu(1000 + seed)
        for how in errors:
            bias = gyro_bias(_first(made.samples)) if how == HELD else None
            found = orientations(made.samples, bias=bias, estimate_bias=how == ESTIMATED)
            turned = found.R_world_imu @ np.swapaxes(made.R_world_imu, 1, 2)
            errors[how].append(np.rad2deg(_tilt_and_heading(turned)))
            if how == ESTIMATED:
                e = _relative_error(found.R_world_imu, made.R_world_imu)
                nees.append(float(e @ np.linalg.solve(found.covariance[-1], e)) / 3)
    figures = [_figure(how, what, np.array(errors[how])[:, k]) for how in errors for k, what in enumerate(AXES)]
    mean = float(np.mean(nees))
    figures.append(
        Figure(
            name=f"simulated orientation NEES per degree of freedom after {SECONDS:g} s",
            value=mean,
            goal="0.7 to 1.3; extra, simulated",
            unit="",
            n=3 * len(nees),
            met=0.7 <= mean <= 1.3,
            spread=f"standard deviation {np.std(nees):.2f} over {len(nees)} recordings",
        )
    )
    return figures


def _figure(how: str, what: str, degrees: Floats) -> Figure:
    size = np.abs(degrees)
    name, value = f"simulated {what} error after {SECONDS:g} s, {how}, rms", float(np.sqrt((size**2).mean()))
    spread = f"10 to 90 %: {np.percentile(size, 10):.2f} to {np.percentile(size, 90):.2f} deg"
    if how == ESTIMATED:
        return judged(name=name, value=value, goal=MINUTE_GOAL, unit="deg", n=len(size), spread=spread)
    return Figure(name=name, value=value, goal="none: for comparison", unit="deg", n=len(size), met=None, spread=spread)


def _first(samples: ImuSamples) -> ImuSamples:
    """The rest at the start."""
    part = slice(0, int(np.searchsorted(samples.times_ns, int(REST_S * 1e9))))
    return ImuSamples(
        times_ns=samples.times_ns[part], gyro_rad_s=samples.gyro_rad_s[part], accel_m_s2=samples.accel_m_s2[part]
    )


def _relative_error(found: Floats, truth: Floats) -> Floats:
    """Error (3,) of the last orientation, right perturbation, once the headings at the start are made the same."""
    turn = rotation_log(found[0] @ truth[0].T)
    level = rotation_exp(np.array([0, 0, turn[2]]))
    return rotation_log((level @ truth[-1]).T @ found[-1])


def _tilt_and_heading(turned: Floats) -> Floats:
    """Angle between the verticals, found and true, and the heading's error less that at the start, rad; (2,)."""
    vertical = np.arccos(np.clip(turned[-1, 2, 2], -1, 1))
    heading = rotation_log(turned[[0, -1]])[:, 2]
    return np.array([vertical, heading[1] - heading[0]])


def rotation_errors(seed: int, *, fps: float = 30.0, seconds: float = 10.0) -> dict[str, tuple[Floats, Floats]]:
    """Errors (N, 3) rad and covariances (N, 3, 3) of simulated relative rotations, for NEES per axis and origin.

    "imu": preintegrated between images `fps` a second, the bias known as after a second of rest; "imu+image": fused
    with image rotations of 0.3 degrees, whose covariance is right.
    """
    made = simulate_imu(seed, seconds=seconds, rest_s=0.0)
    rng = np.random.default_rng(seed + 1)
    X = rotation_exp(rng.normal(0, 1, 3))
    noise, image = ImuNoise(), np.diag(np.deg2rad([0.3, 0.2, 0.4, 0, 0, 0]) ** 2) + np.diag([0, 0, 0, 0.01, 0.01, 0.09])
    known = noise.gyro_noise**2 * np.eye(3)
    every = np.arange(0, int((seconds - 0.1) * 1e9), int(1e9 / fps))
    alone, fused = ([], []), ([], [])  # type: tuple[list[Floats], list[Floats]], tuple[list[Floats], list[Floats]]
    guess = made.bias[0] + noise.gyro_noise * rng.normal(size=3)
    bias_at = [made.bias[np.searchsorted(made.samples.times_ns, t)] - made.bias[0] for t in every]
    truth = _truth(made, every)
    for k in range(len(every) - 1):
        turned = preintegrate(
            made.samples, int(every[k]), int(every[k + 1]), noise=noise, bias=guess + bias_at[k], bias_covariance=known
        )
        assert not isinstance(turned, PoseRefusal)
        R, C = image_rotation(turned, X)
        true = X @ truth[k].T @ truth[k + 1] @ X.T
        alone[0].append(rotation_log(true.T @ R))
        alone[1].append(C)
        T = np.eye(4)
        T[:3, :3] = true
        motion = Motion(
            T_prev_cur=T @ se3.exp(rng.multivariate_normal(np.zeros(6), image)),
            covariance=image,
            time_prev_ns=int(every[k]),
            time_ns=int(every[k + 1]),
        )
        both = fuse_rotation(motion, R, C)
        fused[0].append(rotation_log(true.T @ both.T_prev_cur[:3, :3]))
        fused[1].append(both.covariance[:3, :3])
    return {
        "imu": (np.array(alone[0]), np.array(alone[1])),
        "imu+image": (np.array(fused[0]), np.array(fused[1])),
    }


def _truth(made: SimulatedImu, times: npt.NDArray[np.int64]) -> Floats:
    """True orientations (M, 3, 3) at `times`, along the arc between samples."""
    k = np.clip(np.searchsorted(made.samples.times_ns, times, side="right") - 1, 0, len(made.R_world_imu) - 2)
    share = (times - made.samples.times_ns[k]) / (made.samples.times_ns[k + 1] - made.samples.times_ns[k])
    step = rotation_log(np.swapaxes(made.R_world_imu[k], 1, 2) @ made.R_world_imu[k + 1])
    return made.R_world_imu[k] @ rotation_exp(step * share[:, None])
