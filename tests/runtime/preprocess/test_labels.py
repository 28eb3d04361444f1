"""Labels take the frame's way: against areas in closed form, and against the frame itself."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.preprocess import (
    CropToScanArea,
    LabelPreprocessor,
    Letterbox,
    Normalize,
    Preprocessor,
    PreprocessSpec,
    Resize,
    Stack,
    ToGray,
)

pytest.importorskip("cv2")

AREA = FrameGeometry(scan_area=Rectangle(x0=10, y0=5, x1=50, y1=45), origin="user", reason="test")


def test_the_same_size_changes_nothing():
    mask = np.random.default_rng(0).integers(0, 4, (32, 40), dtype=np.uint8)
    spec = PreprocessSpec(steps=(Resize(height=32, width=40), Normalize(mean=0.3, std=0.2)))
    np.testing.assert_array_equal(LabelPreprocessor(spec, 3)(mask, FrameGeometry()), mask)


def test_the_largest_share_wins():
    mask = np.zeros((4, 8), np.uint8)
    mask[:, :3] = 1  # 3/4 of the first network pixel
    mask[:, 4:] = 2
    mask[:, 4] = 1  # 1/4 of the second
    spec = PreprocessSpec(steps=(Resize(height=1, width=2), Normalize()))
    np.testing.assert_array_equal(LabelPreprocessor(spec, 2)(mask, FrameGeometry()), [[1, 2]])


def test_crop_and_letterbox_are_the_frame_s():
    mask = np.zeros((60, 80), np.uint8)
    mask[15:35, 20:40] = 1
    steps = (CropToScanArea(), ToGray(), Letterbox(height=40, width=60, fill=255), Normalize(), Stack(n=2))
    frame = Frame(image=255 * mask, index=0, arrival_ns=0, geometry=AREA)
    tensor = Preprocessor(PreprocessSpec(steps=steps))(frame).tensor[0, -1]
    found = LabelPreprocessor(PreprocessSpec(steps=steps), 1)(mask, AREA)
    assert found.shape == (40, 60)
    np.testing.assert_array_equal(found[:, 10:50], tensor[:, 10:50] > 0.5)
    assert not found[:, :10].any()  # the border is background whatever the frame is filled with
    assert not found[:, 50:].any()


def test_a_label_too_many_is_refused():
    spec = PreprocessSpec(steps=(Resize(height=4, width=4), Normalize()))
    with pytest.raises(ConfigError, match="label 2; 0 to 1 are allowed"):
        LabelPreprocessor(spec, 1)(np.full((4, 4), 2, np.uint8), FrameGeometry())


def test_results_are_the_caller_s():
    spec = PreprocessSpec(steps=(Resize(height=4, width=4), Normalize()))
    prepare = LabelPreprocessor(spec, 1)
    first = prepare(np.ones((4, 4), np.uint8), FrameGeometry())
    prepare(np.zeros((4, 4), np.uint8), FrameGeometry())
    assert first.all()
