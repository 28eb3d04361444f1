"""Compiled sampling of a volume with its exact slope. Imported only when used: it needs numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled, inlined

__all__ = ["sample_smooth"]

F64 = npt.NDArray[np.float64]


@inlined
def _splines(t: float, value: F64, slope: F64) -> None:
    """The four cubic B-splines, and their slopes, that are not 0 at fraction `t` between two nodes."""
    s = 1.0 - t
    value[0], value[3] = s * s * s / 6.0, t * t * t / 6.0
    value[1] = 2.0 / 3.0 - t * t + t * t * t / 2.0
    value[2] = 2.0 / 3.0 - s * s + s * s * s / 2.0
    slope[0], slope[3] = -s * s / 2.0, t * t / 2.0
    slope[1] = -2.0 * t + 1.5 * t * t
    slope[2] = 2.0 * s - 1.5 * s * s


@compiled
def sample_smooth(image: F64, place: F64, weight: F64, value: F64, slope: F64) -> None:
    """`image` (Z, Y, X) taken as control points of a cubic B-spline, at `place` (3, P) in voxels (z, y, x).

    Writes `value` (P,) and `slope` (3, P) per voxel of z, y, x where `weight` (P,) is above 0, and 0 elsewhere. The
    image goes on beyond its sides as its outermost voxels.
    """
    nz, ny, nx = image.shape
    bz, by, bx = np.empty(4), np.empty(4), np.empty(4)
    gz, gy, gx = np.empty(4), np.empty(4), np.empty(4)
    for p in range(place.shape[1]):
        value[p] = 0.0
        slope[0, p] = slope[1, p] = slope[2, p] = 0.0
        if weight[p] <= 0.0:
            continue
        fz, fy, fx = np.floor(place[0, p]), np.floor(place[1, p]), np.floor(place[2, p])
        _splines(place[0, p] - fz, bz, gz)
        _splines(place[1, p] - fy, by, gy)
        _splines(place[2, p] - fx, bx, gx)
        v, sz, sy, sx = 0.0, 0.0, 0.0, 0.0
        for i in range(4):
            z = min(max(int(fz) + i - 1, 0), nz - 1)
            for j in range(4):
                y = min(max(int(fy) + j - 1, 0), ny - 1)
                line, line_x = 0.0, 0.0
                for k in range(4):
                    c = image[z, y, min(max(int(fx) + k - 1, 0), nx - 1)]
                    line += bx[k] * c
                    line_x += gx[k] * c
                v += bz[i] * by[j] * line
                sz += gz[i] * by[j] * line
                sy += bz[i] * gy[j] * line
                sx += bz[i] * by[j] * line_x
        value[p] = v
        slope[0, p], slope[1, p], slope[2, p] = sz, sy, sx
