"""Stacks against the list of single tensors that they should hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize, Stack

pytest.importorskip("cv2")

BASE = (Resize(height=4, width=6), Normalize())


def frame(index: int, shape: tuple[int, int] = (9, 9), row_mm: float = 0.1) -> Frame:
    image = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
    geometry = FrameGeometry(row_mm=row_mm, column_mm=0.1, origin="user", trusted=True, reason="")
    return Frame(image=image, index=index, arrival_ns=0, geometry=geometry)


def single(item: Frame) -> npt.NDArray[np.float32]:
    return Preprocessor(PreprocessSpec(steps=BASE))(item).tensor[0, 0].copy()


@given(st.integers(1, 5), st.integers(1, 4), st.lists(st.integers(1, 2), min_size=1, max_size=25))
def test_channels_are_the_frames_stride_apart_oldest_first(n: int, stride: int, steps: list[int]) -> None:
    prep = Preprocessor(PreprocessSpec(steps=(*BASE, Stack(n=n, stride=stride))))
    assert prep.output_shape == (1, n, 4, 6)
    run: list[npt.NDArray[np.float32]] = []  # since the last gap
    index = 0
    for step in steps:
        if step > 1:
            run = []
        index += step
        run.append(single(frame(index)))
        wanted = [run[max(0, len(run) - 1 - (n - 1 - c) * stride)] for c in range(n)]
        assert np.array_equal(prep(frame(index)).tensor[0], wanted)


def run_of(prep: Preprocessor, *frames: Frame) -> npt.NDArray[np.float32]:
    return [prep(item).tensor.copy() for item in frames][-1]


@pytest.mark.parametrize(
    "breaking",
    [frame(5), frame(1), frame(2, shape=(12, 9)), frame(2, row_mm=0.2)],
    ids=["gap", "again", "shape", "geometry"],
)
def test_a_stack_starts_anew_when_frames_do_not_follow(breaking: Frame) -> None:
    prep = Preprocessor(PreprocessSpec(steps=(*BASE, Stack(n=3))))
    found = run_of(prep, frame(0), frame(1), breaking)
    assert np.array_equal(found[0], [single(breaking)] * 3)


def test_reset_forgets() -> None:
    prep = Preprocessor(PreprocessSpec(steps=(*BASE, Stack(n=2))))
    assert np.array_equal(run_of(prep, frame(0), frame(1))[0], [single(frame(0)), single(frame(1))])
    prep.reset()
    assert np.array_equal(run_of(prep, frame(2))[0], [single(frame(2))] * 2)
