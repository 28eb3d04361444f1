"""Scores by patient: votes by hand, balanced accuracy and exact intervals against peers, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from edge_runtime.errors import ConfigError
from edge_sdk.tasks.classification.scores import (
    PatientVote,
    agreement,
    exact_interval,
    patient_votes,
    score_patients,
)


def _two(*second: float) -> np.ndarray:
    return np.array([[1 - p, p] for p in second])


def test_a_patients_vote_is_the_mean_of_files_not_of_clips() -> None:
    votes = patient_votes(_two(0.9, 0.9, 0.9, 0.0, 0.2), [1, 1, 1, 1, 0], list("aaaab"), ["x", "x", "x", "y", "z"])
    assert [(v.patient, v.label, v.clips, v.predicted) for v in votes] == [("a", 1, 4, 0), ("b", 0, 1, 0)]
    assert votes[0].probability == pytest.approx((0.55, 0.45))


def test_a_set_of_two_classes_votes_once_for_each() -> None:
    votes = patient_votes(_two(0.1, 0.8), [0, 1], ["set", "set"], ["x", "y"])
    assert [(v.label, v.predicted) for v in votes] == [(0, 0), (1, 1)]


def _votes(*pairs: tuple[int, float]) -> list[PatientVote]:
    return [
        PatientVote(patient=f"p{k}", label=label, clips=1, probability=(1 - p, p)) for k, (label, p) in enumerate(pairs)
    ]


def test_scores_by_hand() -> None:
    scores = score_patients(_votes((0, 0.1), (0, 0.2), (0, 0.7), (0, 0.3), (1, 0.6), (1, 0.4)), 2)
    assert scores.patients == (4, 2)
    assert scores.sensitivity == (0.75, 0.5)
    assert scores.balanced_accuracy == pytest.approx(0.625)
    # 0.6 and 0.4 are both above 0.1, 0.2 and 0.3 and below 0.7: 6 of 8 pairs
    assert scores.auroc == pytest.approx((0.75, 0.75))
    assert scores.interval[0] < 0.625 < scores.interval[1]


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 5), (5, 5), (17, 40)])
def test_exact_interval_is_scipys(right: int, n: int) -> None:
    peer = binomtest(right, n).proportion_ci(method="exact")
    assert exact_interval(right, n) == pytest.approx((peer.low, peer.high))


def test_a_class_without_patients_has_no_score() -> None:
    scores = score_patients(_votes((0, 0.1), (0, 0.2)), 2)
    assert (scores.sensitivity, scores.auroc, scores.balanced_accuracy) == ((1.0, None), (None, None), 1.0)


def test_agreement() -> None:
    assert agreement(_two(0.1, 0.9, 0.6), _two(0.4, 0.8, 0.3)) == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="equal"):
        agreement(_two(0.1), _two(0.1, 0.2))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="softmax"):
        patient_votes(np.array([[2.0, -1.0]]), [0], ["a"], ["x"])
    with pytest.raises(ConfigError, match="2 labels"):
        patient_votes(_two(0.5), [0, 1], ["a"], ["x"])
    with pytest.raises(ConfigError, match="no patient"):
        score_patients([], 2)
    with pytest.raises(ConfigError, match="'p0': label 2"):
        score_patients(_votes((2, 0.5)), 2)
    with pytest.raises(ConfigError, match="6 of 5"):
        exact_interval(6, 5)
