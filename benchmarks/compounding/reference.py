"""An emulation of the PLUS/IGSIO reconstructor's arithmetic, for measuring parity with it; no part of the runtime.

It follows the reference pixel by pixel: a matrix in 14-bit fixed point (or in double precision), a running mean in
8 bits that truncates (nearest) or rounds (linear), a weight in 16 bits that saturates, and stick hole filling.
Source read: IGSIO, VolumeReconstruction, commit 9caba69 (BSD-3).
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["POINT", "emulate", "fan_runs", "fill_sticks", "fixed"]

POINT = 14
ONE = 1 << POINT
HALF = 1 << (POINT - 1)
HIT = 256
FULL, THRESHOLD = 65535, 65279
TOLERANCE = 7.62939453125e-06  # a number this little below an integer counts as the integer
STICKS = np.array(
    [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 1, 0),
        (1, 0, 1),
        (0, 1, 1),
        (1, -1, 0),
        (1, 0, -1),
        (0, 1, -1),
        (1, 1, 1),
        (-1, 1, 1),
        (1, -1, 1),
        (-1, -1, 1),
    ],
    np.int64,
)

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


def fixed(matrix: npt.NDArray[np.float64]) -> I64:
    """`matrix` in units of 2^-14, rounded half to even."""
    return np.rint(matrix * ONE).astype(np.int64)


def fan_runs(
    shape: tuple[int, int],
    clip: tuple[int, int, int, int] | None = None,
    fan: tuple[float, float, float, float, float, float] | None = None,
) -> I64:
    """Runs (R, 3) `(y, x0, x1)`, x1 outside, that the reference takes of an image of `shape` (H, W).

    `clip`: first x, first y, width, height. `fan`: two angles in degrees, origin x and y, two radii, in pixels.
    """
    height, width = shape
    x_low, y_low, x_high, y_high = 0, 0, width - 1, height - 1
    if clip is not None:
        x_low, y_low = clip[0], clip[1]
        x_high, y_high = min(clip[0] + clip[2], x_high), min(clip[1] + clip[3], y_high)
    runs = []
    for row in range(y_low, y_high + 1):
        for start, end in _fan_row(row, width, fan):
            start, end = max(start, x_low), min(end, x_high)
            if start <= end:
                runs.append((row, start, end + 1))
    return np.array(runs, np.int64)


def _fan_row(
    row: int, width: int, fan: tuple[float, float, float, float, float, float] | None
) -> list[tuple[int, int]]:
    """First and last x of the parts of one row inside the fan."""
    if fan is None:
        return [(0, width - 1)]
    left, right = np.tan(np.deg2rad(sorted(fan[:2])))
    x, y = fan[2], row - fan[3]
    rest = fan[5] ** 2 - y * y
    if rest < 0:
        return []
    reach = np.sqrt(rest)
    start = max(0, _ceil(left * y + x + 1), _ceil(x - reach + 1))
    end = min(width - 1, _floor(right * y + x - 1), _floor(x + reach - 1))
    inner = fan[4] ** 2 - y * y
    if inner <= 0:
        return [(start, end)]
    skip = np.sqrt(inner)
    return [(start, min(end, _ceil(x - skip + 1) - 1)), (max(start, _floor(x + skip - 1) + 1), end)]


def _floor(value: float) -> int:
    return int(np.floor(value + TOLERANCE))


def _ceil(value: float) -> int:
    return -_floor(-value)


def emulate(
    frames: U8,
    matrices: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    runs: I64,
    *,
    mode: str,
    kernel: str,
) -> tuple[U8, npt.NDArray[np.uint16]]:
    """Volume (Z, Y, X) uint8 and its weight (256 for a hit) of `frames` (N, H, W).

    `matrices` (N, 4, 4) map pixels (x, y, 0, 1) to voxels (x, y, z); the caller has rounded them to 14 bits or not.
    `mode` is `mean`, `max` or `latest`, `kernel` `nearest` or `linear`; linear arithmetic is that of 14 bits.
    """
    out, weight = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    code = ("mean", "max", "latest").index(mode)
    for frame, matrix in zip(frames, matrices, strict=True):
        steps = np.ascontiguousarray(matrix[:3, [3, 1, 0]].T)
        if kernel == "nearest":
            _nearest(frame, runs, steps, out, weight, code)
        else:
            _linear(frame, runs, fixed(steps), out, weight, code)
    return out, weight


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest(
    image: U8, runs: I64, steps: npt.NDArray[np.float64], out: U8, weight: npt.NDArray[np.uint16], mode: int
) -> None:
    for r in range(runs.shape[0]):
        y = runs[r, 0]
        for x in range(runs[r, 1], runs[r, 2]):
            i = int(np.floor(steps[0, 0] + y * steps[1, 0] + x * steps[2, 0] + 0.5))
            j = int(np.floor(steps[0, 1] + y * steps[1, 1] + x * steps[2, 1] + 0.5))
            k = int(np.floor(steps[0, 2] + y * steps[1, 2] + x * steps[2, 2] + 0.5))
            if not (0 <= i < out.shape[2] and 0 <= j < out.shape[1] and 0 <= k < out.shape[0]):
                continue
            value = np.int64(image[y, x])
            old, have = np.int64(out[k, j, i]), np.int64(weight[k, j, i])
            if mode == 1:
                out[k, j, i] = value if value > old else old
                weight[k, j, i] = HIT
            elif mode == 2:
                out[k, j, i] = value
                weight[k, j, i] = HIT
            elif have <= THRESHOLD:
                out[k, j, i] = (value * HIT + old * have) // (have + HIT)
                weight[k, j, i] = min(int(have) + HIT, FULL)
            else:
                out[k, j, i] = int(value / 256.0 + old * (255.0 / 256.0))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _linear(image: U8, runs: I64, steps: I64, out: U8, weight: npt.NDArray[np.uint16], mode: int) -> None:
    part = np.zeros((3, 2), np.int64)
    cell = np.zeros((3, 2), np.int64)
    for r in range(runs.shape[0]):
        y = runs[r, 0]
        for x in range(runs[r, 1], runs[r, 2]):
            inside = True
            for a in range(3):
                p = steps[0, a] + y * steps[1, a] + x * steps[2, a]
                cell[a, 0], part[a, 1] = p >> POINT, p & (ONE - 1)
                cell[a, 1], part[a, 0] = cell[a, 0] + (part[a, 1] != 0), ONE - part[a, 1]
                inside = inside and cell[a, 0] >= 0 and cell[a, 1] < out.shape[2 - a]
            if not inside:
                continue
            value = np.int64(image[y, x])
            for c in range(7, -1, -1):
                cx, cy, cz = c >> 2, (c >> 1) & 1, c & 1
                f = (part[1, cy] * part[2, cz] + HALF) >> POINT
                f = (part[0, cx] * f + HALF) >> POINT
                if f == 0:
                    continue
                i, j, k = cell[0, cx], cell[1, cy], cell[2, cz]
                old, have = np.int64(out[k, j, i]), np.int64(weight[k, j, i])
                if mode == 0:
                    was = have * (ONE // HIT)
                    now = f + was
                    level = np.int64(np.rint((f * value + was * old) / now * ONE))
                    out[k, j, i] = (level + HALF) >> POINT
                    total = now * HIT
                elif f * 8 >= ONE and (mode == 2 or value > old):
                    out[k, j, i] = value
                    total = f * HIT
                else:
                    continue
                weight[k, j, i] = (total + HALF) >> POINT if total < FULL * ONE else FULL


def fill_sticks(data: U8, weight: npt.NDArray[np.uint16], limit: int = 9) -> U8:
    """`data` (Z, Y, X) with the holes filled along the best of 13 sticks no longer than `limit` voxels."""
    filled: U8 = _fill_sticks(data, weight, limit, STICKS)
    return filled


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _reach(weight: npt.NDArray[np.uint16], at: I64, step: I64, longest: int) -> int:
    for j in range(1, longest + 1):
        x, y, z = at[0] + j * step[0], at[1] + j * step[1], at[2] + j * step[2]
        if not (0 <= x < weight.shape[2] and 0 <= y < weight.shape[1] and 0 <= z < weight.shape[0]):
            return 0
        if weight[z, y, x] != 0:
            return j
    return 0


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _fill_sticks(data: U8, weight: npt.NDArray[np.uint16], limit: int, sticks: I64) -> U8:
    out = data.copy()
    at = np.zeros(3, np.int64)
    for z in range(data.shape[0]):
        for y in range(data.shape[1]):
            for x in range(data.shape[2]):
                if weight[z, y, x] != 0:
                    continue
                at[0], at[1], at[2] = x, y, z
                best, total, share = 0.0, 0.0, 0.0
                for s in range(sticks.shape[0]):
                    d = sticks[s]
                    ahead = _reach(weight, at, d, limit - 1)
                    behind = _reach(weight, at, -d, limit - 1 - ahead) if ahead else 0
                    if behind == 0:
                        continue
                    length = float(ahead + behind + 1)
                    score = 1.0 / (length * np.sqrt(float(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])))
                    near = (behind + 1) / length
                    front = data[z + ahead * d[2], y + ahead * d[1], x + ahead * d[0]]
                    back = data[z - behind * d[2], y - behind * d[1], x - behind * d[0]]
                    value = int((1.0 - near) * back + near * front)
                    if score > best:
                        best, total, share = score, value * score, score
                    elif score == best:
                        total += value * score
                        share += score
                out[z, y, x] = int(total / share) if best > 0 else 0
    return out
