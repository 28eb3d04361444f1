"""From the envelope to grey pixels: logarithm, display filter, scan conversion."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from edge_sdk.simulate._grid import BeamGrid

__all__ = ["compress", "scan_convert"]

FloatArray = npt.NDArray[np.float32]


def compress(envelope: FloatArray, grid: BeamGrid, pixel_mm: float) -> FloatArray:
    """Grey levels 0 to 255 (rows, columns) float32 of an envelope, filtered for pixels of `pixel_mm`."""
    imaging, probe = grid.probe.imaging, grid.probe
    db = np.log10(np.maximum(envelope, 1e-6)) * np.float32(20)
    across = 1.0 if probe.kind == "linear" else probe.apex_radius_mm + 0.5 * probe.depth_mm
    sigmas = [
        math.hypot(imaging.smoothing_mm / step, 0.4 * max(pixel_mm / step - 1, 0))
        for step in (grid.d_lateral * across, grid.d_depth)
    ]
    if max(sigmas) > 0.2:
        blurred = cv2.GaussianBlur(db, (0, 0), sigmaX=max(sigmas[0], 0.05), sigmaY=max(sigmas[1], 0.05))
        db = np.asarray(blurred, np.float32)
    top = imaging.headroom_db - imaging.gain_db
    level = np.clip((db - np.float32(top)) / np.float32(imaging.dynamic_range_db) + 1, 0, 1)
    if imaging.gamma != 1:
        level **= np.float32(imaging.gamma)
    grey: FloatArray = level * np.float32(255)
    return grey


def scan_convert(
    grey: FloatArray, grid: BeamGrid, x: FloatArray, z: FloatArray, area: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Grey levels of the grid at pixel centres (x, z) mm by bilinear interpolation, 0 outside `area`."""
    lateral, depth = grid.probe.to_beam(x, z)
    column = (lateral - np.float32(grid.lateral0)) * np.float32(1 / grid.d_lateral)
    row = (depth - np.float32(grid.depth0)) * np.float32(1 / grid.d_depth)
    image = cv2.remap(grey, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rounded: npt.NDArray[np.uint8] = np.where(area, np.rint(image), 0).astype(np.uint8)
    return rounded
