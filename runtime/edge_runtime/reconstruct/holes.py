"""Filling of the gaps between frames."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_runtime.reconstruct.volume import Box, Volume, bounding_box

__all__ = ["FillMethod", "fill_holes", "reach_of"]

FillMethod = Literal["gaussian", "inverse-distance", "nearest", "stick"]
MAX_LIMIT = 32  # voxels

# (x, y, z), up to sign; the sign counts, because the two ends of a stick are not weighted alike
STICKS = (
    *((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    *((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, -1, 0), (1, 0, -1), (0, 1, -1)),
    *((1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)),
)

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Reach = tuple[int, int, int]
Filling = tuple[U8, Mask]


def fill_holes(
    volume: Volume,
    method: FillMethod = "gaussian",
    *,
    limit_mm: float | None = None,
    region: Box | None = None,
    in_place: bool = False,
) -> Volume:
    """`volume` with the empty voxels between swept ones filled, and marked in `filled`; swept voxels stay as they are.

    A hole is an empty voxel inside the morphological closing of the swept region by a box of half-width `limit_mm`
    (default: three voxels of the coarsest axis), so the sweep does not grow outwards. Holes with no swept voxel in
    reach stay empty. The methods:

    - `gaussian`: normalised convolution (Knutsson and Westin, CVPR 1993) of the swept voxels, sigma a third of the
      limit, truncated at it on each axis;
    - `inverse-distance`: mean of the swept voxels within the limit, weighted by 1 / distance in mm (Shepard, 1968);
    - `nearest`: the nearest swept voxel within the limit, in mm; of equally near ones the first in (z, y, x) order;
    - `stick`: linear interpolation between the ends of the shortest stick, of 13 directions, that has a swept voxel
      at both ends; sticks that are equally short are averaged. These are the rules, and to the bit the arithmetic, of
      PLUS and IGSIO (vtkIGSIOFillHolesInVolume) with one stick. A stick is at most `2 * limit_mm` long, counted in
      steps of the coarsest axis, so their `StickLengthLimit` of n voxels is `limit_mm = (n - 1) / 2 * spacing`. The
      closing plays no part: both ends were seen.

    With `region` (three slices (z, y, x)) only voxels in it are filled, as they would be in the whole volume: for a
    volume that grows; the work is that of the region and its surroundings alone. `in_place` writes into the arrays of
    `volume`, which are copied otherwise. Raises `ConfigError` for an unknown method, a limit that is not positive or
    exceeds 32 voxels, a region that is no box of the volume, or `in_place` with data that is read-only, and
    `MissingDependencyError` without numba.
    """
    spacing = np.array(volume.spacing_mm)
    limit = _limit(spacing, limit_mm)
    _check(volume, method, in_place)
    reach = _reach(limit, spacing)
    target = _box_of(region, volume.data.shape)
    margin = (2 * reach[0] + 1, 2 * reach[1] + 1, 2 * reach[2] + 1)  # of a stick, and of dilation followed by erosion
    around = _widened(target, margin, volume.data.shape)
    swept = np.ones_like(volume.data[around], np.bool_) if volume.weight is None else volume.weight[around] > 0
    inside = bounding_box(swept, reach)
    box = _moved(inside, around, 1)
    wanted = np.zeros([side.stop - side.start for side in box], np.bool_)
    wanted[_moved(_meet(target, box), box, -1)] = True
    level, found = _filling(method, volume.data[box], swept[inside], wanted, reach, spacing, limit)
    full = volume.data if in_place else volume.data.copy()
    filled = np.zeros(full.shape, np.bool_) if volume.filled is None else volume.filled
    if volume.filled is not None and not in_place:
        filled = filled.copy()
    np.copyto(full[box], level, where=found)
    filled[box] |= found
    return replace(volume, data=full, filled=filled)


def reach_of(spacing_mm: tuple[float, float, float], limit_mm: float | None) -> tuple[int, int, int]:
    """Whole voxels (z, y, x) within the limit of `fill_holes`; `ConfigError` for one that it would refuse."""
    spacing = np.array(spacing_mm)
    return _reach(_limit(spacing, limit_mm), spacing)


def _limit(spacing: F64, limit_mm: float | None) -> float:
    return float(3 * spacing.max()) if limit_mm is None else limit_mm


def _check(volume: Volume, method: str, in_place: bool) -> None:
    if method not in get_args(FillMethod):
        raise ConfigError(f"method {method!r}: {', '.join(get_args(FillMethod))} are allowed")
    if in_place and not volume.data.flags.writeable:
        raise ConfigError("in_place is asked for, but the volume's data is read-only; fill a copy, or read it anew")


def _filling(
    method: FillMethod, data: U8, swept: Mask, wanted: Mask, reach: Reach, spacing: F64, limit: float
) -> Filling:
    """Levels by `method` at the holes among the voxels that are `wanted`, and which have one."""
    kernels = _load_kernels()
    data, swept = np.ascontiguousarray(data), np.ascontiguousarray(swept)
    if method == "stick":
        level, found = _stick(kernels, data, swept, spacing, limit)
    else:
        holes = _close(kernels, swept, reach) & ~swept & wanted
        fill = {"gaussian": _gaussian, "inverse-distance": _inverse_distance, "nearest": _nearest}[method]
        level, found = fill(kernels, data, swept, holes, reach, spacing, limit)
    found &= wanted
    return level, found


def _load_kernels() -> ModuleType:
    require("numba", "to fill holes")
    from edge_runtime.reconstruct import _hole_kernels

    return _hole_kernels


def _reach(limit: float, spacing: F64) -> Reach:
    """Whole voxels within `limit` mm along (z, y, x)."""
    radius = np.floor(limit / spacing + 1e-9) if np.isfinite(limit) else np.full(3, np.inf)
    if not (limit > 0 and radius.max() <= MAX_LIMIT):
        raise ConfigError(
            f"limit_mm {limit}: more than 0 and up to {MAX_LIMIT} voxels ({MAX_LIMIT * spacing.min():g}) is allowed"
        )
    return int(radius[0]), int(radius[1]), int(radius[2])


def _box_of(region: Box | None, shape: tuple[int, ...]) -> Box:
    """`region` with its ends spelled out; the whole volume for None."""
    if region is None:
        return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
    if len(region) != 3 or any(s.step not in (None, 1) for s in region):
        raise ConfigError(f"region {region}: three slices (z, y, x) without a step are needed")
    sides = [slice(*s.indices(n)[:2]) for s, n in zip(region, shape, strict=True)]
    return sides[0], sides[1], sides[2]


def _widened(box: Box, margin: Reach, shape: tuple[int, ...]) -> Box:
    """`box` and `margin` around it, inside the volume."""
    sides = [slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, margin, shape, strict=True)]
    return sides[0], sides[1], sides[2]


def _moved(box: Box, origin: Box, sign: int) -> Box:
    """`box` counted from the start of `origin` as counted in the volume (`sign` 1), or the other way (-1)."""
    sides = [slice(s.start + sign * o.start, s.stop + sign * o.start) for s, o in zip(box, origin, strict=True)]
    return sides[0], sides[1], sides[2]


def _meet(a: Box, b: Box) -> Box:
    sides = [
        slice(max(p.start, q.start), max(p.start, q.start, min(p.stop, q.stop))) for p, q in zip(a, b, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def _close(kernels: ModuleType, mask: Mask, reach: Reach) -> Mask:
    """Closing by a box, with empty space around: dilation, then erosion, axis by axis on a padded copy."""
    padded = _widened_mask(kernels, np.pad(mask, [(r, r) for r in reach]), reach)
    padded = ~_widened_mask(kernels, ~padded, reach)
    return padded[reach[0] :, reach[1] :, reach[2] :][tuple(slice(n) for n in mask.shape)]


def _widened_mask(kernels: ModuleType, mask: Mask, reach: Reach) -> Mask:
    """True where any voxel of `mask` (C order) within `reach` along each axis, in a box, is true."""
    out = np.empty(mask.shape, np.uint8)
    kernels.widen_box(mask.view(np.uint8), *reach, out)
    return out.view(np.bool_)


def _gaussian(
    kernels: ModuleType, data: U8, swept: Mask, holes: Mask, reach: Reach, spacing: F64, limit: float
) -> Filling:
    """Rounded normalised convolution, and the holes where it has support."""
    taps = [
        np.exp(-0.5 * (np.arange(r + 1) * 3 * s / limit) ** 2).astype(np.float32)
        for r, s in zip(reach, spacing, strict=True)
    ]
    signal, certainty = np.empty(data.shape, np.float32), np.empty(data.shape, np.float32)
    level, found = np.zeros_like(data), np.zeros_like(holes)
    kernels.smooth_slices(data, swept, taps[1], taps[2], signal, certainty)
    kernels.normalised(signal, certainty, taps[0], holes, level, found)
    return level, found


def _offsets(reach: Reach, spacing: F64, limit: float) -> tuple[npt.NDArray[np.int64], F64]:
    """Offsets (K, 3) (z, y, x) within `limit` mm but for the zero one, nearest first, and their distances (K,)."""
    axes = [np.arange(-r, r + 1) for r in reach]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm(offsets * spacing, axis=1)
    order = np.argsort(distance, kind="stable")[1:]
    order = order[distance[order] <= limit + 1e-9]
    return np.ascontiguousarray(offsets[order]), distance[order]


def _nearest(
    kernels: ModuleType, data: U8, swept: Mask, holes: Mask, reach: Reach, spacing: F64, limit: float
) -> Filling:
    """Level of the nearest swept voxel, by trying the offsets from the nearest to the farthest."""
    level, found = np.zeros_like(data), np.zeros_like(holes)
    kernels.nearest(data, swept, holes, _offsets(reach, spacing, limit)[0], level, found)
    return level, found


def _inverse_distance(
    kernels: ModuleType, data: U8, swept: Mask, holes: Mask, reach: Reach, spacing: F64, limit: float
) -> Filling:
    """Mean of the swept voxels within the limit, weighted by 1 / distance."""
    level, found = np.zeros_like(data), np.zeros_like(holes)
    offsets, distance = _offsets(reach, spacing, limit)
    kernels.inverse_distance(data, swept, holes, offsets, 1 / distance, level, found)
    return level, found


def _stick(kernels: ModuleType, data: U8, swept: Mask, spacing: F64, limit: float) -> Filling:
    """Interpolation along the shortest sticks."""
    steps = np.array(STICKS, np.int64)[:, ::-1].copy()
    lengths = np.sqrt(((steps * (spacing / spacing.min())) ** 2).sum(axis=1))
    level, found = np.zeros_like(data), np.zeros_like(swept)
    most = int(2 * limit / spacing.max() + 1e-9)
    half = most // 2  # the nearer end of a stick is within half its length
    near = _widened_mask(kernels, swept, (half, half, half))
    kernels.stick(data, swept, near & ~swept, steps, lengths, most, level, found)
    return level, found
