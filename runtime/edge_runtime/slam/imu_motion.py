"""What the inertial sensor gives to odometry and map: the rotation felt between two images, and the tilt of one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import ImuBuffer, PoseRefusal
from edge_runtime.errors import ConfigError
from edge_runtime.geometry import vector_to_rotation
from edge_runtime.slam.imu import ImuNoise, between_images, fuse_rotation, image_rotation
from edge_runtime.slam.motion import Motion

__all__ = ["fuse_imu", "level_prior"]

UNKNOWN = np.diag([10.0] * 3 + [1e6] * 3)  # rad^2, mm^2: no heading and no place

Floats = npt.NDArray[np.float64]


def fuse_imu(
    motion: Motion,
    buffer: ImuBuffer,
    R_image_imu: Floats,
    *,
    mount_covariance: Floats | None = None,
    bias: Floats | None = None,
    bias_covariance: Floats | None = None,
    noise: ImuNoise | None = None,
) -> Motion:
    """`motion` with the sensor's rotation over the same time, of origin "imu+image".

    `R_image_imu` (3, 3) and `mount_covariance` (3, 3) are those of the hand-eye calibration; `bias` (3,) rad/s and its
    covariance those of `gyro_bias` or of an `OrientationFilter`. Where the samples do not cover the time, the motion
    stays as it is and the flag "no imu: gap" (or empty, too early, too late) says so. Raises `ConfigError` as
    `between_images` and `fuse_rotation` do.
    """
    turned = between_images(
        buffer, motion.time_prev_ns, motion.time_ns, noise=noise, bias=bias, bias_covariance=bias_covariance
    )
    if isinstance(turned, PoseRefusal):
        return replace(motion, flags=(*motion.flags, f"no imu: {turned.reason}"))
    rotation, covariance = image_rotation(turned, R_image_imu, mount_covariance)
    return fuse_rotation(motion, rotation, covariance)


def level_prior(T_world_image: Floats, up_world: Floats, up_image: Floats, sigma_rad: float) -> tuple[Floats, Floats]:
    """A prior for `PoseGraph.add_prior` that says where up is, and neither heading nor place: pose and covariance.

    The pose (4, 4) is `T_world_image` (4, 4) turned about level axes, by the shortest way, until `up_image` (3,), the
    vertical in image axes (`R_image_imu @ R_world_imu[2]` of an orientation), is `up_world` (3,), the vertical in the
    graph's world. `sigma_rad` is the tilt's doubt per axis. Tilts within seconds of each other err alike: give one to
    a keyframe every few seconds. Raises `ConfigError` for directions without length, upside down, or no doubt.
    """
    lengths = np.linalg.norm(up_world), np.linalg.norm(up_image)
    if not (np.isfinite(lengths).all() and min(lengths) > 1e-6 and np.isfinite(sigma_rad) and sigma_rad > 0):
        raise ConfigError(
            f"up_world {up_world}, up_image {up_image}, sigma_rad {sigma_rad}: two directions and a number"
        )
    up = up_image / lengths[1]
    seems = T_world_image[:3, :3].T @ up_world / lengths[0]
    axis = np.cross(up, seems)
    sine, cosine = float(np.linalg.norm(axis)), float(up @ seems)
    if cosine < -0.99:
        raise ConfigError("up_image is the pose's down; check the mounting, the axes and the sign of the acceleration")
    T = T_world_image.copy()
    T[:3, :3] = T_world_image[:3, :3] @ vector_to_rotation(
        axis * (np.arctan2(sine, cosine) / sine if sine > 1e-12 else 1.0)
    )
    covariance = UNKNOWN.copy()
    covariance[:3, :3] = sigma_rad**2 * np.eye(3) + (UNKNOWN[0, 0] - sigma_rad**2) * np.outer(up, up)
    return T, covariance
