"""Averages over time: the lag of a step measured and in closed form, dropped frames, and when it starts anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.postprocess import OutputsPostprocessor, Smoother, mean_lag, step_lag
from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize

pytest.importorskip("cv2")
SPEC = PreprocessSpec(steps=(Resize(height=8, width=8), Normalize()))
WEIGHTS = st.floats(0.02, 1.0)


def measured_lag(weight: float, threshold: float) -> int:
    """Frames from the step of the input to the first output above the threshold."""
    smoother = Smoother(weight)
    for index in range(5000):
        value = np.array([0.0 if index < 3 else 1.0])
        smoother(value, index)
        if value[0] > threshold:
            return index - 3
    raise AssertionError("never passed")


@given(WEIGHTS, st.floats(0.05, 0.95))
def test_the_lag_of_a_step_is_the_closed_form(weight: float, threshold: float) -> None:
    answers = [1 - (1 - weight) ** (n + 1) for n in range(400)]
    if min(abs(answer - threshold) for answer in answers) > 1e-6:  # else rounding decides
        assert measured_lag(weight, threshold) == step_lag(weight, threshold)


@pytest.mark.parametrize(("weight", "lag"), [(1.0, 0), (0.6, 0), (0.5, 1), (0.4, 1), (0.3, 1), (0.2, 3), (0.1, 6)])
def test_the_lags_of_the_documentation(weight: float, lag: int) -> None:
    assert step_lag(weight) == lag == measured_lag(weight, 0.5)


def test_a_ramp_comes_late_by_the_mean_lag() -> None:
    smoother, value = Smoother(0.25), np.zeros(1)
    for index in range(200):
        value = np.array([float(index)])
        smoother(value, index)
    assert 199 - value[0] == pytest.approx(mean_lag(0.25)) == pytest.approx(3)


@given(WEIGHTS, st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(1, 9))
def test_dropped_frames_count_as_the_newest_one(weight: float, values: list[float], gap: int) -> None:
    """A gap of d frames gives what d copies of the newest value would have given."""
    jumped, walked = Smoother(weight), Smoother(weight)
    for k, value in enumerate(values):
        one = np.array([value])
        jumped(one, k * gap)
        for step in range(gap if k else 1):
            other = np.array([value])
            walked(other, k * gap - (gap - 1 - step if k else 0))
        assert one[0] == pytest.approx(other[0], abs=1e-9)


def test_it_starts_anew() -> None:
    smoother = Smoother(0.5)
    values = np.ones(4, np.float32)
    smoother(values, 5, "a")
    for index, key, shape in ((6, "b", 4), (6, "b", 4), (3, "b", 4), (4, "b", 2)):
        now = np.zeros(shape, np.float32)
        smoother(now, index, key)
        assert not now.any()
        now[:] = 1
        smoother(now, index, key)  # the same index: anew
        assert now.all()
    smoother.reset()
    now = np.zeros(2, np.float32)
    smoother(now, 9, "b")
    assert not now.any()


def test_nothing_is_allocated_for_a_frame() -> None:
    import tracemalloc

    smoother, values = Smoother(0.5), np.ones((128, 128), np.float32)
    smoother(values, 0)
    tracemalloc.start()
    for index in range(1, 20):
        smoother(values, index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.1, math.nan])
def test_weights_outside_of_the_range(weight: float) -> None:
    for call in (Smoother, step_lag, mean_lag):
        with pytest.raises(ConfigError, match="at most 1"):
            call(weight)
    with pytest.raises(ConfigError, match="threshold"):
        step_lag(0.5, 1.0)


def test_a_mask_follows_late_and_a_reset_forgets() -> None:
    output = OutputSpec(name="y", shape=(1, 1, 8, 8), kind="mask_logits", classes=("cyst",), smoothing=0.2)
    classes = OutputSpec(
        name="c", shape=(1, 1), kind="class_logits", classes=("v",), activation="sigmoid", smoothing=0.2
    )
    read, prepare = OutputsPostprocessor((output, classes), SPEC), Preprocessor(SPEC)
    seen, scores = [], []
    for index in range(9):
        frame = Frame(image=np.zeros((8, 8), np.uint8), index=index, arrival_ns=0)
        level = np.float32(40 if index >= 2 else -40)
        found = read({"y": np.full((1, 1, 8, 8), level, np.float32), "c": np.array([[level]])}, prepare(frame), frame)
        assert found.mask is not None
        seen.append(bool(found.mask.all()))
        scores.append(found.classes[0].probability)
    assert seen.index(True) - 2 == step_lag(0.2) == 3
    assert scores[2:] == pytest.approx([1 - 0.8 ** (n + 1) for n in range(7)])
    read.reset()
    frame = Frame(image=np.zeros((8, 8), np.uint8), index=20, arrival_ns=0)
    found = read(
        {"y": np.full((1, 1, 8, 8), -40, np.float32), "c": np.array([[-40.0]], np.float32)}, prepare(frame), frame
    )
    assert found.mask is not None
    assert not found.mask.any()
    assert found.classes[0].probability == pytest.approx(0)


def test_another_depth_is_not_blended_in() -> None:
    output = OutputSpec(name="y", shape=(1, 1, 8, 8), kind="mask_logits", classes=("cyst",), smoothing=0.1)
    read, prepare = OutputsPostprocessor((output,), SPEC), Preprocessor(SPEC)
    for index, (mm, level) in enumerate(((0.2, 40), (0.2, 40), (0.3, -40))):
        geometry = FrameGeometry(row_mm=mm, column_mm=mm, trusted=True, reason="", origin="user")
        frame = Frame(image=np.zeros((8, 8), np.uint8), index=index, arrival_ns=0, geometry=geometry)
        found = read({"y": np.full((1, 1, 8, 8), level, np.float32)}, prepare(frame), frame)
        assert found.mask is not None
        assert found.mask.any() == (level > 0)


def test_several_classes_stay_probabilities() -> None:
    output = OutputSpec(name="y", shape=(1, 3, 8, 8), kind="mask_logits", classes=("b", "p", "q"), smoothing=0.5)
    read, prepare = OutputsPostprocessor((output,), SPEC), Preprocessor(SPEC)
    for index, best in enumerate((1, 2, 2)):
        logits = np.zeros((1, 3, 8, 8), np.float32)
        logits[0, best] = 40
        frame = Frame(image=np.zeros((8, 8), np.uint8), index=index, arrival_ns=0)
        found = read({"y": logits}, prepare(frame), frame)
    assert found.mask is not None
    assert (found.mask == 2).all()
    assert found.probability is not None
    assert found.probability == pytest.approx(1)
