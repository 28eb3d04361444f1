"""Compiled marching cubes and distances. Imported only when a mesh is made: it needs numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = ["count", "farthest", "march"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int8]


@compiled
def case_of(field: F32, level: float, z: int, y: int, x: int) -> int:
    """Bit c is set where corner c of the cube at (z, y, x) is at least `level`."""
    case = 0
    for c in range(8):
        if field[z + (c >> 2), y + ((c >> 1) & 1), x + (c & 1)] >= level:
            case |= 1 << c
    return case


@compiled
def count(field: F32, level: float, table: I8) -> tuple[int, int]:
    """Crossed lattice edges and triangles of `field` (Z, Y, X)."""
    sz, sy, sx = field.shape
    crossed = triangles = 0
    for z in range(sz):
        for y in range(sy):
            for x in range(sx):
                here = field[z, y, x] >= level
                crossed += x + 1 < sx and (field[z, y, x + 1] >= level) != here
                crossed += y + 1 < sy and (field[z, y + 1, x] >= level) != here
                crossed += z + 1 < sz and (field[z + 1, y, x] >= level) != here
                if x + 1 < sx and y + 1 < sy and z + 1 < sz:
                    row = table[case_of(field, level, z, y, x)]
                    k = 0
                    while row[k] >= 0:
                        k += 3
                    triangles += k // 3
    return crossed, triangles


@compiled
def march(field: F32, level: float, table: I8, edges: I64, vertices: F64, faces: I32) -> None:
    """Fill `vertices` (V, 3) (z, y, x), in voxels, and `faces` (F, 3), sizes as `count` says.

    `edges` (12, 2): axis and first corner. Only the numbers of the vertices of two slices are kept: `number`
    (2, Y, X, 3), of the crossing on the edge that starts at a voxel along x, y or z.
    """
    sz, sy, sx = field.shape
    number = np.zeros((2, sy, sx, 3), np.int32)
    v = f = 0
    for z in range(sz):
        now = number[z & 1]
        for y in range(sy):
            for x in range(sx):
                a = np.float64(field[z, y, x])
                for axis in range(3):
                    w, u, t = z + (axis == 2), y + (axis == 1), x + (axis == 0)
                    if w == sz or u == sy or t == sx:
                        continue
                    b = np.float64(field[w, u, t])
                    if (a >= level) == (b >= level):
                        continue
                    share = (level - a) / (b - a)
                    now[y, x, axis] = v
                    vertices[v, 0] = z + share * (axis == 2)
                    vertices[v, 1] = y + share * (axis == 1)
                    vertices[v, 2] = x + share * (axis == 0)
                    v += 1
        if z == 0:
            continue
        for y in range(sy - 1):
            for x in range(sx - 1):
                row = table[case_of(field, level, z - 1, y, x)]
                k = 0
                while row[k] >= 0:
                    for i in range(3):
                        axis, c = edges[row[k + i], 0], edges[row[k + i], 1]
                        faces[f, i] = number[(z - 1 + (c >> 2)) & 1, y + ((c >> 1) & 1), x + (c & 1), axis]
                    f += 1
                    k += 3


@compiled
def farthest(points: F64) -> tuple[int, int]:
    """The two of `points` (N, 3) that are farthest apart."""
    best, first, second = -1.0, 0, 0
    for i in range(points.shape[0]):
        for j in range(i, points.shape[0]):
            dx, dy, dz = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], points[i, 2] - points[j, 2]
            square = dx * dx + dy * dy + dz * dz
            if square > best:
                best, first, second = square, i, j
    return first, second
