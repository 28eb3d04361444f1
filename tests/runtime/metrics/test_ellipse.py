"""Ellipses against closed forms, numerical integration, scikit-image, and the published circumferences of HC18."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.ellipse import (
    Ellipse,
    Method,
    contour_points,
    fit_ellipse,
    fit_points,
    head_circumference,
    largest_region,
)

UNIT = (1.0, 1.0)


def drawn(ellipse: Ellipse, shape: tuple[int, int], spacing: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Normalised radius minus 1 at every pixel centre: negative inside."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    x, y = x * spacing[1] - ellipse.x, y * spacing[0] - ellipse.y
    c, s = math.cos(ellipse.angle), math.sin(ellipse.angle)
    found: npt.NDArray[np.float64] = np.hypot((c * x + s * y) / ellipse.a, (-s * x + c * y) / ellipse.b) - 1
    return found


def perimeter(a: float, b: float) -> float:
    """By the trapezoidal rule, which converges geometrically for a periodic integrand."""
    t = np.linspace(0, 2 * math.pi, 20000, endpoint=False)
    return float(np.hypot(a * np.sin(t), b * np.cos(t)).mean() * 2 * math.pi)


@given(st.floats(0.4, 1.0), st.floats(1e-3, 1e3))
def test_ramanujan_against_the_integral(ratio: float, a: float) -> None:
    assert Ellipse(x=0, y=0, a=a, b=a * ratio, angle=0).circumference == pytest.approx(
        perimeter(a, a * ratio), rel=1e-8
    )


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 80), st.floats(0.2, 0.98), st.floats(0, math.pi - 1e-3))
def test_exact_points_give_their_ellipse_back(x: float, y: float, a: float, ratio: float, angle: float) -> None:
    wanted = Ellipse(x=x, y=y, a=a, b=a * ratio, angle=angle)
    found = fit_points(wanted.points(40))
    assert found is not None
    assert (found.x, found.y, found.a, found.b) == pytest.approx((x, y, a, a * ratio), rel=1e-6, abs=1e-6)
    assert math.sin(found.angle - angle) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("method", ["contour", "moments"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.11, 0.31), (0.5, 0.2)])
def test_masks_with_unequal_spacing(method: Method, spacing: tuple[float, float]) -> None:
    shape = (240, 300)
    truth = Ellipse(x=150.3 * spacing[1], y=118.6 * spacing[0], a=95 * min(spacing), b=61 * min(spacing), angle=0.7)
    found = fit_ellipse(drawn(truth, shape, spacing) < 0, spacing, method=method)
    assert found is not None
    assert found.circumference == pytest.approx(truth.circumference, rel=2e-3)
    assert (found.x, found.y) == pytest.approx((truth.x, truth.y), abs=0.1 * max(spacing))


def test_a_probability_map_is_read_below_the_pixel() -> None:
    truth = Ellipse(x=31.4, y=22.7, a=21.3, b=14.9, angle=2.2)
    probability = 1 / (1 + np.exp(drawn(truth, (48, 64), UNIT) * 20))
    fine, coarse = (abs(head_circumference(p, UNIT) - truth.circumference) for p in (probability, probability > 0.5))
    assert fine < 0.02
    assert fine < coarse


def test_a_head_cut_by_the_image_is_extrapolated() -> None:
    truth = Ellipse(x=60, y=10, a=50, b=35, angle=0.1)
    mask = drawn(truth, (80, 120), UNIT) < 0
    assert mask[0].any()
    assert head_circumference(mask, UNIT) == pytest.approx(truth.circumference, rel=3e-3)
    assert head_circumference(mask, UNIT, method="moments") < 0.95 * truth.circumference


def test_only_the_largest_region_counts_and_its_holes_are_filled() -> None:
    truth = Ellipse(x=50, y=40, a=30, b=22, angle=0.4)
    clean = drawn(truth, (90, 120), UNIT) < 0
    marred = clean.copy()
    marred[30:45, 40:60] = False
    marred[2:9, 100:118] = True
    assert np.array_equal(largest_region(marred), clean)
    assert head_circumference(marred, UNIT) == head_circumference(clean, UNIT)


def test_largest_region_agrees_with_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(5)
    for density in (0.2, 0.5, 0.8):
        mask = rng.random((23, 31)) < density
        labels, _ = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())[1:]
        if (sizes == sizes.max()).sum() > 1:
            continue
        wanted = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))
        assert np.array_equal(largest_region(mask), wanted)


def test_contour_points_are_those_of_marching_squares() -> None:
    measure = pytest.importorskip("skimage.measure")
    probability = 1 / (1 + np.exp(drawn(Ellipse(x=20.2, y=17.9, a=14, b=9, angle=1), (36, 42), UNIT) * 9))
    (contour,) = measure.find_contours(probability, 0.5)
    ours = contour_points(probability, (2.0, 3.0)) / (3.0, 2.0)
    assert sorted(map(tuple, np.round(ours, 9))) == sorted(map(tuple, np.round(contour[1:, ::-1], 9)))


def test_moments_agree_with_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure")
    mask = drawn(Ellipse(x=52, y=40, a=33, b=21, angle=0.5), (80, 110), UNIT) < 0
    (region,) = measure.regionprops(mask.astype(np.uint8))
    found = fit_ellipse(mask, UNIT, method="moments")
    assert found is not None
    assert 2 * found.a == pytest.approx(region.axis_major_length, rel=1e-9)
    assert 2 * found.b == pytest.approx(region.axis_minor_length, rel=1e-9)


def one_pixel() -> npt.NDArray[np.bool_]:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    return mask


@pytest.mark.parametrize("method", ["contour", "moments"])
@pytest.mark.parametrize(
    "mask", [np.zeros((9, 9), bool), one_pixel(), np.zeros((0, 4), bool), np.zeros((7, 7), np.float32)]
)
def test_nothing_to_measure_is_nan(method: Method, mask: npt.NDArray[Any]) -> None:
    assert fit_ellipse(mask, UNIT, method=method) is None
    assert math.isnan(head_circumference(mask, UNIT, method=method))


def test_a_full_image_has_no_contour() -> None:
    assert fit_ellipse(np.ones((9, 9), bool), UNIT) is None


@pytest.mark.parametrize("shape", [(1, 30), (30, 1)])
def test_a_line_has_no_moments(shape: tuple[int, int]) -> None:
    mask = np.zeros((40, 40), bool)
    mask[: shape[0], : shape[1]] = True
    assert fit_ellipse(mask, UNIT, method="moments") is None


def test_points_on_a_line_are_no_ellipse() -> None:
    t = np.linspace(0, 1, 20)
    assert fit_points(np.stack([t, 2 * t + 1], axis=1)) is None
    assert fit_points(np.ones((20, 2))) is None


def test_the_offset_moves_both_semi_axes() -> None:
    truth = Ellipse(x=50, y=40, a=30, b=22, angle=0.4)
    mask = drawn(truth, (90, 120), UNIT) < 0
    found = fit_ellipse(mask, UNIT)
    assert found is not None
    moved = head_circumference(mask, UNIT, contour_offset_mm=-1.5)
    assert moved == pytest.approx(perimeter(found.a - 1.5, found.b - 1.5), rel=1e-6)
    assert math.isnan(head_circumference(mask, UNIT, contour_offset_mm=-30))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_or_probability": np.zeros((2, 4, 4), bool)}, "one image at a time"),
        ({"spacing": (0.1, 0.0)}, "two positive numbers"),
        ({"spacing": (0.1,)}, "two positive numbers"),
        ({"method": "hough"}, "'contour' or 'moments'"),
        ({"mask_or_probability": np.full((4, 4), np.nan)}, "16 of 16 probabilities are not finite"),
        ({"contour_offset_mm": math.inf}, "finite number of mm"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        head_circumference(**{"mask_or_probability": np.ones((4, 4), bool), "spacing": UNIT, **arguments})


def test_published_circumferences_of_hc18() -> None:
    root = os.environ.get("POCUS_DATA")
    if not root:
        pytest.skip("POCUS_DATA is not set: no HC18 masks")
    cv2 = pytest.importorskip("cv2")
    folder = Path(root) / "segmentation" / "hc18_fetal_head"
    rows = [
        row for row in csv.DictReader((folder / "manifest.csv").read_text().splitlines()) if row["split"] == "train"
    ][::8]
    plain, corrected = [], []
    for row in rows:
        mask = cv2.imread(str(folder / "masks" / row["file"]), cv2.IMREAD_GRAYSCALE) > 127
        mm, wanted = float(row["pixel_size_mm"]), float(row["head_circumference_mm"])
        plain.append(head_circumference(mask, (mm, mm)) / wanted - 1)
        corrected.append(head_circumference(mask, (mm, mm), contour_offset_mm=-1.356 * mm) - wanted)
    assert np.mean(plain) == pytest.approx(0.0070, abs=0.0010)
    assert np.abs(corrected).max() < 0.15
