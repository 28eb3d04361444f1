"""Overlap of masks against counts by hand, closed forms, and peers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.segmentation import dice, jaccard, relative_area_error

Mask = npt.NDArray[np.uint8]
EMPTY, FULL = np.zeros((6, 7), np.uint8), np.ones((6, 7), np.uint8)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    share = draw(st.floats(0, 1))
    a, b = (rng.random((2, *shape)) < share).astype(np.uint8)
    return a, b


def test_two_squares_that_overlap_by_a_half() -> None:
    a, b = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    a[:4, :4], b[:4, 2:6] = True, True
    assert dice(a, b) == 0.5
    assert jaccard(a, b) == pytest.approx(8 / 24)
    assert relative_area_error(a, b) == 0.0


def test_empty_masks() -> None:
    assert (dice(EMPTY, EMPTY), jaccard(EMPTY, EMPTY), relative_area_error(EMPTY, EMPTY)) == (1, 1, 0)
    assert (dice(EMPTY, FULL), jaccard(EMPTY, FULL), relative_area_error(EMPTY, FULL)) == (0, 0, -1)
    assert (dice(FULL, EMPTY), jaccard(FULL, EMPTY), relative_area_error(FULL, EMPTY)) == (0, 0, math.inf)


@given(pairs())
def test_dice_and_jaccard_are_one_function_of_the_other(pair: tuple[Mask, Mask]) -> None:
    a, b = pair
    d, j = dice(a, b), jaccard(a, b)
    assert d == pytest.approx(2 * j / (1 + j))
    assert dice(b, a) == d
    assert jaccard(b, a) == j
    assert 0 <= j <= d <= 1
    assert dice(a, a) == jaccard(a, a) == 1


@given(pairs())
def test_counts_by_hand(pair: tuple[Mask, Mask]) -> None:
    inside = [{(y, x) for y, row in enumerate(mask.tolist()) for x, v in enumerate(row) if v} for mask in pair]
    both, either = inside[0] & inside[1], inside[0] | inside[1]
    if either:
        assert jaccard(*pair) == len(both) / len(either)
    if inside[1]:
        assert relative_area_error(*pair) == pytest.approx(len(inside[0]) / len(inside[1]) - 1)


@given(pairs())
def test_any_value_above_zero_is_inside(pair: tuple[Mask, Mask]) -> None:
    a, b = pair
    assert dice(a * np.uint8(200), b * np.uint8(3)) == dice(a, b) == dice(a.astype(bool), b)


def test_the_peer_agrees() -> None:
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 20, 30)) < 0.4).astype(np.uint8)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (a, b)]
    for ours, peer in ((dice, metrics.DiceMetric()), (jaccard, metrics.MeanIoU())):
        assert ours(a, b) == pytest.approx(float(peer(*tensors)[0, 0]), abs=1e-6)


@pytest.mark.parametrize("metric", [dice, jaccard, relative_area_error])
@pytest.mark.parametrize("other", [np.zeros((7, 6), np.uint8), np.zeros((1, 6, 7), np.uint8), np.zeros(42, np.uint8)])
def test_different_shapes_are_refused(metric: Callable[[Mask, Mask], float], other: Mask) -> None:
    with pytest.raises(ConfigError, match=r"\(6, 7\)"):
        metric(EMPTY, other)
