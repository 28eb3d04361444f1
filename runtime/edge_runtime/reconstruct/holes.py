"""Filling of the gaps between frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct.volume import Volume

__all__ = ["FillMethod", "fill_holes"]

FillMethod = Literal["gaussian", "nearest"]
MAX_LIMIT = 32  # voxels

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def fill_holes(volume: Volume, method: FillMethod = "gaussian", *, limit_mm: float | None = None) -> Volume:
    """`volume` with the empty voxels between swept ones filled, and marked in `filled`; swept voxels stay as they are.

    A hole is an empty voxel inside the morphological closing of the swept region by a box of half-width `limit_mm`
    (default: three voxels of the coarsest axis), so the sweep does not grow outwards. `gaussian`: normalised
    convolution (Knutsson and Westin, CVPR 1993) of the swept voxels, sigma a third of the limit, truncated at it;
    `nearest`: the nearest swept voxel within the limit, in mm; of equally near ones the first in (z, y, x) order.
    Holes with no swept voxel in reach stay empty. Raises `ConfigError` for an unknown method or a limit that is not
    positive or exceeds 32 voxels.
    """
    spacing = np.array(volume.spacing_mm)
    limit = 3 * spacing.max() if limit_mm is None else limit_mm
    radius = np.floor(np.append(limit / spacing, 0) + 1e-9)[:3]
    if method not in get_args(FillMethod):
        raise ConfigError(f"method {method!r}: {', '.join(get_args(FillMethod))} are allowed")
    if not (limit > 0 and np.isfinite(limit) and radius.max() <= MAX_LIMIT):
        raise ConfigError(
            f"limit_mm {limit}: more than 0 and up to {MAX_LIMIT} voxels ({MAX_LIMIT * spacing.min():g}) is allowed"
        )
    reach = (int(radius[0]), int(radius[1]), int(radius[2]))
    swept = volume.swept
    box = _box(swept, reach)
    data, filled = volume.data.copy(), np.zeros(swept.shape, np.bool_)
    inner = swept[box]
    holes = _close(inner, reach) & ~inner
    if method == "gaussian":
        level, found = _gaussian(data[box], inner, reach, (limit / 3) / spacing)
        found &= holes
        data[box][found] = level[found]
    else:
        level, found = _nearest(data[box], inner, holes, reach, spacing, limit)
        data[box][found] = level[found]
    filled[box] = found
    return replace(volume, data=data, filled=filled if volume.filled is None else filled | volume.filled)


def _box(mask: Mask, margin: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Bounding box of the true voxels, widened by `margin`."""
    sides = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (line[0], line[-1] + 1) if len(line) else (0, 0)
        sides.append(slice(max(0, int(low) - margin[axis]), min(mask.shape[axis], int(high) + margin[axis])))
    return sides[0], sides[1], sides[2]


def _close(mask: Mask, reach: tuple[int, int, int]) -> Mask:
    """Closing by a box, with empty space around: dilation, then erosion, axis by axis on a padded copy."""
    padded = np.pad(mask, [(r, r) for r in reach])
    for axis, r in enumerate(reach):
        padded = _widen(padded, axis, r)
    padded = ~padded
    for axis, r in enumerate(reach):
        padded = _widen(padded, axis, r)
    inner = tuple(slice(r, r + n) for r, n in zip(reach, mask.shape, strict=True))
    return np.asarray(~padded[inner])


def _widen(mask: Mask, axis: int, radius: int) -> Mask:
    """True where any voxel within `radius` along `axis` is true."""
    line = np.moveaxis(mask, axis, 0)
    out = line.copy()
    for k in range(1, min(radius, len(line) - 1) + 1):
        out[k:] |= line[:-k]
        out[:-k] |= line[k:]
    return np.moveaxis(out, 0, axis)


def _gaussian(
    data: npt.NDArray[np.uint8], swept: Mask, reach: tuple[int, int, int], sigma: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """Rounded normalised convolution, and where it has support."""
    certainty = swept.astype(np.float32)
    signal = data.astype(np.float32) * certainty
    for axis, (r, s) in enumerate(zip(reach, sigma, strict=True)):
        taps = np.exp(-0.5 * (np.arange(r + 1) / s) ** 2).astype(np.float32)
        signal, certainty = _smooth(signal, axis, taps), _smooth(certainty, axis, taps)
    found = np.asarray(certainty > 0)
    level = signal / np.where(found, certainty, 1)
    return np.rint(level).astype(np.uint8), found


def _smooth(array: F32, axis: int, taps: F32) -> F32:
    """Symmetric convolution along `axis`; `taps` from the centre outwards; zeros beyond the ends."""
    line = np.moveaxis(array, axis, 0)
    out = taps[0] * line
    for k in range(1, min(len(taps), len(line))):
        out[k:] += taps[k] * line[:-k]
        out[:-k] += taps[k] * line[k:]
    return np.asarray(np.moveaxis(out, 0, axis))


def _nearest(
    data: npt.NDArray[np.uint8],
    swept: Mask,
    holes: Mask,
    reach: tuple[int, int, int],
    spacing: npt.NDArray[np.float64],
    limit: float,
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """Level of the nearest swept voxel, by trying the offsets from the nearest to the farthest."""
    axes = [np.arange(-r, r + 1) for r in reach]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm(offsets * spacing, axis=1)
    order = np.argsort(distance, kind="stable")
    level, found = np.zeros_like(data), np.zeros_like(holes)
    left = np.argwhere(holes)
    for k in order[distance[order] <= limit + 1e-9]:
        at = left + offsets[k]
        inside = ((at >= 0) & (at < holes.shape)).all(axis=1)
        at = np.where(inside[:, None], at, 0)
        hit = inside & swept[tuple(at.T)]
        here, there = tuple(left[hit].T), tuple(at[hit].T)
        level[here], found[here] = data[there], True
        left = left[~hit]
        if len(left) == 0:
            break
    return level, found
