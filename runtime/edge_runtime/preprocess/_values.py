"""The value step: one float32 table from grey levels to network values, fixed or of every image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.optional import require
from edge_runtime.preprocess import spec as s
from edge_runtime.preprocess._order import Value

__all__ = ["ValueTable"]


class ValueTable:
    """`table` (256,) float32: worked out in float64 from each uint8 and rounded once.

    `measure(image)` sets it from an (H, W) uint8 image for `z_score` and `min_max`; for `normalize` it never changes.
    """

    def __init__(self, step: Value) -> None:
        self._cv2: Any = require("cv2", "to prepare frames")
        self._step = step
        self._levels = np.arange(256, dtype=np.float64)
        self._exact = np.empty(256)
        self._mean, self._std = np.empty((1, 1)), np.empty((1, 1))
        self.table: npt.NDArray[np.float32] = np.empty(256, np.float32)
        if isinstance(step, s.Normalize):
            self.table[:] = (self._levels / step.scale - step.mean) / step.std

    def measure(self, image: npt.NDArray[np.uint8]) -> None:
        """Take mean and deviation, or the extremes, of `image`."""
        if isinstance(self._step, s.ZScore):
            self._cv2.meanStdDev(image, mean=self._mean, stddev=self._std)
            self._set(self._mean[0, 0], max(self._std[0, 0], self._step.floor))
        elif isinstance(self._step, s.MinMax):
            low, high, _, _ = self._cv2.minMaxLoc(image)
            self._set(low, max(high - low, 1.0))

    def _set(self, low: float, span: float) -> None:
        np.subtract(self._levels, low, out=self._exact)
        np.divide(self._exact, span, out=self._exact)
        np.copyto(self.table, self._exact, casting="same_kind")
