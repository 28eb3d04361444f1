"""Probabilities averaged over time, and how late that makes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["Smoother", "mean_lag", "step_lag"]


class Smoother:
    """The exponential average of arrays over frames: s = s + a (x - s), a = `weight` of the newest, 1 for none.

    Of d frames of the source from the last one, the weight is 1 - (1 - a)^d, as if the newest had stood for all of
    them: a dropped frame makes it forget no less. It starts anew when the array's shape, the dtype or `key` changes or
    the index does not grow. Not for more than one thread at a time. Raises `ConfigError` for a weight outside of
    (0, 1].
    """

    def __init__(self, weight: float) -> None:
        _check(weight)
        self.weight = weight
        self._mean: npt.NDArray[Any] = np.empty(0, np.float32)
        self._key: object = None
        self._index: int | None = None

    def reset(self) -> None:
        """Forget earlier frames."""
        self._index = None

    def __call__(self, values: npt.NDArray[Any], index: int, key: object = None) -> None:
        """Replace `values`, any shape, of frame number `index` by the average so far; nothing at weight 1."""
        if self.weight == 1:
            return
        last, mean = self._index, self._mean
        follows = last is not None and index > last and mean.shape == values.shape and mean.dtype == values.dtype
        if last is not None and follows and self._key == key:
            values -= mean
            values *= 1 - (1 - self.weight) ** (index - last)
            mean += values
            np.copyto(values, mean)
        else:
            self._mean, self._key = values.copy(), key
        self._index = index


def step_lag(weight: float, threshold: float = 0.5) -> int:
    """Frames by which a step from 0 to 1 passes `threshold` late: the smallest n with 1 - (1 - a)^(n + 1) > t.

    The answer to a step has 1 - (1 - a)^(n + 1) in the n-th frame after it (n = 0 is the frame of the step itself).
    Raises `ConfigError` for a weight outside of (0, 1] or a threshold outside of (0, 1).
    """
    _check(weight)
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold is {threshold}; between 0 and 1")
    if weight == 1:
        return 0
    return max(0, math.floor(math.log(1 - threshold) / math.log(1 - weight) + 1e-9))


def mean_lag(weight: float) -> float:
    """Frames by which a steady change comes late, which is the mean age of what is averaged: (1 - a) / a."""
    _check(weight)
    return (1 - weight) / weight


def _check(weight: float) -> None:
    if not 0 < weight <= 1:
        raise ConfigError(f"smoothing is {weight}; the weight of the newest frame is above 0 and at most 1 (none)")
