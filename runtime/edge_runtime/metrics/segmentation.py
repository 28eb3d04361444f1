"""Overlap of masks and distances between their contours. NumPy alone, because a device verifies a bundle without torch.

What empty masks give, in every function: two empty masks agree perfectly (overlap 1, distance 0); one empty mask
against one that is not is wholly wrong (overlap 0, distance infinite). No function returns NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = [
    "assd",
    "by_class",
    "dice",
    "f1",
    "hausdorff95",
    "jaccard",
    "precision",
    "recall",
    "relative_area_error",
    "surface_distances",
]

_CHUNK = 1 << 20  # values of one block of distances: 8 MB

Mask = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
Distances = npt.NDArray[np.float64]


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


def f1(predicted: Mask, truth: Mask) -> float:
    """The harmonic mean of precision and recall, which is `dice` by another name (van Rijsbergen 1979)."""
    return dice(predicted, truth)


def jaccard(predicted: Mask, truth: Mask) -> float:
    """|A and B| / |A or B|; 1 when both are empty. Jaccard, New Phytologist 11 (1912)."""
    both, a, b = _counts(predicted, truth)
    return both / (a + b - both) if a + b else 1.0


def precision(predicted: Mask, truth: Mask) -> float:
    """|A and B| / |A|, the share of the predicted pixels that are right.

    For an empty prediction 1 when the truth is empty too, else 0. Raises `ConfigError` for different shapes.
    """
    both, a, b = _counts(predicted, truth)
    return both / a if a else float(b == 0)


def recall(predicted: Mask, truth: Mask) -> float:
    """|A and B| / |B|, the share of the true pixels that were found (sensitivity).

    For an empty truth 1 when the prediction is empty too, else 0. Raises `ConfigError` for different shapes.
    """
    both, a, b = _counts(predicted, truth)
    return both / b if b else float(a == 0)


def relative_area_error(predicted: Mask, truth: Mask) -> float:
    """(|A| - |B|) / |B|, signed; 0 when both are empty, infinite when only the truth is."""
    _, a, b = _counts(predicted, truth)
    return (a - b) / b if b else (0.0 if a == 0 else float("inf"))


def by_class(
    metric: Callable[..., float],
    predicted: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    classes: Sequence[int],
    **options: Any,
) -> tuple[float, ...]:
    """`metric` of every class of two label maps of equal shape, one class against all else, in the order of `classes`.

    `options` go to the metric (`spacing`). Raises `ConfigError` for labels that are not integers.
    """
    for name, labels in (("predicted", predicted), ("true", truth)):
        if labels.dtype.kind not in "biu":
            raise ConfigError(f"{name} labels are {labels.dtype}; integers are needed, take the argmax first")
    return tuple(metric(predicted == k, truth == k, **options) for k in classes)


def hausdorff95(predicted: Mask, truth: Mask, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """95th percentile of the distances between two contours, in units of `spacing` (row, column).

    The larger of both directions' percentiles, as in MONAI; MedPy pools both directions first. A contour is the set of
    pixels inside whose 4-neighbourhood is not wholly inside; beyond the image is outside. 0 when both masks are
    empty, infinite when one is. Raises `ConfigError` for different shapes, or masks that are not (H, W).
    """
    there, back = surface_distances(predicted, truth, spacing)
    if not len(there) or not len(back):
        return 0.0 if len(there) == len(back) else math.inf
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def assd(predicted: Mask, truth: Mask, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Average symmetric surface distance: the mean of both directions' distances together, in units of `spacing`.

    Heimann et al., IEEE TMI 28 (2009); as MONAI's `compute_average_surface_distance(symmetric=True)`. Contours,
    empty masks and errors as in `hausdorff95`.
    """
    there, back = surface_distances(predicted, truth, spacing)
    if not len(there) or not len(back):
        return 0.0 if len(there) == len(back) else math.inf
    return float((there.sum() + back.sum()) / (len(there) + len(back)))


def surface_distances(
    predicted: Mask, truth: Mask, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[Distances, Distances]:
    """For each contour pixel of one mask the distance to the nearest of the other's, both directions.

    Returns:
        (n,) distances from the predicted contour to the true one, and (m,) the other way, in units of `spacing`
        (row, column). A mask without pixels has no contour: its array is empty, the other's is infinite.

    Raises:
        ConfigError: different shapes, masks that are not (H, W), spacing that is not positive.
    """
    if predicted.shape != truth.shape:
        raise ConfigError(f"masks have shapes {predicted.shape} and {truth.shape}; equal shapes are needed")
    if predicted.ndim != 2:
        raise ConfigError(f"masks have shape {predicted.shape}; (H, W) is needed, one image at a time")
    if len(spacing) != 2 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ConfigError(f"spacing {tuple(spacing)}; two positive numbers are needed, of a row and of a column")
    a, b = _contour(predicted != 0), _contour(truth != 0)
    either = np.argwhere(a | b)
    if len(either):  # distances are between contour pixels alone, so all else can be cut off
        box = tuple(slice(int(low), int(high) + 1) for low, high in zip(either.min(0), either.max(0), strict=True))
        a, b = a[box], b[box]
    return _nearest(a, b, spacing), _nearest(b, a, spacing)


def _contour(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(H, W) the pixels inside with a 4-neighbour outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _nearest(points: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> Distances:
    """(n,) distance from each pixel set in `points` to the nearest set in `others`.

    The first pass of an exact distance transform (Saito and Toriwaki, Pattern Recognition 27, 1994) gives the distance
    along every column; the second, the minimum along the row, is taken only where it is asked for.
    """
    at = np.argwhere(points)
    columns = np.flatnonzero(others.any(axis=0))
    if not len(columns):
        return np.full(len(at), np.inf)
    vertical = _along_columns(others[:, columns]) * spacing[0]
    vertical *= vertical
    found = np.empty(len(at))
    step = max(1, _CHUNK // len(columns))
    for start in range(0, len(at), step):
        rows, cols = at[start : start + step].T
        sideways = (cols[:, None] - columns[None]) * spacing[1]
        sideways *= sideways
        sideways += vertical[rows]
        found[start : start + step] = sideways.min(axis=1)
    return np.sqrt(found, out=found)


def _along_columns(mask: npt.NDArray[np.bool_]) -> Distances:
    """(H, W) rows from each pixel to the nearest one set in its column; every column has one."""
    row = np.arange(len(mask), dtype=np.float64)[:, None]
    above = np.maximum.accumulate(np.where(mask, row, -np.inf), axis=0)
    below = np.minimum.accumulate(np.where(mask, row, np.inf)[::-1], axis=0)[::-1]
    return np.minimum(row - above, below - row)
