"""Calibration of a tracked probe: the image in the probe (N-wire), the clocks (temporal), a tool's tip (pivot)."""

from __future__ import annotations

from edge_runtime.calibration.pivot import PivotCalibration, PivotSettings, calibrate_pivot
from edge_runtime.calibration.residuals import Residuals, draw_residuals
from edge_runtime.calibration.spatial import (
    NWire,
    SpatialCalibration,
    SpatialSettings,
    calibrate_image,
    middle_points,
    reprojection_error,
)
from edge_runtime.calibration.temporal import (
    TemporalCalibration,
    TemporalSettings,
    calibrate_offset,
    image_motion,
    pose_motion,
)

__all__ = [
    "NWire",
    "PivotCalibration",
    "PivotSettings",
    "Residuals",
    "SpatialCalibration",
    "SpatialSettings",
    "TemporalCalibration",
    "TemporalSettings",
    "calibrate_image",
    "calibrate_offset",
    "calibrate_pivot",
    "draw_residuals",
    "image_motion",
    "middle_points",
    "pose_motion",
    "reprojection_error",
]
