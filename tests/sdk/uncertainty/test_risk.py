"""Risk-coverage curves by hand and by brute force, scores of frames, and rank correlation against SciPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from edge_runtime.errors import ConfigError
from edge_sdk.uncertainty import (
    dice_risk,
    falls_monotonically,
    frame_uncertainty,
    risk_coverage,
    risk_figure,
    spearman,
)


def test_four_items_by_hand() -> None:
    curve = risk_coverage(np.array([0.1, 0.4, 0.2, 0.3]), np.array([0, 1, 0, 1]), coverages=(1.0, 0.75, 0.5, 0.25))
    assert curve.risk == pytest.approx((1 / 2, 1 / 3, 0, 0))
    assert curve.aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert curve.aurc_best == pytest.approx(curve.aurc)
    assert curve.gain == pytest.approx(1)
    assert curve.n == 4
    assert falls_monotonically(curve.risk)


def test_the_worst_order_raises_the_risk() -> None:
    loss = np.array([0, 0, 1, 1])
    curve = risk_coverage(-loss, loss, coverages=(1.0, 0.5))
    assert curve.risk == pytest.approx((0.5, 1.0))
    assert curve.gain < 0
    assert not falls_monotonically(curve.risk)


def test_a_constant_uncertainty_gives_the_mean_everywhere() -> None:
    curve = risk_coverage(np.zeros(5), np.array([0, 1, 0, 1, 1]))
    assert curve.risk == pytest.approx([0.6] * 7)
    assert curve.gain == pytest.approx(0)
    assert not falls_monotonically(curve.risk)
    assert risk_coverage(np.arange(3), np.ones(3)).gain == 0.0


@settings(max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(1, 8))
def test_ties_are_the_mean_over_all_orders(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    uncertainty, loss = rng.integers(0, 3, n), rng.random(n)
    curve = risk_coverage(uncertainty, loss, coverages=tuple((k + 1) / n for k in range(n)))
    drawn = np.zeros(n)
    trials = 400
    for _ in range(trials):
        order = np.lexsort((rng.random(n), uncertainty))
        drawn += loss[order].cumsum() / np.arange(1, n + 1)
    np.testing.assert_allclose(curve.risk, drawn / trials, atol=0.12)
    assert curve.aurc == pytest.approx(np.mean(curve.risk))
    assert curve.aurc_best <= curve.aurc + 1e-12


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_only_the_order_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    uncertainty, loss = rng.random(50), rng.random(50)
    assert risk_coverage(uncertainty, loss) == risk_coverage(np.exp(3 * uncertainty), loss)


def test_a_calibrated_error_probability_falls_monotonically() -> None:
    rng = np.random.default_rng(0)
    doubt = rng.random(50_000) / 2
    curve = risk_coverage(doubt, rng.random(50_000) < doubt)
    assert falls_monotonically(curve.risk)
    # the risk of the share c of least doubt is the mean doubt below c / 2
    assert curve.risk == pytest.approx(np.asarray(curve.coverage) / 4, abs=0.01)


def test_falling_allows_what_is_tolerated_and_no_more() -> None:
    assert falls_monotonically([0.3, 0.301, 0.1], tolerance=0.01)
    assert not falls_monotonically([0.3, 0.301, 0.1])
    assert not falls_monotonically([0.3, 0.3])
    with pytest.raises(ConfigError, match="at least 2"):
        falls_monotonically([0.3])


def test_dice_of_what_is_kept() -> None:
    predicted = np.array([[True, True, False, False]])
    truth = np.array([[True, False, True, False]])
    kept = np.ones((1, 4), bool)
    assert dice_risk(predicted, truth, kept) == pytest.approx(0.5)
    kept[0, 1] = False
    assert dice_risk(predicted, truth, kept) == pytest.approx(1 - 2 / 3)
    assert dice_risk(predicted, truth, np.zeros((1, 4), bool)) == 0.0
    with pytest.raises(ConfigError, match="equal ones"):
        dice_risk(predicted, truth, kept[0])


def test_one_number_a_frame() -> None:
    mask = np.zeros((3, 6, 6), np.uint8)
    mask[0, 1:3, 1:4] = 1  # 6 pixels, outline 10
    mask[1] = 1  # up to the image's edge: 36 pixels, outline 24
    uncertainty = np.full((3, 6, 6), 0.5, np.float32)
    np.testing.assert_allclose(frame_uncertainty(uncertainty, mask), [18 / 6, 18 / 36, 18])
    np.testing.assert_allclose(frame_uncertainty(uncertainty, mask, "boundary"), [1.8, 18 / 24, 18])
    np.testing.assert_array_equal(frame_uncertainty(uncertainty * 0, mask), [0, 0, 0])


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_rank_correlation_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, 20), rng.random(20)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


def test_a_constant_has_no_rank() -> None:
    assert np.isnan(spearman(np.ones(3), np.arange(3)))


@pytest.mark.parametrize(
    ("uncertainty", "loss", "coverages"),
    [
        (np.zeros(3), np.zeros(2), (1.0,)),
        (np.zeros((2, 2)), np.zeros((2, 2)), (1.0,)),
        (np.zeros(0), np.zeros(0), (1.0,)),
        (np.array([0, np.nan]), np.zeros(2), (1.0,)),
        (np.zeros(2), np.array([0, np.inf]), (1.0,)),
        (np.zeros(2), np.zeros(2), ()),
        (np.zeros(2), np.zeros(2), (0.0,)),
        (np.zeros(2), np.zeros(2), (1.1,)),
    ],
)
def test_what_is_no_curve_is_refused(uncertainty: np.ndarray, loss: np.ndarray, coverages: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        risk_coverage(uncertainty, loss, coverages=coverages)


def test_bad_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match="equal"):
        frame_uncertainty(np.zeros((1, 2, 2)), np.zeros((1, 2, 3)))
    with pytest.raises(ConfigError, match="per is 'pixel'"):
        frame_uncertainty(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), "pixel")  # type: ignore[arg-type]


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    curve = risk_coverage(np.arange(9), np.arange(9) / 9)
    risk_figure(tmp_path / "risk.png", {"frames": curve}, loss="1 - Dice")
    assert (tmp_path / "risk.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
