"""Compiled sums of weighted pixels and of their squares; see `_kernels`. Imported only when used: it needs numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled
from edge_runtime.reconstruct._rows import I64, U8, clip_run, row_steps, walk_row

__all__ = ["nearest_moments"]


@compiled
def nearest_moments(
    image: U8, weights: npt.NDArray[np.uint8], runs: I64, address: I64, shape: I64, box: I64, acc: I64, sign: int
) -> int:
    """Add (`sign` 1) or take out (-1) a frame; pixels used, which are those of a weight above 0.

    `acc` (Z*Y*X, 4) int64: hits, and the sums of weight, weight * level, weight * level^2.
    """
    used, steps = 0, row_steps(address, shape)
    ends, voxels = np.empty(image.shape[1] + 1, np.int64), np.empty(image.shape[1] + 1, np.int64)
    for r in range(runs.shape[0]):
        y, x0, x1, px, py, pz = clip_run(runs[r], address, box)
        count = x1 - x0
        if count == 0:
            continue
        x = 0
        for k in range(walk_row(px, py, pz, count, steps, ends, voxels)):
            hits = total = first = second = 0
            while x < ends[k]:
                w, v = int(weights[y, np.uint64(x0 + x)]), int(image[y, np.uint64(x0 + x)])
                hits += w > 0
                total += w
                first += w * v
                second += w * v * v
                x += 1
            here = np.uint64(voxels[k])
            acc[here, 0] += sign * hits
            acc[here, 1] += sign * total
            acc[here, 2] += sign * first
            acc[here, 3] += sign * second
            used += hits
    return used
