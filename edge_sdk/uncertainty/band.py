"""Pixels near the true boundary, where a segmentation's probabilities are put to the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["boundary_band", "boundary_distance"]


def boundary_distance(labels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(H, W) distance in pixels from each pixel's centre to the nearest boundary between two labels of (H, W) `labels`.

    The boundary runs between pixels, so a pixel beside one is 0.5 away. The distance to the nearest pixel of another
    label is exact and Euclidean (Maurer, Qi and Raghavan, PAMI 2003, by SciPy), less that half pixel; infinite where
    there is one label alone. The image's edge is no boundary. Raises `ConfigError` for labels that are not (H, W).
    """
    from scipy import ndimage

    if labels.ndim != 2:
        raise ConfigError(f"labels have shape {labels.shape}; (H, W) is needed, one image at a time")
    present = np.unique(labels)
    distance = np.full(labels.shape, np.inf, np.float32)
    if len(present) < 2:
        return distance
    for label in present:
        own = labels == label
        distance[own] = ndimage.distance_transform_edt(own)[own] - 0.5
    return distance


def boundary_band(labels: npt.NDArray[Any], radius_px: float) -> npt.NDArray[np.bool_]:
    """(N, H, W) bool: the pixels of `labels` (N, H, W) within `radius_px` of the boundary (see `boundary_distance`).

    A frame of one label has no such pixel. Raises `ConfigError` for another shape or a radius that is not positive.
    """
    if labels.ndim != 3:
        raise ConfigError(f"labels have shape {labels.shape}; (N, H, W) is needed")
    if not radius_px > 0:
        raise ConfigError(f"radius_px is {radius_px}; a positive number of pixels is needed")
    return np.stack([boundary_distance(one) <= radius_px for one in labels])
