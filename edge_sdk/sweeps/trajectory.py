"""Paths of a hand-held probe: straight, by a synthetic hand, recorded, and out and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline

from edge_runtime.errors import ConfigError
from edge_sdk.simulate._checks import generator, require

__all__ = ["hand", "path_mm", "read_poses", "resampled", "straight", "there_and_back"]

Floats = npt.NDArray[np.float64]


def straight(n: int, step_mm: float) -> Floats:
    """`n` poses (N, 4, 4), `step_mm` apart along the image normal, the first the identity."""
    require(n >= 1, "n", n, "give at least one pose")
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, 2, 3] = step_mm * np.arange(n)
    return T


def path_mm(T_world_image: Floats, centre_mm: tuple[float, float] = (20.0, 20.0)) -> float:
    """Length in mm of the path of the image point `centre_mm` (x, y) along `T_world_image` (N, 4, 4)."""
    points = T_world_image[:, :3, :3] @ np.array([*centre_mm, 0.0]) + T_world_image[:, :3, 3]
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def hand(
    seed: int,
    n: int,
    length_mm: float,
    *,
    fps: float = 30.0,
    speed_variation: float = 0.4,
    sway_mm: float = 2.0,
    tilt_rad: float = 0.06,
    tremor_mm: float = 0.03,
    centre_x_mm: float = 20.0,
) -> Floats:
    """`n` poses (N, 4, 4) of an unsteady hand that goes `length_mm` along world z, never back, first the identity.

    The speed varies by `speed_variation` (share of its mean), the probe sways sideways by up to `sway_mm`, up and down
    by a quarter of that, turns about the middle of its face (`centre_x_mm`, 0) by up to `tilt_rad` about each axis,
    below 0.7 Hz; the tremor is 6 to 11 Hz (Stiles, J. Appl. Physiol. 40:44, 1976: 8 to 12 Hz), `tremor_mm` in
    amplitude. Raises `ConfigError`.
    """
    require(n >= 2, "n", n, "give at least 2 poses")
    require(0 < length_mm <= 10_000, "length_mm", length_mm, "give up to 10 m")
    require(0 <= speed_variation <= 1, "speed_variation", speed_variation, "give 0 to 1")
    require(0 <= tilt_rad <= 0.5, "tilt_rad", tilt_rad, "give 0 to 0.5 rad")
    require(0 <= sway_mm <= 50 and 0 <= tremor_mm <= 2, "sway_mm", sway_mm, "give up to 50 mm and a tremor up to 2 mm")
    rng, t = generator(seed), np.arange(n) / fps
    speed = np.maximum(1 + speed_variation * _wander(rng, t), 0.1)
    z = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2)])
    z *= length_mm / z[-1]
    place = np.stack([sway_mm * _wander(rng, t), 0.25 * sway_mm * _wander(rng, t), z], 1)
    for axis in range(3):
        place[:, axis] += tremor_mm * np.sin(2 * np.pi * rng.uniform(6, 11) * t + rng.uniform(0, 2 * np.pi))
    turns = np.stack([tilt_rad * _wander(rng, t) for _ in range(3)], 1)
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    pivot = np.array([centre_x_mm, 0.0, 0.0])
    T[:, :3, 3] = place + pivot - T[:, :3, :3] @ pivot
    return _from_first(T)


def there_and_back(T_world_image: Floats, seed: int, *, sway_mm: float = 1.0, tilt_rad: float = 0.03) -> Floats:
    """The path (N, 4, 4) and its way back (2 N - 1 poses), which wanders off it and comes home to the first pose."""
    back = T_world_image[::-1][1:]
    rng, share = generator(seed), np.linspace(0, 1, len(back))
    leave = np.sin(np.pi * share)
    off = np.tile(np.eye(4), (len(back), 1, 1))
    off[:, :3, 3] = leave[:, None] * np.stack([s * _wander(rng, 8 * share) for s in (sway_mm, 0.25 * sway_mm, 0.0)], 1)
    turns = leave[:, None] * np.stack([tilt_rad * _wander(rng, 8 * share) for _ in range(3)], 1)
    off[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    return np.concatenate([T_world_image, back @ off])


def _wander(rng: np.random.Generator, t: Floats) -> Floats:
    """Five waves of 0.05 to 0.7 Hz, slower ones higher, at most 1; t (N,) in s."""
    rate, phase = rng.uniform(0.05, 0.7, 5), rng.uniform(0, 2 * np.pi, 5)
    weight = 1 / (0.1 + rate)
    return np.asarray(np.sin(2 * np.pi * np.outer(t, rate) + phase) @ weight / weight.sum())


def _from_first(T: Floats) -> Floats:
    """The same motion, seen from its first pose."""
    moved: Floats = np.linalg.inv(T[0]) @ T
    moved[0] = np.eye(4)
    return moved


def resampled(T_world_image: Floats, n: int, *, length_mm: float | None = None) -> Floats:
    """`n` poses (N, 4, 4) along a recorded path (M, 4, 4), seen from its first pose; `length_mm` scales its length.

    The recorded poses count as equal in time and are met; between them position and rotation are cubic splines of
    continuous acceleration (scipy's `CubicSpline`, `RotationSpline`). The path always goes out along +z: it is turned
    round where it goes the other way. Raises `ConfigError` for fewer than 4 poses or a path without length.
    """
    require(len(T_world_image) >= 4, "T_world_image", len(T_world_image), "give at least 4 recorded poses")
    require(n >= 2, "n", n, "give at least 2 poses")
    T = _from_first(np.asarray(T_world_image, np.float64))
    if T[-1, 2, 3] < 0:
        T = _from_first(T[::-1])
    if T[-1, 2, 3] < 0:
        flip = np.diag([-1.0, 1.0, -1.0, 1.0])  # half a turn about the beam: the probe held the other way round
        T = flip @ T @ flip
    length = path_mm(T)
    if length <= 0:
        raise ConfigError("the recorded path has no length; give poses that move")
    knots, at = np.arange(len(T), dtype=np.float64), np.linspace(0, len(T) - 1, n)
    out = np.tile(np.eye(4), (n, 1, 1))
    out[:, :3, :3] = RotationSpline(knots, Rotation.from_matrix(T[:, :3, :3]))(at).as_matrix()
    scale = 1.0 if length_mm is None else length_mm / length
    out[:, :3, 3] = CubicSpline(knots, T[:, :3, 3])(at) * scale
    return _from_first(out)


def read_poses(path: str | Path, calibration: str | Path | None = None) -> Floats:
    """Recorded poses (N, 4, 4) of a probe from a text file, each row: port, status, x y z mm, quaternion x y z w.

    That is the layout of FreehandUSRecon's demo. `calibration` is a text file of a 4x4 `T_probe_image`; of it only the
    nearest rotation and the translation are kept, for it may scale. Raises `ConfigError` naming the file and row.
    """
    rows = np.loadtxt(path, ndmin=2)
    if rows.shape[1] != 9 or not np.isfinite(rows).all():
        raise ConfigError(f"{path}: rows of {rows.shape[1]} numbers; 9 finite numbers a row are needed")
    length = np.linalg.norm(rows[:, 5:], axis=1)
    if (abs(length - 1) > 1e-2).any():
        bad = int(np.argmax(abs(length - 1)))
        raise ConfigError(f"{path}: row {bad + 1}: the quaternion has length {length[bad]:.4g}; 1 is needed")
    T = np.tile(np.eye(4), (len(rows), 1, 1))
    T[:, :3, :3] = Rotation.from_quat(rows[:, 5:]).as_matrix()
    T[:, :3, 3] = rows[:, 2:5]
    if calibration is None:
        return T
    fixed = np.loadtxt(calibration, ndmin=2)
    if fixed.shape != (4, 4):
        raise ConfigError(f"{calibration}: a matrix {fixed.shape}; (4, 4) is needed")
    u, _, v = np.linalg.svd(fixed[:3, :3])
    fixed[:3, :3] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ v)]) @ v
    return T @ fixed
