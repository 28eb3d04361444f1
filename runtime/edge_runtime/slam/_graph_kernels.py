"""Compiled kernels of the pose graph: pattern, sums and Cholesky factor of a sparse matrix of 6x6 blocks.

The lower triangle is kept by columns: column k holds blocks `pointers[k]:pointers[k + 1]`, its diagonal block first,
then those at `rows`, which rise. Imported only where numba is installed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = ["accumulate", "factorise", "filled_pattern", "substitute"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@compiled
def filled_pattern(starts: Ints, neighbours: Ints) -> tuple[Ints, Ints]:
    """`pointers` (n + 1,) and `rows` of the factor of a symmetric matrix, whose row i has `neighbours[starts[i]:...]`.

    By walks up the elimination tree (Liu, 1990; Davis, Direct Methods for Sparse Linear Systems, 2006, section 4.2).
    """
    size = len(starts) - 1
    parent = np.full(size, -1, np.int64)
    mark = np.full(size, -1, np.int64)
    count = np.ones(size, np.int64)
    for i in range(size):
        mark[i] = i
        for p in range(starts[i], starts[i + 1]):
            j = neighbours[p]
            while j < i and mark[j] != i:
                if parent[j] == -1:
                    parent[j] = i
                count[j] += 1
                mark[j] = i
                j = parent[j]
    pointers = np.zeros(size + 1, np.int64)
    for i in range(size):
        pointers[i + 1] = pointers[i] + count[i]
        mark[i] = -1
    rows = np.empty(pointers[size], np.int64)
    free = pointers[:size].copy()
    for i in range(size):
        mark[i] = i
        rows[free[i]] = i
        free[i] += 1
        for p in range(starts[i], starts[i + 1]):
            j = neighbours[p]
            while j < i and mark[j] != i:
                rows[free[j]] = i
                free[j] += 1
                mark[j] = i
                j = parent[j]
    return pointers, rows


@compiled
def accumulate(
    nodes: Ints,
    places: Ints,
    sweeps: Ints,
    residuals: Floats,
    jacobians: Floats,
    scale_jacobians: Floats,
    weights: Floats,
    blocks: Floats,
    gradient: Floats,
    border: Floats,
    corner: Floats,
    scale_gradient: Floats,
) -> None:
    """Add every factor's part to the normal equations, all arrays already whitened.

    `nodes` (m, 2) and `places` (m, 3): where the two diagonal blocks and the one between lie; -1 where there is none.
    `jacobians` (m, 2, 6, 6). `border` (n, 6, s), `corner` (s,) and `scale_gradient` (s,) belong to the scales.
    """
    for k in range(len(nodes)):
        w = weights[k]
        for side in range(2):
            place = places[k, side]
            if place < 0:
                continue
            node = nodes[k, side]
            for a in range(6):
                total = 0.0
                for t in range(6):
                    total += jacobians[k, side, t, a] * residuals[k, t]
                gradient[node, a] += w * total
            for t in range(6):
                for a in range(6):
                    v = w * jacobians[k, side, t, a]
                    for b in range(6):
                        blocks[place, a, b] += v * jacobians[k, side, t, b]
        place = places[k, 2]
        if place >= 0:
            low = 0 if nodes[k, 0] > nodes[k, 1] else 1  # the row of the block: the later of the two columns
            for t in range(6):
                for a in range(6):
                    v = w * jacobians[k, low, t, a]
                    for b in range(6):
                        blocks[place, a, b] += v * jacobians[k, 1 - low, t, b]
        s = sweeps[k]
        if s >= 0:
            for t in range(6):
                corner[s] += w * scale_jacobians[k, t] ** 2
                scale_gradient[s] += w * scale_jacobians[k, t] * residuals[k, t]
            for side in range(2):
                if places[k, side] >= 0:
                    for a in range(6):
                        total = 0.0
                        for t in range(6):
                            total += jacobians[k, side, t, a] * scale_jacobians[k, t]
                        border[nodes[k, side], a, s] += w * total


@compiled
def factorise(pointers: Ints, rows: Ints, blocks: Floats) -> int:
    """Replace `blocks` (., 6, 6) by the Cholesky factor's; -1, or the column whose pivot is not positive."""
    turned = np.empty((6, 6))
    for k in range(len(pointers) - 1):
        start, stop = pointers[k], pointers[k + 1]
        for c in range(6):
            for r in range(c, 6):
                v = blocks[start, r, c]
                for t in range(c):
                    v -= blocks[start, r, t] * blocks[start, c, t]
                if r == c:
                    if not v > 0.0:
                        return k
                    blocks[start, c, c] = np.sqrt(v)
                else:
                    blocks[start, r, c] = v / blocks[start, c, c]
        for p in range(start + 1, stop):
            for r in range(6):
                for c in range(6):
                    v = blocks[p, r, c]
                    for t in range(c):
                        v -= blocks[p, r, t] * blocks[start, c, t]
                    blocks[p, r, c] = v / blocks[start, c, c]
        for q in range(start + 1, stop):
            at = pointers[rows[q]]
            for t in range(6):
                for c in range(6):
                    turned[t, c] = blocks[q, c, t]  # so that the innermost loop runs along memory
            for p in range(q, stop):
                while rows[at] != rows[p]:
                    at += 1
                for r in range(6):
                    for t in range(6):
                        v = blocks[p, r, t]
                        for c in range(6):
                            blocks[at, r, c] -= v * turned[t, c]
    return -1


@compiled
def substitute(pointers: Ints, rows: Ints, blocks: Floats, right: Floats) -> None:
    """Solve in place for `right` (n, 6, m) with the factor in `blocks`: forwards, then backwards."""
    size, width = len(pointers) - 1, right.shape[2]
    for k in range(size):
        start = pointers[k]
        for m in range(width):
            for c in range(6):
                v = right[k, c, m]
                for t in range(c):
                    v -= blocks[start, c, t] * right[k, t, m]
                right[k, c, m] = v / blocks[start, c, c]
        for p in range(start + 1, pointers[k + 1]):
            for r in range(6):
                for t in range(6):
                    for m in range(width):
                        right[rows[p], r, m] -= blocks[p, r, t] * right[k, t, m]
    for k in range(size - 1, -1, -1):
        start = pointers[k]
        for p in range(start + 1, pointers[k + 1]):
            for r in range(6):
                for t in range(6):
                    for m in range(width):
                        right[k, t, m] -= blocks[p, r, t] * right[rows[p], r, m]
        for m in range(width):
            for c in range(5, -1, -1):
                v = right[k, c, m]
                for t in range(c + 1, 6):
                    v -= blocks[start, t, c] * right[k, t, m]
                right[k, c, m] = v / blocks[start, c, c]
