"""Rows of a frame on a grid of voxels: clipped to a box, and walked from voxel to voxel. Imported only by kernels.

Addresses are fixed-point integers, 2^-40 voxel: `origin + y * down + x * across`, each (3,) int64 in the
order (x, y, z). Rows are clipped to a box of the volume by integer division, so no bound is tested inside a row. A
row is walked from voxel to voxel, not from pixel to pixel: the stepping of Amanatides and Woo (Eurographics 1987), in
integers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = [
    "FAR",
    "I64",
    "ONE",
    "POSITION_BITS",
    "SUM_BITS",
    "U8",
    "clip_run",
    "row_steps",
    "walk_row",
]

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

POSITION_BITS = 40
ONE = 1 << POSITION_BITS
FAR = 1 << 60
SUM_BITS = 36  # nearest: what is counted << 36 | what is summed


@compiled
def clip_run(run: I64, address: I64, box: I64) -> tuple[int, int, int, int, int, int]:
    """Row y, the part `x0 <= x < x1` of `run` whose addresses lie in `box`, and the address of x0.

    `address` (3, 3): origin, across, down; `box` (2, 3): first voxels and the ends beyond the last, as (x, y, z).
    """
    y, x0, x1 = run[0], run[1], run[2]
    for a in range(3):
        bottom, top = box[0, a] << POSITION_BITS, (box[1, a] << POSITION_BITS) - 1
        b, s = address[0, a] + y * address[2, a], address[1, a]
        if s == 0:
            if b < bottom or b > top:
                x1 = x0
        elif s > 0:
            x0 = max(x0, -((b - bottom) // s))
            x1 = min(x1, (top - b) // s + 1)
        else:
            x0 = max(x0, -((top - b) // -s))
            x1 = min(x1, (b - bottom) // -s + 1)
    x1 = max(x0, x1)
    px = address[0, 0] + y * address[2, 0] + x0 * address[1, 0]
    py = address[0, 1] + y * address[2, 1] + x0 * address[1, 1]
    pz = address[0, 2] + y * address[2, 2] + x0 * address[1, 2]
    return y, x0, x1, px, py, pz


@compiled
def first_crossing(position: int, step: int) -> tuple[int, int]:
    """Pixels until an address that moves by `step` each enters another voxel, and how far it is then inside."""
    if step == 0:
        return FAR, 0
    distance = ONE - (position & (ONE - 1)) if step > 0 else (position & (ONE - 1)) + 1
    step = abs(step)
    n = (distance + step - 1) // step
    return n, n * step - distance


@compiled
def walk_row(px: int, py: int, pz: int, count: int, steps: I64, ends: I64, voxels: I64) -> int:
    """Cut `count` pixels into segments of one voxel each; the number of segments.

    `ends[k]` is the pixel after segment k, `voxels[k]` its voxel. `steps` (3, 5), axes ordered from the one crossed
    most often: axis, step, signed stride in voxels, and quotient and remainder of a voxel by the size of the step.
    """
    p = (px, py, pz)
    na, ra = first_crossing(p[steps[0, 0]], steps[0, 1])
    nb, rb = first_crossing(p[steps[1, 0]], steps[1, 1])
    nc, rc = first_crossing(p[steps[2, 0]], steps[2, 1])
    sa, sb, sc = abs(steps[0, 1]), abs(steps[1, 1]), abs(steps[2, 1])
    here = 0
    for k in range(3):
        here += (p[steps[k, 0]] >> POSITION_BITS) * abs(steps[k, 2])
    ta, qa, da = steps[0, 2], steps[0, 3], steps[0, 4]
    last = m = 0
    while True:
        stop = min(min(nb, nc), count)
        while na < stop:
            ends[m], voxels[m] = na, here
            m += na > last
            last = na
            here += ta
            ra -= da
            less = int(ra < 0)
            na += qa + less
            ra += sa * less
        ends[m], voxels[m] = stop, here
        m += stop > last
        last = stop
        if stop == count:
            return m
        if nb == stop:
            here += steps[1, 2]
            rb -= steps[1, 4]
            less = int(rb < 0)
            nb += steps[1, 3] + less
            rb += sb * less
        else:
            here += steps[2, 2]
            rc -= steps[2, 4]
            less = int(rc < 0)
            nc += steps[2, 3] + less
            rc += sc * less


@compiled
def row_steps(address: I64, shape: I64) -> I64:
    """The `steps` of `walk_row` for a volume of `shape` (x, y, z)."""
    order = np.argsort(-np.abs(address[1]))
    stride = (np.int64(1), shape[0], shape[0] * shape[1])
    steps = np.empty((3, 5), np.int64)
    for k in range(3):
        a = order[k]
        s = address[1, a]
        size = abs(s)
        steps[k, 0], steps[k, 1], steps[k, 2] = a, s, -stride[a] if s < 0 else stride[a]
        steps[k, 3] = ONE // size if size else FAR
        steps[k, 4] = ONE - steps[k, 3] * size if size else 0
    return steps
