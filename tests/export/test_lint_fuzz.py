"""Whatever the bytes are, `lint` answers with findings or a `LoweringError`."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_export import lint, to_int8
from edge_export._rules import LintTarget
from edge_export.admit import admit
from edge_runtime.errors import LoweringError

TARGETS = get_args(LintTarget)
NAMES = ["image", "w", "s", "z", "a", "b", "c", "mask", ""]
OPERATORS = [
    "Conv", "ConvTranspose", "Concat", "QuantizeLinear", "DequantizeLinear", "Cast", "Relu", "Add", "Resize", "MaxPool",
    "AveragePool", "Mod", "Where", "Gemm", "MatMul", "Constant", "LayerNormalization", "BatchNormalization", "If",
    "Nope",
]  # fmt: skip
ATTRIBUTES = [
    "axis",
    "group",
    "kernel_shape",
    "mode",
    "dilations",
    "fmod",
    "to",
    "value",
    "transB",
    "antialias",
    "axes",
]
VALUES = st.one_of(
    st.integers(-3, 20), st.floats(width=32), st.sampled_from([b"cubic", b"\xff"]),
    st.lists(st.integers(-1, 9)),
    st.builds(lambda size: numpy_helper.from_array(np.ones(size, np.float32), "v"), st.integers(0, 4)),
)  # fmt: skip


@st.composite
def nodes(draw: st.DrawFn) -> onnx.NodeProto:
    """A node of a known operator with operands and attributes that need not fit it."""
    node = onnx.NodeProto(op_type=draw(st.sampled_from(OPERATORS)), name=draw(st.sampled_from(["", "n", "m"])))
    node.input.extend(draw(st.lists(st.sampled_from(NAMES), max_size=5)))
    node.output.extend(draw(st.lists(st.sampled_from(NAMES), max_size=3)))
    for name in draw(st.lists(st.sampled_from(ATTRIBUTES), max_size=3, unique=True)):
        value = draw(VALUES)
        if value != []:
            node.attribute.append(helper.make_attribute(name, value))
    return node


@st.composite
def tensors(draw: st.DrawFn) -> onnx.TensorProto:
    """A constant whose type, shape and bytes need not agree."""
    return TensorProto(
        name=draw(st.sampled_from(NAMES)),
        data_type=draw(st.integers(0, 26)),
        dims=draw(st.lists(st.sampled_from([-1, 0, 1, 4, 1 << 40]), max_size=4)),
        raw_data=draw(st.binary(max_size=32)),
    )


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """A model with such nodes and constants."""
    shape = draw(st.sampled_from([(1, 4, 8, 8), (1, "c", 8, 8), (), None, (0,)]))
    kind = draw(st.sampled_from([TensorProto.FLOAT, TensorProto.UINT8, 0]))
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("image", "mask")]
    graph = onnx.GraphProto(name="g", input=values[:1], output=values[1:])
    graph.node.extend(draw(st.lists(nodes(), max_size=6)))
    graph.initializer.extend(draw(st.lists(tensors(), max_size=3)))
    opsets = [onnx.OperatorSetIdProto(version=draw(st.sampled_from([-1, 1, 13, 18, 23, 99])))]
    return onnx.ModelProto(ir_version=draw(st.integers(0, 14)), graph=graph, opset_import=opsets)


def judged(model: onnx.ModelProto | bytes) -> None:
    """Lint for every target, then admit; only a `LoweringError` may come."""
    for target in TARGETS:
        try:
            found = lint(model, target)
        except LoweringError:
            continue
        assert all(item.message and item.fix and item.severity in ("error", "warning") for item in found)
    try:
        admit(model)
    except LoweringError:
        return
    assert not any(item.rule in ("external-data", "constant-data", "not-finite") for item in lint(model, "rtx"))


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_random_graphs(model):
    judged(model)


@pytest.fixture(scope="module")
def files(student, trained):
    """A float and a quantized file."""
    return [student.SerializeToString(), to_int8(student, trained.calibration).SerializeToString()]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files(files, data):
    found = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 8))):
        # most of the bytes are weights: aim at the ends too, where nodes and value infos lie
        where = data.draw(st.one_of(st.integers(0, len(found) - 1), st.integers(0, 3000)))
        found[where] = data.draw(st.integers(0, 255))
    judged(bytes(found[: data.draw(st.sampled_from([len(found), len(found) // 2]))]))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_noise(data):
    judged(data)
