"""Calibration of a tracked probe: the image in the probe (N-wire), the clocks (temporal), a tool's tip (pivot)."""

from __future__ import annotations

from edge_runtime.calibration.files import (
    WirePhantom,
    WirePoints,
    read_calibration,
    read_phantom,
    read_wire_points,
    wire_points,
    write_calibration,
)
from edge_runtime.calibration.pivot import PivotCalibration, PivotSettings, calibrate_pivot
from edge_runtime.calibration.recorded import read_recorded_poses, recorded_poses
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
from edge_runtime.calibration.wire_images import find_wires

__all__ = [
    "NWire",
    "PivotCalibration",
    "PivotSettings",
    "Residuals",
    "SpatialCalibration",
    "SpatialSettings",
    "TemporalCalibration",
    "TemporalSettings",
    "WirePhantom",
    "WirePoints",
    "calibrate_image",
    "calibrate_offset",
    "calibrate_pivot",
    "draw_residuals",
    "find_wires",
    "image_motion",
    "middle_points",
    "pose_motion",
    "read_calibration",
    "read_phantom",
    "read_recorded_poses",
    "read_wire_points",
    "recorded_poses",
    "reprojection_error",
    "wire_points",
    "write_calibration",
]
