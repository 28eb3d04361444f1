"""The boundary band against brute force; calibration of predictors whose error is known; the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_sdk.uncertainty import (
    boundary_band,
    boundary_distance,
    calibration_report,
    fit_temperature,
    manifest_calibration,
    reliability_figure,
)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), labels=st.integers(1, 4))
def test_distance_is_to_the_nearest_other_label(seed: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, labels, (7, 9)).repeat(2, axis=0)
    found = boundary_distance(image)
    places = np.argwhere(np.ones_like(image, bool)).reshape(*image.shape, 2)
    for row, column in [(0, 0), (6, 4), (13, 8)]:
        others = places[image != image[row, column]]
        nearest = np.sqrt(((others - [row, column]) ** 2).sum(axis=1)).min() if len(others) else np.inf
        assert found[row, column] == pytest.approx(nearest - 0.5)


def test_a_straight_edge_has_ten_pixels_on_either_side() -> None:
    labels = np.zeros((1, 4, 60), np.uint8)
    labels[:, :, 30:] = 1
    band = boundary_band(labels, 10)
    assert (band.sum(axis=2) == 20).all()
    assert band[0, 0, 20:40].all()


def test_a_frame_without_a_boundary_has_no_band() -> None:
    assert not boundary_band(np.ones((2, 5, 5), np.uint8), 10).any()


@pytest.mark.parametrize(("shape", "radius"), [((5, 5), 3.0), ((1, 5, 5), 0.0), ((1, 5, 5), float("nan"))])
def test_bad_bands_are_refused(shape: tuple[int, ...], radius: float) -> None:
    with pytest.raises(ConfigError):
        boundary_band(np.zeros(shape, np.uint8), radius)
    with pytest.raises(ConfigError, match="one image"):
        boundary_distance(np.zeros((1, 5, 5), np.uint8))


def predictor(factor: float, planes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Dense logits `factor` times what they should be, and labels drawn from what they should be."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 1, 150, 200))
    labels = (rng.random((2, 150, 200)) < 1 / (1 + np.exp(-logits[:, 0]))).astype(np.uint8)
    if planes == 2:
        logits = np.concatenate([-logits / 2, logits / 2], axis=1)
    return logits * factor, labels


@pytest.mark.parametrize("planes", [1, 2])
def test_a_calibrated_predictor_has_no_error_and_scaling_makes_one(planes: int) -> None:
    right = calibration_report(*predictor(1.0, planes))
    assert right.ece < 0.01
    assert right.gap == pytest.approx(0, abs=0.006)
    logits, labels = predictor(3.0, planes)
    before = calibration_report(logits, labels)
    fit = fit_temperature(logits, labels)
    after = calibration_report(logits, labels, temperature=fit.temperature)
    assert before.ece > 0.1
    assert before.ece_foreground > 0.1
    assert after.ece_foreground < 0.012
    assert before.gap > 0.1
    assert after.ece < 0.01
    assert after.brier < before.brier
    assert (before.nll, after.nll) == (pytest.approx(fit.nll_before), pytest.approx(fit.nll_after))
    assert after.table.count.sum() == after.n == labels.size


def test_hand_made_reliability() -> None:
    # probability 3/4 and 1/4, both true half of the time
    z = np.log(3.0)
    logits = np.array([[z], [z], [-z], [-z]])
    report = calibration_report(logits, np.array([1, 0, 1, 0]), bins=4)
    assert report.ece == pytest.approx(0.25)
    assert report.ece_foreground == pytest.approx(0.25)
    assert report.gap == pytest.approx(0.25)
    assert report.brier == pytest.approx((0.0625 + 0.5625) / 2)


def test_errors_of_the_two_sides_cancel_in_the_confidence_alone() -> None:
    # probability 3/4 comes true always, 1/4 comes true in two of four: three of four answers are right
    z = np.log(3.0)
    logits = np.array([[z]] * 4 + [[-z]] * 4)
    labels = np.array([1, 1, 1, 1, 1, 1, 0, 0])
    report = calibration_report(logits, labels, bins=10)
    assert report.ece_foreground == pytest.approx(0.25)
    assert report.ece == pytest.approx(0.0, abs=1e-6)


def test_the_numbers_are_for_json() -> None:
    numbers = calibration_report(*predictor(1.0)).numbers()
    assert sorted(numbers) == ["brier", "ece", "ece_foreground", "gap", "n", "nll", "temperature"]


def test_the_manifest_says_both() -> None:
    logits, labels = predictor(3.0)
    before, after = calibration_report(logits, labels), calibration_report(logits, labels, temperature=3.0)
    told = manifest_calibration(before, after, over="all pixels")
    assert (told.over, told.n, told.bins) == ("all pixels", labels.size, 15)
    assert (told.ece_before, told.ece_after) == (before.ece, after.ece)
    assert (told.brier_before, told.brier_after) == (before.brier, after.brier)
    with pytest.raises(ConfigError, match="the same ones"):
        manifest_calibration(before, calibration_report(logits[:1], labels[:1]), over="all pixels")


def test_no_bins_are_refused() -> None:
    with pytest.raises(ConfigError, match="bins is 0"):
        calibration_report(np.zeros((2, 1)), np.array([0, 1]), bins=0)


def test_the_picture_is_a_png_and_the_same_every_time(tmp_path: Path) -> None:
    logits, labels = predictor(3.0)
    reports = calibration_report(logits, labels), calibration_report(logits, labels, temperature=3.0)
    for name in ("a.png", "b.png"):
        reliability_figure(tmp_path / name, *reports)
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data == (tmp_path / "b.png").read_bytes()
