"""Enhanced frames of a restoring network, back in grey levels and source pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame
from edge_runtime.optional import require
from edge_runtime.preprocess import Normalize, PixelMap
from edge_runtime.preprocess.pixel_map import Box

__all__ = ["to_grey", "to_source_image"]


def to_source_image(
    plane: npt.NDArray[np.float32], output: OutputSpec, normalize: Normalize, place: PixelMap, frame: Frame
) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 in source pixels from (1, 1, h, w) of kind `image`, read-only.

    The normalization is undone, the picture resized to the crop it came from; outside of the crop stands the frame
    itself, in grey. `h, w` is the network's size or a whole multiple of it (super-resolution). Raises `ConfigError` for
    another kind or size, `InferenceError` for values that are not finite.
    """
    if output.kind != "image" or plane.ndim != 4 or plane.shape[:2] != (1, 1):
        raise ConfigError(f"output {output.name!r} is {output.kind} {plane.shape}; image (1, 1, H, W) is needed")
    if not np.isfinite(plane).all():
        bad = int((~np.isfinite(plane)).sum())
        raise InferenceError(f"output {output.name!r}: {bad} of {plane.size} values are not finite")
    finer = _finer(place, plane.shape[2:], output)
    levels = (plane[0, 0] * np.float32(normalize.std) + np.float32(normalize.mean)) * np.float32(normalize.scale)
    source = finer.probability_to_source(np.ascontiguousarray(levels))
    picture = _grey(frame)
    picture[place.crop.slices] = to_grey(source[place.crop.slices])
    picture.flags.writeable = False
    return picture


def to_grey(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """uint8 of grey levels, rounded and held in 0 to 255."""
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)


def _finer(place: PixelMap, shape: tuple[int, ...], output: OutputSpec) -> PixelMap:
    height, width = place.network_shape
    times = shape[0] // height if height else 0
    if times < 1 or shape != (height * times, width * times):
        raise ConfigError(
            f"output {output.name!r} is a picture of {shape} for a network input of {place.network_shape}; the same "
            "size or a whole multiple of it is needed"
        )
    inner = place.content
    content = Box(x0=inner.x0 * times, y0=inner.y0 * times, width=inner.width * times, height=inner.height * times)
    return replace(place, network_shape=(height * times, width * times), content=content)


def _grey(frame: Frame) -> npt.NDArray[np.uint8]:
    if frame.image.ndim == 2:
        return frame.image.copy()
    cv2 = require("cv2", "to turn colour frames grey")
    return np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), np.uint8)
