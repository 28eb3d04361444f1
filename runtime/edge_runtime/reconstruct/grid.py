"""`VolumeGrid`: the lattice of a volume, and the one that holds a sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.geometry import invert_rigid, is_rigid
from edge_runtime.reconstruct.scan import image_from_pixel, scan_runs
from edge_runtime.reconstruct.sweep import Sweep

__all__ = ["MAX_SIDE", "MAX_VOXELS", "VolumeGrid", "grid_of_sweep"]

MAX_VOXELS = 1 << 26  # 64 Mi voxels: 0.5 GiB of sums for nearest, 1 GiB for linear
MAX_SIDE = 1 << 15
MARGIN = 0.25  # voxels; keeps the outermost pixels off the boundary between two voxels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumeGrid:
    """Lattice of a volume.

    `shape` (Z, Y, X) voxels; `spacing_mm` (z, y, x); `T_world_volume` (4, 4) rigid, mm: the volume frame has
    its origin at the centre of voxel (0, 0, 0), x along columns, y along rows, z along slices. Raises
    `ConfigError` when the shape, spacing or matrix is out of range.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    T_world_volume: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not all(1 <= n <= MAX_SIDE for n in self.shape):
            raise ConfigError(f"volume shape {self.shape}: three sides (Z, Y, X) of 1 to {MAX_SIDE} voxels are needed")
        if len(self.spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in self.spacing_mm):
            raise ConfigError(f"spacing_mm {self.spacing_mm}: three positive numbers (z, y, x) in mm are needed")
        if not is_rigid(self.T_world_volume):
            raise ConfigError("T_world_volume is not a rigid 4x4 matrix in mm; the spacing is given apart from it")

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    def to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """World points (..., 3) (x, y, z) in mm of voxel positions (..., 3) (z, y, x), fractions allowed."""
        mm = (np.asarray(index, np.float64) * self.spacing_mm)[..., ::-1]
        T = self.T_world_volume
        return np.asarray(mm @ T[:3, :3].T + T[:3, 3])

    def to_index(self, points_world: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Voxel positions (..., 3) (z, y, x), fractional, of world points (..., 3) (x, y, z) in mm."""
        T = invert_rigid(self.T_world_volume)
        mm = np.asarray(points_world, np.float64) @ T[:3, :3].T + T[:3, 3]
        return np.asarray(mm[..., ::-1] / self.spacing_mm)

    def sample_field(
        self, field: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    ) -> npt.NDArray[np.float64]:
        """(Z, Y, X) float64 values of `field`, which maps world points (N, 3) in mm to (N,), at the voxel centres."""
        values = np.empty(self.shape)
        y, x = np.indices(self.shape[1:])
        for z in range(self.shape[0]):
            index = np.stack([np.full_like(y, z), y, x], axis=-1).reshape(-1, 3)
            values[z] = field(self.to_world(index)).reshape(self.shape[1:])
        return values


def grid_of_sweep(
    sweep: Sweep,
    spacing_mm: float | tuple[float, float, float],
    *,
    R_world_volume: npt.NDArray[np.float64] | None = None,
    origin_mm: tuple[float, float, float] | None = None,
    max_voxels: int = MAX_VOXELS,
) -> VolumeGrid:
    """The smallest lattice that holds every pixel of the scan areas of `sweep`, with a margin of a quarter voxel.

    `spacing_mm` is one number or (z, y, x); `R_world_volume` (3, 3) turns the axes of the volume (default: the
    world's); `origin_mm` (x, y, z) in the world is then exactly the centre of voxel (0, 0, 0), and what lies before it
    is cut off. Raises `ReconstructionError`, with the spacing that would fit, when there would be more than
    `max_voxels`, and `GeometryError` when the millimetres of a frame are not trusted.
    """
    sz, sy, sx = (spacing_mm,) * 3 if isinstance(spacing_mm, int | float) else spacing_mm
    spacing = (float(sz), float(sy), float(sx))
    T = np.eye(4)
    if R_world_volume is not None:
        T[:3, :3] = R_world_volume
    VolumeGrid(shape=(1, 1, 1), spacing_mm=spacing, T_world_volume=T)
    low, high = _extent(sweep, T[:3, :3])
    step = np.array(spacing[::-1])
    if origin_mm is not None:
        low = T[:3, :3].T @ np.array(origin_mm, np.float64) + MARGIN * step
        if not (high > low).all():
            raise ReconstructionError(f"no pixel of the sweep lies beyond origin_mm {origin_mm} on every axis")
    sides = np.floor((high - low) / step + MARGIN) + 2
    total = math.prod(float(n) for n in sides)
    if total > max_voxels or sides.max() > MAX_SIDE:
        raise ReconstructionError(_too_large(sides, spacing, max_voxels, high - low))
    T[:3, 3] = T[:3, :3] @ (low - MARGIN * step) if origin_mm is None else origin_mm
    shape = (int(sides[2]), int(sides[1]), int(sides[0]))
    return VolumeGrid(shape=shape, spacing_mm=spacing, T_world_volume=T)


def _extent(
    sweep: Sweep, R_world_volume: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Smallest and largest (x, y, z), in mm, of the ends of all runs of all scan areas, in the volume's axes."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for k in range(len(sweep)):
        geometry = sweep.geometry_of(k)
        runs = scan_runs(geometry.scan_area, sweep.image(k).shape[:2])
        ends = np.concatenate([runs[:, [1, 0]], np.stack([runs[:, 2] - 1, runs[:, 0]], axis=1)])
        plane = ends @ image_from_pixel(geometry).T
        T = sweep.T_world_image[k]
        points = (plane @ T[:3, :2].T + T[:3, 3]) @ R_world_volume
        low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
    return low, high


def _too_large(
    sides: npt.NDArray[np.float64], spacing: tuple[float, ...], max_voxels: int, extent: npt.NDArray[np.float64]
) -> str:
    """Message that names the size asked for and the spacing, as a multiple of `spacing`, that fits the cap."""
    factor = 1.0
    step = np.array(spacing[::-1])
    while True:
        factor *= 1.05
        fits = np.floor(extent / (step * factor) + MARGIN) + 2
        if math.prod(fits) <= max_voxels and fits.max() <= MAX_SIDE:
            break
    size = "x".join(f"{n:.0f}" for n in sides[::-1])
    fit = ", ".join(f"{s * factor:.3g}" for s in spacing)
    return (
        f"the sweep spans {' x '.join(f'{e:.0f}' for e in extent[::-1])} mm (z, y, x): {size} voxels at spacing "
        f"{spacing} mm, the cap is {max_voxels} voxels. A spacing of ({fit}) mm fits; or leave out frames whose pose "
        "is wrong, or raise the cap (max_voxels, max_mib)"
    )
