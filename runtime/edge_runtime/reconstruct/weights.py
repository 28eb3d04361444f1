"""Weights of pixels for a weighted mean: how the beam meets what it shows, and the product of several weights."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry, Sector
from edge_runtime.optional import require

__all__ = ["incidence_weights", "product_of_weights"]

Weights = npt.NDArray[np.uint8]

FULL = 255
MIN_MM, MAX_MM = 0.05, 20.0


def incidence_weights(image: npt.NDArray[np.uint8], geometry: FrameGeometry, *, sigma_mm: float = 1.0) -> Weights:
    """(H, W) uint8, 255 as 1: cosine of the angle between the beam and the normal of the surface at each pixel.

    The normal is the direction of the grey level gradient, so the cosine squared is taken as `b^T S b / tr S`, S being
    the structure tensor (Bigun and Granlund, ICCV 1987): gradient products averaged over a Gaussian of `sigma_mm`. At
    one plane that is the cosine; in speckle without a direction about 0.7; 1 where there is no gradient. The beam b
    goes from the apex of a `Sector`, else straight down. Raises `ConfigError` for `sigma_mm` not within 0.05 to 20,
    `GeometryError` when the millimetres are not trusted, and `MissingDependencyError` without OpenCV.
    """
    row_mm, column_mm = geometry.require_mm()
    if not MIN_MM <= sigma_mm <= MAX_MM:
        raise ConfigError(f"sigma_mm {sigma_mm}: {MIN_MM:g} to {MAX_MM:g} is allowed")
    cv2 = require("cv2", "to find surfaces")
    smooth = cv2.GaussianBlur(
        image.astype(np.float32), (0, 0), 0.5 * sigma_mm / column_mm, sigmaY=0.5 * sigma_mm / row_mm
    )
    down, across = (np.asarray(g, np.float32) for g in np.gradient(smooth, row_mm, column_mm))
    bx, by = _beam(image.shape, geometry)

    def mean(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma_mm / column_mm, sigmaY=sigma_mm / row_mm))

    along = bx * bx * mean(across * across) + by * by * mean(down * down) + 2 * bx * by * mean(across * down)
    energy = mean(across * across + down * down)
    share = np.where(energy > 1e-6, along / np.maximum(energy, 1e-6), 1.0)
    return np.asarray(np.rint(FULL * np.sqrt(np.clip(share, 0, 1))).astype(np.uint8))


def _beam(shape: tuple[int, ...], geometry: FrameGeometry) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Unit vectors (x, y) in mm along the beam at each pixel."""
    area = geometry.scan_area
    if not isinstance(area, Sector):
        return np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    row_mm, column_mm = geometry.require_mm()
    y, x = np.ogrid[: shape[0], : shape[1]]
    dx, dy = (x - area.apex_x) * column_mm, (y - area.apex_y) * row_mm
    length = np.maximum(np.hypot(dx, dy), 1e-6)
    return (dx / length).astype(np.float32), (dy / length).astype(np.float32)


def product_of_weights(*weights: Weights) -> Weights:
    """Their product, 255 as 1, rounded half up; `ConfigError` for other dtypes or shapes that differ."""
    shapes = {w.shape for w in weights}
    if len(shapes) != 1 or any(w.dtype != np.uint8 for w in weights):
        raise ConfigError(f"weights of shapes {sorted(shapes)}; uint8 of one shape is needed")
    total = math.prod((w.astype(np.float64) / FULL for w in weights), start=np.float64(FULL))
    return np.floor(np.asarray(total) + 0.5).astype(np.uint8)
