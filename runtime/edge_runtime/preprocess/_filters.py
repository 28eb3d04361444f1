"""Filters from a uint8 image to a uint8 image of the same size, each over buffers that it allocates once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.optional import require
from edge_runtime.preprocess import spec as s
from edge_runtime.preprocess._order import Filter

__all__ = ["Chain", "make_filter"]

Image = npt.NDArray[np.uint8]
Run = Callable[[Image, Image, bool], object]  # source, target, whether the frame does not follow the last one


class Chain:
    """`chain(image, fresh)`: the filters one after the other, to and fro between two buffers of the image's size."""

    def __init__(self, steps: Sequence[Filter], buffers: tuple[Image, Image]) -> None:
        self.buffers = buffers
        self._runs = tuple(make_filter(step, buffers[0].shape) for step in steps)

    def __call__(self, image: Image, fresh: bool) -> Image:
        """The filtered image: one of the buffers, or `image` itself when there is no filter."""
        first, second = self.buffers
        for run in self._runs:
            target = second if image is first else first
            run(image, target, fresh)
            image = target
        return image


def make_filter(step: Filter, shape: tuple[int, ...]) -> Run:
    """`run(source, target, fresh)` for (H, W) images of `shape`; source and target are not the same memory."""
    cv2: Any = require("cv2", "to filter frames")
    if isinstance(step, s.Median):
        return lambda source, target, fresh: cv2.medianBlur(source, step.size, dst=target)
    if isinstance(step, s.Bilateral):
        d, grey, px = step.diameter, step.sigma_grey, step.sigma_px
        return lambda source, target, fresh: cv2.bilateralFilter(source, d, grey, px, dst=target)
    if isinstance(step, s.Clahe):
        clahe = cv2.createCLAHE(clipLimit=step.clip_limit, tileGridSize=(step.tiles, step.tiles))
        return lambda source, target, fresh: clahe.apply(source, target)
    if isinstance(step, s.EqualizeHistogram):
        return lambda source, target, fresh: cv2.equalizeHist(source, target)
    if isinstance(step, s.Gamma):
        table = np.rint(255 * (np.arange(256) / 255) ** step.gamma).astype(np.uint8)
        return lambda source, target, fresh: cv2.LUT(source, table, dst=target)
    if isinstance(step, s.Unsharp):
        return _unsharp(cv2, step, shape)
    if isinstance(step, s.Persistence):
        return _persistence(cv2, step, shape)
    return _srad(cv2, step, shape)


def _unsharp(cv2: Any, step: s.Unsharp, shape: tuple[int, ...]) -> Run:
    plain, blurred = np.empty(shape, np.float32), np.empty(shape, np.float32)

    def run(source: Image, target: Image, fresh: bool) -> None:
        np.copyto(plain, source)
        # 4 sigma to each side; the border is mirrored with its edge pixel
        cv2.GaussianBlur(plain, (0, 0), step.sigma, dst=blurred, borderType=cv2.BORDER_REFLECT)
        cv2.addWeighted(plain, 1 + step.amount, blurred, -step.amount, 0, dst=target, dtype=cv2.CV_8U)

    return run


def _persistence(cv2: Any, step: s.Persistence, shape: tuple[int, ...]) -> Run:
    average = np.empty(shape, np.float32)

    def run(source: Image, target: Image, fresh: bool) -> None:
        if fresh:
            np.copyto(average, source)
        else:
            cv2.accumulateWeighted(source, average, 1 - step.weight)
        cv2.convertScaleAbs(average, dst=target)

    return run


def _srad(cv2: Any, step: s.Srad, shape: tuple[int, ...]) -> Run:
    require("numba", "for the step srad")
    from edge_runtime.preprocess._srad import diffuse

    height, width = shape
    # a border of one pixel all around repeats the edge
    now, then = (np.ones((height + 2, width + 2), np.float32) for _ in range(2))
    coefficients = np.ones((2, width + 1), np.float32)
    per_level = step.dynamic_range_db * math.log(10) / (20 * 255)
    amplitude = np.exp(per_level * np.arange(256)).astype(np.float32)
    q0 = step.q0 * np.exp(-step.decay * step.time_step * np.arange(step.iterations))
    q0_squared, quarter = (q0**2).astype(np.float32), np.float32(step.time_step / 4)

    def run(source: Image, target: Image, fresh: bool) -> None:
        cv2.LUT(source, amplitude, dst=now[1:-1, 1:-1])
        last = diffuse(now, then, coefficients, q0_squared, quarter)
        inner = (then if last else now)[1:-1, 1:-1]
        cv2.log(inner, dst=inner)
        cv2.convertScaleAbs(inner, dst=target, alpha=1 / per_level)

    return run
