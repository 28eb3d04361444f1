"""Overlap of masks. NumPy alone, because a device verifies a bundle without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["dice", "jaccard", "relative_area_error"]

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
