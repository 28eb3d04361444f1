"""Frames from an array in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.sources.base import Source

__all__ = ["ArraySource"]


class ArraySource(Source):
    """Frames of a (N, H, W) grey or (N, H, W, 3) RGB uint8 array, in order.

    Each frame is a copy, so the receiver owns it and a memory-mapped array (`numpy.load(...,
    mmap_mode="r")`) is read frame by frame. `times_ns` (N,) are integer nanoseconds, never falling; they
    become `Frame.device_ns` counted from the first. `geometry` is one for all frames or one for each.
    Raises `ConfigError` when shapes, dtypes or lengths do not fit.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        *,
        fps: float | None = None,
        times_ns: Sequence[int] | npt.NDArray[np.int64] | None = None,
        geometry: FrameGeometry | Sequence[FrameGeometry] | None = None,
        name: str = "array",
        clock: Clock | None = None,
    ) -> None:
        _check_images(images)
        count = len(images)
        if fps is not None and not 0 < fps < float("inf"):
            raise ConfigError(f"fps is {fps}; frames per second must be positive")
        self._times = None if times_ns is None else _checked_times(times_ns, count)
        if fps is None and self._times is not None:
            fps = _mean_fps(self._times)
        note = "" if fps is not None else "an array carries no timing; give fps or times_ns"
        super().__init__(name=name, frame_count=count, fps=fps, timing_note=note, clock=clock)
        if isinstance(geometry, Sequence) and len(geometry) != count:
            raise ConfigError(f"{len(geometry)} geometries for {count} frames; give one, or one for each frame")
        self._images = images
        self._geometry = FrameGeometry() if geometry is None else geometry
        self._index = 0

    def due_ns(self, index: int) -> int | None:
        if self._times is None:
            return super().due_ns(index)
        if index < len(self._times):
            return int(self._times[index])
        past = index - len(self._times) + 1
        return None if self.fps is None else int(self._times[-1]) + round(past * 1e9 / self.fps)

    def _next(self) -> Frame | None:
        index = self._index
        if index >= len(self._images):
            return None
        self._index += 1
        geometry = self._geometry[index] if isinstance(self._geometry, Sequence) else self._geometry
        return Frame(
            image=np.array(self._images[index], order="C"),
            index=index,
            arrival_ns=self._clock.now_ns(),
            device_ns=self.due_ns(index),
            geometry=geometry,
        )

    def _rewind(self) -> None:
        self._index = 0


def _check_images(images: Any) -> None:
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        raise ConfigError(
            f"images have shape {shape} and dtype {dtype}; (N, H, W) or (N, H, W, 3) uint8 is needed "
            "(one image: images[None]; other dtypes: scale to 0..255 first)"
        )
    if 0 in shape:
        raise ConfigError(f"images have shape {shape}; at least one frame with one pixel is needed")


def _checked_times(times_ns: Sequence[int] | npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    times = np.asarray(times_ns)
    if times.shape != (count,) or times.dtype.kind not in "iu":
        raise ConfigError(
            f"times_ns have shape {times.shape} and dtype {times.dtype}; ({count},) integer nanoseconds are needed"
        )
    first, last = int(times.min()), int(times.max())
    if max(last, last - first) > np.iinfo(np.int64).max:
        raise ConfigError(f"times_ns go from {first} to {last}; at most 2**63 - 1 ns, and as far apart, are allowed")
    if (np.diff(times.astype(np.int64)) < 0).any():
        raise ConfigError("times_ns fall somewhere; sort the frames by time first")
    return times.astype(np.int64) - int(times[0])


def _mean_fps(times: npt.NDArray[np.int64]) -> float | None:
    span = int(times[-1])
    return None if span == 0 else (len(times) - 1) * 1e9 / span
