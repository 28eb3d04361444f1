"""Compiled sums of labels and of position errors; see `_kernels`. Imported only when used: it needs numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled
from edge_runtime.reconstruct._rows import I64, U8, clip_run, row_steps, walk_row

__all__ = ["add_spread", "add_votes"]

F64 = npt.NDArray[np.float64]


@compiled
def add_votes(
    labels: U8, runs: I64, address: I64, shape: I64, box: I64, votes: npt.NDArray[np.int32], sign: int
) -> int:
    """Add (`sign` 1) or take out (-1) one vote a pixel: `votes` (Z*Y*X, K + 1) int32 by label; pixels used."""
    used, steps = 0, row_steps(address, shape)
    ends, voxels = np.empty(labels.shape[1] + 1, np.int64), np.empty(labels.shape[1] + 1, np.int64)
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        used += count
        x = 0
        for k in range(walk_row(px, py, pz, count, steps, ends, voxels)):
            here = np.uint64(voxels[k])
            while x < ends[k]:
                votes[here, np.uint64(labels[y, np.uint64(x0 + x)])] += sign
                x += 1
    return used


@compiled
def add_spread(
    width: int, runs: I64, address: I64, shape: I64, box: I64, terms: F64, unit: float, sums: I64, sign: int
) -> int:
    """Add (`sign` 1) or take out (-1) a frame of `width` columns: `sums` (Z*Y*X, 2) int64; pixels used.

    `sums` holds hits and the sum of the rounded `unit * (t0 + t1 x + t2 y + t3 x x + t4 x y + t5 y y)` of the column x
    and row y of each pixel, `terms` (6,) being t.
    """
    used, steps = 0, row_steps(address, shape)
    ends, voxels = np.empty(width + 1, np.int64), np.empty(width + 1, np.int64)
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        used += count
        line = terms[0] + y * (terms[2] + y * terms[5])
        slope = terms[1] + y * terms[4]
        x = 0
        for k in range(walk_row(px, py, pz, count, steps, ends, voxels)):
            here, total, hits = np.uint64(voxels[k]), np.int64(0), np.int64(ends[k] - x)
            while x < ends[k]:
                column = x0 + x
                value = line + column * (slope + column * terms[3])
                total += np.int64(max(value, 0.0) * unit + 0.5)
                x += 1
            sums[here, 0] += sign * hits
            sums[here, 1] += sign * total
    return used
