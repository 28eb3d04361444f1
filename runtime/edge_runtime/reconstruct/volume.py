"""`Volume`: grey levels on a lattice in space, with what is known about each voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct.grid import VolumeGrid

__all__ = ["Box", "Volume", "bounding_box"]

Box = tuple[slice, slice, slice]  # (z, y, x)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Volume:
    """A reconstructed volume.

    `data` (Z, Y, X) uint8, 0 where nothing is known. `weight` (Z, Y, X) float32, or None when every voxel is
    known: hits (nearest) or summed trilinear weight (linear), 0 where no pixel fell. `filled` (Z, Y, X) bool or
    None: voxels that hole filling invented. `T_world_volume` (4, 4) rigid, mm: volume frame (x along columns, y
    rows, z slices, origin at the centre of voxel (0, 0, 0)) to world. `spacing_mm` (z, y, x). `pose_origin`:
    how far to trust the shape. Raises `ConfigError` when shapes or dtypes disagree.
    """

    data: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    T_world_volume: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float32] | None = None
    filled: npt.NDArray[np.bool_] | None = None
    pose_origin: PoseOrigin = "tracker"

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or self.data.dtype != np.uint8:
            raise ConfigError(
                f"data has shape {self.data.shape} and dtype {self.data.dtype}; (Z, Y, X) uint8 is needed"
            )
        for name, dtype in (("weight", np.float32), ("filled", np.bool_)):
            array = getattr(self, name)
            if array is not None and (array.shape != self.data.shape or array.dtype != dtype):
                raise ConfigError(
                    f"{name} has shape {array.shape} and dtype {array.dtype}; "
                    f"{self.data.shape} {np.dtype(dtype).name} is needed"
                )
        _ = self.grid  # checks spacing and matrix

    @property
    def grid(self) -> VolumeGrid:
        """The lattice without the values."""
        z, y, x = self.data.shape
        return VolumeGrid(shape=(z, y, x), spacing_mm=self.spacing_mm, T_world_volume=self.T_world_volume)

    @property
    def swept(self) -> npt.NDArray[np.bool_]:
        """(Z, Y, X) bool: voxels into which pixels fell."""
        return np.ones(self.data.shape, np.bool_) if self.weight is None else np.asarray(self.weight > 0)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(Z, Y, X) bool: voxels that were swept or filled."""
        return self.swept if self.filled is None else np.asarray(self.swept | self.filled)

    def to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """World points (..., 3) (x, y, z) in mm of voxel positions (..., 3) (z, y, x), fractions allowed."""
        return self.grid.to_world(index)

    def sample(self, points_world: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Trilinear grey levels (...) float64 at world points (..., 3) (x, y, z) in mm.

        NaN outside the lattice and wherever a voxel that takes part is neither swept nor filled: a value is
        never made from what was not seen.
        """
        position = self.grid.to_index(points_world)
        top = np.array(self.data.shape) - 1
        inside = np.asarray(((position >= 0) & (position <= top)).all(axis=-1))
        position = np.where(inside[..., None], position, 0.0)
        low = np.minimum(position.astype(np.int64), np.maximum(top - 1, 0))
        fraction = position - low
        known = self.known
        value, missing = np.zeros(inside.shape), ~inside
        for corner in np.ndindex(2, 2, 2):
            z, y, x = np.moveaxis(np.minimum(low + corner, top), -1, 0)
            weight = np.where(corner, fraction, 1 - fraction).prod(axis=-1)
            value += weight * self.data[z, y, x]
            missing |= (weight > 0) & ~known[z, y, x]
        return np.asarray(np.where(missing, np.nan, value))


def bounding_box(mask: npt.NDArray[np.bool_], margin: tuple[int, int, int] = (0, 0, 0)) -> Box:
    """The smallest box around the true voxels of `mask` (Z, Y, X), empty without any, and `margin` around it inside."""
    flat = np.asarray(mask.any(axis=0))
    lines = (mask.any(axis=(1, 2)), flat.any(axis=1), flat.any(axis=0))
    ends = [np.flatnonzero(line) for line in lines]
    box = [(int(e[0]), int(e[-1]) + 1) if len(e) else (0, 0) for e in ends]
    sides = [slice(max(0, a - m), min(n, b + m)) for (a, b), m, n in zip(box, margin, mask.shape, strict=True)]
    return sides[0], sides[1], sides[2]
