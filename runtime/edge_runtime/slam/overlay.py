"""Two pictures of one place laid on each other in their plane: shift, turn, and how well they then agree.

The start is the peak of the phase correlation (Kuglin and Hines, 1975); from there, and from no shift at all, the
Gauss-Newton fit of `_fit` on a field of two equal slices, in which everything out of the plane is degenerate and stays
as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import FrameGeometry
from edge_runtime.reconstruct.grid import VolumeGrid
from edge_runtime.slam._fit import Field, coarser, fit_rigid, smooth
from edge_runtime.slam.refine import RefineSettings, frame_points

__all__ = ["Overlay", "overlay"]

F64 = npt.NDArray[np.float64]

CELLS = 128  # across the longer side
COARSER = 4  # times, of the cells of the first fit
MIN_SLOPE = 1e-3
MIN_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlay:
    """`T_i_j` (4, 4), mm, a motion in the plane; `covariance` (6, 6) of it, zero out of it; `ncc` (NaN: none)."""

    T_i_j: F64
    covariance: F64
    ncc: float


def overlay(image_i: npt.NDArray[np.uint8], image_j: npt.NDArray[np.uint8], geometry: FrameGeometry) -> Overlay:
    """Lay `image_j` (H, W) on `image_i`, of one `geometry`.

    Images that are flat, or share nothing, give an NCC of NaN. Raises `ConfigError` when shapes differ or the geometry
    is sheared, `GeometryError` without millimetres, `MissingDependencyError` without numba.
    """
    if image_i.shape != image_j.shape or image_i.ndim != 2:
        raise ConfigError(f"images {image_i.shape} and {image_j.shape}: two grey ones of one shape are needed")
    if geometry.shear:
        raise ConfigError(f"the geometry has a shear of {geometry.shear:g}; images are laid on each other without one")
    row_mm, column_mm = geometry.require_mm()
    cell = max(row_mm, column_mm, max(image_i.shape[0] * row_mm, image_i.shape[1] * column_mm) / CELLS)
    fy, fx = max(1, round(cell / row_mm)), max(1, round(cell / column_mm))
    small_i, small_j = (_means(image, geometry, fy, fx) for image in (image_i, image_j))
    size = (fx * column_mm, fy * row_mm)
    origin = np.eye(4)
    origin[:3, 3] = ((fx - 1) / 2 * column_mm, (fy - 1) / 2 * row_mm, -0.5)
    grid = VolumeGrid(shape=(2, *small_i.shape), spacing_mm=(1.0, size[1], size[0]), T_world_volume=origin)
    seen = smooth(small_i)
    field = Field(levels=np.stack([seen, seen]), grid=grid)
    coarse = coarser(field, (1, COARSER, COARSER))
    points = frame_points(image_j, geometry, cell, RefineSettings())
    best = Overlay(T_i_j=np.eye(4), covariance=np.zeros((6, 6)), ncc=float("nan"))
    if len(points.at) == 0:
        return best
    shifted = np.eye(4)
    shifted[:2, 3] = _phase_shift(small_i, small_j) * size
    for start in (np.eye(4), shifted):
        fit = fit_rigid(points, coarse, start, min_slope=MIN_SLOPE, min_share=MIN_SHARE)
        fit = fit and fit_rigid(points, field, fit.T, min_slope=MIN_SLOPE, min_share=MIN_SHARE)
        if fit is not None and not fit.ncc <= best.ncc:
            best = Overlay(T_i_j=fit.T, covariance=fit.covariance, ncc=fit.ncc)
    return best


def _means(image: npt.NDArray[np.uint8], geometry: FrameGeometry, fy: int, fx: int) -> F64:
    """Means of blocks of `fy` x `fx` pixels, NaN where one is outside the scan area."""
    rows, columns = image.shape[0] // fy, image.shape[1] // fx
    part = (slice(rows * fy), slice(columns * fx))
    means = image[part].reshape(rows, fy, columns, fx).mean(axis=(1, 3))
    if geometry.scan_area is None:
        return np.asarray(means)
    inside = geometry.scan_area.mask(image.shape)[part].reshape(rows, fy, columns, fx).all(axis=(1, 3))
    return np.where(inside, means, np.nan)


def _phase_shift(a: F64, b: F64) -> F64:
    """Shift (x, y), whole cells, that lays `b` on `a`: the peak of the phase correlation under a Hann window."""
    window = np.hanning(a.shape[0])[:, None] * np.hanning(a.shape[1])
    spectra = []
    for values in (a, b):
        known = np.isfinite(values)
        mean = values[known].mean() if known.any() else 0.0
        spectra.append(np.fft.rfft2(window * np.where(known, values - mean, 0)))
    product = spectra[0] * np.conj(spectra[1])
    peak = np.fft.irfft2(product / np.maximum(np.abs(product), 1e-9), a.shape)
    y, x = np.unravel_index(int(np.argmax(peak)), peak.shape)
    return np.array(
        [(x + a.shape[1] // 2) % a.shape[1] - a.shape[1] // 2, (y + a.shape[0] // 2) % a.shape[0] - a.shape[0] // 2],
        float,
    )
