"""`Frame` and `FrameGeometry`: an image, when it arrived, and how its pixels relate to millimetres."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, GeometryError

__all__ = ["Frame", "FrameGeometry", "Rectangle", "ScanArea", "Sector"]

_UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """Scan area of a linear probe: pixels `x0 <= x < x1`, `y0 <= y < y1` (half open)."""

    x0: float
    y0: float
    x1: float
    y1: float

    def mask(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """(H, W) bool, true where a pixel's centre lies inside."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        return (x >= self.x0) & (x < self.x1) & (y >= self.y0) & (y < self.y1)

    def moved(self, dx: float, dy: float, sx: float = 1.0, sy: float = 1.0) -> Rectangle:
        """The same area after `x' = sx * x + dx`, `y' = sy * y + dy`."""
        return Rectangle(x0=self.x0 * sx + dx, y0=self.y0 * sy + dy, x1=self.x1 * sx + dx, y1=self.y1 * sy + dy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sector:
    """Scan area of a curved or phased probe, in pixels.

    Apex (`apex_x`, `apex_y`); radii measured from it along the beam; angles in rad from straight down,
    positive towards growing x. `aspect` is the height over the width of a pixel in mm, so that a sector in
    pixels that are not square is still a circle in space (radii are in rows).
    """

    apex_x: float
    apex_y: float
    radius_min: float
    radius_max: float
    angle_min: float
    angle_max: float
    aspect: float = 1.0

    def mask(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """(H, W) bool, true where a pixel's centre lies inside."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        dx = (x - self.apex_x) / self.aspect
        dy = y - self.apex_y
        radius = np.hypot(dx, dy)
        angle = np.arctan2(dx, dy)
        inside: npt.NDArray[np.bool_] = (
            (radius >= self.radius_min)
            & (radius <= self.radius_max)
            & (angle >= self.angle_min)
            & (angle <= self.angle_max)
        )
        return inside

    def moved(self, dx: float, dy: float, sx: float = 1.0, sy: float = 1.0) -> Sector:
        """The same area after `x' = sx * x + dx`, `y' = sy * y + dy`."""
        return Sector(
            apex_x=self.apex_x * sx + dx,
            apex_y=self.apex_y * sy + dy,
            radius_min=self.radius_min * sy,
            radius_max=self.radius_max * sy,
            angle_min=self.angle_min,
            angle_max=self.angle_max,
            aspect=self.aspect * sx / sy,
        )


ScanArea = Rectangle | Sector


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameGeometry:
    """Millimetres per pixel, scan area, and whether to believe them.

    `row_mm` is the distance between the centres of two rows (y), `column_mm` between two columns (x), both
    positive; `shear` is the x shift in mm per mm of y. `origin` says where the numbers come from
    (`dicom-region`, `pixel-spacing`, `user`, `simulated`, `none`). With `trusted` false every length and area
    is withheld and `reason` says why.
    """

    row_mm: float | None = None
    column_mm: float | None = None
    shear: float = 0.0
    scan_area: ScanArea | None = None
    origin: str = "none"
    trusted: bool = False
    reason: str = "the source carries no calibration"

    def __post_init__(self) -> None:
        for name in ("row_mm", "column_mm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; it must be a positive number of mm per pixel")
        if self.trusted and (self.row_mm is None or self.column_mm is None):
            raise ConfigError("a trusted geometry needs row_mm and column_mm; mark it untrusted with a reason")
        if not self.trusted and not self.reason:
            raise ConfigError("an untrusted geometry needs a reason")

    def require_mm(self) -> tuple[float, float]:
        """(row_mm, column_mm), or `GeometryError` with the reason when they cannot be trusted."""
        if not self.trusted or self.row_mm is None or self.column_mm is None:
            raise GeometryError(
                f"no millimetres for this frame: {self.reason}. Give a calibration with "
                "FrameGeometry(row_mm=..., column_mm=..., origin='user', trusted=True, reason='')."
            )
        return self.row_mm, self.column_mm

    @property
    def pixel_area_mm2(self) -> float:
        """Area of one pixel in mm^2 (the shear leaves it unchanged); `GeometryError` when untrusted."""
        row, column = self.require_mm()
        return row * column

    def moved(self, dx: float, dy: float, sx: float = 1.0, sy: float = 1.0) -> FrameGeometry:
        """The geometry of an image whose pixels lie at `x' = sx * x + dx`, `y' = sy * y + dy`."""
        return replace(
            self,
            row_mm=None if self.row_mm is None else self.row_mm / sy,
            column_mm=None if self.column_mm is None else self.column_mm / sx,
            scan_area=None if self.scan_area is None else self.scan_area.moved(dx, dy, sx, sy),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One ultrasound image as it arrived.

    `image` is (H, W) grey or (H, W, 3) RGB, uint8, C-contiguous; `index` counts from 0 in the source;
    `arrival_ns` is host monotonic time of arrival (every latency starts here); `device_ns` is the time in the
    recording or on the device's own clock, or None.
    """

    image: npt.NDArray[np.uint8]
    index: int
    arrival_ns: int
    device_ns: int | None = None
    geometry: FrameGeometry = FrameGeometry()

    def __post_init__(self) -> None:
        shape, dtype = self.image.shape, self.image.dtype
        if not self.image.flags.c_contiguous:
            raise ConfigError(
                f"frame {self.index}: image is not C-contiguous (a view with gaps or turned axes, strides "
                f"{self.image.strides}); pass numpy.ascontiguousarray(image)"
            )
        if dtype != _UINT8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)) or 0 in shape:
            raise ConfigError(
                f"frame {self.index}: image has shape {shape} and dtype {dtype}; "
                "(H, W) or (H, W, 3) uint8 with at least one pixel is needed"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[0], self.image.shape[1]
