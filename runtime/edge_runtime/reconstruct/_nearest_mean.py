"""Compiled sums of the nearest kernel. Imported only when used: it needs numba.

The pixels of a segment (`_rows`) are summed by words of eight bytes, not one by one, and written once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled, inlined
from edge_runtime.reconstruct._rows import I64, SUM_BITS, clip_run, row_steps, walk_row

__all__ = ["EVEN", "LANES", "TOP", "U64", "WORD", "Pixels", "bytes_at", "nearest_mean", "word_sum"]

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

U64 = np.uint64
EVEN = np.uint64(0x00FF00FF00FF00FF)
LANES = np.uint64(0x0001000100010001)  # times this, the highest of four lanes of 16 bits is the sum of all four
TOP = np.uint64(48)
WORD = 8


@inlined
def bytes_at(row: Pixels, x: np.uint64) -> np.uint64:
    """The eight bytes of `row` from x on as a word, the first lowest; the compiler makes one load of them."""
    word = (
        U64(row[x]) | U64(row[x + U64(1)]) << U64(8) | U64(row[x + U64(2)]) << U64(16) | U64(row[x + U64(3)]) << U64(24)
    )
    word |= U64(row[x + U64(4)]) << U64(32) | U64(row[x + U64(5)]) << U64(40)
    word |= U64(row[x + U64(6)]) << U64(48) | U64(row[x + U64(7)]) << U64(56)
    return word


@inlined
def word_sum(row: Pixels, x: np.uint64, n: int) -> np.int64:
    """Sum of the first `n` pixels of the word of `row` that begins at x: 1 to 8 bytes, or 1 to 4 of 16 bits below 2^14.

    What lies behind them is shifted out.
    """
    if row.itemsize == 1:
        word = bytes_at(row, x)
        word = word << U64(64 - 8 * n)
        word = (word & EVEN) + (word >> U64(8) & EVEN)
    else:
        word = (
            U64(row[x])
            | U64(row[x + U64(1)]) << U64(16)
            | U64(row[x + U64(2)]) << U64(32)
            | U64(row[x + U64(3)]) << U64(48)
        )
        word = word << U64(64 - 16 * n)
    return np.int64(word * LANES >> TOP)


@compiled
def nearest_mean(image: Pixels, runs: I64, address: I64, shape: I64, box: I64, acc: I64, sign: int, area: int) -> int:
    """Add (`sign` 1) or take out (-1) a frame: `acc` (Z*Y*X,) int64 holds count << 36 plus the sum; pixels used.

    `area`: pixels of which each value of `image` is the sum.
    """
    used, steps, width = 0, row_steps(address, shape), image.shape[1]
    ends, voxels = np.empty(width + 1, np.int64), np.empty(width + 1, np.int64)
    row = np.zeros(width + WORD, image.dtype)  # a word may reach beyond the last pixel
    hit, flip, step = np.int64(area) << SUM_BITS, np.int64(0 if sign > 0 else -1), WORD // image.itemsize
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        used += count
        for x in range(count):
            row[x] = image[y, U64(x0 + x)]
        x = 0
        for k in range(walk_row(px, py, pz, count, steps, ends, voxels)):
            total = (ends[k] - x) * hit
            while ends[k] - x > step:
                total += word_sum(row, U64(x), step)
                x += step
            total += word_sum(row, U64(x), ends[k] - x)
            acc[U64(voxels[k])] += (total ^ flip) - flip
            x = ends[k]
    return used
