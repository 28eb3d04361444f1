"""The probe: where its beams run, how wide its pulse is, and how its echoes become grey levels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.frame import FrameGeometry, Rectangle, Sector
from edge_sdk.simulate._checks import require, require_positive, require_shape

__all__ = ["ImagingSettings", "ProbeModel"]

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagingSettings:
    """What the operator and the electronics add. Levels in dB relative to the echo of normal tissue (0 dB).

    `dynamic_range_db` between black and white; white lies `headroom_db` above tissue, less `gain_db`.
    `tgc_fraction` is the part of the mean attenuation that the time-gain compensation undoes (0 is off, 1 right);
    `tgc_error_db` are slider errors, evenly spaced in depth. `noise_db` is white electronic noise before the
    TGC, so it grows with depth. `sidelobe_db` is the power of the wide pedestal of the beam. `clutter_db` is
    near-field reverberation at the face, falling by `exp(-depth / clutter_depth_mm)` in amplitude.
    `gamma` bends the grey map; `smoothing_mm` is the display filter (0 is none). `ConfigError` outside limits.
    """

    dynamic_range_db: float = 60.0
    headroom_db: float = 24.0
    gain_db: float = 0.0
    tgc_fraction: float = 1.0
    tgc_error_db: tuple[float, ...] = ()
    noise_db: float = -70.0
    sidelobe_db: float = -32.0
    clutter_db: float = 0.0
    clutter_depth_mm: float = 1.5
    gamma: float = 1.0
    smoothing_mm: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "dynamic_range_db", "gamma", "clutter_depth_mm")
        require(20 <= self.dynamic_range_db <= 120, "dynamic_range_db", self.dynamic_range_db, "give 20 to 120 dB")
        require(0 <= self.tgc_fraction <= 2, "tgc_fraction", self.tgc_fraction, "give 0 (off) to 2")
        require(0 <= self.smoothing_mm <= 5, "smoothing_mm", self.smoothing_mm, "give 0 (none) to 5 mm")
        require(all(map(math.isfinite, self.tgc_error_db)), "tgc_error_db", self.tgc_error_db, "give finite dB")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeModel:
    """Geometry in mm and point-spread function (PSF) of a linear or sector (curved, phased) probe.

    Space is x lateral (0 in the middle) and z axial (0 at the middle of the face), mm. A linear probe is
    `width_mm` wide; a sector spans `angle_rad` in all around an apex `apex_radius_mm` behind the face (small for
    phased, large for curved). `depth_mm` runs along the beam. The amplitude PSF is Gaussian:
    axially `axial_sigma_mm * (1 + axial_growth * depth / depth_mm)`, laterally
    `lateral_sigma_mm * sqrt(1 + ((depth - focal_mm) / field_mm)^2)`, the width of a Gaussian beam (field_mm is its
    Rayleigh length). Raises `ConfigError` for numbers outside what a probe can be.
    """

    kind: Literal["linear", "sector"] = "linear"
    depth_mm: float = 40.0
    width_mm: float = 38.0
    angle_rad: float = 1.2
    apex_radius_mm: float = 50.0
    frequency_mhz: float = 7.5
    axial_sigma_mm: float = 0.14
    axial_growth: float = 0.3
    lateral_sigma_mm: float = 0.28
    focal_mm: float = 18.0
    field_mm: float = 16.0
    imaging: ImagingSettings = field(default_factory=ImagingSettings)

    def __post_init__(self) -> None:
        require(self.kind in ("linear", "sector"), "kind", self.kind, "give 'linear' or 'sector'")
        require_positive(self, "depth_mm", "width_mm", "angle_rad", "apex_radius_mm", "frequency_mhz")
        require_positive(self, "axial_sigma_mm", "lateral_sigma_mm", "focal_mm", "field_mm")
        require(self.depth_mm <= 400, "depth_mm", self.depth_mm, "give at most 400 mm")
        require(self.width_mm <= 200, "width_mm", self.width_mm, "give at most 200 mm")
        require(self.angle_rad <= 2.8, "angle_rad", self.angle_rad, "give the whole span, at most 2.8 rad")
        require(self.frequency_mhz <= 50, "frequency_mhz", self.frequency_mhz, "give at most 50 MHz")
        require(0 <= self.axial_growth <= 4, "axial_growth", self.axial_growth, "give 0 to 4")
        finest = self.depth_mm / 4000
        require(self.axial_sigma_mm >= finest, "axial_sigma_mm", self.axial_sigma_mm, f"give >= {finest} at this depth")
        require(
            self.lateral_sigma_mm >= finest,
            "lateral_sigma_mm",
            self.lateral_sigma_mm,
            f"give >= {finest} at this depth",
        )

    @property
    def lateral_span(self) -> float:
        """Width of the fan: mm (linear) or rad (sector)."""
        return self.width_mm if self.kind == "linear" else self.angle_rad

    def axial_sigma(self, depth: FloatArray) -> FloatArray:
        """Axial sigma (mm) of the amplitude PSF at `depth` (mm)."""
        return (self.axial_sigma_mm * (1 + self.axial_growth * depth / self.depth_mm)).astype(np.float32)

    def lateral_sigma(self, depth: FloatArray) -> FloatArray:
        """Lateral sigma of the amplitude PSF at `depth` (mm), in mm (linear) or rad (sector)."""
        sigma = self.lateral_sigma_mm * np.sqrt(1 + ((depth - self.focal_mm) / self.field_mm) ** 2)
        if self.kind == "sector":
            sigma = np.minimum(sigma / np.maximum(depth + self.apex_radius_mm, 1e-3), self.angle_rad / 12)
        return np.asarray(sigma, np.float32)

    def to_space(self, lateral: FloatArray, depth: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(x, z) in mm of beam coordinates (mm or rad, mm)."""
        if self.kind == "linear":
            return lateral, depth
        radius = depth + np.float32(self.apex_radius_mm)
        return radius * np.sin(lateral), radius * np.cos(lateral) - np.float32(self.apex_radius_mm)

    def to_beam(self, x: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(lateral, depth) in (mm or rad, mm) of a place in mm."""
        if self.kind == "linear":
            return x, z
        down = z + np.float32(self.apex_radius_mm)
        return np.arctan2(x, down), np.hypot(x, down) - np.float32(self.apex_radius_mm)

    def inside(self, x: FloatArray, z: FloatArray) -> npt.NDArray[np.bool_]:
        """Whether a place in mm lies in the scan area."""
        lateral, depth = self.to_beam(x, z)
        within: npt.NDArray[np.bool_] = (
            (np.abs(lateral) <= self.lateral_span / 2) & (depth >= 0) & (depth <= self.depth_mm)
        )
        return within

    def extent_mm(self) -> tuple[float, float, float]:
        """(half width, top z, bottom z) in mm of the box around the scan area."""
        if self.kind == "linear":
            return self.width_mm / 2, 0.0, self.depth_mm
        half = self.angle_rad / 2
        reach = self.apex_radius_mm + self.depth_mm
        return reach * math.sin(min(half, math.pi / 2)), self.apex_radius_mm * (math.cos(half) - 1), self.depth_mm

    def pixel_mm(self, shape: tuple[int, int]) -> float:
        """Side in mm of the square pixels with which the scan area just fills (H, W)."""
        half, top, bottom = self.extent_mm()
        return max((bottom - top) / shape[0], 2 * half / shape[1])

    def geometry(self, shape: tuple[int, int]) -> FrameGeometry:
        """The trusted `FrameGeometry` of an (H, W) image: square pixels, fan centred in x, at the top in y."""
        require_shape(shape)
        mm = self.pixel_mm(shape)
        half, top, _ = self.extent_mm()
        centre, row0 = (shape[1] - 1) / 2, -top / mm - 0.5
        area: Rectangle | Sector
        if self.kind == "linear":
            area = Rectangle(x0=centre - half / mm, x1=centre + half / mm, y0=row0, y1=row0 + self.depth_mm / mm)
        else:
            area = Sector(
                apex_x=centre,
                apex_y=row0 - self.apex_radius_mm / mm,
                radius_min=self.apex_radius_mm / mm,
                radius_max=(self.apex_radius_mm + self.depth_mm) / mm,
                angle_min=-self.angle_rad / 2,
                angle_max=self.angle_rad / 2,
            )
        return FrameGeometry(row_mm=mm, column_mm=mm, scan_area=area, origin="simulated", trusted=True, reason="")

    def pixel_places(self, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """(x, z) in mm of every pixel centre, each (H, W) float32."""
        mm = self.pixel_mm(shape)
        _, top, _ = self.extent_mm()
        z, x = np.indices(shape, dtype=np.float32)
        return (x - np.float32((shape[1] - 1) / 2)) * np.float32(mm), (z + np.float32(0.5)) * np.float32(
            mm
        ) + np.float32(top)
