"""Classes, boxes, pictures and uncertainties on their way to a result, against closed forms and planted objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.metrics.detection import iou_matrix
from edge_runtime.postprocess import OutputsPostprocessor, agreement, class_scores, detections
from edge_runtime.postprocess.boxes import suppress
from edge_runtime.preprocess import CropToScanArea, Letterbox, Normalize, Prepared, Preprocessor, PreprocessSpec, Resize

pytest.importorskip("cv2")

Float32 = npt.NDArray[np.float32]
CLASSES = OutputSpec(name="c", shape=(1, 3), kind="class_logits", classes=("a", "b", "c"), temperature=2.0)
BOXES = OutputSpec(name="b", shape=(1, 4, 6), kind="boxes", classes=("cyst", "vessel"))
MASK = OutputSpec(name="m", shape=(1, 1, 24, 40), kind="mask_logits", classes=("cyst",))
SPREAD = OutputSpec(name="u", shape=(1, 1, 24, 40), kind="uncertainty", of="m")
PICTURE = OutputSpec(name="i", shape=(1, 1, 24, 40), kind="image")
NORMALIZE = Normalize(mean=0.3, std=0.2)


def prepared(image: npt.NDArray[np.uint8], *steps: Any, area: Rectangle | None = None) -> tuple[Prepared, Frame]:
    frame = Frame(image=image, index=0, arrival_ns=0, geometry=FrameGeometry(scan_area=area))
    return Preprocessor(PreprocessSpec(steps=(*steps, NORMALIZE)))(frame), frame


def spec(*steps: Any) -> PreprocessSpec:
    return PreprocessSpec(steps=(*steps, NORMALIZE))


def rows(*boxes: tuple[float, ...]) -> Float32:
    return np.array([boxes], np.float32)


PLAIN = prepared(np.zeros((48, 80), np.uint8), Resize(height=24, width=40))


def test_class_scores_are_a_softmax_over_the_temperature() -> None:
    scores = class_scores(np.array([[2.0, 0.0, -2.0]], np.float32), CLASSES)
    weights = [math.e, 1.0, 1 / math.e]
    assert [score.label for score in scores] == ["a", "b", "c"]
    assert [score.probability for score in scores] == pytest.approx([w / sum(weights) for w in weights])


def test_independent_classes_are_sigmoids() -> None:
    output = OutputSpec(name="c", shape=(1, 1), kind="class_logits", classes=("pleura",), activation="sigmoid")
    (score,) = class_scores(np.array([[math.log(3)]], np.float32), output)
    assert score.probability == pytest.approx(0.75)


def test_the_uncertainty_of_a_classifier_is_its_entropy() -> None:
    read = OutputsPostprocessor((CLASSES,), spec(Resize(height=24, width=40)))
    sure, torn = (read({"c": np.array([v], np.float32)}, *PLAIN) for v in ([300.0, 0.0, 0.0], [1.0, 1.0, 1.0]))
    assert (sure.uncertainty, torn.uncertainty) == pytest.approx((0, 1))
    assert sure.mask is None
    assert sure.detections == ()


def test_boxes_go_back_to_source_pixels_best_first() -> None:
    output = rows((10, 5, 20, 15, 3, -9), (10, 5, 20, 14, 2, -9), (30, 1, 60, 9, -9, 4), (0, 0, 4, 4, -3, -3))
    first, second = detections(output, BOXES, PLAIN[0].map)
    assert (first.label, first.x0, first.y0, first.x1, first.y1) == ("vessel", 60, 2, 80, 18)  # clipped to the frame
    assert (second.label, second.x0, second.y0, second.x1, second.y1) == ("cyst", 20, 10, 40, 30)
    assert first.score == pytest.approx(1 / (1 + math.exp(-4)))


@pytest.mark.parametrize("step", [Resize(height=32, width=64), Letterbox(height=48, width=48)])
def test_a_box_around_an_object_stays_around_it(step: Any) -> None:
    """The box of the bright pixels of the network image, taken back, is the object's own within a network pixel."""
    image = np.zeros((90, 130), np.uint8)
    image[41:72, 50:97] = 255
    place, _ = prepared(image, CropToScanArea(), step, area=Rectangle(x0=20, y0=10, x1=120, y1=86))
    seen = np.argwhere(place.tensor[0, 0] > 0)
    (y0, x0), (y1, x1) = seen.min(axis=0), seen.max(axis=0) + 1
    (found,) = detections(rows((x0, y0, x1, y1, 5, -5)), BOXES, place.map)
    pixel = max(place.map.scale)
    assert (found.x0, found.y0, found.x1, found.y1) == pytest.approx((50, 41, 97, 72), abs=pixel)


@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 12), st.just(5)), elements=st.integers(0, 9)))
def test_suppression_keeps_what_no_better_box_covers(values: npt.NDArray[np.float64]) -> None:
    boxes = np.concatenate([values[:, :2], values[:, :2] + 1 + values[:, 2:4]], axis=1)
    kept = suppress(boxes, values[:, 4], 0.4)
    overlap = iou_matrix(boxes, boxes)
    for k in range(len(boxes)):
        better = [j for j in kept if (-values[j, 4], j) < (-values[k, 4], k)]
        assert (k in kept) == all(overlap[k, j] <= 0.4 for j in better)


def test_the_number_of_boxes_is_bounded() -> None:
    many = np.zeros((1, 900, 6), np.float32)
    many[0, :, 0], many[0, :, 2], many[0, :, 3] = np.arange(900), np.arange(900) + 0.5, 1
    many[0, :, 4:] = np.linspace(1, 5, 900)[:, None]
    output = OutputSpec(name="b", shape=many.shape, kind="boxes", classes=("p", "q"), max_boxes=7)
    place, _ = prepared(np.zeros((10, 900), np.uint8), Resize(height=10, width=900))
    found = detections(many, output, place.map)
    assert len(found) == 7
    assert [box.score for box in found] == sorted((box.score for box in found), reverse=True)


@pytest.mark.parametrize("step", [Resize(height=48, width=80), Letterbox(height=60, width=90)])
def test_a_picture_handed_through_comes_back(step: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 80), dtype=np.uint8)
    place, frame = prepared(image, step)
    output = OutputSpec(name="i", shape=place.tensor.shape, kind="image")
    found = OutputsPostprocessor((output,), spec(step))({"i": place.tensor}, place, frame)
    assert found.image is not None
    if isinstance(step, Resize):
        assert np.array_equal(found.image, image)
    assert found.image.shape == image.shape
    assert not found.image.flags.writeable


def test_a_larger_picture_is_brought_to_the_source_too() -> None:
    ramp = np.tile(np.linspace(0, 255, 80), (48, 1))
    place, frame = prepared(ramp.astype(np.uint8), Resize(height=24, width=40))
    fine = ((ramp / 255 - NORMALIZE.mean) / NORMALIZE.std).astype(np.float32)[None, None]
    output = OutputSpec(name="i", shape=fine.shape, kind="image")
    found = OutputsPostprocessor((output,), spec(Resize(height=24, width=40)))({"i": fine}, place, frame)
    assert found.image is not None
    assert np.abs(found.image - ramp).max() <= 0.51


def test_outside_of_the_crop_stands_the_frame_and_colour_turns_grey() -> None:
    image = np.full((48, 80, 3), 90, np.uint8)
    place, _ = prepared(
        image[..., 0].copy(), CropToScanArea(), Resize(height=24, width=40), area=Rectangle(x0=20, y0=10, x1=60, y1=30)
    )
    frame = Frame(image=image, index=0, arrival_ns=0)
    bright = np.full((1, 1, 24, 40), (1 - NORMALIZE.mean) / NORMALIZE.std, np.float32)
    found = OutputsPostprocessor((PICTURE,), spec(Resize(height=24, width=40)))({"i": bright}, place, frame)
    assert found.image is not None
    inside = np.zeros((48, 80), bool)
    inside[10:30, 20:60] = True
    assert np.array_equal(found.image, np.where(inside, 255, 90))


def test_a_mask_with_an_uncertainty_output() -> None:
    logits = np.full((1, 1, 24, 40), -20, np.float32)
    logits[0, 0, 5:10, 5:10] = 3
    plane = np.full((1, 1, 24, 40), -1, np.float32)
    plane[0, 0, 5:10, 5:10] = 0.25
    read = OutputsPostprocessor((MASK, SPREAD, CLASSES), spec(Resize(height=24, width=40)))
    found = read({"m": logits, "u": plane, "c": np.zeros((1, 3), np.float32)}, *PLAIN)
    assert found.mask is not None
    assert found.uncertainty_map is not None
    assert found.uncertainty == 0.25
    assert found.uncertainty_map.min() == 0
    assert found.areas[0].pixels > 0
    assert len(found.classes) == 3
    empty = read({"m": np.full_like(logits, -20), "u": plane, "c": np.zeros((1, 3), np.float32)}, *PLAIN)
    assert empty.uncertainty == 0


def test_agreement_of_decisions() -> None:
    a, b = np.array([[1.0, 2.0, 0.0]], np.float32), np.array([[1.0, 3.0, 9.0]], np.float32)
    assert agreement(a, a, CLASSES) == 1
    assert agreement(a, b, CLASSES) == 0
    sigmoid = OutputSpec(name="c", shape=(1, 3), kind="class_logits", classes=("a", "b", "c"), activation="sigmoid")
    assert agreement(a, b, sigmoid) == pytest.approx(2 / 3)
    one, two = rows((0, 0, 9, 9, 3, -9)), rows((0, 0, 9, 8, 2, -9))
    assert agreement(one, two, BOXES) == 1
    assert agreement(one, rows((0, 0, 9, 9, -9, 3)), BOXES) == 0
    assert agreement(rows((0, 0, 9, 9, -9, -9)), rows((0, 0, 9, 9, -9, -9)), BOXES) == 1
    assert agreement(one, rows((0, 0, 9, 9, -9, -9)), BOXES) == 0
    assert agreement(np.zeros(3, np.float32), np.ones(3, np.float32), PICTURE) == 1


BAD = np.full((1, 1, 24, 40), np.nan, np.float32)


@pytest.mark.parametrize(
    ("outputs", "values"),
    [
        ((CLASSES,), {"c": np.full((1, 3), np.inf, np.float32)}),
        ((BOXES,), {"b": np.full((1, 4, 6), np.nan, np.float32)}),
        ((PICTURE,), {"i": BAD}),
        ((MASK, SPREAD), {"m": np.zeros((1, 1, 24, 40), np.float32), "u": BAD}),
    ],
)
def test_values_that_are_not_finite(outputs: tuple[OutputSpec, ...], values: dict[str, Float32]) -> None:
    with pytest.raises(InferenceError, match="not finite"):
        OutputsPostprocessor(outputs, spec(Resize(height=24, width=40)))(values, *PLAIN)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((OutputSpec(name="x", shape=(1, 3), kind="raw"),), "at least one of"),
        ((CLASSES, OutputSpec(name="d", shape=(1, 2), kind="class_logits", classes=("p", "q"))), "at most one of each"),
    ],
)
def test_outputs_that_cannot_be_read(outputs: tuple[OutputSpec, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OutputsPostprocessor(outputs, spec(Resize(height=24, width=40)))


def test_a_picture_of_another_size_is_refused() -> None:
    output = OutputSpec(name="i", shape=(1, 1, 25, 40), kind="image")
    read = OutputsPostprocessor((output,), spec(Resize(height=24, width=40)))
    with pytest.raises(ConfigError, match="whole multiple"):
        read({"i": np.zeros((1, 1, 25, 40), np.float32)}, *PLAIN)
