"""Overlap of masks. NumPy alone, because a device verifies a bundle without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["dice", "hausdorff95", "jaccard", "relative_area_error"]

_CHUNK = 1024  # points of one contour against all of the other at a time: 8 MB at 1000 points

Mask = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]


def _counts(predicted: Mask, truth: Mask) -> tuple[int, int, int]:
    if predicted.shape != truth.shape:
        raise ConfigError(f"masks have shapes {predicted.shape} and {truth.shape}; equal shapes are needed")
    a, b = predicted != 0, truth != 0
    return int((a & b).sum()), int(a.sum()), int(b.sum())


def dice(predicted: Mask, truth: Mask) -> float:
    """2 |A and B| / (|A| + |B|) of two masks of equal shape, non-zero is inside; 1 when both are empty.

    Dice, Ecology 26 (1945). Raises `ConfigError` for different shapes.
    """
    both, a, b = _counts(predicted, truth)
    return 2 * both / (a + b) if a + b else 1.0


def jaccard(predicted: Mask, truth: Mask) -> float:
    """|A and B| / |A or B|; 1 when both are empty. Jaccard, New Phytologist 11 (1912)."""
    both, a, b = _counts(predicted, truth)
    return both / (a + b - both) if a + b else 1.0


def relative_area_error(predicted: Mask, truth: Mask) -> float:
    """(|A| - |B|) / |B|, signed; 0 when both are empty, infinite when only the truth is."""
    _, a, b = _counts(predicted, truth)
    return (a - b) / b if b else (0.0 if a == 0 else float("inf"))


def hausdorff95(predicted: Mask, truth: Mask, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """95th percentile of the distances between two contours, in units of `spacing` (row, column).

    The larger of both directions' percentiles, as in MONAI; MedPy pools both directions first. A contour is the set of
    pixels inside whose 4-neighbourhood is not wholly inside; beyond the image is outside. 0 when both masks are
    empty, infinite when one is. Raises `ConfigError` for different shapes, or masks that are not (H, W).
    """
    _counts(predicted, truth)
    if predicted.ndim != 2:
        raise ConfigError(f"masks have shape {predicted.shape}; (H, W) is needed, one image at a time")
    a, b = _contour(predicted != 0, spacing), _contour(truth != 0, spacing)
    if not len(a) or not len(b):
        return 0.0 if len(a) == len(b) else float("inf")
    return float(max(np.percentile(_nearest(a, b), 95), np.percentile(_nearest(b, a), 95)))


def _contour(mask: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> npt.NDArray[np.float64]:
    """(n, 2) positions (row, column), in units of `spacing`, of the pixels on the contour."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner).astype(np.float64) * np.asarray(spacing, np.float64)


def _nearest(points: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,) distance from each of `points` (n, 2) to the nearest of `others` (m, 2)."""
    found = np.empty(len(points))
    for start in range(0, len(points), _CHUNK):
        apart = points[start : start + _CHUNK, None] - others[None]
        found[start : start + _CHUNK] = np.sqrt((apart**2).sum(axis=-1).min(axis=1))
    return found
