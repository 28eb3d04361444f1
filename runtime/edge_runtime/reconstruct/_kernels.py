"""Compiled splatting. Imported only when a volume is compounded: it needs numba.

Rows are cut into segments of one voxel each (`_rows`), and every sum is an integer: the order of frames does not matter
and a frame can be taken out exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled
from edge_runtime.reconstruct._linear_mean import WEIGHT_BITS, linear_mean
from edge_runtime.reconstruct._nearest_mean import nearest_mean
from edge_runtime.reconstruct._rows import FAR, I64, ONE, POSITION_BITS, SUM_BITS, U8, clip_run, row_steps, walk_row

__all__ = [
    "FAR",
    "POSITION_BITS",
    "SUM_BITS",
    "WEIGHT_BITS",
    "area_sums",
    "count_pixels",
    "linear_key",
    "linear_mean",
    "met_bricks",
    "nearest_key",
    "nearest_max",
    "nearest_mean",
    "pair_sums",
]

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

HIT = 1 << SUM_BITS
VOXEL = 1.0 / ONE
EIGHTH = 0.125


@compiled
def count_pixels(runs: I64, address: I64, box: I64) -> int:
    """Pixels of a frame inside `box`."""
    used = 0
    for r in range(runs.shape[0]):
        _, x0, x1, _, _, _ = clip_run(runs[r], address, box)
        used += x1 - x0
    return used


@compiled
def met_bricks(runs: I64, address: I64, low: I64, high: I64, side: int) -> I64:
    """(M, 5) bricks of `side` voxels, between bricks `low` and `high` (inclusive), that hold a pixel of the frame.

    Each with the first and the end of the runs that meet it. Runs of which both ends lie on the same side of a brick
    are passed over without the divisions of a clip.
    """
    found = np.empty((np.prod(high - low + 1), 5), np.int64)
    box = np.empty((2, 3), np.int64)
    spans = np.empty((runs.shape[0], 6), np.int64)
    for r in range(runs.shape[0]):
        for a in range(3):
            begin = address[0, a] + runs[r, 0] * address[2, a]
            p = begin + runs[r, 1] * address[1, a] >> POSITION_BITS
            q = begin + (runs[r, 2] - 1) * address[1, a] >> POSITION_BITS
            spans[r, a], spans[r, 3 + a] = min(p, q), max(p, q)
    m = 0
    for bz in range(low[2], high[2] + 1):
        for by in range(low[1], high[1] + 1):
            for bx in range(low[0], high[0] + 1):
                box[0, 0], box[0, 1], box[0, 2] = bx * side, by * side, bz * side
                for a in range(3):
                    box[1, a] = box[0, a] + side
                met = False
                for r in range(runs.shape[0]):
                    if (
                        spans[r, 0] >= box[1, 0]
                        or spans[r, 3] < box[0, 0]
                        or spans[r, 1] >= box[1, 1]
                        or spans[r, 4] < box[0, 1]
                        or spans[r, 2] >= box[1, 2]
                        or spans[r, 5] < box[0, 2]
                    ):
                        continue
                    _, x0, x1, _, _, _ = clip_run(runs[r], address, box)
                    if x1 > x0:
                        if not met:
                            met = True
                            found[m, 0], found[m, 1], found[m, 2], found[m, 3] = bx, by, bz, r
                        found[m, 4] = r + 1
                m += met
    return found[:m]


@compiled
def nearest_max(image: Image, runs: I64, address: I64, shape: I64, box: I64, acc: I64) -> int:
    """Keep the brightest: `acc` (Z*Y*X,) int64 holds grey level << 36 plus the count; pixels used."""
    used, steps = 0, row_steps(address, shape)
    ends, voxels = np.empty(image.shape[1] + 1, np.int64), np.empty(image.shape[1] + 1, np.int64)
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        used += count
        x = np.int64(0)
        for k in range(walk_row(px, py, pz, count, steps, ends, voxels)):
            here, hits = np.uint64(voxels[k]), ends[k] - x
            old = acc[here]
            value = old >> SUM_BITS
            while x < ends[k]:
                value = max(value, np.int64(image[y, x0 + x]))
                x += 1
            acc[here] = (value << SUM_BITS) + (old & (HIT - 1)) + hits
    return used


@compiled
def nearest_key(image: Image, runs: I64, address: I64, shape: I64, box: I64, acc: I64, sequence: int) -> int:
    """Keep the latest: `acc` holds sequence << 40 | pixel << 8 | grey level, and the largest wins; pixels used."""
    used, steps = 0, row_steps(address, shape)
    ends, voxels = np.empty(image.shape[1] + 1, np.int64), np.empty(image.shape[1] + 1, np.int64)
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        used += count
        first = (np.int64(sequence) << 40) + ((y * image.shape[1] + x0 - 1) << 8)
        for k in range(walk_row(px, py, pz, count, steps, ends, voxels)):
            here = np.uint64(voxels[k])
            key = first + (ends[k] << 8) + np.int64(image[y, np.uint64(x0 + ends[k] - 1)])
            acc[here] = max(acc[here], key)
    return used


@compiled
def linear_key(
    image: Image, runs: I64, address: I64, shape: I64, box: I64, acc: I64, sequence: int, by_value: bool
) -> int:
    """Largest key among the pixels whose trilinear weight at a voxel is at least 1/8; pixels used.

    The key is `nearest_key`'s; with `by_value` the grey level comes first, so the brightest wins.
    """
    used, steps = 0, row_steps(address, shape)
    ends, voxels = np.empty(image.shape[1] + 1, np.int64), np.empty(image.shape[1] + 1, np.int64)
    line, plane = shape[0], shape[0] * shape[1]
    sx, sy, sz = address[1, 0], address[1, 1], address[1, 2]
    dx, dy, dz = sx * VOXEL, sy * VOXEL, sz * VOXEL
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        used += count
        x = np.int64(0)
        first = (np.int64(sequence) << 40) + ((y * image.shape[1] + x0) << 8)
        for k in range(walk_row(px, py, pz, count, steps, ends, voxels)):
            fx = ((px + x * sx) & (ONE - 1)) * VOXEL
            fy = ((py + x * sy) & (ONE - 1)) * VOXEL
            fz = ((pz + x * sz) & (ONE - 1)) * VOXEL
            b0 = b1 = b2 = b3 = b4 = b5 = b6 = b7 = 0
            while x < ends[k]:
                v = int(image[y, np.uint64(x0 + x)])
                key = int((v + 1) * 256 + v if by_value else first + (x << 8) + v)
                ex, ey, ez = 1 - fx, 1 - fy, 1 - fz
                w0, w1, w2, w3 = ex * ey, fx * ey, ex * fy, fx * fy
                b0 = max(b0, key if w0 * ez >= EIGHTH else 0)
                b1 = max(b1, key if w1 * ez >= EIGHTH else 0)
                b2 = max(b2, key if w2 * ez >= EIGHTH else 0)
                b3 = max(b3, key if w3 * ez >= EIGHTH else 0)
                b4 = max(b4, key if w0 * fz >= EIGHTH else 0)
                b5 = max(b5, key if w1 * fz >= EIGHTH else 0)
                b6 = max(b6, key if w2 * fz >= EIGHTH else 0)
                b7 = max(b7, key if w3 * fz >= EIGHTH else 0)
                fx, fy, fz = fx + dx, fy + dy, fz + dz
                x += 1
            here = np.uint64(voxels[k])
            up, back = np.uint64(voxels[k] + line), np.uint64(voxels[k] + plane)
            far = np.uint64(voxels[k] + line + plane)
            one = np.uint64(1)
            acc[here], acc[here + one] = max(acc[here], b0), max(acc[here + one], b1)
            acc[up], acc[up + one] = max(acc[up], b2), max(acc[up + one], b3)
            acc[back], acc[back + one] = max(acc[back], b4), max(acc[back + one], b5)
            acc[far], acc[far + one] = max(acc[far], b6), max(acc[far + one], b7)
    return used


@compiled
def pair_sums(words: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """(H // 2, W // 2) uint16 sums of squares of two pixels; `words` (H, W // 2) are pairs of pixels."""
    out = np.empty((words.shape[0] // 2, words.shape[1]), np.uint16)
    low = np.uint16(255)
    eight = np.uint16(8)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            a, b = words[2 * y, x], words[2 * y + 1, x]
            out[y, x] = (a & low) + (a >> eight) + (b & low) + (b >> eight)
    return out


@compiled
def area_sums(image: U8, side: int) -> npt.NDArray[np.uint16]:
    """(H // side, W // side) uint16 sums of the squares of `side` pixels."""
    out = np.zeros((image.shape[0] // side, image.shape[1] // side), np.uint16)
    for y in range(out.shape[0]):
        for j in range(side):
            row = image[y * side + j]
            for i in range(side):
                for x in range(out.shape[1]):
                    out[y, x] += row[x * side + i]
    return out
