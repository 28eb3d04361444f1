"""Compiled trilinear samples with their gradients. Imported only when used: it needs numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = ["sample_gradient"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@compiled
def sample_gradient(field: F32, A: F64, points: F64, value: F64, gradient: F64) -> int:
    """Sample `field` (Z, Y, X), NaN where unknown, at `A` (3, 4) times `points` (N, 3): voxels (x, y, z).

    Fills `value` (N,), NaN where a voxel that takes part is unknown or outside, and `gradient` (N, 3) per voxel in
    the order (x, y, z); returns how many values are known.
    """
    nz, ny, nx = field.shape
    known = 0
    for n in range(points.shape[0]):
        px, py, pz = points[n, 0], points[n, 1], points[n, 2]
        x = A[0, 0] * px + A[0, 1] * py + A[0, 2] * pz + A[0, 3]
        y = A[1, 0] * px + A[1, 1] * py + A[1, 2] * pz + A[1, 3]
        z = A[2, 0] * px + A[2, 1] * py + A[2, 2] * pz + A[2, 3]
        value[n] = np.nan
        if not (0 <= x < nx - 1 and 0 <= y < ny - 1 and 0 <= z < nz - 1):
            continue
        i, j, k = int(x), int(y), int(z)
        u, v, w = x - i, y - j, z - k
        a0, a1 = field[k, j, i], field[k, j, i + 1]
        b0, b1 = field[k, j + 1, i], field[k, j + 1, i + 1]
        c0, c1 = field[k + 1, j, i], field[k + 1, j, i + 1]
        d0, d1 = field[k + 1, j + 1, i], field[k + 1, j + 1, i + 1]
        a, b = a0 + u * (a1 - a0), b0 + u * (b1 - b0)
        c, d = c0 + u * (c1 - c0), d0 + u * (d1 - d0)
        low, high = a + v * (b - a), c + v * (d - c)
        level = low + w * (high - low)
        if np.isnan(level):
            continue
        value[n] = level
        near = (a1 - a0) + v * ((b1 - b0) - (a1 - a0))
        far = (c1 - c0) + v * ((d1 - d0) - (c1 - c0))
        gradient[n, 0] = near + w * (far - near)
        gradient[n, 1] = (b - a) + w * ((d - c) - (b - a))
        gradient[n, 2] = high - low
        known += 1
    return known
