"""What all compounders on a fixed grid do: place a frame on it, and give their sums out as a volume."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct._sums import Placed, Sums
from edge_runtime.reconstruct.grid import VolumeGrid
from edge_runtime.reconstruct.volume import Volume

__all__ = ["check_size", "place_on", "room_on", "volume_on"]

I64 = npt.NDArray[np.int64]


def check_size(grid: VolumeGrid, max_voxels: int) -> None:
    """Raise `ReconstructionError` for a grid of more than `max_voxels`."""
    if grid.voxels > max_voxels:
        raise ReconstructionError(
            f"the grid has {grid.voxels} voxels {grid.shape}, the cap is {max_voxels}; take a coarser spacing or "
            "raise max_voxels"
        )


def room_on(grid: VolumeGrid, sums: Sums, max_voxels: int) -> tuple[I64, I64, I64]:
    """Empty sums of every voxel of `grid`, its sides (x, y, z), and the box that pixels may fall into.

    Raises `ReconstructionError` for a grid of more than `max_voxels`.
    """
    check_size(grid, max_voxels)
    sides = np.array(grid.shape[::-1], np.int64)
    empty = np.zeros((grid.voxels, *sums.moments), np.int64)
    return empty, sides, np.stack([np.zeros(3, np.int64), sides - sums.overlap])


def place_on(
    grid: VolumeGrid,
    sums: Sums,
    image: npt.NDArray[np.uint8],
    T_world_image: npt.NDArray[np.float64],
    geometry: FrameGeometry,
) -> Placed | None:
    """The pixels of `image` (H, W) at `T_world_image` (4, 4) on `grid`; None when they are far from it."""
    return sums.place(image, T_world_image, geometry, grid.T_world_volume, grid.spacing_mm)


def volume_on(
    grid: VolumeGrid, data: npt.NDArray[np.uint8], weight: npt.NDArray[np.float32], pose_origin: PoseOrigin
) -> Volume:
    """The volume on `grid` of grey levels and weights, each of as many values as the grid has voxels."""
    return Volume(
        data=data.reshape(grid.shape),
        weight=weight.reshape(grid.shape),
        spacing_mm=grid.spacing_mm,
        T_world_volume=grid.T_world_volume.copy(),
        pose_origin=pose_origin,
    )
