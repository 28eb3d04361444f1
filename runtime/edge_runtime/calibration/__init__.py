"""Calibration of a tracked probe: the image in the probe (N-wire), the clocks (temporal), a tool's tip (pivot)."""

from __future__ import annotations

from edge_runtime.calibration.pivot import PivotCalibration, PivotSettings, calibrate_pivot
from edge_runtime.calibration.residuals import Residuals, draw_residuals
from edge_runtime.calibration.temporal import (
    TemporalCalibration,
    TemporalSettings,
    calibrate_offset,
    image_motion,
    pose_motion,
)

__all__ = [
    "PivotCalibration",
    "PivotSettings",
    "Residuals",
    "TemporalCalibration",
    "TemporalSettings",
    "calibrate_offset",
    "calibrate_pivot",
    "draw_residuals",
    "image_motion",
    "pose_motion",
]
