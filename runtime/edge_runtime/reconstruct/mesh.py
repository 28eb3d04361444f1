"""Surfaces of a volume as triangles in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.optional import require
from edge_runtime.reconstruct._cube_cases import EDGES, case_triangles
from edge_runtime.reconstruct.grid import VolumeGrid
from edge_runtime.reconstruct.volume import Box, Volume, bounding_box

__all__ = ["Mesh", "isosurface", "mask_surface"]

MASK_SIGMA = 1.0  # voxels
MASK_REACH = 4  # voxels

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mesh:
    """Triangles in the world, in mm, LPS.

    `vertices` (V, 3) float64 (x, y, z); `faces` (F, 3) int32, anticlockwise seen from outside. Raises `ConfigError`
    for other shapes, numbers that are not finite, or faces that name a vertex that is not there.
    """

    vertices: F64
    faces: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        shapes = (self.vertices.shape, self.faces.shape)
        if any(len(s) != 2 or s[1] != 3 for s in shapes) or not np.isfinite(self.vertices).all():
            raise ConfigError(f"vertices {shapes[0]} and faces {shapes[1]}: (V, 3) finite and (F, 3) are needed")
        if self.faces.size and not 0 <= self.faces.min() <= self.faces.max() < len(self.vertices):
            raise ConfigError(f"faces name vertices up to {self.faces.max()} of {len(self.vertices)}")

    @property
    def area_mm2(self) -> float:
        """Area of all triangles."""
        return float(np.linalg.norm(self._normals(), axis=1).sum() / 2)

    @property
    def volume_mm3(self) -> float:
        """Enclosed volume, by the divergence theorem; it means something only for a closed mesh."""
        if not len(self.faces):
            return 0.0
        centres = self.vertices[self.faces].mean(axis=1) - self.vertices.mean(axis=0)
        return float((centres * self._normals()).sum() / 6)

    @property
    def euler(self) -> int:
        """Vertices less edges plus faces: 2 for each closed piece, less 2 for each tunnel through it."""
        forth, back = self._runs()
        return len(self.vertices) - len(np.unique(np.minimum(forth, back))) + len(self.faces)

    @property
    def closed(self) -> bool:
        """Whether every edge belongs to two triangles, which run along it in opposite directions."""
        forth, back = (np.sort(run) for run in self._runs())
        return bool((forth[1:] > forth[:-1]).all() and np.array_equal(forth, back))

    def _runs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """One number for each side of each triangle, as it runs along it, and one for the other direction."""
        first = self.faces.astype(np.int64).ravel()
        second = self.faces[:, [1, 2, 0]].astype(np.int64).ravel()
        return first * len(self.vertices) + second, second * len(self.vertices) + first

    def _normals(self) -> F64:
        """(F, 3) outward, twice the area long."""
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        return np.cross(b - a, c - a)


def isosurface(volume: Volume, level: float) -> Mesh:
    """Closed surface around the voxels of `volume` that are at least `level` (grey levels, above 0 to 255).

    Marching cubes (Lorensen and Cline, SIGGRAPH 1987) with cases that leave no holes; vertices lie where the grey
    level, linear along the lattice, is `level`. Whatever lies outside the volume counts as 0, so the surface is closed
    there too. Raises `ConfigError` for another level, `ReconstructionError` when no voxel reaches it, and
    `MissingDependencyError` without numba.
    """
    if not 0 < level <= 255:
        raise ConfigError(f"level {level}: above 0 to 255 is allowed")
    above = volume.data >= level
    if not above.any():
        raise ReconstructionError(f"no voxel reaches {level}; the brightest has {volume.data.max()}: lower the level")
    box = bounding_box(above, (1, 1, 1))
    return _march(np.pad(volume.data[box].astype(np.float32), 1), level, box, 1, volume.grid)


def mask_surface(mask: Mask, grid: VolumeGrid) -> Mesh:
    """Closed, smooth surface around the true voxels of `mask` (Z, Y, X) bool on `grid`.

    The steps of a mask would add about 9 % to an area, so it is first smoothed with a Gaussian of one voxel, and the
    level is the one that keeps the number of voxels inside. What is sharper than that comes out rounded, and a part
    thinner than two voxels may go. Raises `ReconstructionError` when the mask is empty, `ConfigError` when its shape is
    not the grid's, and `MissingDependencyError` without numba.
    """
    if mask.shape != grid.shape or mask.dtype != np.bool_:
        raise ConfigError(f"mask {mask.shape} {mask.dtype}: {grid.shape} bool is needed")
    inside = int(np.count_nonzero(mask))
    if not inside:
        raise ReconstructionError("the mask is empty: there is no surface")
    require("numba", "to smooth a mask")
    from edge_runtime.reconstruct._hole_kernels import smooth

    box = bounding_box(mask)
    taps = np.exp(-0.5 * (np.arange(MASK_REACH + 1) / MASK_SIGMA) ** 2)
    taps = (taps / (2 * taps.sum() - 1)).astype(np.float32)
    field = smooth(np.pad(mask[box], MASK_REACH + 1).astype(np.float32), [taps, taps, taps])
    last = field.size - inside
    outer, inner = np.partition(field, (last - 1, last), axis=None)[last - 1 : last + 1].astype(np.float64)
    return _march(field, float(outer + inner) / 2, box, MASK_REACH + 1, grid)


@cache
def _tables() -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    return case_triangles(), np.array(EDGES, np.int64)


def _kernels() -> ModuleType:
    require("numba", "to make a mesh")
    from edge_runtime.reconstruct import _mesh_kernels

    return _mesh_kernels


def _march(field: F32, level: float, box: Box, margin: int, grid: VolumeGrid) -> Mesh:
    """The surface of `field`, which is `box` of `grid` with `margin` voxels around it and is below `level` there."""
    kernels, (table, edges), level = _kernels(), _tables(), float(level)  # of an int, numba would compile anew
    crossed, triangles = kernels.count(field, level, table)
    vertices, faces = np.empty((crossed, 3)), np.empty((triangles, 3), np.int32)
    kernels.march(field, level, table, edges, vertices, faces)
    start = [side.start - margin for side in box]
    return Mesh(vertices=grid.to_world(vertices + start), faces=faces)
