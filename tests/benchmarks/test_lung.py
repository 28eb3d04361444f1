"""The row of the lung clips: its intervals and its baseline on known cases, and what it says without data."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.distill import lung
from edge_sdk.tasks.classification.data import ClipSet

LABELS = np.array([0, 0, 0, 0, 1, 1])


def test_interval_of_equal_values_is_that_value() -> None:
    assert lung._interval(np.ones((3, 6)), LABELS, draws=50) == (1.0, 1.0)


def test_interval_covers_the_class_balanced_mean() -> None:
    right = np.array([[1, 1, 1, 0, 1, 0]] * 3, float)
    low, high = lung._interval(right, LABELS, draws=2000)
    assert low < 0.5 * (0.75 + 0.5) < high
    # two patients of a class: both, one or none of them right, so 0.25 is the smallest step of its half
    assert low >= 0.0
    assert high == 1.0


def _clips(grey: dict[str, tuple[int, float]], seed: int = 0) -> ClipSet:
    """Clips of patients with a class and a mean brightness, in the recipe's normalisation."""
    rng = np.random.default_rng(seed)
    names = tuple(name for name in grey for _ in range(2))
    inputs = np.stack([rng.normal((grey[name][1] - 0.25) / 0.25, 0.1, (4, 8, 8)) for name in names])
    labels = np.array([grey[name][0] for name in names])
    return ClipSet(inputs=inputs.astype(np.float32), labels=labels, files=names, patients=names, sha256="")


def test_brightness_alone_tells_dark_from_bright() -> None:
    train = _clips({"a": (0, 0.2), "b": (0, 0.25), "c": (1, 0.7), "d": (1, 0.75)})
    test = _clips({"e": (0, 0.22), "f": (1, 0.72)}, seed=1)
    shares = lung._nearest_mean(train, test)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert shares.argmax(axis=1).tolist() == [0, 0, 1, 1]


def test_without_data_the_row_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCUS_DATA", raising=False)
    lung._clips.cache_clear()
    (figure,) = lung.measure_lung_clips()
    assert figure.value is None
    assert "POCUS_DATA" in figure.reason


def test_nothing_non_commercial_is_trained_on() -> None:
    assert all("NC" not in licence for licence in lung.RECIPE.data.where["licence"])
