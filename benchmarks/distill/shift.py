"""A held-out shift of a whole device: gain, blur, haze and depth at once, on the source frames, before preprocessing.

It is written apart from `edge_sdk.augment` and with other formulas, so that no student can have trained with it: gain
and loss with depth are factors on grey values, haze is a screen blend, strongest near the probe, the blur is one
isotropic Gaussian, and a deeper setting shrinks the picture towards the probe. The device's traits are fixed; small
differences between frames are drawn from (seed, file name) alone.
"""

from __future__ import annotations

import zlib
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

__all__ = ["DeviceShift", "shift_frame", "shift_mask"]

Array = npt.NDArray[np.uint8]


class DeviceShift(msgspec.Struct, frozen=True, kw_only=True):
    """The traits at severity 1; `severity` scales them all, 0 changes nothing.

    `gain` is the loss of brightness as a share, `blur_px` the standard deviation in a frame 540 rows high, `haze` the
    clutter's peak grey value in [0, 1], `loss` the exponent of the loss from the top to the bottom row, `depth` how
    much deeper the setting is, as a share; `jitter` the relative spread of every trait over frames.
    """

    severity: float = 1.0
    gain: float = 0.3
    blur_px: float = 4.0
    haze: float = 0.3
    loss: float = 1.2
    depth: float = 0.15
    jitter: float = 0.15
    seed: int = 7


def _draw(shift: DeviceShift, name: str) -> tuple[np.random.Generator, dict[str, float]]:
    rng = np.random.default_rng([shift.seed, zlib.crc32(name.encode())])
    traits = ("gain", "blur_px", "haze", "loss", "depth")
    factors = 1 + shift.jitter * rng.uniform(-1, 1, len(traits))
    return rng, {t: float(getattr(shift, t) * shift.severity * f) for t, f in zip(traits, factors, strict=True)}


def _deeper(image: Array, depth: float, interpolation: int) -> Array:
    height, width = image.shape
    side = 1 / (1 + depth)
    matrix = np.array([[side, 0, (1 - side) * (width - 1) / 2], [0, side, 0]], np.float64)
    shrunk: Any = cv2.warpAffine(image, matrix, (width, height), flags=interpolation, borderValue=0)
    return np.asarray(shrunk, np.uint8)


def _scan_area(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Between the outermost pixels that are not black, in a row and in a column."""
    bright = grey > 0.02
    spans = []
    for axis in (0, 1):
        before = np.maximum.accumulate(bright, axis=axis)
        after = np.flip(np.maximum.accumulate(np.flip(bright, axis), axis=axis), axis)
        spans.append(before & after)
    area: npt.NDArray[np.bool_] = spans[0] & spans[1]
    return area


def shift_frame(image: Array, shift: DeviceShift, name: str) -> Array:
    """(H, W) uint8 as the other device would show it; `name` is the frame's file name."""
    rng, traits = _draw(shift, name)
    grey = _deeper(image, traits["depth"], cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    height, width = grey.shape
    if shift.severity == 0:
        return image
    seen = _scan_area(grey)
    blurred: Any = cv2.GaussianBlur(grey, (0, 0), max(traits["blur_px"] * height / 540, 0.01))
    z = (np.arange(height, dtype=np.float32) / height)[:, None]
    grain: Any = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), height / 200)
    band = 0.4 + 0.6 * np.exp(-(((z - 0.2) / 0.3) ** 2))
    clutter = np.clip(traits["haze"] * band * (1 + 0.2 * grain / grain.std()), 0, 0.95)
    weak = blurred * np.exp(-traits["loss"] * z) * max(1 - traits["gain"], 0.05)
    shown = np.where(seen, 1 - (1 - weak) * (1 - clutter), 0)
    return np.asarray(np.clip(np.round(shown * 255), 0, 255), np.uint8)


def shift_mask(mask: Array, shift: DeviceShift, name: str) -> Array:
    """(H, W) uint8: the true mask at the other device's depth setting."""
    _, traits = _draw(shift, name)
    return _deeper(mask, traits["depth"], cv2.INTER_NEAREST)
