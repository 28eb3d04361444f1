"""Compiled hole filling. Imported only when holes are filled: it needs numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.compiled import compiled

__all__ = ["inverse_distance", "nearest", "normalised", "smooth", "smooth_slices", "stick", "widen_box"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@compiled
def widen(mask: U8, step: int, radius: int, out: U8) -> None:
    """Into `out`, as `mask` (N, L), 1 where any of the `radius` before and after, `step` apart in the row, is 1."""
    side, margin = mask.shape[1], radius * step
    line = np.zeros(side + 2 * margin, np.uint8)
    for n in range(mask.shape[0]):
        row, here, middle = mask[n], out[n], line[margin:]
        for x in range(side):
            here[x] = row[x]
            middle[x] = row[x]
        for k in range(step, margin + 1, step):
            before, after = line[margin - k :], line[margin + k :]
            for x in range(side):
                here[x] |= before[x] | after[x]


@compiled
def widen_box(mask: U8, down: int, along: int, across: int, out: U8) -> None:
    """Into `out`, as `mask` (Z, Y, X), 1 where any within `down`, `along` and `across` of (z, y, x), in a box, is 1."""
    sz, sy, sx = mask.shape
    plane, half = np.empty(sy * sx, np.uint8), np.empty((sy, sx), np.uint8)
    for z in range(sz):
        for x in range(sy * sx):
            plane[x] = 0
        for k in range(max(0, z - down), min(sz, z + down + 1)):
            other = mask[k].reshape(sy * sx)
            for x in range(sy * sx):
                plane[x] |= other[x]
        widen(plane.reshape(1, sy * sx), sx, along, half.reshape(1, sy * sx))
        widen(half, 1, across, out[z])


@compiled
def smooth_lines(array: F32, step: int, taps: F32, out: F32) -> None:
    """Symmetric convolution of each row of `array` (N, L) into `out`; `taps` from the centre on, `step` apart.

    Zeros beyond the row.
    """
    side, margin = array.shape[1], (len(taps) - 1) * step
    line = np.zeros(side + 2 * margin, np.float32)
    for n in range(array.shape[0]):
        row, here, middle = array[n], out[n], line[margin:]
        for x in range(side):
            here[x] = taps[0] * row[x]
            middle[x] = row[x]
        for k in range(1, len(taps)):
            before, after, t = line[margin - k * step :], line[margin + k * step :], taps[k]
            for x in range(side):
                here[x] = here[x] + t * before[x] + t * after[x]


def smooth(array: F32, taps: list[F32]) -> F32:
    """Separable symmetric convolution of `array` (Z, Y, X) by `taps` of (z, y, x), from the centre on; zeros beyond."""
    z, y, x = array.shape
    first, second = np.empty_like(array), np.empty_like(array)
    smooth_lines(array.reshape(z * y, x), 1, taps[2], first.reshape(z * y, x))
    smooth_lines(first.reshape(z, y * x), x, taps[1], second.reshape(z, y * x))
    smooth_lines(second.reshape(1, z * y * x), y * x, taps[0], first.reshape(1, z * y * x))
    return first


@compiled
def smooth_slices(data: U8, swept: Mask, down: F32, across: F32, signal: F32, certainty: F32) -> None:
    """The swept voxels of `data`, and `swept` itself, convolved within each slice, into float32 (Z, Y, X)."""
    sz, sy, sx = data.shape
    plane, half = np.empty((sy, sx), np.float32), np.empty((sy, sx), np.float32)
    for z in range(sz):
        for y in range(sy):
            for x in range(sx):
                plane[y, x] = np.float32(data[z, y, x]) if swept[z, y, x] else np.float32(0)
        smooth_lines(plane, 1, across, half)
        smooth_lines(half.reshape(1, sy * sx), sx, down, signal[z : z + 1].reshape(1, sy * sx))
        for y in range(sy):
            for x in range(sx):
                plane[y, x] = np.float32(1) if swept[z, y, x] else np.float32(0)
        smooth_lines(plane, 1, across, half)
        smooth_lines(half.reshape(1, sy * sx), sx, down, certainty[z : z + 1].reshape(1, sy * sx))


@compiled
def normalised(signal: F32, certainty: F32, taps: F32, holes: Mask, level: U8, found: Mask) -> None:
    """Into `level` the ratio of both, convolved across slices, at the holes where it has support; `found` marks."""
    sz, sy, sx = signal.shape
    for z in range(sz):
        for y in range(sy):
            for x in range(sx):
                if not holes[z, y, x]:
                    continue
                total, weight = taps[0] * signal[z, y, x], taps[0] * certainty[z, y, x]
                for k in range(1, len(taps)):
                    if z >= k:
                        total += taps[k] * signal[z - k, y, x]
                        weight += taps[k] * certainty[z - k, y, x]
                    if z + k < sz:
                        total += taps[k] * signal[z + k, y, x]
                        weight += taps[k] * certainty[z + k, y, x]
                if weight > 0:
                    level[z, y, x] = np.uint8(np.rint(total / weight))
                    found[z, y, x] = True


@compiled
def nearest(data: U8, swept: Mask, holes: Mask, offsets: I64, level: U8, found: Mask) -> None:
    """Into `level` that of the first swept voxel along `offsets` (K, 3) (z, y, x) from each hole; `found` marks."""
    sz, sy, sx = data.shape
    for z in range(sz):
        for y in range(sy):
            for x in range(sx):
                if not holes[z, y, x]:
                    continue
                for k in range(offsets.shape[0]):
                    w, v, u = z + offsets[k, 0], y + offsets[k, 1], x + offsets[k, 2]
                    if 0 <= w < sz and 0 <= v < sy and 0 <= u < sx and swept[w, v, u]:
                        level[z, y, x] = data[w, v, u]
                        found[z, y, x] = True
                        break


@compiled
def inverse_distance(data: U8, swept: Mask, holes: Mask, offsets: I64, weights: F64, level: U8, found: Mask) -> None:
    """Into `level` the mean by `weights` (K,) of the swept voxels at `offsets` (K, 3) from each hole; `found` marks."""
    sz, sy, sx = data.shape
    for z in range(sz):
        for y in range(sy):
            for x in range(sx):
                if not holes[z, y, x]:
                    continue
                total = weight = 0.0
                for k in range(offsets.shape[0]):
                    w, v, u = z + offsets[k, 0], y + offsets[k, 1], x + offsets[k, 2]
                    if 0 <= w < sz and 0 <= v < sy and 0 <= u < sx and swept[w, v, u]:
                        total += weights[k] * data[w, v, u]
                        weight += weights[k]
                if weight > 0:
                    level[z, y, x] = np.uint8(total / weight + 0.5)
                    found[z, y, x] = True


@compiled
def walk(swept: Mask, z: int, y: int, x: int, dz: int, dy: int, dx: int, most: int) -> int:
    """Steps (1 to `most`) of (dz, dy, dx) from a voxel to the first swept one, or 0."""
    sz, sy, sx = swept.shape
    for j in range(1, most + 1):
        z, y, x = z + dz, y + dy, x + dx
        if not (0 <= z < sz and 0 <= y < sy and 0 <= x < sx):
            return 0
        if swept[z, y, x]:
            return j
    return 0


@compiled
def stick(data: U8, swept: Mask, near: Mask, steps: I64, lengths: F64, most: int, level: U8, found: Mask) -> None:
    """Fill every voxel of `near`, unswept, that lies on a stick of at most `most` steps between two swept ones.

    `steps` (K, 3) (z, y, x) are the directions and `lengths` (K,) their lengths. The arithmetic is that of the
    reference, in double precision with each result cut to uint8; sticks longer than the best so far are not walked.
    """
    sz, sy, sx = data.shape
    for z in range(sz):
        for y in range(sy):
            for x in range(sx):
                if not near[z, y, x]:
                    continue
                shortest = np.inf
                best = total = weight = 0.0
                for k in range(steps.shape[0]):
                    room = int(min(np.float64(most), shortest / lengths[k] - 1 + 1e-9))
                    ahead = walk(swept, z, y, x, steps[k, 0], steps[k, 1], steps[k, 2], room)
                    if ahead == 0:
                        continue
                    behind = walk(swept, z, y, x, -steps[k, 0], -steps[k, 1], -steps[k, 2], room - ahead)
                    if behind == 0:
                        continue
                    reach = np.float64(ahead + behind + 1)
                    score = 1.0 / (reach * lengths[k])
                    if score < best:
                        continue
                    if score > best:
                        best, total, weight, shortest = score, 0.0, 0.0, reach * lengths[k]
                    share = (behind + 1) / reach
                    a = data[z + ahead * steps[k, 0], y + ahead * steps[k, 1], x + ahead * steps[k, 2]]
                    b = data[z - behind * steps[k, 0], y - behind * steps[k, 1], x - behind * steps[k, 2]]
                    value = np.uint8((1.0 - share) * b + share * a)
                    total += value * score
                    weight += score
                if weight > 0:
                    level[z, y, x] = np.uint8(total / weight)
                    found[z, y, x] = True
