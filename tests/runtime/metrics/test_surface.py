"""Contour distances, precision and recall against brute force, MONAI and the rules for empty masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.segmentation import (
    Mask,
    assd,
    by_class,
    dice,
    f1,
    hausdorff95,
    precision,
    recall,
    surface_distances,
)

EMPTY, FULL = np.zeros((6, 7), np.uint8), np.ones((6, 7), np.uint8)
pairs = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*(hnp.arrays(np.uint8, (n, 9), elements=st.sampled_from([0, 1, 5])) for _ in range(2)))
)


def contour(mask: Mask, spacing: tuple[float, float]) -> npt.NDArray[np.float64]:
    padded = np.pad(mask != 0, 1)
    kept = [
        (y, x)
        for y, x in np.argwhere(mask)
        if not (padded[y, x + 1] and padded[y + 2, x + 1] and padded[y + 1, x] and padded[y + 1, x + 2])
    ]
    return np.array(kept, float).reshape(-1, 2) * spacing


@given(pairs, st.floats(0.1, 4), st.floats(0.1, 4))
def test_surface_distances_by_brute_force(
    masks: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]], row: float, column: float
) -> None:
    a, b = (contour(mask, (row, column)) for mask in masks)
    there, back = surface_distances(*masks, spacing=(row, column))
    if len(a) and len(b):
        apart = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
        assert there == pytest.approx(apart.min(axis=1))
        assert back == pytest.approx(apart.min(axis=0))
    else:
        assert (len(there), len(back)) == (len(a), len(b))
        assert np.isinf(there).all()
        assert np.isinf(back).all()


@given(pairs)
def test_precision_and_recall_swap_with_the_masks(
    masks: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]],
) -> None:
    a, b = masks
    assert precision(a, b) == recall(b, a)
    p, r = precision(a, b), recall(a, b)
    if a.any() and b.any():
        assert f1(a, b) == dice(a, b) == pytest.approx(2 * p * r / (p + r) if p + r else 0.0)
    assert assd(a, b) == pytest.approx(assd(b, a))
    assert assd(a, b) <= max(np.max(d, initial=0) for d in surface_distances(a, b)) + 1e-12


@pytest.mark.parametrize(
    ("predicted", "truth", "wanted"),
    [(EMPTY, EMPTY, (1, 1, 1, 0)), (EMPTY, FULL, (0, 0, 0, math.inf)), (FULL, EMPTY, (0, 0, 0, math.inf))],
)
def test_empty_masks(predicted: Mask, truth: Mask, wanted: tuple[float, ...]) -> None:
    assert tuple(metric(predicted, truth) for metric in (precision, recall, f1, assd)) == wanted


def test_pixels_by_hand() -> None:
    a, b = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    a[2, 1], b[2, 4], b[2, 5] = True, True, True
    assert surface_distances(a, b)[0].tolist() == [3]
    assert surface_distances(a, b)[1].tolist() == [3, 4]
    assert assd(a, b) == pytest.approx(10 / 3)
    assert assd(a, b, spacing=(9.0, 0.5)) == pytest.approx(5 / 3)


def test_every_class_by_itself() -> None:
    truth, predicted = np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]])
    assert by_class(dice, predicted, truth, (0, 1, 2, 3)) == pytest.approx((1, 2 / 3, 2 / 3, 1))
    assert by_class(assd, predicted, truth, (1,), spacing=(1.0, 4.0)) == pytest.approx((4 / 3,))
    with pytest.raises(ConfigError, match="predicted labels are float64"):
        by_class(dice, predicted / 2, truth, (1,))


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, math.nan), (1.0,)])
def test_bad_spacing(spacing: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="two positive numbers"):
        hausdorff95(FULL, FULL, spacing)


def test_a_large_image_agrees_with_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(3)
    a, b = (ndimage.gaussian_filter(rng.normal(size=(140, 180)), 6) > 0 for _ in range(2))
    spacing = (0.3, 0.11)
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    there, back = surface_distances(a, b, spacing)
    assert there == pytest.approx(ndimage.distance_transform_edt(~edges[1], sampling=spacing)[edges[0]])
    assert back == pytest.approx(ndimage.distance_transform_edt(~edges[0], sampling=spacing)[edges[1]])


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.2, 0.35)])
def test_assd_agrees_with_monai(spacing: tuple[float, float]) -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(4)
    for _ in range(8):
        a, b = (rng.random((24, 31)) < density for density in rng.uniform(0.05, 0.9, 2))
        tensors = [torch.from_numpy(mask[None, None]) for mask in (a, b)]
        peer = monai.compute_average_surface_distance(
            *tensors, symmetric=True, include_background=True, spacing=spacing
        )
        assert assd(a, b, spacing) == pytest.approx(float(peer), abs=1e-6)
