"""Keyframes: which frames a map keeps, and what a place is known by.

A frame becomes one when it lies far enough from the last, or looks different (the rule of visual SLAM; ORB-SLAM:
Mur-Artal, Montiel and Tardos, T-RO 31, 2015).
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.slam import se3

__all__ = ["THUMBNAIL", "KeyframeRule", "image_ncc", "keyframe_reason", "thumbnail"]

THUMBNAIL = 32


class KeyframeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new keyframe beyond `translation_mm` or `rotation_deg` from the last, or where the NCC with it is under `ncc`.

    Raises `ConfigError` for a value out of range.
    """

    translation_mm: float = 2.0
    rotation_deg: float = 3.0
    ncc: float = 0.3

    def __post_init__(self) -> None:
        if not (0 < self.translation_mm < np.inf and 0 < self.rotation_deg <= 180 and -1 <= self.ncc < 1):
            raise ConfigError(
                f"translation_mm {self.translation_mm}, rotation_deg {self.rotation_deg}, ncc {self.ncc}: above 0, "
                "above 0 up to 180, and -1 up to below 1 are allowed"
            )


def keyframe_reason(rule: KeyframeRule, T_key_cur: npt.NDArray[np.float64], ncc: float) -> str:
    """Why the frame at `T_key_cur` (4, 4), mm, from the last keyframe is a keyframe, or "" when it is none.

    `ncc` is that of the two images (`image_ncc`); not a number where they cannot be compared, which is no reason.
    """
    xi = se3.log(T_key_cur)
    if np.linalg.norm(T_key_cur[:3, 3]) > rule.translation_mm:
        return "translation"
    if np.degrees(np.linalg.norm(xi[:3])) > rule.rotation_deg:
        return "rotation"
    return "appearance" if ncc < rule.ncc else ""


def image_ncc(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_] | None = None) -> float:
    """Correlation of two images (H, W) over `mask` (H, W), the whole without one; NaN when one of them is flat.

    Raises `ConfigError` when shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2 or (mask is not None and mask.shape != a.shape):
        raise ConfigError(
            f"images {a.shape} and {b.shape}, mask {None if mask is None else mask.shape}: one (H, W) is needed"
        )
    p, q = (image.ravel() if mask is None else image[mask] for image in (a, b))
    if p.size == 0:
        return float("nan")
    p, q = p - p.mean(), q - q.mean()
    norm = float(np.sqrt((p @ p) * (q @ q)))
    return float(p @ q) / norm if norm > 1e-9 else float("nan")


def thumbnail(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float32]:
    """(1024,) float32, zero mean and unit length: `image` (H, W) as 32 x 32 means of overlapping blocks.

    The cosine of two is the NCC of the two small images. What lies outside `mask` (H, W) counts as the mean. A flat
    image gives zeros, which resemble nothing. Raises `ConfigError` for another shape or fewer than 32 x 32 pixels.
    """
    if image.ndim != 2 or min(image.shape) < THUMBNAIL or (mask is not None and mask.shape != image.shape):
        raise ConfigError(f"image {image.shape}: (H, W) of at least {THUMBNAIL} x {THUMBNAIL} pixels is needed")
    inside = np.ones(image.shape) if mask is None else mask.astype(np.float64)
    total, weight = _blocks(image * inside), _blocks(inside)
    seen = weight > 0
    small = np.where(seen, total / np.maximum(weight, 1e-9), 0)
    small = np.where(seen, small - small[seen].mean() if seen.any() else 0, 0)
    norm = float(np.linalg.norm(small))
    return (small / norm if norm > 1e-6 else np.zeros(small.shape)).astype(np.float32).ravel()


def _blocks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """32 x 32 sums of `values` under blocks twice as wide as their spacing, a triangle's low-pass after the box's."""
    for axis in (0, 1):
        edges = np.linspace(0, values.shape[axis], THUMBNAIL + 1).astype(np.int64)[:-1]
        values = np.add.reduceat(values, edges, axis=axis)
        padded = np.pad(values, [(1, 1) if k == axis else (0, 0) for k in (0, 1)], mode="edge")
        low, mid, high = (np.take(padded, range(k, k + THUMBNAIL), axis=axis) for k in (0, 1, 2))
        values = 0.25 * low + 0.5 * mid + 0.25 * high
    return np.asarray(values)
