"""`detect_scan_area`: the sector or rectangle that a screen capture shows, where no region is written down.

1. Brightest value of every pixel over the frames and channels; above the page (median of the image's border) counts.
2. Opening by a small square takes thin lines and text away, closing joins speckle, opening by a larger square takes
   away what sticks out (ruler, depth label), broad bands excepted. The largest component stays, with components above
   or below it that are about as wide: a cyst can part the image in two. Columns are filled from first to last pixel.
3. Rectangle: the most frequent first and last pixel of rows and columns. Sector: the line through most first, and the
   one through most last, pixels of the rows; where they meet is the apex. The outer radius is near the largest of the
   last pixels of the columns, the inner one where most between the sides is bright.
4. The shape with the larger overlap (intersection over union) wins; the rectangle unless the sector gains 0.002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, GeometryError
from edge_runtime.frame import Rectangle, ScanArea, Sector
from edge_runtime.optional import require

__all__ = ["detect_scan_area"]

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

ABOVE_PAGE = 2  # grey levels
MIN_SHARE = 0.02  # of the image
MIN_OVERLAP = 0.9  # lower ones were wrong as often as right on real captures
MIN_GAIN = 0.002  # in overlap, by which a sector must beat the rectangle
MAX_ASPECT = 4  # width over height
MIN_WIDTH = 0.6  # of the largest component, for a second one above or below it
INLIER = 1.5  # px from a side of the sector
PROBES = 48  # rows whose pairs are tried as sides
DEEPEST = 95.0  # percent
MIN_SLOPE, MAX_SLOPE = 0.01, 4.0  # of a side, in columns a row


def detect_scan_area(images: Image | Sequence[Image]) -> ScanArea:
    """The scan area of one (H, W) or (H, W, 3) uint8 image, or of several frames of one view (better: less is dark).

    Square pixels are assumed. Put it in the geometry of the source once, not of every frame:
    `replace(geometry, scan_area=detect_scan_area(frames))`. Raises `ConfigError` for no image or images of different
    shape, `GeometryError` when nothing looks like a rectangle or a sector.
    """
    bright = _brightest([images] if isinstance(images, np.ndarray) else list(images))
    on, region = _regions(bright)
    shapes: list[ScanArea] = [_rectangle(region)]
    if (sector := _sector(region, on)) is not None:
        shapes.append(sector)
    overlaps = [_overlap(shape.mask(region.shape), region, on) for shape in shapes]
    best = 1 if len(shapes) > 1 and overlaps[1] > overlaps[0] + MIN_GAIN else 0
    if overlaps[best] < MIN_OVERLAP:
        raise GeometryError(
            f"the bright part of the image is no rectangle and no sector (overlap {overlaps[best]:.2f}; at least "
            f"{MIN_OVERLAP} is needed); give more frames of the same view, or set the scan area by hand"
        )
    return shapes[best]


def _brightest(frames: list[Image]) -> Image:
    if not frames:
        raise ConfigError("no image to find a scan area in; give at least one")
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) > 1:
        raise ConfigError(f"images of the shapes {shapes}; a scan area is found in frames of one shape")
    if len(shapes[0]) not in (2, 3) or min(shapes[0][:2]) < 16 or any(frame.dtype != np.uint8 for frame in frames):
        raise ConfigError(
            f"images are {frames[0].dtype} {shapes[0]}; (H, W) or (H, W, 3) uint8 of at least 16 x 16 are needed"
        )
    bright = frames[0].copy()
    for frame in frames[1:]:
        np.maximum(bright, frame, out=bright)
    return bright if bright.ndim == 2 else np.ascontiguousarray(bright.max(axis=2))


def _regions(bright: Image) -> tuple[Mask, Mask]:
    """All that is bright, without thin things; and what of it is surely the scan area, columns filled."""
    cv2: Any = require("cv2", "to find the scan area")
    side = min(bright.shape)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    on = (bright.astype(np.int16) > np.median(border) + ABOVE_PAGE).astype(np.uint8)
    pad = side // 10  # so that opening and closing end at the edge of the image as elsewhere
    on = cv2.copyMakeBorder(on, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)

    def square(height: int, width: int) -> Image:
        return np.ones((max(3, height) | 1, max(3, width) | 1), np.uint8)

    on = cv2.morphologyEx(on, cv2.MORPH_OPEN, square(side // 240, side // 240))
    on = cv2.morphologyEx(on, cv2.MORPH_CLOSE, square(side // 30, side // 30))
    whole = cv2.morphologyEx(on, cv2.MORPH_OPEN, square(side // 24, side // 24))
    bands = cv2.morphologyEx(on, cv2.MORPH_OPEN, square(side // 100, side // 4))  # the near field over a dark cyst
    inner = (slice(pad, -pad), slice(pad, -pad))
    return on[inner] > 0, _largest(np.ascontiguousarray((whole | bands)[inner]))


def _largest(on: Image) -> Mask:
    """The largest component with those that complete it, columns filled."""
    cv2: Any = require("cv2", "to find the scan area")
    count, labels, facts, _ = cv2.connectedComponentsWithStats(on)
    if count < 2 or facts[1:, cv2.CC_STAT_AREA].max() < MIN_SHARE * on.size:
        raise GeometryError(
            f"no part of the image as large as {MIN_SHARE:.0%} of it is brighter than the page; give more frames, or "
            "set the scan area by hand"
        )
    main = 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())
    left, width = facts[:, cv2.CC_STAT_LEFT], facts[:, cv2.CC_STAT_WIDTH]
    if width[main] > MAX_ASPECT * (height := facts[main, cv2.CC_STAT_HEIGHT]):
        raise GeometryError(
            f"the largest bright part of the image is a bar of {width[main]} x {height} px, not a scan area; crop it "
            "away, or set the scan area by hand"
        )
    slack = 0.1 * width[main]
    joined = (width >= MIN_WIDTH * width[main]) & (left >= left[main] - slack)
    joined &= left + width <= left[main] + width[main] + slack
    joined[0] = False
    return _filled(joined[labels])


def _filled(region: Mask) -> Mask:
    """Every column from its first to its last pixel."""
    first, last = region.argmax(axis=0), region.shape[0] - 1 - region[::-1].argmax(axis=0)
    y = np.arange(region.shape[0])[:, None]
    filled: Mask = (y >= first) & (y <= last) & region.any(axis=0)
    return filled


def _ends(region: Mask) -> tuple[Floats, Floats, Floats]:
    """Rows that hold pixels, and the first and last of their columns."""
    rows = np.flatnonzero(region.any(axis=1))
    part = region[rows]
    last = region.shape[1] - 1 - part[:, ::-1].argmax(axis=1)
    return rows.astype(np.float64), part.argmax(axis=1).astype(np.float64), last.astype(np.float64)


def _usual(values: Floats) -> float:
    """The most frequent whole number, neighbours counted in by half."""
    counts = np.bincount(values.astype(np.intp)).astype(np.float64)
    return float(np.convolve(counts, [0.5, 1, 0.5], "same").argmax())


def _rectangle(region: Mask) -> Rectangle:
    _, left, right = _ends(region)
    _, top, bottom = _ends(region.T)
    return Rectangle(x0=_usual(left), y0=_usual(top), x1=_usual(right) + 1, y1=_usual(bottom) + 1)


def _side(rows: Floats, ends: Floats) -> tuple[float, float]:
    """(slope, column at row 0) of the line within reach of most ends; least squares over those."""
    probes = np.unique(np.linspace(0, len(rows) - 1, PROBES).astype(np.intp))
    first, second = np.triu_indices(len(probes), k=max(1, len(probes) // 8))
    y, x = rows[probes], ends[probes]
    slopes = (x[second] - x[first]) / (y[second] - y[first])
    starts = x[first] - slopes * y[first]
    near = np.abs(ends - starts[:, None] - slopes[:, None] * rows) <= INLIER
    chosen = near[near.sum(axis=1).argmax()]
    slope, start = np.polyfit(rows[chosen], ends[chosen], 1)
    return float(slope), float(start)


def _sector(region: Mask, on: Mask) -> Sector | None:
    """None where the sides are parallel, too flat, or open upwards."""
    rows, left, right = _ends(region)
    if len(rows) < 2 * PROBES:
        return None
    (slope_left, x_left), (slope_right, x_right) = _side(rows, left - 0.5), _side(rows, right + 0.5)
    if slope_right - slope_left < 2 * MIN_SLOPE or max(-slope_left, slope_right) > MAX_SLOPE:
        return None
    apex_y = (x_right - x_left) / (slope_left - slope_right)
    apex_x = x_left + slope_left * apex_y
    columns, _, bottom = _ends(region.T)
    # the far field is dark in places, never too deep
    radius_max = float(np.percentile(np.hypot(columns - apex_x, bottom - apex_y), DEEPEST))
    radius_min = _nearest(on, apex_x, apex_y, slope_left, slope_right)
    if radius_min is None or not radius_min < radius_max:
        return None
    return Sector(
        apex_x=apex_x,
        apex_y=apex_y,
        radius_min=radius_min,
        radius_max=radius_max,
        angle_min=math.atan(slope_left),
        angle_max=math.atan(slope_right),
    )


def _nearest(on: Mask, apex_x: float, apex_y: float, left: float, right: float) -> float | None:
    """The radius from which most pixels between the two sides are bright; None where the sides hold too few."""
    y, x = np.mgrid[: on.shape[0], : on.shape[1]]
    down, across = y - apex_y, x - apex_x
    cone = (down > 0) & (across >= left * down) & (across <= right * down)
    if np.count_nonzero(cone) < MIN_SHARE * on.size:
        return None
    radii = np.hypot(across[cone], down[cone])
    start = int(radii.min())
    rings = radii.astype(np.intp) - start
    pixels = np.bincount(rings)
    share = np.bincount(rings, on[cone]) / np.where(pixels > 0, pixels, 1)
    run = max(1, len(share) // 50)
    most = (np.convolve(share, np.ones(run) / run, "valid") > 0.5) & (share[: len(share) - run + 1] > 0.5)
    return float(start + int(most.argmax()))


def _overlap(shape: Mask, region: Mask, on: Mask) -> float:
    """Intersection over union of a shape and what is seen of the scan area, inside the shape or surely."""
    seen = region | _filled(on & shape)
    return int((shape & seen).sum()) / max(1, int((shape | seen).sum()))
