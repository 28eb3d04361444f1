"""The part of the images that goes into a volume: sector, rectangle, or what both hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import cast

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Rectangle, ScanArea, Sector
from edge_runtime.preprocess import detect_scan_area
from edge_runtime.reconstruct.sweep import Sweep

__all__ = ["ClippedSector", "clip_area", "detect_area"]

MOST_IMAGES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSector(Sector):
    """The part of a sector that lies in the rectangle `clip`."""

    clip: Rectangle

    def mask(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """(H, W) bool, true where a pixel's centre lies inside both."""
        return Sector.mask(self, shape) & self.clip.mask(shape)

    def moved(self, dx: float, dy: float, sx: float = 1.0, sy: float = 1.0) -> ClippedSector:
        """The same area after `x' = sx * x + dx`, `y' = sy * y + dy`."""
        numbers = asdict(Sector.moved(self, dx, dy, sx, sy))
        return ClippedSector(**numbers, clip=self.clip.moved(dx, dy, sx, sy))


def clip_area(area: ScanArea | None, clip: Rectangle) -> ScanArea:
    """What lies in `area` and in `clip`, in pixels; all of `clip` without an area."""
    if area is None:
        return clip
    if isinstance(area, Sector):
        if isinstance(area, ClippedSector):
            clip = cast(Rectangle, clip_area(area.clip, clip))
        return ClippedSector(**{f.name: getattr(area, f.name) for f in fields(Sector)}, clip=clip)
    return Rectangle(
        x0=max(area.x0, clip.x0), y0=max(area.y0, clip.y0), x1=min(area.x1, clip.x1), y1=min(area.y1, clip.y1)
    )


def detect_area(sweep: Sweep) -> ScanArea:
    """The sector or rectangle that the images of `sweep` show: `detect_scan_area` on up to 32 of them, evenly taken.

    Raises as it does, and `ConfigError` when the images differ in size.
    """
    rows = np.unique(np.linspace(0, len(sweep) - 1, MOST_IMAGES).round().astype(int))
    images = [sweep.image(int(k)) for k in rows]
    if len({image.shape for image in images}) > 1:
        raise ConfigError("the images differ in size; a scan area is found in images of one size, so give it by hand")
    return detect_scan_area(images)
