"""ONNX files as other tools write them take the road of `lower` without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_export import lower, run_model
from edge_export._shapes import with_input_shape

RNG = np.random.default_rng(23)
SIDE = 16


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def constant_node(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def normalization(source: str, target: str, channels: int) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    names = [f"{target}.{letter}" for letter in "gbmv"]
    arrays = dict(zip(names, (f32(channels), f32(channels), f32(channels), RNG.uniform(0.5, 2, channels)), strict=True))
    node = helper.make_node("BatchNormalization", [source, *names], [target], epsilon=1e-3)
    return node, {name: array.astype(np.float32) for name, array in arrays.items()}


def keras_like(build, opset: int) -> onnx.ModelProto:
    """Channels last inside the borders, norms unfolded (one ahead of its convolution), Constants, a Gemm head."""
    first, norms = normalization("c0", "n0", 16)
    second, more = normalization("p0", "n1", 16)
    nodes = [
        helper.make_node("Transpose", ["image"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["last"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        first,
        helper.make_node("Relu", ["n0"], ["r0"]),
        helper.make_node("MaxPool", ["r0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        second,
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"]),
        constant_node("shape", np.int64([-1, 24])),
        helper.make_node("Reshape", ["g", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "k", "kb"], ["h"]),
        helper.make_node("Relu", ["h"], ["hr"]),
        helper.make_node("Gemm", ["hr", "o", "ob"], ["mask"]),
    ]
    arrays = {"w0": f32(16, 1, 3, 3), "w1": f32(24, 16, 3, 3) * np.float32(0.2), "b1": f32(24), **norms, **more}
    arrays |= {"k": f32(24, 32), "kb": f32(32), "o": f32(32, 3), "ob": f32(3)}
    return build(nodes, arrays, input_shape=("N", 1, SIDE, SIDE), output_shape=("N", 3), opset=opset)


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_a_keras_classifier(build, opset):
    fixed = with_input_shape(keras_like(build, opset), (1, 1, SIDE, SIDE))
    samples = [f32(1, 1, SIDE, SIDE) for _ in range(6)]
    models, report = lower(fixed, samples, precisions=["fp32", "fp16", "int8", "int8-cpu"], rtx=opset == 11)
    assert {row.opset for row in report.variants} == {max(opset, 13) if opset >= 13 else 17}
    assert report.variant("int8").operators["QuantizeLinear"] >= 2
    assert "BatchNormalization" not in report.variant("fp32").operators
    wanted = np.stack([o["mask"] for o in run_model(fixed, samples)])
    for name, tolerance in {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1, "int8-cpu": 0.1}.items():
        found = np.stack([o["mask"] for o in run_model(models[name], samples)])
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max(), name


def test_the_road_needs_no_torch():
    code = (
        "import sys; import edge_export._lower, edge_export.cpu_int8, edge_export._shapes, edge_export.divergence; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
