"""Masks, areas and uncertainty against closed forms, and discs carried to the network and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.postprocess import MaskPostprocessor, mean_entropy, sigmoid
from edge_runtime.preprocess import (
    CropToScanArea,
    Letterbox,
    Normalize,
    Prepared,
    Preprocessor,
    PreprocessSpec,
    Resize,
    Step,
)

pytest.importorskip("cv2")

Float32 = npt.NDArray[np.float32]
KNOWN = FrameGeometry(row_mm=0.2, column_mm=0.3, origin="simulated", trusted=True, reason="")
SAME = (Resize(height=8, width=8), Normalize())
RNG = np.random.default_rng(3)


def output(shape: tuple[int, ...] = (1, 1, 8, 8), classes: tuple[str, ...] = ("cyst",), **more: Any) -> OutputSpec:
    return OutputSpec(name="y", shape=shape, kind="mask_logits", classes=classes, **more)


def prepared_frame(
    image: npt.NDArray[np.uint8], steps: Sequence[Step] = SAME, geometry: FrameGeometry = KNOWN
) -> tuple[Prepared, Frame]:
    frame = Frame(image=image, index=0, arrival_ns=0, geometry=geometry)
    return Preprocessor(PreprocessSpec(steps=tuple(steps)))(frame), frame


PLAIN = prepared_frame(np.zeros((8, 8), np.uint8))


@given(st.floats(-1000, 1000, width=32), st.floats(0.05, 20))
def test_the_sigmoid_is_the_closed_form(logit: float, temperature: float) -> None:
    out = np.empty(1, np.float32)
    sigmoid(np.array([logit], np.float32), temperature, out=out)
    x = logit / temperature
    wanted = 1 / (1 + math.exp(-x)) if x > -700 else 0.0
    assert out[0] == pytest.approx(wanted, rel=2e-5, abs=1e-30)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_threshold_and_temperature(threshold: float, temperature: float) -> None:
    """p > t exactly where logit > T log(t / (1 - t))."""
    logits = RNG.normal(0, 4, (1, 1, 8, 8)).astype(np.float32)
    read = MaskPostprocessor(output(threshold=threshold, temperature=temperature))
    found = read({"y": logits}, *PLAIN)
    level = temperature * math.log(threshold / (1 - threshold))
    np.testing.assert_array_equal(found.mask, logits[0, 0] > level)
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-logits[0, 0] / temperature)), rtol=1e-5)


def test_several_classes_by_softmax() -> None:
    logits = RNG.normal(0, 3, (1, 4, 8, 8)).astype(np.float32)
    read = MaskPostprocessor(output((1, 4, 8, 8), ("background", "a", "b", "c"), temperature=2.0))
    found = read({"y": logits}, *PLAIN)
    power = np.exp(logits[0].astype(np.float64) / 2)
    probability = power / power.sum(axis=0)
    np.testing.assert_array_equal(found.mask, probability.argmax(axis=0))
    np.testing.assert_allclose(found.probability, 1 - probability[0], atol=1e-6)
    assert [area.label for area in found.areas] == ["a", "b", "c"]
    assert [area.pixels for area in found.areas] == [int((found.mask == k).sum()) for k in (1, 2, 3)]


def test_several_classes_without_overflow_and_twice_the_same() -> None:
    logits = np.zeros((1, 3, 8, 8), np.float32)
    logits[0, 2] = 1e4
    read = MaskPostprocessor(output((1, 3, 8, 8), ("background", "a", "b")))
    for _ in range(2):
        found = read({"y": logits}, *PLAIN)
        assert (found.mask == 2).all()
        assert (found.probability == 1).all()
        assert found.areas[0].pixels == 0


def test_outside_the_crop_everything_is_background() -> None:
    area = Rectangle(x0=4, y0=2, x1=12, y1=10)
    geometry = FrameGeometry(row_mm=1, column_mm=1, scan_area=area, origin="user", trusted=True, reason="")
    prepared, frame = prepared_frame(np.zeros((20, 16), np.uint8), (CropToScanArea(), *SAME), geometry)
    one = MaskPostprocessor(output())({"y": np.full((1, 1, 8, 8), 9, np.float32)}, prepared, frame)
    np.testing.assert_array_equal(one.mask, area.mask((20, 16)))
    logits = np.zeros((1, 2, 8, 8), np.float32)
    logits[0, 1] = 9
    two = MaskPostprocessor(output((1, 2, 8, 8), ("background", "cyst")))({"y": logits}, prepared, frame)
    np.testing.assert_array_equal(two.mask, area.mask((20, 16)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_fail_the_frame(bad: float) -> None:
    logits = np.zeros((1, 1, 8, 8), np.float32)
    logits[0, 0, 3, 4] = bad
    with pytest.raises(InferenceError, match="'y': 1 of 64 values are not finite"):
        MaskPostprocessor(output())({"y": logits}, *PLAIN)


def test_areas_in_mm2_where_the_geometry_is_trusted() -> None:
    logits = np.full((1, 1, 8, 8), -9, np.float32)
    logits[0, 0, :3, :4] = 9
    (area,) = MaskPostprocessor(output())({"y": logits}, *PLAIN).areas
    assert (area.label, area.pixels, area.withheld) == ("cyst", 12, "")
    assert area.mm2 == pytest.approx(12 * 0.06)


def test_areas_are_withheld_with_the_reason() -> None:
    doubt = FrameGeometry(row_mm=0.2, column_mm=0.3, reason="the region lies outside its image")
    prepared, frame = prepared_frame(np.zeros((8, 8), np.uint8), geometry=doubt)
    (area,) = MaskPostprocessor(output())({"y": np.full((1, 1, 8, 8), 9, np.float32)}, prepared, frame).areas
    assert (area.pixels, area.mm2, area.withheld) == (64, None, "the region lies outside its image")


def entropy(p: float) -> float:
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) if 0 < p < 1 else 0.0


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
def test_the_uncertainty_is_the_mean_entropy_of_what_may_be_inside(values: list[float]) -> None:
    counted = [entropy(p) for p in values if p > np.float32(1e-3)]
    wanted = sum(counted) / len(counted) if counted else 0.0
    assert mean_entropy(np.array(values, np.float32)) == pytest.approx(wanted, abs=1e-6)


def test_uncertainty_of_known_maps() -> None:
    assert mean_entropy(np.full((8, 8), 0.5, np.float32)) == pytest.approx(1.0)
    assert mean_entropy(np.ones((8, 8), np.float32)) == pytest.approx(0.0, abs=1e-9)
    assert mean_entropy(np.zeros((8, 8), np.float32)) == 0.0
    assert mean_entropy(np.array([0.5, 1.0, 0.0], np.float32)) == pytest.approx(0.5)


def test_given_arrays_are_written_and_returned() -> None:
    prepared, frame = prepared_frame(np.zeros((30, 40), np.uint8))
    mask, inside = np.full((30, 40), 77, np.uint8), np.empty((8, 8), np.float32)
    logits = RNG.normal(0, 3, (1, 1, 8, 8)).astype(np.float32)
    read = MaskPostprocessor(output())
    found = read({"y": logits}, prepared, frame, mask_out=mask, probability_out=inside)
    assert found.mask is mask
    assert found.probability is inside
    assert set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(read({"y": logits}, prepared, frame).mask, mask)


def test_frames_of_changing_size_share_one_postprocessor() -> None:
    read = MaskPostprocessor(output())
    for shape in ((30, 40), (8, 8), (31, 17), (30, 40)):
        prepared, frame = prepared_frame(np.zeros(shape, np.uint8))
        found = read({"y": np.full((1, 1, 8, 8), 9, np.float32)}, prepared, frame)
        assert found.areas[0].pixels == shape[0] * shape[1]


WAYS: list[Sequence[Step]] = [
    (Letterbox(height=64, width=64), Normalize()),
    (Resize(height=64, width=64), Normalize()),
    (Resize(height=128, width=64), Normalize()),
    (CropToScanArea(), Letterbox(height=96, width=96), Normalize()),
    (Resize(height=400, width=500), Normalize()),
]


@pytest.mark.parametrize("steps", WAYS)
@pytest.mark.parametrize("diameter", [12.0, 19.3, 31.0])  # in network or source pixels, whichever are larger
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.43, 0.57)])
def test_the_area_of_a_disc_survives_the_way_to_the_network_and_back(
    steps: Sequence[Step], diameter: float, at: tuple[float, float]
) -> None:
    """A network that gives back its input: a disc of known area, measured after both ways, in pixels and mm^2."""
    scan = Rectangle(x0=10, y0=5, x1=310, y1=235)
    geometry = FrameGeometry(row_mm=0.2, column_mm=0.3, scan_area=scan, origin="user", trusted=True, reason="")
    blank, _ = prepared_frame(np.zeros((240, 320), np.uint8), steps, geometry)
    radius = min(diameter / 2 * max(1.0, *blank.map.scale), 90.0)
    y, x = np.mgrid[:240, :320]
    distance = np.hypot(x - 320 * at[0], y - 240 * at[1])
    disc = np.clip(radius - distance + 0.5, 0, 1)  # an edge that covers pixels in part
    prepared, frame = prepared_frame(np.rint(255 * disc).astype(np.uint8), steps, geometry)
    inside = np.clip(prepared.tensor[0, 0].astype(np.float64), 1e-6, 1 - 1e-6)
    logits = np.log(inside / (1 - inside)).astype(np.float32)[None, None]
    spec = output(logits.shape)
    (area,) = MaskPostprocessor(spec)({"y": logits}, prepared, frame).areas
    assert area.pixels == pytest.approx(math.pi * radius**2, rel=0.02)
    assert area.mm2 == pytest.approx(math.pi * radius**2 * 0.06, rel=0.02)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (OutputSpec(name="y", shape=(1, 1, 8, 8), kind="raw", classes=("a",)), "is raw"),
        (OutputSpec(name="y", shape=(1, 3), kind="logits", classes=("a", "b", "c")), "is logits"),
        (OutputSpec(name="y", shape=(1, 8, 8), kind="mask_logits", classes=("a",)), "mask_logits"),
        (OutputSpec(name="y", shape=(2, 1, 8, 8), kind="mask_logits", classes=("a",)), "mask_logits"),
        (OutputSpec(name="y", shape=(1, 1, 8, 8), kind="mask_logits"), "mask_logits"),
        (OutputSpec(name="y", shape=(1, 3, 8, 8), kind="mask_logits", classes=("a", "b")), "3 planes"),
        (OutputSpec(name="y", shape=(1, 1, 8, 8), kind="mask_logits", classes=("a", "b")), "1 planes"),
    ],
)
def test_another_output_is_refused(spec: OutputSpec, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        MaskPostprocessor(spec)
