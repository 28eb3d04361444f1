"""Millimetres and scan area from the ultrasound regions of a DICOM file (PS3.3 C.8.5.5), or the reason for none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry, Rectangle
from edge_runtime.sources.dicom._header import number_of, numbers_of, value_of

__all__ = ["geometry_of"]

FORMAT_2D, TYPE_TISSUE, UNITS_CM = 1, 1, 3
# no diagnostic probe images deeper than about 40 cm; wider than deep comes with sectors
MAX_DEPTH_MM, MAX_WIDTH_MM, MIN_FIELD_MM = 400.0, 800.0, 1.0
MAX_PIXEL_ASPECT = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    """One 2-D tissue region in cm; corners inclusive, in pixels of the image as it was taken."""

    x0: int
    y0: int
    x1: int
    y1: int
    delta_x: float
    delta_y: float

    def inside(self, rows: int, columns: int) -> bool:
        """Whether it lies in the image; a last corner equal to the size counts (a common off-by-one)."""
        return 0 <= self.x0 < self.x1 <= columns and 0 <= self.y0 < self.y1 <= rows

    def __str__(self) -> str:
        return f"({self.x0},{self.y0})-({self.x1},{self.y1})"


def geometry_of(dataset: Any, rows: int, columns: int, region: int | None) -> tuple[FrameGeometry, str]:
    """Geometry of an image of `rows` x `columns` pixels, and a note on what was unusual ("" if nothing).

    Only 2-D tissue regions in centimetres count (spatial format 1, data type 1, both units 3): traces, bars and
    spectra have no millimetres. One such region that lies inside the image is trusted; its sign is dropped (a
    mirrored axis). With two or more the image has no single scale: `region` picks one, counted among them from 0.
    Without any region element Pixel Spacing is used. Raises `ConfigError` when there is no region number `region`.
    """
    every = list(value_of(dataset, "SequenceOfUltrasoundRegions") or [])
    tissue = _tissue_regions(every)
    if region is not None:
        if not 0 <= region < len(tissue):
            raise ConfigError(f"region={region}: the file has {len(tissue)} 2-D tissue regions, counted from 0")
        tissue = [tissue[region]]
    if len(tissue) > 1:
        listed = ", ".join(f"{i}: {r}" for i, r in enumerate(tissue))
        reason = f"{len(tissue)} B-mode regions in one image ({listed}); choose one with region=0..{len(tissue) - 1}"
        return FrameGeometry(reason=reason), ""
    if tissue:
        return _from_region(tissue[0], rows, columns)
    if every:
        return FrameGeometry(reason=f"none of the {len(every)} ultrasound regions is 2-D tissue in centimetres"), ""
    return _from_spacing(dataset), ""


def _tissue_regions(items: list[Any]) -> list[_Region]:
    found: list[_Region] = []
    for item in items:
        kind = [number_of(item, k) for k in ("RegionSpatialFormat", "RegionDataType")]
        units = [number_of(item, k) for k in ("PhysicalUnitsXDirection", "PhysicalUnitsYDirection")]
        if kind != [FORMAT_2D, TYPE_TISSUE] or units != [UNITS_CM, UNITS_CM]:
            continue
        corners = [number_of(item, f"RegionLocation{k}") for k in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        deltas = [number_of(item, k) for k in ("PhysicalDeltaX", "PhysicalDeltaY")]
        x0, y0, x1, y1 = (-1 if c is None else int(c) for c in corners)
        dx, dy = (math.nan if d is None else d for d in deltas)
        one = _Region(x0=x0, y0=y0, x1=x1, y1=y1, delta_x=dx, delta_y=dy)
        if one not in found:
            found.append(one)
    return found


def _from_region(region: _Region, rows: int, columns: int) -> tuple[FrameGeometry, str]:
    if not region.inside(rows, columns):
        reason = (
            f"the region {region} lies outside the image of {columns} x {rows} pixels: the pixels were scaled or "
            "cropped after the region was written"
        )
        return FrameGeometry(reason=reason), ""
    area = Rectangle(x0=region.x0, y0=region.y0, x1=min(region.x1 + 1, columns), y1=min(region.y1 + 1, rows))
    column_mm, row_mm = 10 * abs(region.delta_x), 10 * abs(region.delta_y)
    if not (math.isfinite(column_mm) and math.isfinite(row_mm) and column_mm > 0 and row_mm > 0):
        return FrameGeometry(scan_area=area, reason="the region's physical delta is missing, zero or no number"), ""
    note = _sign_note(region)
    doubt = _implausible(area, row_mm, column_mm)
    geometry = FrameGeometry(
        row_mm=row_mm,
        column_mm=column_mm,
        scan_area=area,
        origin="dicom-region",
        trusted=not doubt,
        reason="; ".join(part for part in (doubt, note) if part and doubt),
    )
    return geometry, note


def _sign_note(region: _Region) -> str:
    axes = [n for n, d in (("X", region.delta_x), ("Y", region.delta_y)) if d < 0]
    return f"PhysicalDelta{' and '.join(axes)} negative: that axis runs against the pixels" if axes else ""


def _implausible(area: Rectangle, row_mm: float, column_mm: float) -> str:
    depth, width = (area.y1 - area.y0) * row_mm, (area.x1 - area.x0) * column_mm
    if depth > MAX_DEPTH_MM or width > MAX_WIDTH_MM or min(depth, width) < MIN_FIELD_MM:
        return (
            f"the region would be {depth:.4g} mm deep and {width:.4g} mm wide, which no probe images "
            f"(at most {MAX_DEPTH_MM:g} deep): its physical delta is probably in another unit"
        )
    aspect = max(row_mm / column_mm, column_mm / row_mm)
    if aspect > MAX_PIXEL_ASPECT:
        return f"pixels would be {aspect:.3g} times longer than wide; at most {MAX_PIXEL_ASPECT:g} is believed"
    return ""


def _from_spacing(dataset: Any) -> FrameGeometry:
    spacing = numbers_of(dataset, "PixelSpacing")
    if not spacing:
        return FrameGeometry(reason="no calibration in the file: neither an ultrasound region nor Pixel Spacing")
    if len(spacing) != 2 or not all(math.isfinite(v) and v > 0 for v in spacing):
        return FrameGeometry(reason="Pixel Spacing in the file is not two positive numbers")
    return FrameGeometry(row_mm=spacing[0], column_mm=spacing[1], origin="pixel-spacing", trusted=True, reason="")
