"""Overlap and contour distance against set arithmetic, closed forms, MONAI and scikit-image."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.segmentation import Mask, dice, hausdorff95, jaccard, relative_area_error

Metric = Callable[[Mask, Mask], float]
EMPTY, FULL = np.zeros((6, 7), np.uint8), np.ones((6, 7), np.uint8)
pairs = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*(hnp.arrays(np.uint8, (n, 9), elements=st.sampled_from([0, 1, 5])) for _ in range(2)))
)


def disc(cx: float, cy: float, radius: float, shape: tuple[int, int] = (96, 112)) -> npt.NDArray[np.bool_]:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(x - cx, y - cy) <= radius


@given(pairs)
def test_against_sets_of_pixels(masks: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]) -> None:
    a, b = ({(int(y), int(x)) for y, x in np.argwhere(mask)} for mask in masks)
    assert dice(*masks) == (2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0)
    assert jaccard(*masks) == (len(a & b) / len(a | b) if a or b else 1.0)
    if b:
        assert relative_area_error(*masks) == (len(a) - len(b)) / len(b)


@given(pairs)
def test_jaccard_follows_from_dice_and_order_does_not_matter(
    masks: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
) -> None:
    d = dice(*masks)
    assert jaccard(*masks) == pytest.approx(d / (2 - d))
    for metric in (dice, jaccard, hausdorff95):
        assert metric(*masks) == metric(*reversed(masks))


EDGES: list[tuple[Metric, Mask, Mask, float]] = [
    (dice, EMPTY, EMPTY, 1.0),
    (dice, EMPTY, FULL, 0.0),
    (dice, FULL, FULL, 1.0),
    (jaccard, EMPTY, EMPTY, 1.0),
    (jaccard, FULL, EMPTY, 0.0),
    (relative_area_error, EMPTY, EMPTY, 0.0),
    (relative_area_error, EMPTY, FULL, -1.0),
    (relative_area_error, FULL, EMPTY, math.inf),
    (hausdorff95, EMPTY, EMPTY, 0.0),
    (hausdorff95, EMPTY, FULL, math.inf),
    (hausdorff95, FULL, EMPTY, math.inf),
    (hausdorff95, FULL, FULL, 0.0),
]


@pytest.mark.parametrize(("metric", "predicted", "truth", "wanted"), EDGES)
def test_empty_and_full(metric: Metric, predicted: Mask, truth: Mask, wanted: float) -> None:
    assert metric(predicted, truth) == wanted


@pytest.mark.parametrize("metric", [dice, jaccard, relative_area_error, hausdorff95])
def test_different_shapes_are_refused(metric: Metric) -> None:
    with pytest.raises(ConfigError, match=r"\(6, 7\) and \(7, 6\)"):
        metric(EMPTY, EMPTY.T)


def test_a_stack_of_masks_has_no_contour() -> None:
    with pytest.raises(ConfigError, match="one image at a time"):
        hausdorff95(np.ones((2, 6, 7), np.uint8), np.ones((2, 6, 7), np.uint8))


def test_concentric_discs_lie_their_radii_apart() -> None:
    found = hausdorff95(disc(55, 48, 20), disc(55, 48, 29))
    assert found == pytest.approx(9, abs=1)


def test_a_shifted_line_lies_its_shift_apart_in_mm() -> None:
    a, b = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    a[4], b[9] = True, True
    assert hausdorff95(a, b) == 5
    assert hausdorff95(a, b, spacing=(0.3, 7.0)) == pytest.approx(1.5)
    assert hausdorff95(a.T, b.T, spacing=(7.0, 0.3)) == pytest.approx(1.5)


RANDOM_DISCS = [
    (disc(*np.random.default_rng(seed).uniform(30, 70, 2), 12 + seed), disc(52, 47, 18)) for seed in range(8)
]


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.2, 0.35)])
def test_contour_distance_agrees_with_monai(spacing: tuple[float, float]) -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    for a, b in RANDOM_DISCS:
        tensors = [torch.from_numpy(mask[None, None].copy()) for mask in (a, b)]
        peer = monai.compute_hausdorff_distance(*tensors, percentile=95, spacing=spacing, include_background=True)
        assert hausdorff95(a, b, spacing) == pytest.approx(float(peer), abs=1e-4)


def test_overlap_agrees_with_monai() -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    for a, b in RANDOM_DISCS:
        tensors = [torch.from_numpy(mask[None, None].copy()) for mask in (a, b)]
        assert dice(a, b) == pytest.approx(float(monai.compute_dice(*tensors, include_background=True)), abs=1e-6)
        assert jaccard(a, b) == pytest.approx(float(monai.compute_iou(*tensors, include_background=True)), abs=1e-6)


def test_the_whole_contour_agrees_with_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    segmentation = pytest.importorskip("skimage.segmentation")
    for a, b in RANDOM_DISCS:
        contours = [segmentation.find_boundaries(mask, mode="inner", connectivity=1) for mask in (a, b)]
        assert hausdorff95(a, b) <= metrics.hausdorff_distance(*contours) + 1e-9
