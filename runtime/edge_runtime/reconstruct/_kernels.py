"""Compiled splatting. Imported only when a volume is compounded: it needs numba.

Addresses are fixed-point integers, 2^-40 voxel: `origin + y * down + x * across`, each (3,) int64 in the
order (x, y, z). Rows are clipped to the volume by integer division, so no bound is tested inside a row, and
every sum is an integer: the order of frames does not matter and a frame can be taken out exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = [
    "FRACTION_BITS",
    "POSITION_BITS",
    "SUM_BITS",
    "linear_key",
    "linear_mean",
    "nearest_key",
    "nearest_max",
    "nearest_mean",
]

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

POSITION_BITS = 40
FRACTION_BITS = 10  # of each axis in the linear kernels; products of three are weights in 2^-30
SUM_BITS = 40  # nearest mean: count << 40 | sum of grey levels
ONE = 1 << POSITION_BITS
HIT = 1 << SUM_BITS
SHIFT = POSITION_BITS - FRACTION_BITS
SCALE = 1 << FRACTION_BITS
SCALE2 = SCALE * SCALE
SCALE3 = SCALE2 * SCALE
EIGHTH = SCALE3 // 8


@compiled
def clip_run(run: I64, origin: I64, across: I64, down: I64, shape: I64) -> tuple[int, int, int, int, int, int]:
    """Row y, the part `x0 <= x < x1` of `run` whose addresses lie in `shape` on all axes, and the address of x0."""
    y, x0, x1 = run[0], run[1], run[2]
    for a in range(3):
        b, s, top = origin[a] + y * down[a], across[a], (shape[a] << POSITION_BITS) - 1
        if s == 0:
            if b < 0 or b > top:
                x1 = x0
        elif s > 0:
            x0 = max(x0, -(b // s))
            x1 = min(x1, (top - b) // s + 1)
        else:
            x0 = max(x0, -((top - b) // -s))
            x1 = min(x1, b // -s + 1)
    x1 = max(x0, x1)
    px = origin[0] + y * down[0] + x0 * across[0]
    py = origin[1] + y * down[1] + x0 * across[1]
    pz = origin[2] + y * down[2] + x0 * across[2]
    return y, x0, x1, px, py, pz


@compiled
def nearest_mean(image: U8, runs: I64, origin: I64, across: I64, down: I64, shape: I64, acc: I64, sign: int) -> int:
    """Add (`sign` 1) or take out (-1) a frame: `acc` (Z*Y*X,) int64 holds count << 40 plus the sum; pixels used."""
    used = 0
    sx, sy, sz = across[0], across[1], across[2]
    line = shape[0]
    plane = shape[0] * shape[1]
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], origin, across, down, shape)
        used += x1 - x0
        total = np.int64(0)
        voxel = np.int64(0)
        for x in range(x0, x1):
            here = (pz >> POSITION_BITS) * plane + (py >> POSITION_BITS) * line + (px >> POSITION_BITS)
            if here != voxel:
                acc[np.uint64(voxel)] += sign * total
                voxel = here
                total = np.int64(0)
            total += HIT + np.int64(image[y, x])
            px += sx
            py += sy
            pz += sz
        acc[np.uint64(voxel)] += sign * total
    return used


@compiled
def nearest_max(image: U8, runs: I64, origin: I64, across: I64, down: I64, shape: I64, acc: I64) -> int:
    """Keep the brightest: `acc` (Z*Y*X,) int64 holds grey level << 40 plus the count; pixels used."""
    used = 0
    sx, sy, sz = across[0], across[1], across[2]
    line = shape[0]
    plane = shape[0] * shape[1]
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], origin, across, down, shape)
        used += x1 - x0
        for x in range(x0, x1):
            here = np.uint64((pz >> POSITION_BITS) * plane + (py >> POSITION_BITS) * line + (px >> POSITION_BITS))
            old = acc[here]
            value = max(old >> SUM_BITS, np.int64(image[y, x]))
            acc[here] = (value << SUM_BITS) + (old & (HIT - 1)) + 1
            px += sx
            py += sy
            pz += sz
    return used


@compiled
def nearest_key(image: U8, runs: I64, origin: I64, across: I64, down: I64, shape: I64, acc: I64, sequence: int) -> int:
    """Keep the latest: `acc` holds sequence << 40 | pixel << 8 | grey level, and the largest wins; pixels used."""
    used = 0
    sx, sy, sz = across[0], across[1], across[2]
    line = shape[0]
    plane = shape[0] * shape[1]
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], origin, across, down, shape)
        used += x1 - x0
        key = (np.int64(sequence) << 40) + ((y * image.shape[1] + x0) << 8)
        for x in range(x0, x1):
            here = np.uint64((pz >> POSITION_BITS) * plane + (py >> POSITION_BITS) * line + (px >> POSITION_BITS))
            acc[here] = max(acc[here], key + np.int64(image[y, x]))
            key += 256
            px += sx
            py += sy
            pz += sz
    return used


@compiled
def flush_cell(acc: I64, base: int, line: int, plane: int, sign: int, m: tuple[np.int64, ...], field: int) -> None:
    """Add the eight corner sums of one cell, from the moments `m` = (1, x, y, z, xy, xz, yz, xyz)."""
    n, x, y, z = m[0] * SCALE3, m[1] * SCALE2, m[2] * SCALE2, m[3] * SCALE2
    xy, xz, yz, xyz = m[4] * SCALE, m[5] * SCALE, m[6] * SCALE, m[7]
    up, back = base + line, base + plane
    acc[base, field] += sign * (n - x - y - z + xy + xz + yz - xyz)
    acc[base + 1, field] += sign * (x - xy - xz + xyz)
    acc[up, field] += sign * (y - xy - yz + xyz)
    acc[up + 1, field] += sign * (xy - xyz)
    acc[back, field] += sign * (z - xz - yz + xyz)
    acc[back + 1, field] += sign * (xz - xyz)
    acc[back + line, field] += sign * (yz - xyz)
    acc[back + line + 1, field] += sign * xyz


@compiled
def linear_mean(image: U8, runs: I64, origin: I64, across: I64, down: I64, shape: I64, acc: I64, sign: int) -> int:
    """Trilinear splat: `acc` (Z*Y*X, 2) int64 holds weight * grey level and weight, in 2^-30; pixels used.

    Successive pixels of one cell are gathered as moments of their fractions and written once.
    """
    used = 0
    sx, sy, sz = across[0], across[1], across[2]
    line = shape[0]
    plane = shape[0] * shape[1]
    cells = shape - 1
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], origin, across, down, cells)
        used += x1 - x0
        x = x0
        while x < x1:
            cx, cy, cz = px >> POSITION_BITS, py >> POSITION_BITS, pz >> POSITION_BITS
            n = mx = my = mz = mxy = mxz = myz = mxyz = np.int64(0)
            vn = vx = vy = vz = vxy = vxz = vyz = vxyz = np.int64(0)
            while x < x1 and px >> POSITION_BITS == cx and py >> POSITION_BITS == cy and pz >> POSITION_BITS == cz:
                fx = (px >> SHIFT) & (SCALE - 1)
                fy = (py >> SHIFT) & (SCALE - 1)
                fz = (pz >> SHIFT) & (SCALE - 1)
                fxy, fxz, fyz = fx * fy, fx * fz, fy * fz
                fxyz = fxy * fz
                v = np.int64(image[y, x])
                n, mx, my, mz = n + 1, mx + fx, my + fy, mz + fz
                mxy, mxz, myz, mxyz = mxy + fxy, mxz + fxz, myz + fyz, mxyz + fxyz
                vn, vx, vy, vz = vn + v, vx + v * fx, vy + v * fy, vz + v * fz
                vxy, vxz, vyz, vxyz = vxy + v * fxy, vxz + v * fxz, vyz + v * fyz, vxyz + v * fxyz
                x, px, py, pz = x + 1, px + sx, py + sy, pz + sz
            base = cz * plane + cy * line + cx
            flush_cell(acc, base, line, plane, sign, (vn, vx, vy, vz, vxy, vxz, vyz, vxyz), 0)
            flush_cell(acc, base, line, plane, sign, (n, mx, my, mz, mxy, mxz, myz, mxyz), 1)
    return used


@compiled
def linear_key(
    image: U8, runs: I64, origin: I64, across: I64, down: I64, shape: I64, acc: I64, sequence: int, by_value: bool
) -> int:
    """Largest key among the pixels whose trilinear weight at a voxel is at least 1/8; pixels used.

    The key is `nearest_key`'s; with `by_value` the grey level comes first, so the brightest wins.
    """
    used = 0
    line = shape[0]
    plane = shape[0] * shape[1]
    cells = shape - 1
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], origin, across, down, cells)
        used += x1 - x0
        for x in range(x0, x1):
            fx, fy, fz = (px >> SHIFT) & (SCALE - 1), (py >> SHIFT) & (SCALE - 1), (pz >> SHIFT) & (SCALE - 1)
            base = (pz >> POSITION_BITS) * plane + (py >> POSITION_BITS) * line + (px >> POSITION_BITS)
            v = np.int64(image[y, x])
            key = ((v + 1) << 8) + v if by_value else (np.int64(sequence) << 40) + ((y * image.shape[1] + x) << 8) + v
            for c in range(8):
                wx = fx if c & 1 else SCALE - fx
                wy = fy if c & 2 else SCALE - fy
                wz = fz if c & 4 else SCALE - fz
                if wx * wy * wz >= EIGHTH:
                    here = base + (c & 1) + ((c >> 1) & 1) * line + (c >> 2) * plane
                    acc[here] = max(acc[here], key)
            px, py, pz = px + across[0], py + across[1], pz + across[2]
    return used
