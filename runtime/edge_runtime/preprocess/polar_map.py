"""`PolarMap`: where a pixel of a polar network image lies in the source image, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import GeometryError
from edge_runtime.frame import Sector
from edge_runtime.optional import require
from edge_runtime.preprocess.pixel_map import PixelMap

__all__ = ["PolarMap", "PolarResampler"]

OUTSIDE = -10  # a table entry that lies in no image


@dataclass(frozen=True, slots=True, kw_only=True)
class PolarMap(PixelMap):
    """Rows are radii, columns beam angles of `sector`; both are cut into equal parts, pixels in their middles.

    `r = radius_min + (y + 0.5 - content.y0) / content.height (radius_max - radius_min)`, the angle alike in x, then
    `x_source = apex_x + aspect r sin(angle)`, `y_source = apex_y + r cos(angle)`. `crop` is the box around the sector.
    The ways back to source pixels are scan conversions; what lies outside of the sector is 0.
    """

    sector: Sector

    @property
    def scale(self) -> tuple[float, float]:
        """A polar image has no one scale: `GeometryError`. Use `to_source`."""
        raise GeometryError("a polar image has no pixel scale: it changes with the radius; map points with to_source")

    @property
    def offset(self) -> tuple[float, float]:
        """(bx, by): source position of network pixel (0, 0)."""
        x, y = self.to_source((0.0, 0.0))
        return float(x), float(y)

    @property
    def step(self) -> tuple[float, float]:
        """(rad, px): angle of one column, radius of one row."""
        sector = self.sector
        return (
            (sector.angle_max - sector.angle_min) / self.content.width,
            (sector.radius_max - sector.radius_min) / self.content.height,
        )

    def to_source(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Source positions (..., 2) of network positions (..., 2), each (x, y) in pixels."""
        at, (turn, reach), sector = np.asarray(points, np.float64), self.step, self.sector
        angle = sector.angle_min + (at[..., 0] + 0.5 - self.content.x0) * turn
        radius = sector.radius_min + (at[..., 1] + 0.5 - self.content.y0) * reach
        x = sector.apex_x + sector.aspect * radius * np.sin(angle)
        return np.stack([x, sector.apex_y + radius * np.cos(angle)], axis=-1)

    def to_network(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Network positions (..., 2) of source positions (..., 2), each (x, y) in pixels."""
        at, (turn, reach), sector = np.asarray(points, np.float64), self.step, self.sector
        dx, dy = (at[..., 0] - sector.apex_x) / sector.aspect, at[..., 1] - sector.apex_y
        x = (np.arctan2(dx, dy) - sector.angle_min) / turn - 0.5 + self.content.x0
        return np.stack([x, (np.hypot(dx, dy) - sector.radius_min) / reach - 0.5 + self.content.y0], axis=-1)

    def probability_to_source(
        self, probability: npt.NDArray[np.float32], *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """(H, W) float32 of a (h, w) float32 map: linear inside the sector, 0 outside. As `PixelMap`'s."""
        target = self._target(probability, np.float32, out)
        cv2: Any = require("cv2", "to scan-convert maps")
        place, fraction, _ = _tables(self)
        cv2.remap(probability[self.content.slices], place, fraction, cv2.INTER_LINEAR, dst=target[self.crop.slices])
        return target

    def mask_to_source(
        self, mask: npt.NDArray[np.uint8], *, out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """(H, W) uint8 of a (h, w) uint8 label image: nearest inside the sector, 0 outside. As `PixelMap`'s."""
        target = self._target(mask, np.uint8, out)
        cv2: Any = require("cv2", "to scan-convert masks")
        nearest = _tables(self)[2]
        cv2.remap(mask[self.content.slices], nearest, None, cv2.INTER_NEAREST, dst=target[self.crop.slices])
        return target


@lru_cache(maxsize=2)
def _tables(place: PolarMap) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16], npt.NDArray[np.int16]]:
    """OpenCV's fixed-point tables (1/32 px) from the crop to the content, and the table of nearest pixels."""
    cv2: Any = require("cv2", "to scan-convert maps")
    crop, content = place.crop, place.content
    y, x = np.mgrid[crop.y0 : crop.y0 + crop.height, crop.x0 : crop.x0 + crop.width]
    at = place.to_network(np.stack([x, y], axis=-1)) - (content.x0, content.y0)
    at = np.clip(at, 0, (content.width - 1, content.height - 1))  # the edge is carried outwards by half a pixel
    at[~place.sector.mask(place.source_shape)[crop.slices]] = OUTSIDE
    linear, fraction = cv2.convertMaps(at.astype(np.float32), None, cv2.CV_16SC2)
    return linear, fraction, np.ascontiguousarray(np.rint(at), np.int16)


class PolarResampler:
    """`resample(source, target)`: the crop's uint8 pixels to the content of a `PolarMap`.

    Linear onto a grid as fine as the source (one pixel a step at the largest radius), then averaged over whole cells,
    so that shrinking does not alias. More than one pixel outside the source image stands 0.
    """

    def __init__(self, place: PolarMap) -> None:
        self._cv2: Any = require("cv2", "to resample frames")
        rows, columns = _oversampling(place)
        height, width = place.content.height * rows, place.content.width * columns
        v, u = np.mgrid[:height, :width]
        x = (u + 0.5) / columns - 0.5 + place.content.x0
        y = (v + 0.5) / rows - 0.5 + place.content.y0
        at = place.to_source(np.stack([x, y], axis=-1)) - (place.crop.x0, place.crop.y0)
        last = np.array([place.crop.width - 1, place.crop.height - 1])
        outside = ((at < -1) | (at > last + 1)).any(axis=-1)
        at = np.clip(at, 0, last)  # the edge is carried outwards by one pixel: the crop ends at whole pixels
        at[outside] = OUTSIDE
        self._place, self._fraction = self._cv2.convertMaps(at.astype(np.float32), None, self._cv2.CV_16SC2)
        self._fine = np.empty((height, width), np.uint8) if rows > 1 or columns > 1 else None

    def __call__(self, source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
        """Fill `target` (h, w) from `source` (H, W), the crop."""
        fine = target if self._fine is None else self._fine
        self._cv2.remap(source, self._place, self._fraction, self._cv2.INTER_LINEAR, dst=fine)
        if self._fine is not None:
            size = (target.shape[1], target.shape[0])
            self._cv2.resize(self._fine, size, dst=target, interpolation=self._cv2.INTER_AREA)


def _oversampling(place: PolarMap) -> tuple[int, int]:
    """Whole numbers of fine rows and columns a network pixel; no finer than the source image has pixels across."""
    (turn, reach), sector = place.step, place.sector
    across = math.hypot(*place.source_shape)
    arc = min(turn * place.content.width * sector.radius_max * max(sector.aspect, 1.0), math.pi * across)
    depth = min(reach * place.content.height, across)
    # a hair of slack: 256 px in 256 rows is one row a pixel
    return max(1, math.ceil(depth / place.content.height - 1e-6)), max(1, math.ceil(arc / place.content.width - 1e-6))
