"""The detector's points, decoding, export, and that every lowered variant still finds the same boxes."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_export import export_torch, lower, run_model
from edge_runtime.errors import ConfigError
from edge_sdk.students import count_macs, count_parameters
from edge_sdk.students.detector import Detector, joint_logit

SIZE = (64, 96)


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A small one whose heads have weights and whose BatchNorms have statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Detector(1, 2, width=8, stages=4, max_width=24, levels=2, pyramid=16)
        torch.nn.init.normal_(network.box_head.weight, std=0.2)
        torch.nn.init.normal_(network.class_head.weight, std=0.3)
        for _ in range(3):
            network.train()(torch.rand(4, 1, *SIZE))
    return network.eval()


def test_points_tile_the_frame_level_by_level(detector):
    points, strides = detector.points(*SIZE)
    assert strides.unique().tolist() == [8, 16]
    assert len(points) == 8 * 12 + 4 * 6
    assert points[0].tolist() == [4, 4]
    assert points[1].tolist() == [12, 4]
    assert points[-1].tolist() == [88, 56]
    # one point stands for stride x stride pixels: each level covers the frame once
    assert float((strides[strides == 8] ** 2).sum()) == SIZE[0] * SIZE[1]
    dense = detector(torch.zeros(1, 1, *SIZE))
    assert [tuple(part.shape) for part in dense] == [(1, 120, 2), (1, 120, 4), (1, 120)]


def test_a_point_of_the_output_sees_its_own_place(detector):
    """The order of `points` is the order of the output: what changes in a corner changes the answer there."""
    frame = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    changed = frame.clone()
    changed[..., :16, 240:] = 3
    with torch.no_grad():
        moved = (detector(frame).classes - detector(changed).classes).abs().sum(-1)[0]
    points, strides = detector.points(256, 256)
    best = points[strides == 8][moved[strides == 8].argmax()]
    assert best[0] > 224
    assert best[1] < 32


def test_export_decodes_as_the_formula_says(detector):
    frame = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        dense, output = detector(frame), detector.exportable(*SIZE)(frame)
    points, strides = detector.points(*SIZE)
    sides = dense.distances[0].double().clamp(-5, 5).exp() * strides[:, None]
    boxes = torch.cat([points - sides[:, :2], points + sides[:, 2:]], -1)
    boxes[:, 0::2], boxes[:, 1::2] = boxes[:, 0::2].clamp(0, SIZE[1]), boxes[:, 1::2].clamp(0, SIZE[0])
    assert output.shape == (1, len(points), 6)
    torch.testing.assert_close(output[0, :, :4].double(), boxes, atol=1e-3, rtol=1e-5)
    score = torch.sigmoid(dense.classes[0].double()) * torch.sigmoid(dense.centre[0].double())[:, None]
    torch.testing.assert_close(torch.sigmoid(output[0, :, 4:].double()), score, atol=1e-6, rtol=1e-4)


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_joint_logit_is_the_logit_of_the_product(first, second):
    p = 1 / (1 + math.exp(-first)) / (1 + math.exp(-second))
    found = joint_logit(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    assert float(found) == pytest.approx(math.log(p) - math.log1p(-p), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_joint_logit_stays_finite(dtype):
    extreme = torch.tensor([-6e4, -30.0, 0.0, 30.0, 6e4], dtype=dtype)
    found = joint_logit(extreme[:, None], extreme[None])
    assert bool(torch.isfinite(found).all())
    assert bool((found.diff(dim=0) >= 0).all())


def test_variants_find_the_same_boxes(detector):
    generator = np.random.default_rng(0)
    frames = [generator.random((1, 1, *SIZE), dtype=np.float32) for _ in range(4)]
    model = export_torch(detector.exportable(*SIZE), (1, 1, *SIZE), output_names=("boxes",), max_abs=1e-3)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"NonMaxSuppression", "TopK", "ConvTranspose"})
    has_rtx = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
    files, report = lower(model, frames, require_rtx=has_rtx)
    assert [v.rtx.status for v in report.variants] == ["accepted" if has_rtx else "not tried"] * 3
    wanted = run_model(model, frames[:1])[0]["boxes"]
    for name, pixels, logits in (("fp16", 0.5, 0.05), ("int8", 12.0, 1.5)):
        found = run_model(onnx.load_from_string(files[name]), frames[:1])[0]["boxes"]
        assert np.abs(found - wanted)[..., :4].max() < pixels
        assert np.abs(found - wanted)[..., 4:].max() < logits


def test_students_and_teachers_have_the_stated_size():
    student = Detector(1, 2, width=12, max_width=64, pyramid=32)
    teacher = Detector(1, 2, width=24, max_width=160, pyramid=64, head_convs=2)
    assert 30_000 < count_parameters(student) < 0.25e6
    assert count_parameters(teacher) < 2e6
    assert count_macs(teacher, (1, 1, 192, 192)) > 4 * count_macs(student, (1, 1, 192, 192))
    convs = [m for m in teacher.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {m.groups for m in convs} == {1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": 5}, "levels is 5"),
        ({"levels": 0}, "levels is 0"),
        ({"stages": 9}, "stages 9"),
        ({"max_width": 4}, "max_width 4"),
        ({"classes": 0}, "classes 0"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ConfigError, match=words):
        Detector(**settings)


def test_sizes_that_do_not_divide(detector):
    with pytest.raises(ConfigError, match="multiples of 16"):
        detector(torch.zeros(1, 1, 64, 90))
    with pytest.raises(ConfigError, match="multiples of 16"):
        detector.exportable(64, 90)
