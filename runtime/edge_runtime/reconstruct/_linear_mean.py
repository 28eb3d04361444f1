"""Compiled sums of the trilinear kernel. Imported only when used: it needs numba.

The pixels of a segment (`_rows`) share a cell of eight voxels, so they are gathered as moments of their index and
written once. Loops over the segments of a row, one after the other, let the compiler do several segments at once; each
works on its own numbers, so the bits do not depend on how many.
"""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled
from edge_runtime.reconstruct._nearest_mean import EVEN, LANES, TOP, U64, WORD, Pixels, bytes_at
from edge_runtime.reconstruct._rows import I64, ONE, clip_run, row_steps, walk_row

__all__ = ["WEIGHT_BITS", "linear_mean"]

F64 = npt.NDArray[np.float64]

WEIGHT_BITS = 30  # weights in 2^-30
UNIT = float(1 << WEIGHT_BITS)
VOXEL = 1.0 / ONE
ONES = np.uint64((1 << 64) - 1)


def _binomials(first: int, j: int) -> np.uint64:
    """Four lanes that, multiplied with pixels first, first + 2, ..., leave the sum of v * C(i, j) in the top lane."""
    return np.uint64(sum(comb(first + 2 * i, j) << 16 * (3 - i) for i in range(4)))


EVEN_1, EVEN_2, EVEN_3 = _binomials(0, 1), _binomials(0, 2), _binomials(0, 3)
ODD_1, ODD_2, ODD_3 = _binomials(1, 1), _binomials(1, 2), _binomials(1, 3)


@compiled
def gather(row: Pixels, ends: I64, segments: int, sums: I64) -> None:
    """Into `sums` (5, N) those of v * C(i, j), j = 0 to 3, over the pixels i of each segment, and the sum of i^2.

    Up to eight bytes are taken as a word: a lane stays below 255 * 70 < 2^16. Longer segments are taken from the last
    pixel to the first, where sums of sums are the sums of v * C(i, j).
    """
    for k in range(segments):
        x, n = ends[k], ends[k + 1] - ends[k]
        sums[4, k] = n * (n - 1) // 2 * (2 * n - 1) // 3
        if n <= WORD and row.itemsize == 1:
            at = U64(x)
            word = bytes_at(row, at)
            word &= ONES >> U64(64 - 8 * n)
            even, odd = word & EVEN, word >> U64(8) & EVEN
            sums[0, k] = np.int64((even + odd) * LANES >> TOP)
            sums[1, k] = np.int64(even * EVEN_1 + odd * ODD_1 >> TOP)
            sums[2, k] = np.int64(even * EVEN_2 + odd * ODD_2 >> TOP)
            sums[3, k] = np.int64(even * EVEN_3 + odd * ODD_3 >> TOP)
            continue
        v0 = v1 = v2 = v3 = np.int64(0)
        i = ends[k + 1] - 1
        while i >= x:
            v3 += v2
            v2 += v1
            v1 += v0
            v0 += np.int64(row[U64(i)])
            i -= 1
        sums[0, k], sums[1, k], sums[2, k], sums[3, k] = v0, v1, v2, v3


@compiled
def moments(sums: I64, ends: I64, segments: int, unit: float, one: float, values: F64, weights: F64) -> None:
    """Into `values` and `weights` (4, N) the sums of v * i^j and of i^j, times `unit` and `one`."""
    for k in range(segments):
        v1, v2, v3 = sums[1, k], sums[2, k], sums[3, k]
        values[0, k], values[1, k] = sums[0, k] * unit, v1 * unit
        values[2, k], values[3, k] = (2 * v2 + v1) * unit, (6 * v3 + 6 * v2 + v1) * unit
    for k in range(segments):
        n = ends[k + 1] - ends[k]
        n1 = n * (n - 1) >> 1
        weights[0, k], weights[1, k], weights[2, k], weights[3, k] = n * one, n1 * one, sums[4, k] * one, n1 * n1 * one


@compiled
def fractions(position: int, step: int, ends: I64, segments: int, out: F64) -> None:
    """Into `out` how far inside its cell each segment begins."""
    for k in range(segments):
        out[k] = (position + ends[k] * step & ONE - 1) * VOXEL


@compiled
def corners(m: F64, f: F64, d: tuple[float, float, float], segments: int, out: I64) -> None:
    """Into `out` (8, N) the trilinear sums of each segment at its eight corners, x first, then y, then z.

    `m[j]` is the sum of value times i^j over the pixels i of the segment, whose fractions are `f + i * d`. The moments
    of the fractions are cut to integers, so that the eight sums add up to `m[0]` exactly.
    """
    dx, dy, dz = d
    a2 = dx * dy
    for k in range(segments):
        fx, fy, fz = f[0, k], f[1, k], f[2, k]
        s0, s1, s2, s3 = m[0, k], m[1, k], m[2, k], m[3, k]
        a0, a1 = fx * fy, fx * dy + fy * dx
        n = np.int64(s0)
        x, y, z = np.int64(fx * s0 + dx * s1), np.int64(fy * s0 + dy * s1), np.int64(fz * s0 + dz * s1)
        xy = np.int64(a0 * s0 + a1 * s1 + a2 * s2)
        xz = np.int64(fx * fz * s0 + (fx * dz + fz * dx) * s1 + dx * dz * s2)
        yz = np.int64(fy * fz * s0 + (fy * dz + fz * dy) * s1 + dy * dz * s2)
        xyz = np.int64(a0 * fz * s0 + (a0 * dz + a1 * fz) * s1 + (a1 * dz + a2 * fz) * s2 + a2 * dz * s3)
        out[0, k], out[1, k] = n - x - y - z + xy + xz + yz - xyz, x - xy - xz + xyz
        out[2, k], out[3, k] = y - xy - yz + xyz, xy - xyz
        out[4, k], out[5, k] = z - xz - yz + xyz, xz - xyz
        out[6, k], out[7, k] = yz - xyz, xyz


@compiled
def scatter(acc: I64, voxels: I64, segments: int, line: int, plane: int, value: I64, weight: I64) -> None:
    """Add `value` and `weight` (8, N) to the corners of the cells `voxels`."""
    one = U64(1)
    for k in range(segments):
        here, up, back = U64(voxels[k]), U64(voxels[k] + line), U64(voxels[k] + plane)
        far = U64(voxels[k] + line + plane)
        for c, at in enumerate((here, up, back, far)):
            acc[at, 0] += value[2 * c, k]
            acc[at, 1] += weight[2 * c, k]
            acc[at + one, 0] += value[2 * c + 1, k]
            acc[at + one, 1] += weight[2 * c + 1, k]


@compiled
def linear_mean(image: Pixels, runs: I64, address: I64, shape: I64, box: I64, acc: I64, sign: int, area: int) -> int:
    """Add (`sign` 1) or take out (-1) a frame; pixels used. `area`: pixels of which each value of `image` is the sum.

    `acc` (Z*Y*X, 2) int64 holds weight * grey level and weight, in 2^-30. A frame is taken out by moments of the other
    sign: floating-point products and the cut to integers are symmetric, so that the same integers go.
    """
    used, steps, width = 0, row_steps(address, shape), image.shape[1] + 1
    ends, voxels, sums = np.zeros(width + 1, np.int64), np.empty(width, np.int64), np.empty((5, width), np.int64)
    values, weights, f = np.empty((4, width)), np.empty((4, width)), np.empty((3, width))
    value, weight = np.empty((8, width), np.int64), np.empty((8, width), np.int64)
    row = np.zeros(width + WORD, image.dtype)  # a word may reach beyond the last pixel
    sx, sy, sz = address[1, 0], address[1, 1], address[1, 2]
    d = (sx * VOXEL, sy * VOXEL, sz * VOXEL)
    unit = sign * UNIT
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        used += count
        for x in range(count):
            row[x] = image[y, U64(x0 + x)]
        segments = walk_row(px, py, pz, count, steps, ends[1:], voxels)
        gather(row, ends, segments, sums)
        moments(sums, ends, segments, unit, unit * area, values, weights)
        fractions(px, sx, ends, segments, f[0])
        fractions(py, sy, ends, segments, f[1])
        fractions(pz, sz, ends, segments, f[2])
        corners(values, f, d, segments, value)
        corners(weights, f, d, segments, weight)
        scatter(acc, voxels, segments, shape[0], shape[0] * shape[1], value, weight)
    return used
