"""Axial compression of a frame by the probe: the model, and a frame as it would be at rest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry, Rectangle, ScanArea, Sector
from edge_runtime.reconstruct.scan_area import clip_area

__all__ = ["CompressionSettings", "face_row", "row_map", "undo_compression"]

Floats = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]


class CompressionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How compression is estimated. Strain is the share for `linear` and amount / `decay_mm` for `near-field`.

    `decay_mm` is L of the near-field model. `block_mm` (axial, lateral) of matching, `search_mm` how far up and down,
    `least_ncc` the lowest correlation of a block that counts. `lags`: frame k is compared with k + lag for each.
    `least_blocks` and `least_depth` (share of the scanned depth that they span), `most_scatter_mm` and `least_inliers`
    of a fit, else the pair is refused. `rate`: standard deviation of the change, from frame to frame, of the strain's
    rate; smaller is smoother. `reference`: the first frame is at rest, or the median of all. `significance`: a frame is
    left alone unless its strain exceeds this many standard errors, and `least_strain`; and beyond `most_strain`;
    the whole sweep is, unless the strain of some frame that is to be corrected reaches `least_peak`.
    Raises `ConfigError` for a value out of range.
    """

    model: Literal["linear", "near-field"] = "linear"
    decay_mm: float = 15.0
    block_mm: tuple[float, float] = (3.0, 4.0)
    search_mm: float = 1.5
    least_ncc: float = 0.6
    lags: tuple[int, ...] = (1, 2)
    least_blocks: int = 15
    least_depth: float = 0.4
    most_scatter_mm: float = 0.15
    least_inliers: float = 0.5
    rate: float = 0.004
    reference: Literal["first", "median"] = "first"
    significance: float = 3.0
    least_strain: float = 0.006
    least_peak: float = 0.015
    most_strain: float = 0.25

    def __post_init__(self) -> None:
        if self.model not in ("linear", "near-field") or self.reference not in ("first", "median"):
            raise ConfigError(
                f"model {self.model!r}, reference {self.reference!r}: 'linear' or 'near-field', and 'first' or 'median'"
            )
        positive = ("decay_mm", "search_mm", "most_scatter_mm", "rate", "significance")
        for name, value in [(n, getattr(self, n)) for n in positive] + [("block_mm", b) for b in self.block_mm]:
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; a positive number is needed")
        for name in ("least_ncc", "least_depth", "least_inliers"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; above 0 and at most 1 is allowed")
        if not 0 <= self.least_strain < self.most_strain <= 0.5:
            raise ConfigError(
                f"least_strain {self.least_strain} and most_strain {self.most_strain}: 0 <= least < most <= "
                "0.5 is needed"
            )
        if not self.least_strain <= self.least_peak <= self.most_strain:
            raise ConfigError(f"least_peak {self.least_peak}: from least_strain to most_strain is allowed")
        if not self.lags or min(self.lags) < 1 or max(self.lags) > 16 or self.least_blocks < 6:
            raise ConfigError(f"lags {self.lags}, least_blocks {self.least_blocks}: lags of 1 to 16, at least 6 blocks")

    def strain_of(self, amount: float) -> float:
        """The strain that `amount` stands for."""
        return amount if self.model == "linear" else amount / self.decay_mm


def face_row(geometry: FrameGeometry) -> float:
    """Row of the probe's face: the top of the scan area in its middle, row 0 without an area."""
    area = geometry.scan_area
    if area is None:
        return 0.0
    return max(0.0, area.apex_y + area.radius_min if isinstance(area, Sector) else area.y0)


def row_map(rows: int, geometry: FrameGeometry, amount: float, settings: CompressionSettings) -> Floats:
    """(rows,) float64: the row, fractional, of the frame as it was taken for each row of the frame at rest.

    Rows above the probe's face move with it. Values may lie outside 0 to rows - 1: those were not imaged. Raises
    `GeometryError` without trusted millimetres and `ConfigError` when the strain is beyond `settings.most_strain`.
    """
    if not abs(settings.strain_of(amount)) <= settings.most_strain:
        raise ConfigError(
            f"amount {amount} is a strain of {settings.strain_of(amount):.3g}; at most {settings.most_strain} is "
            "allowed"
        )
    row_mm, _ = geometry.require_mm()
    face = face_row(geometry)
    depth = np.maximum(np.arange(rows) - face, 0) * row_mm
    moved = -amount * (depth if settings.model == "linear" else np.exp(-depth / settings.decay_mm))
    return np.asarray(np.arange(rows) + moved / row_mm)


def undo_compression(
    image: Grey, geometry: FrameGeometry, amount: float, settings: CompressionSettings
) -> tuple[Grey, FrameGeometry]:
    """The frame (H, W) uint8 as it would be at rest, by linear interpolation along y, and its geometry.

    Size and millimetres per pixel are unchanged; the scan area shrinks to the pixels whose source lay in the scan area
    (a sector: the largest sector inside them), so that nothing that was not imaged is compounded. With `amount` 0 both
    come back as they are. Raises as `row_map`, and `ReconstructionError` when nothing is left of the scan area.
    """
    if amount == 0:
        return image, geometry
    source = row_map(len(image), geometry, amount, settings)
    last = len(image) - 1
    low = np.clip(source.astype(np.int64), 0, max(last - 1, 0))
    part = np.clip(source - low, 0, 1)[:, None].astype(np.float32)
    upper = image[low].astype(np.float32)
    mixed = upper + part * (image[np.minimum(low + 1, last)] - upper)
    mixed[(source < 0) | (source > last)] = 0
    area = _area_at_rest(geometry.scan_area, source, (image.shape[0], image.shape[1]))
    return np.rint(mixed).astype(np.uint8), replace(geometry, scan_area=area)


def _area_at_rest(area: ScanArea | None, source: Floats, shape: tuple[int, int]) -> ScanArea:
    """The part of `area` whose pixels at rest come from pixels in `area`."""
    rows = np.arange(len(source))
    first, end = (area.y0, area.y1) if isinstance(area, Rectangle) else (0.0, float(shape[0]))
    inside = (rows >= first) & (rows < end) & (source >= max(first, 0)) & (source <= min(math.ceil(end), shape[0]) - 1)
    if not inside.any():
        raise ReconstructionError("no row of the scan area is left after undoing the compression; check the amount")
    kept = np.flatnonzero(inside)
    rectangle = Rectangle(x0=0, y0=float(kept[0]), x1=float(shape[1]), y1=float(kept[-1] + 1))
    if not isinstance(area, Sector):
        return clip_area(area, rectangle)
    below = kept[(kept > area.apex_y) & (source[kept] > area.apex_y)]
    if len(below) == 0:
        raise ReconstructionError("no row of the sector is left after undoing the compression; check the amount")
    ratio = (source[below] - area.apex_y) / (below - area.apex_y)
    least, most = min(1.0, float(ratio.min())), max(1.0, float(ratio.max()))
    narrowed = replace(
        area,
        radius_min=area.radius_min / least,
        radius_max=area.radius_max / most,
        angle_min=math.atan(math.tan(area.angle_min) * least),
        angle_max=math.atan(math.tan(area.angle_max) * least),
    )
    return clip_area(narrowed, rectangle)
