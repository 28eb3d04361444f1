"""Connected regions of a mask: the largest of each class, and touching objects parted by their drawn borders."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.optional import require
from edge_runtime.result import Area, Instance

__all__ = ["instances_of", "keep_largest", "separate"]

Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.uint8]


def keep_largest(mask: Mask, classes: int) -> None:
    """Set all but the largest 8-connected region of each class 1 to `classes` of (H, W) to 0, in place.

    Of equal regions the one with the first pixel in reading order stays.
    """
    cv2: Any = require("cv2", "to find connected regions")
    part = mask[_box(cv2, mask)]
    if not part.size:
        return
    for k in range(1, classes + 1):
        own = np.equal(part, k)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(own.view(np.uint8), connectivity=8)
        if count > 2:
            best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
            part[own & (labels != best)] = 0


def separate(
    mask: Mask, border: npt.NDArray[np.bool_], classes: int, *, min_seed: float = 4, min_area: float = 12
) -> Int32:
    """Numbers (H, W) int32 from 1 of the objects in `mask` (H, W), 0 background, parted where `border` is true.

    The seeds are the 4-connected regions of each class without its border (Chen et al., DCAN, CVPR 2016) of at least
    `min_seed` pixels; every other pixel of the class joins the nearest seed of its own region (distances within 2 %:
    Borgefors 1986, 5 x 5). A region without a seed is one object. Objects of fewer than `min_area` pixels are left out.
    Raises `ConfigError` for shapes that differ.
    """
    if mask.ndim != 2 or border.shape != mask.shape:
        raise ConfigError(f"mask is {mask.shape} and border {border.shape}; two of (H, W) are needed")
    cv2: Any = require("cv2", "to separate objects")
    numbers = np.zeros(mask.shape, np.int32)
    whole, found = _box(cv2, mask), 0
    if not mask[whole].size:
        return numbers
    for k in range(1, classes + 1):
        own = np.equal(mask[whole], k)
        _, parts, boxes, _ = cv2.connectedComponentsWithStats(own.view(np.uint8), connectivity=4)
        _, seeds, sizes, _ = cv2.connectedComponentsWithStats((own & ~border[whole]).view(np.uint8), connectivity=4)
        kept = sizes[:, cv2.CC_STAT_AREA] >= min_seed
        kept[0] = False
        seeds = np.where(kept, np.arange(len(kept)), 0).astype(np.int32)[seeds]
        for part in range(1, len(boxes)):
            box = _slices(*boxes[part, :4])
            inside = parts[box] == part
            joined = _join(cv2, np.where(inside, seeds[box], np.int32(0)), len(kept))
            numbers[whole][box][inside] = joined[inside] + found
            found += int(joined.max())
    area = np.bincount(numbers[whole].ravel(), minlength=1) >= min_area
    area[0] = False
    numbers[whole] = np.where(area, np.cumsum(area), 0).astype(np.int32)[numbers[whole]]
    return numbers


def _join(cv2: Any, seeds: Int32, count: int) -> Int32:
    """The number of the nearest seed for every pixel, counted from 1; all 1 when there is at most one."""
    there = np.bincount(seeds.ravel(), minlength=count) > 0
    there[0] = False
    if there.sum() <= 1:
        return np.ones(seeds.shape, np.int32)
    _, nearest = cv2.distanceTransformWithLabels(
        (seeds == 0).view(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    inside = seeds > 0
    table = np.zeros(int(np.count_nonzero(inside)) + 1, np.int32)  # pixels of seeds are numbered from 1
    table[nearest[inside]] = np.cumsum(there, dtype=np.int32)[seeds[inside]]
    joined: Int32 = table[nearest]
    return joined


def _box(cv2: Any, mask: Mask) -> tuple[slice, slice]:
    """(rows, columns) around what is not 0, without a pixel where nothing is (OpenCV must not be given that)."""
    return _slices(*cv2.boundingRect(mask))


def _slices(x: int, y: int, width: int, height: int, *_: int) -> tuple[slice, slice]:
    return slice(y, y + height), slice(x, x + width)


def instances_of(numbers: Int32, mask: Mask, labels: tuple[str, ...], geometry: FrameGeometry) -> tuple[Instance, ...]:
    """One entry an object of `numbers` (H, W), with its class in `mask`, area and box in source pixels."""
    cv2: Any = require("cv2", "to list objects")
    found = []
    per_pixel = geometry.pixel_area_mm2 if geometry.trusted else None
    whole = _box(cv2, mask)
    part, classes = numbers[whole], mask[whole]
    for number in range(1, int(part.max(initial=0)) + 1):
        own = np.equal(part, number)
        x, y, width, height = cv2.boundingRect(own.view(np.uint8))
        pixels = int(np.count_nonzero(own))
        area = Area(
            label=labels[int(classes.flat[int(own.argmax())]) - 1],
            pixels=pixels,
            mm2=None if per_pixel is None else pixels * per_pixel,
            withheld="" if geometry.trusted else geometry.reason,
        )
        x0, y0 = x + whole[1].start, y + whole[0].start
        found.append(Instance(number=number, area=area, x0=x0, y0=y0, x1=x0 + width, y1=y0 + height))
    return tuple(found)
