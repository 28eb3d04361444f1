"""What every lowered graph must keep, on random small networks: chains with skips, pools, joins and residual sums."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper, numpy_helper

from edge_export import check_model, lint, rtx_gate, run_model, tidy, to_int8
from edge_export._lower import DEFAULT_TARGETS
from edge_export.cpu_int8 import to_cpu_int8

SIDE = 8
_KINDS = ("conv", "relu", "depthwise", "residual", "skip", "pool", "sigmoid", "leaky", "transposed")


class _Growing:
    """A graph that grows at `top`, a tensor of `channels` planes of SIDE x SIDE."""

    def __init__(self, rng: np.random.Generator, channels: int) -> None:
        self.rng = rng
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {"double": np.float32([1, 1, 2, 2])}
        self.top, self.channels = "image", channels

    def add(self, kind: str, inputs: list[str], channels: int | None = None, **attributes: Any) -> str:
        self.top = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.top], **attributes))
        self.channels = channels or self.channels
        return self.top

    def conv(self, source: str, inputs: int, outputs: int, group: int = 1, size: int = 3) -> str:
        name = f"w{len(self.nodes)}"
        gain = np.exp(self.rng.normal(0, 1, (outputs, 1, 1, 1))) / np.sqrt(inputs / group * size * size)
        weight = self.rng.standard_normal((outputs, inputs // group, size, size)) * gain
        self.constants[name] = weight.astype(np.float32)
        self.constants[name + "b"] = self.rng.standard_normal(outputs).astype(np.float32)
        pads = [size // 2] * 4
        shape = {"kernel_shape": [size, size], "pads": pads, "group": group}
        return self.add("Conv", [source, name, name + "b"], outputs, **shape)

    def grow(self, kind: str, width: int) -> None:
        before, channels = self.top, self.channels
        if kind in ("conv", "relu"):
            self.conv(before, channels, width)
            if kind == "relu":
                self.add("Relu", [self.top])
        elif kind == "depthwise":
            self.conv(before, channels, channels, group=channels)
        elif kind == "residual":
            self.add("Add", [self.conv(before, channels, channels), before])
        elif kind == "skip":
            self.add("Concat", [self.conv(before, channels, width), before], channels + width, axis=1)
        elif kind == "pool":
            self.add("MaxPool", [before], kernel_shape=[2, 2], strides=[2, 2])
            nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            self.add("Resize", [self.top, "", "double"], **nearest)
        elif kind == "transposed":
            name = f"w{len(self.nodes)}"
            weight = self.rng.standard_normal((channels, channels, 3, 3)) / (3 * np.sqrt(channels))
            self.constants[name] = weight.astype(np.float32)
            self.add("ConvTranspose", [before, name], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        else:
            self.add({"sigmoid": "Sigmoid", "leaky": "LeakyRelu"}[kind], [before])


@dataclass(frozen=True)
class Drawn:
    """Nodes and constants of a model image (1, C, 8, 8) -> mask (1, 1, 8, 8), and three inputs."""

    nodes: list[NodeProto]
    constants: dict[str, np.ndarray]
    inputs: list[np.ndarray]


@st.composite
def graphs(draw: st.DrawFn) -> Drawn:
    """Three convolutions at least, so that one lies between the ends."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.integers(1, 4))
    growing = _Growing(rng, channels)
    growing.conv("image", channels, draw(st.integers(2, 6)))
    for kind in draw(st.lists(st.sampled_from(_KINDS), max_size=6)):
        growing.grow(kind, draw(st.integers(2, 6)))
    growing.conv(growing.top, growing.channels, 3)
    growing.conv(growing.top, 3, 1, size=1)
    growing.nodes[-1].output[0] = "mask"
    offset, size = rng.normal(0, 2), np.exp(rng.normal(0, 1))
    inputs = [(rng.standard_normal((1, channels, SIDE, SIDE)) * size + offset).astype(np.float32) for _ in range(3)]
    return Drawn(nodes=growing.nodes, constants=growing.constants, inputs=inputs)


def model_of(build: Any, drawn: Drawn) -> onnx.ModelProto:
    shape = drawn.inputs[0].shape
    return tidy(build(drawn.nodes, drawn.constants, input_shape=shape, output_shape=(1, 1, SIDE, SIDE)))


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def tensors(model: onnx.ModelProto, sample: np.ndarray) -> dict[str, np.ndarray]:
    """Every float tensor of a float32 model, the input among them."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    known = {item.name for item in model.graph.output}
    for node in model.graph.node:
        if node.output[0] not in known:
            probed.graph.output.append(helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
    return {"image": sample, **run_model(probed, [sample])[0]}


def check_steps(model: onnx.ModelProto, lowered: onnx.ModelProto, inputs: list[np.ndarray]) -> None:
    """Every activation's pair holds what the float model has there, to one step; every weight to half a step."""
    constants, makers = stored(lowered), {n.output[0]: n for n in lowered.graph.node}
    readers = {name: n for n in lowered.graph.node for name in n.input}
    values = [tensors(model, sample) for sample in inputs]
    seen = 0
    for node in lowered.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        source = node.input[0]
        while source not in values[0] and makers[source].op_type == "Cast":
            source = makers[source].input[0]
        name = source if source in values[0] else readers[node.output[0]].output[0]
        scale, zero = constants[node.input[1]].astype(np.float64), constants[node.input[2]]
        ends = np.iinfo(zero.dtype)
        for found in values:
            steps = np.clip(np.rint(found[name] / scale) + zero, ends.min, ends.max)
            assert np.abs((steps - zero) * scale - found[name]).max() <= scale * (1 + 1e-6), name
            seen += 1
    assert seen


def source_of(lowered: onnx.ModelProto, name: str) -> onnx.NodeProto | None:
    """The node behind a tensor, Casts skipped; None at a graph input or constant."""
    makers = {output: n for n in lowered.graph.node for output in n.output}
    while name in makers and makers[name].op_type == "Cast":
        name = makers[name].input[0]
    return makers.get(name)


few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("form", ["opset17", "opset19"])
@few
@given(drawn=graphs())
def test_the_tensorrt_form(build, form, drawn):
    model = model_of(build, drawn)
    lowered = to_int8(model, drawn.inputs, qdq_form=form, exclude_first=False)
    check_model(lowered)
    for target in set(DEFAULT_TARGETS) - {"openvino"} if form == "opset17" else ("tensorrt11", "rtx"):
        assert not [f for f in lint(lowered, target) if f.severity == "error"], target
    check_steps(model, lowered, drawn.inputs)
    constants = stored(lowered)
    assert not any(array.any() for array in constants.values() if array.dtype == np.int8 and array.ndim == 0)
    assert not any(array.dtype in (np.int32, np.uint8) for array in constants.values())
    for node in lowered.graph.node:
        behind = [source_of(lowered, name) for name in node.input]
        quantized = [n is not None and n.op_type == "DequantizeLinear" for n in behind]
        if node.op_type == "Concat" and all(quantized):
            assert len({float(constants[n.input[1]]) for n in behind if n}) == 1
        if node.op_type == "Add":
            assert sum(quantized) <= 1
        if node.op_type == "ConvTranspose":
            assert not any(quantized)
            assert constants[node.input[1]].dtype == np.float16
        if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute):
            assert not any(quantized)
            assert constants[node.input[1]].dtype == np.float32


@pytest.mark.parametrize("reduce_range", [True, False])
@few
@given(drawn=graphs())
def test_the_cpu_form(build, reduce_range, drawn):
    model = model_of(build, drawn)
    lowered = to_cpu_int8(model, drawn.inputs, reduce_range=reduce_range)
    check_model(lowered)
    for target in {"ort-cpu", "openvino"} & set(DEFAULT_TARGETS):
        assert not [f for f in lint(lowered, target) if f.severity == "error"], target
    check_steps(model, lowered, drawn.inputs)
    weights = [array for array in stored(lowered).values() if array.dtype == np.int8 and array.ndim > 1]
    assert weights
    assert max(int(np.abs(array.astype(int)).max()) for array in weights) == (64 if reduce_range else 127)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx_bindings") is None, reason="TensorRT-RTX is not installed")
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(drawn=graphs())
def test_tensorrt_rtx_takes_its_form_and_not_the_other(build, drawn):
    model = model_of(build, drawn)
    assert rtx_gate(to_int8(model, drawn.inputs).SerializeToString(), ("SM86",)).status == "accepted"
    assert rtx_gate(to_cpu_int8(model, drawn.inputs).SerializeToString(), ("SM86",)).status == "refused"
