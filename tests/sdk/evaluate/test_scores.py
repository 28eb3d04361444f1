"""Dice against MONAI's metric, and the frames without a target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_sdk.evaluate import dice_scores, predict_logits, predict_masks, score_masks


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), density=st.floats(0.0, 0.6))
def test_dice_agrees_with_monai_where_both_are_defined(seed: int, density: float) -> None:
    from monai.metrics import compute_dice

    rng = np.random.default_rng(seed)
    predicted, truth = rng.random((4, 6, 7)) < density, rng.random((4, 6, 7)) < density
    peer = compute_dice(torch.from_numpy(predicted[:, None]), torch.from_numpy(truth[:, None]), ignore_empty=False)
    assert dice_scores(predicted, truth) == pytest.approx(peer.numpy()[:, 0].astype(float))


def test_empty_frames_count_as_one_or_zero() -> None:
    empty, full = np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)
    assert dice_scores(empty, empty) == [1.0]
    assert dice_scores(full, empty) == [0.0]
    assert dice_scores(empty, full) == [0.0]


def test_mean_is_over_frames_and_pooled_over_pixels() -> None:
    truth = np.zeros((2, 4, 4), np.uint8)
    truth[0, :, :] = 1
    truth[1, 0, 0] = 1
    predicted = truth.copy()
    predicted[1] = 0
    scores = score_masks(predicted, truth, 1)
    assert scores.per_frame == (1.0, 0.0)
    assert scores.mean == 0.5
    assert scores.pooled == pytest.approx(2 * 16 / (16 + 17))
    assert scores.n == 2


def test_classes_are_averaged_in_every_frame() -> None:
    truth = np.array([[[1, 1, 2, 0]]], np.uint8)
    predicted = np.array([[[1, 1, 0, 0]]], np.uint8)
    assert score_masks(predicted, truth, 2).mean == 0.5


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(1, 4, 4\)"):
        score_masks(np.zeros((1, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8), 1)


def test_predictions_do_not_depend_on_the_batch_size() -> None:
    inputs = torch.randn((5, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(predict_logits(lambda x: x * 2, inputs, 2), inputs * 2)
    assert np.array_equal(predict_masks(lambda x: x, inputs, 3), (inputs[:, 0] > 0).numpy())
    planes = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(predict_masks(lambda x: x, planes), planes.argmax(1).numpy())
