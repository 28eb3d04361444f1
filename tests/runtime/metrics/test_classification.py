"""Class metrics against counting pairs, and numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.calibration import brier, expected_calibration_error, log_loss, reliability, top_label
from edge_runtime.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    confusion_matrix,
    grouped_vote,
    mean_auroc,
)

scored = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30)
Floats = npt.NDArray[np.float64]


def arrays(items: list[tuple[int, bool]]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    return np.array([s for s, _ in items]) / 6, np.array([y for _, y in items])


@given(scored)
def test_auroc_is_the_share_of_pairs_in_order(items: list[tuple[int, bool]]) -> None:
    scores, positive = arrays(items)
    up, down = scores[positive], scores[~positive]
    if not len(up) or not len(down):
        assert math.isnan(auroc(scores, positive))
        return
    wanted = np.mean((up[:, None] > down).astype(float) + 0.5 * (up[:, None] == down))
    assert auroc(scores, positive) == pytest.approx(wanted)
    assert auroc(-scores, positive) == pytest.approx(1 - wanted)


@given(scored)
def test_average_precision_by_every_threshold(items: list[tuple[int, bool]]) -> None:
    scores, positive = arrays(items)
    if not positive.any():
        assert math.isnan(average_precision(scores, positive))
        return
    wanted, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        now = (taken & positive).sum() / positive.sum()
        wanted += (now - before) * (taken & positive).sum() / taken.sum()
        before = now
    assert average_precision(scores, positive) == pytest.approx(wanted)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_decisions_by_counting(items: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(items).T
    counts = confusion_matrix(truth, predicted, 4)
    assert counts.sum() == len(items)
    assert all(counts[t, p] == items.count((t, p)) for t in range(4) for p in range(4))
    assert accuracy(truth, predicted, 4) == pytest.approx(np.mean(truth == predicted))
    recalls = [np.mean(predicted[truth == k] == k) for k in set(truth.tolist())]
    assert balanced_accuracy(truth, predicted, 4) == pytest.approx(np.mean(recalls))


def test_no_items() -> None:
    none = np.empty(0, int)
    assert confusion_matrix(none, none, 3).tolist() == [[0] * 3] * 3
    assert all(math.isnan(metric(none, none, 3)) for metric in (accuracy, balanced_accuracy))
    assert math.isnan(expected_calibration_error(np.empty(0), none))
    assert math.isnan(brier(np.empty((0, 3)), none))
    assert math.isnan(log_loss(np.empty(0), none))


def test_mean_auroc_leaves_out_absent_classes() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    assert mean_auroc(scores, np.array([0, 0, 1])) == 1.0
    assert math.isnan(mean_auroc(scores, np.array([0, 0, 0])))


def test_votes() -> None:
    frames = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8]])
    names, mean = grouped_vote(frames, ["b", "b", "b", "a"])
    assert names == ["b", "a"]
    assert mean == pytest.approx(np.array([[1.7 / 3, 1.3 / 3], [0.2, 0.8]]))
    _, majority = grouped_vote(frames, ["b", "b", "b", "a"], by="majority")
    assert majority == pytest.approx(np.array([[1 / 3, 2 / 3], [0, 1]]))


def test_reliability_by_hand() -> None:
    table = reliability(np.array([0.0, 0.1, 0.2, 0.9, 1.0]), np.array([0, 0, 1, 1, 1]), bins=5)
    assert table.low.tolist() == pytest.approx([0.0, 0.8])
    assert table.count.tolist() == [3, 2]
    assert table.confidence == pytest.approx([0.1, 0.95])
    assert table.observed == pytest.approx([1 / 3, 1])
    assert table.ece == pytest.approx((3 * (1 / 3 - 0.1) + 2 * 0.05) / 5)
    assert table.mce == pytest.approx(1 / 3 - 0.1)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 9))
def test_bins_of_equal_mass_do_not_depend_on_the_order(items: list[tuple[float, bool]], bins: int) -> None:
    p, y = np.array([a for a, _ in items]), np.array([b for _, b in items])
    order = np.argsort(-p, kind="stable")
    one, other = (reliability(p[k], y[k], bins=bins, binning="mass") for k in (order, slice(None)))
    assert one.count.tolist() == other.count.tolist()
    assert one.count.sum() == len(items)
    assert len(one.count) <= bins
    assert one.ece == pytest.approx(other.ece)
    if len(set(p)) == len(p) >= bins:
        assert one.count.max() - one.count.min() <= 2


def test_calibrated_probabilities_have_no_error_and_overconfident_ones_do() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    y = rng.random(len(p)) < p
    for binning in ("width", "mass"):
        assert expected_calibration_error(p, y, binning=binning) < 0.01
        sharp = 1 / (1 + np.exp(-3 * np.log(p / (1 - p))))
        assert expected_calibration_error(sharp, y, binning=binning) > 0.1
    assert brier(p, y) == pytest.approx(1 / 6, abs=0.003)  # the integral of p(1-p)
    assert log_loss(p, y) == pytest.approx(0.5, abs=0.005)  # of -p ln p - (1-p) ln(1-p)


def test_class_probabilities_and_their_binary_form() -> None:
    p, y = np.array([0.2, 0.7, 0.9]), np.array([0, 1, 0])
    both = np.stack([1 - p, p], axis=1)
    assert brier(both, y) == pytest.approx(2 * brier(p, y))
    assert log_loss(both, y) == pytest.approx(log_loss(p, y))
    confidence, right = top_label(both, y)
    assert confidence == pytest.approx([0.8, 0.7, 0.9])
    assert right.tolist() == [True, True, False]


def test_log_loss_by_hand() -> None:
    assert log_loss(np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]), np.array([1, 2])) == pytest.approx(
        (2 + 3) / 2 * math.log(2)
    )
    assert log_loss(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx(-math.log(1e-12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix(np.array([0, 3]), np.array([0, 1]), 3), "true labels run from 0 to 3"),
        (lambda: confusion_matrix(np.array([0, -1]), np.array([0, 1]), 3), "run from -1"),
        (lambda: confusion_matrix(np.array([0]), np.array([0, 1]), 3), "1 true and 2 predicted"),
        (lambda: confusion_matrix(np.array([0.5]), np.array([0]), 3), "integers"),
        (lambda: auroc(np.array([0.1, np.nan]), np.array([0, 1])), "1 of 2 scores are NaN"),
        (lambda: auroc(np.array([0.1]), np.array([0, 1])), "two arrays"),
        (lambda: auroc(np.array([0.1, 0.2]), np.array([0, 2])), "0 to 1 are the classes"),
        (lambda: mean_auroc(np.array([0.1]), np.array([0])), r"\(N, K\)"),
        (lambda: reliability(np.array([1.5]), np.array([1])), "logits"),
        (lambda: reliability(np.array([np.nan]), np.array([1])), "nan"),
        (lambda: reliability(np.array([0.5]), np.array([1]), bins=0), "at least 1"),
        (lambda: top_label(np.ones((2, 2)), np.array([1])), "for 1 labels"),
        (lambda: grouped_vote(np.ones((2, 2)), ["a"]), "1 group keys"),
        (lambda: grouped_vote(np.ones((1, 2)), ["a"], by="loudest"), "'majority'"),
        (lambda: brier(np.ones((1, 2)), np.array([2])), "0 to 1 are the classes"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
