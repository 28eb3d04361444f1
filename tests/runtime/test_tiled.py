"""Tiles joined again: a local filter answers as on the whole frame, and what cannot be joined is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError, RunnerError
from edge_runtime.frame import Frame
from edge_runtime.postprocess import OutputsPostprocessor, TiledRunner
from edge_runtime.postprocess.tiled import tile_starts
from edge_runtime.preprocess import Normalize, Preprocessor, PreprocessSpec, Resize
from edge_runtime.runners import FakeRunner

cv2: Any = pytest.importorskip("cv2")
Float32 = npt.NDArray[np.float32]


def blur(x: Float32, reach: int = 4) -> Float32:
    """A mean over (2 reach + 1)^2 pixels, zeros beyond the edge, as a convolution pads."""
    side = 2 * reach + 1
    found = cv2.boxFilter(x[0, 0], cv2.CV_32F, (side, side), borderType=cv2.BORDER_CONSTANT)
    return np.asarray(found, np.float32)[None, None]


def tiled(size: tuple[int, int], **more: Any) -> TiledRunner:
    return TiledRunner(FakeRunner(shape=(32, 40), compute=blur), size, **more)


@settings(max_examples=25, deadline=None)
@given(st.integers(32, 150), st.integers(40, 150), st.integers(4, 9), st.integers(1, 12))
def test_a_local_filter_answers_as_on_the_whole_frame(height: int, width: int, margin: int, ramp: int) -> None:
    image = np.random.default_rng(height * width).standard_normal((1, 1, height, width)).astype(np.float32)
    runner = tiled((height, width), overlap=2 * margin + ramp, margin=margin)
    with runner:
        found = runner.infer({"image": image})["mask"]
        assert found.shape == image.shape
        assert np.abs(found - blur(image)).max() < 1e-6
        assert runner.runner.calls == runner.tiles  # type: ignore[attr-defined]


def test_without_a_margin_the_seams_show() -> None:
    image = np.ones((1, 1, 64, 80), np.float32)
    with tiled((64, 80), overlap=6, margin=0) as runner:
        assert np.abs(runner.infer({"image": image})["mask"] - blur(image)).max() > 0.05


def test_one_tile_is_the_model_itself() -> None:
    image = np.random.default_rng(0).standard_normal((1, 1, 32, 40)).astype(np.float32)
    runner = tiled((32, 40), overlap=20, margin=4)
    assert runner.tiles == 1
    with runner:
        assert np.array_equal(runner.infer({"image": image})["mask"], blur(image))


@given(st.integers(1, 400), st.integers(8, 64), st.integers(1, 7))
def test_tiles_cover_and_overlap(extra: int, tile: int, overlap: int) -> None:
    whole = tile + extra - 1
    starts = tile_starts(whole, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] + tile == whole
    assert all(0 < b - a <= tile - overlap for a, b in pairwise(starts))
    assert len(starts) == 1 or (len(starts) - 1) * (tile - overlap) + overlap < whole  # one fewer would not do


def test_a_frame_goes_through_preprocessing_tiles_and_postprocessing() -> None:
    spec = PreprocessSpec(steps=(Resize(height=96, width=120), Normalize(mean=0, std=1, scale=255)))
    image = np.zeros((192, 240), np.uint8)
    image[60:130, 70:200] = 255
    frame = Frame(image=image, index=0, arrival_ns=0)
    with TiledRunner(FakeRunner(shape=(32, 40)), (96, 120), overlap=16, margin=4) as runner:
        prepared = Preprocessor(spec)(frame)
        found = OutputsPostprocessor(runner.outputs, spec)(runner.infer({"image": prepared.tensor}), prepared, frame)
    assert found.mask is not None
    assert np.array_equal(found.mask, image > 0)


def test_errors_of_the_inner_runner_and_life_cycle() -> None:
    inner = FakeRunner(shape=(32, 40), fail_at=[1])
    runner = TiledRunner(inner, (64, 40), overlap=12, margin=4)
    image = np.zeros((1, 1, 64, 40), np.float32)
    with pytest.raises(RunnerError, match="not active"):
        runner.infer({"image": image})
    with runner, pytest.raises(InferenceError, match="asked to fail"):
        runner.infer({"image": image})
    with pytest.raises(RunnerError, match="not active"):
        inner.infer({"image": image[..., :32, :]})


@pytest.mark.parametrize(
    ("size", "more"),
    [
        ((31, 40), {"overlap": 16, "margin": 4}),
        ((64, 80), {"overlap": 8, "margin": 4}),
        ((64, 80), {"overlap": 32, "margin": 4}),
        ((64, 80), {"overlap": 8, "margin": -1}),
    ],
)
def test_sizes_and_overlaps_that_do_not_fit(size: tuple[int, int], more: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        tiled(size, **more)


def test_outputs_that_cannot_be_joined() -> None:
    inner = FakeRunner(shape=(32, 40))
    inner.outputs = (OutputSpec(name="c", shape=(1, 2), kind="class_logits", classes=("a", "b")),)
    with pytest.raises(ConfigError, match="class_logits"):
        TiledRunner(inner, (64, 80), overlap=16, margin=4)
