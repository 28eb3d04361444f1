"""The step that gives a motion seen in images the rotation that the gyroscope felt meanwhile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_runtime.buffers import ImuBuffer, PoseRefusal
from edge_runtime.slam.imu import ImuNoise, between_images, fuse_rotation, image_rotation
from edge_runtime.slam.motion import Motion

__all__ = ["fuse_imu"]

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
