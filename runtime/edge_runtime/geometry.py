"""Rigid poses. `T_to_from` maps coordinates in `from` to coordinates in `to`; millimetres, LPS, 4x4 float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = [
    "Pose",
    "PoseOrigin",
    "interpolate_rigid",
    "invert_rigid",
    "is_rigid",
    "quaternion_wxyz_to_rotation",
    "rotation_to_quaternion_wxyz",
    "rotation_to_vector",
    "vector_to_rotation",
]

PoseOrigin = Literal["tracker", "imu+image", "image"]


def is_rigid(T: npt.NDArray[np.float64], tolerance: float = 1e-6) -> bool:
    """Whether `T` (4, 4) is a finite rotation plus translation, right-handed, within `tolerance`."""
    if T.shape != (4, 4) or not np.isfinite(T).all() or not np.array_equal(T[3], (0, 0, 0, 1)):
        return False
    R = T[:3, :3]
    return bool(np.abs(R @ R.T - np.eye(3)).max() <= tolerance and np.linalg.det(R) > 0)


def invert_rigid(T_b_a: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`T_a_b` (4, 4) of a rigid `T_b_a`, by transposition."""
    T_a_b = np.eye(4)
    T_a_b[:3, :3] = T_b_a[:3, :3].T
    T_a_b[:3, 3] = -T_b_a[:3, :3].T @ T_b_a[:3, 3]
    return T_a_b


def rotation_to_quaternion_wxyz(R: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Unit quaternion (w, x, y, z) of a rotation (3, 3), by the largest-component rule of Shepperd (1978)."""
    t = np.array([np.trace(R), R[0, 0], R[1, 1], R[2, 2]])
    k = int(np.argmax(t))
    q = np.empty(4)
    if k == 0:
        q[:] = (1 + t[0], R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1])
    else:
        i, j, m = (k - 1, k % 3, (k + 1) % 3)
        q[0] = R[m, j] - R[j, m]
        q[1 + i] = 1 + R[i, i] - R[j, j] - R[m, m]
        q[1 + j] = R[j, i] + R[i, j]
        q[1 + m] = R[m, i] + R[i, m]
    return q / np.linalg.norm(q)


def vector_to_rotation(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation (3, 3) about `vector` (3,) by its length in rad (Rodrigues' formula, as a quaternion)."""
    half = 0.5 * float(np.linalg.norm(vector))
    return quaternion_wxyz_to_rotation(np.append(np.cos(half), 0.5 * np.sinc(half / np.pi) * vector))


def rotation_to_vector(R: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation vector (3,) in rad, of length up to pi, of a rotation (3, 3)."""
    q = rotation_to_quaternion_wxyz(R)
    q = -q if q[0] < 0 else q
    length = float(np.linalg.norm(q[1:]))
    scale = 2.0 if length < 1e-12 else 2 * np.arctan2(length, q[0]) / length
    return np.asarray(scale * q[1:])


def quaternion_wxyz_to_rotation(q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation (3, 3) of a quaternion (w, x, y, z) of any positive length."""
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def interpolate_rigid(
    T_w_a: npt.NDArray[np.float64], T_w_b: npt.NDArray[np.float64], fraction: float
) -> npt.NDArray[np.float64]:
    """Pose at `fraction` in [0, 1] from `T_w_a` to `T_w_b`: linear translation, spherical rotation.

    Slerp after Shoemake (SIGGRAPH 1985), along the shorter arc.
    """
    qa, qb = rotation_to_quaternion_wxyz(T_w_a[:3, :3]), rotation_to_quaternion_wxyz(T_w_b[:3, :3])
    dot = float(qa @ qb)
    if dot < 0:
        qb, dot = -qb, -dot
    angle = np.arccos(min(1.0, dot))
    if angle < 1e-9:
        q = (1 - fraction) * qa + fraction * qb
    else:
        q = (np.sin((1 - fraction) * angle) * qa + np.sin(fraction * angle) * qb) / np.sin(angle)
    T = np.eye(4)
    T[:3, :3] = quaternion_wxyz_to_rotation(q)
    T[:3, 3] = (1 - fraction) * T_w_a[:3, 3] + fraction * T_w_b[:3, 3]
    return T


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """Rigid `T_world_image` (4, 4) at `time_ns`, with the doubt about it.

    Image frame: x lateral, y axial, z elevational, mm, origin at the centre of pixel (0, 0); the pixel scale
    lives in `FrameGeometry`. `covariance` is (6, 6): rotation in rad, then translation in mm, for a right
    perturbation. Raises `ConfigError` when the matrix is not rigid.
    """

    T_world_image: npt.NDArray[np.float64]
    time_ns: int
    covariance: npt.NDArray[np.float64] | None = None
    origin: PoseOrigin = "tracker"

    def __post_init__(self) -> None:
        if not is_rigid(self.T_world_image, 1e-4):
            raise ConfigError(
                "T_world_image is not a rigid 4x4 matrix in mm (rotation and translation only); take the pixel "
                "scale out of it and put it into FrameGeometry"
            )
        if self.covariance is not None and self.covariance.shape != (6, 6):
            raise ConfigError(f"covariance has shape {self.covariance.shape}; (6, 6) is needed")
