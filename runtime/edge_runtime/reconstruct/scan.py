"""The pixels of the scan area as runs, and where a pixel lies in the image frame."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import GeometryError
from edge_runtime.frame import FrameGeometry, ScanArea

__all__ = ["image_from_pixel", "mask_to_runs", "scan_runs"]


def image_from_pixel(geometry: FrameGeometry) -> npt.NDArray[np.float64]:
    """(2, 2) matrix A with `(x_mm, y_mm) = A @ (column, row)`; `GeometryError` when mm are not trusted.

    The origin of the image frame is the centre of pixel (0, 0).
    """
    row_mm, column_mm = geometry.require_mm()
    return np.array([[column_mm, geometry.shear * row_mm], [0.0, row_mm]])


def mask_to_runs(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(R, 3) int64 rows `(y, x0, x1)`: pixels `x0 <= x < x1` of row y are true in `mask` (H, W)."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    y, x0 = np.nonzero(edges == 1)
    x1 = np.nonzero(edges == -1)[1]
    return np.ascontiguousarray(np.stack([y, x0, x1], axis=1).astype(np.int64))


@lru_cache(maxsize=16)
def scan_runs(scan_area: ScanArea | None, shape: tuple[int, int], side: int = 1) -> npt.NDArray[np.int64]:
    """Runs of the scan area in an image of `shape` (H, W); the whole image when `scan_area` is None.

    With `side` above 1 the runs of squares of `side` pixels, all inside. The result is cached and read-only. Raises
    `GeometryError` when no pixel lies inside.
    """
    if side > 1:
        mask = np.ones(shape, np.bool_) if scan_area is None else scan_area.mask(shape)
        rows, columns = shape[0] // side, shape[1] // side
        squares = mask[: rows * side, : columns * side].reshape(rows, side, columns, side)
        runs = mask_to_runs(np.asarray(squares.all(axis=(1, 3))))
    elif scan_area is None:
        y = np.arange(shape[0], dtype=np.int64)
        runs = np.stack([y, np.zeros_like(y), np.full_like(y, shape[1])], axis=1)
    else:
        runs = mask_to_runs(scan_area.mask(shape))
    if len(runs) == 0:
        raise GeometryError(
            f"the scan area {scan_area} holds no pixel of an image of shape {shape}; give it in pixels of this image"
        )
    runs.setflags(write=False)
    return runs
