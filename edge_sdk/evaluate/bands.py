"""Subgroups of images from a column: categories as they are, numbers cut at quantiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.errors import ConfigError

__all__ = ["MISSING", "levels_of"]

MISSING = "(missing)"


def levels_of(values: Sequence[str | float | None], bands: int = 3, *, name: str = "column") -> list[str]:
    """The subgroup of each value, N texts.

    A column whose values are all numbers, with more than `bands` different ones, is cut into `bands` quantile bands
    of about equal size, called "LOW to HIGH" by the smallest and largest value inside; equal values share a band, so
    there may be fewer. Other columns keep their values. Empty values and None become "(missing)". Raises
    `ConfigError` for a column without any value.
    """
    texts = ["" if value is None else str(value).strip() for value in values]
    if not any(texts):
        raise ConfigError(f"{name}: no image has a value; name another column")
    numbers = _numbers(texts)
    if numbers is None or len(np.unique(numbers[np.isfinite(numbers)])) <= bands:
        return [text or MISSING for text in texts]
    known = np.isfinite(numbers)
    inner = np.quantile(numbers[known], np.arange(1, bands) / bands)
    band = np.searchsorted(inner, numbers, side="right")
    names = {}
    for k in range(bands):
        inside = numbers[known & (band == k)]
        if len(inside):
            names[k] = f"{inside.min():.4g} to {inside.max():.4g}"
    return [names[int(b)] if ok else MISSING for b, ok in zip(band, known, strict=True)]


def _numbers(texts: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """As float64 with NaN where empty; None when a text is no finite number."""
    found = np.full(len(texts), np.nan)
    for k, text in enumerate(texts):
        if not text:
            continue
        try:
            found[k] = float(text)
        except ValueError:
            return None
        if not np.isfinite(found[k]):
            return None
    return found
