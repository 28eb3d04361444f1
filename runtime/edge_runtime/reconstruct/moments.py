"""Weighted compounding: hits, weighted mean and variance of each voxel, all from integer sums."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct._sums import Sums
from edge_runtime.reconstruct.grid import MAX_VOXELS, VolumeGrid
from edge_runtime.reconstruct.on_grid import check_size, volume_on
from edge_runtime.reconstruct.volume import Volume

__all__ = ["WeightedCompounder", "depth_weights"]

FULL = 255


def depth_weights(shape: tuple[int, int], geometry: FrameGeometry, halving_mm: float) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 weights that fall by half with each `halving_mm` of depth below row 0; `ConfigError` if not > 0."""
    if not (np.isfinite(halving_mm) and halving_mm > 0):
        raise ConfigError(f"halving_mm {halving_mm}: a positive number of mm is needed")
    row_mm, _ = geometry.require_mm()
    column = np.rint(FULL * 0.5 ** (np.arange(shape[0]) * row_mm / halving_mm)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(column[:, None], shape))


class WeightedCompounder:
    """A volume of weighted means, nearest kernel, on a fixed grid; 32 bytes a voxel. Safe to call from several threads.

    A pixel counts by its weight, 0 to 255 (1/255 each): a confidence map, a fall with depth, or the cosine of the angle
    of incidence, times one another. Order does not matter and `remove` undoes `insert` to the bit. Raises
    `ReconstructionError` when the grid exceeds `max_voxels` and `MissingDependencyError` without numba.
    """

    def __init__(
        self, grid: VolumeGrid, *, pose_origin: PoseOrigin = "tracker", max_voxels: int = MAX_VOXELS // 2
    ) -> None:
        check_size(grid, max_voxels)
        self.grid, self.pose_origin = grid, pose_origin
        self._place = Sums("mean", "nearest").place
        self._acc = np.zeros((grid.voxels, 4), np.int64)
        self._sides = np.array(grid.shape[::-1], np.int64)
        self._lock = threading.Lock()

    def insert(
        self,
        image: npt.NDArray[np.uint8],
        T_world_image: npt.NDArray[np.float64],
        geometry: FrameGeometry,
        weights: npt.NDArray[np.uint8] | None = None,
    ) -> int:
        """Add a frame with `weights` (H, W) uint8 (default: all 255); pixels that fell inside with a weight above 0.

        Raises `ConfigError` for a bad image, pose or weights and `GeometryError` when millimetres are not trusted.
        """
        return self._splat(image, T_world_image, geometry, weights, 1)

    def remove(
        self,
        image: npt.NDArray[np.uint8],
        T_world_image: npt.NDArray[np.float64],
        geometry: FrameGeometry,
        weights: npt.NDArray[np.uint8] | None = None,
    ) -> int:
        """Take out a frame that was inserted with the same arguments; its number of pixels."""
        return self._splat(image, T_world_image, geometry, weights, -1)

    def hits(self) -> npt.NDArray[np.int64]:
        """(Z, Y, X) int64: pixels of a weight above 0 in each voxel."""
        return self._sums()[..., 0]

    def variance(self) -> npt.NDArray[np.float64]:
        """(Z, Y, X) float64 weighted variance of the grey levels, in levels^2; NaN where nothing was seen.

        That of the pixels themselves, divided by the sum of weights; 0 for a single pixel.
        """
        acc = self._sums()
        weight = np.where(acc[..., 1] > 0, acc[..., 1], 1).astype(np.float64)
        mean = acc[..., 2] / weight
        spread = np.maximum(acc[..., 3] / weight - mean * mean, 0.0)
        return np.asarray(np.where(acc[..., 1] > 0, spread, np.nan))

    def volume(self) -> Volume:
        """Weighted means, rounded half up; `weight` holds the sum of weights, 255 as 1."""
        acc = self._sums()
        total = acc[..., 1]
        safe = np.where(total > 0, total, 1)
        data = ((acc[..., 2] + (safe >> 1)) // safe * (total > 0)).astype(np.uint8)
        return volume_on(self.grid, data, (total / FULL).astype(np.float32), self.pose_origin)

    def _sums(self) -> npt.NDArray[np.int64]:
        """A copy, (Z, Y, X, 4); `ReconstructionError` when a frame was removed that had not been inserted."""
        with self._lock:
            acc = self._acc.reshape(*self.grid.shape, 4).copy()
        if (acc < 0).any():
            raise ReconstructionError("a frame was removed that is not in the volume; begin anew")
        return acc

    def _splat(
        self,
        image: npt.NDArray[np.uint8],
        T_world_image: npt.NDArray[np.float64],
        geometry: FrameGeometry,
        weights: npt.NDArray[np.uint8] | None,
        sign: int,
    ) -> int:
        from edge_runtime.reconstruct._moment_kernels import nearest_moments

        if weights is None:
            weights = np.full(image.shape, FULL, np.uint8)
        if weights.shape != image.shape or weights.dtype != np.uint8:
            raise ConfigError(
                f"weights have shape {weights.shape} and dtype {weights.dtype}; {image.shape} uint8, as the image, is "
                "needed"
            )
        placed = self._place(image, T_world_image, geometry, self.grid.T_world_volume, self.grid.spacing_mm)
        if placed is None:
            return 0
        box = np.stack([np.zeros(3, np.int64), self._sides])
        weights, pixels = np.ascontiguousarray(weights), np.ascontiguousarray(image)
        with self._lock:
            return int(nearest_moments(pixels, weights, placed.runs, placed.address, self._sides, box, self._acc, sign))
