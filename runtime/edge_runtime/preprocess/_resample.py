"""Resampling in place: OpenCV writes into memory that is already there."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.optional import require

__all__ = ["Resampler"]

Interpolation = Literal["area", "linear"]


class Resampler:
    """`resample(source, target)` for 2-D uint8 or float32 images; pixel AREAS are aligned, not centres.

    `area` averages on an axis that shrinks and interpolates linearly on one that grows. Linear on uint8 is
    OpenCV's bit-exact form, equal on every processor. `target` may be a view with a row stride.
    """

    def __init__(self, interpolation: Interpolation = "area") -> None:
        self._cv2: Any = require("cv2", "to resize frames")
        self._area = interpolation == "area"

    def __call__(self, source: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
        """Fill `target` (H, W) from `source` (h, w), same dtype."""
        (h, w), (H, W) = source.shape, target.shape
        if (h, w) == (H, W):
            np.copyto(target, source)
            return
        rows_shrink, columns_shrink = self._area and h > H, self._area and w > W
        if rows_shrink and w < W:
            source = self._resize(source, np.empty((H, w), source.dtype), self._cv2.INTER_AREA)
        elif columns_shrink and h < H:
            source = self._resize(source, np.empty((h, W), source.dtype), self._cv2.INTER_AREA)
        elif rows_shrink or columns_shrink:
            self._resize(source, target, self._cv2.INTER_AREA)
            return
        self._resize(source, target, self._cv2.INTER_LINEAR_EXACT)

    def _resize(self, source: npt.NDArray[Any], target: npt.NDArray[Any], how: int) -> npt.NDArray[Any]:
        self._cv2.resize(source, (target.shape[1], target.shape[0]), dst=target, interpolation=how)
        return target
