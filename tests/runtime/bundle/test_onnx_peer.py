"""The walker against the `onnx` package: the same facts, on models with subgraphs, functions and every tensor form."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import Limits, inspect_model
from edge_runtime.bundle import _onnx_schema as schema
from edge_runtime.bundle._onnx_walk import walk_model
from edge_runtime.errors import ModelRefusedError

onnx = pytest.importorskip("onnx", reason="onnx is a host package; the peer of the walker")
helper: Any = onnx.helper
DecodeError: Any = importlib.import_module("google.protobuf.message").DecodeError
TYPES = [np.float32, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64, np.bool_, np.float16, np.float64]
OPERATORS = [("", "Relu"), ("", "Conv"), ("", "If"), ("ai.onnx", "Add"), ("com.microsoft", "QLinearAdd"), ("", "Pad")]


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Any:
    """A tensor, raw or typed, of up to 3 axes."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = np.arange(int(np.prod(shape))).reshape(shape).astype(draw(st.sampled_from(TYPES)))
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    if draw(st.booleans()):
        return onnx.numpy_helper.from_array(values, name)
    return helper.make_tensor(name, kind, values.shape, values.flatten().tolist())


@st.composite
def graphs(draw: st.DrawFn, depth: int, tag: str = "g") -> Any:
    """A graph with unique names; nodes carry tensors and, down to `depth`, graphs."""
    nodes = []
    for i in range(draw(st.integers(0, 4))):
        domain, operator = draw(st.sampled_from(OPERATORS))
        attributes: dict[str, Any] = {"k": draw(st.integers(-5, 5)), "v": draw(st.lists(st.integers(0, 9), min_size=1))}
        attributes |= {"r": draw(st.floats(width=32, allow_nan=False)), "s": draw(st.text(max_size=5))}
        if draw(st.booleans()):
            attributes["t"] = draw(tensors(f"{tag}t{i}"))
        if depth and draw(st.booleans()):
            attributes["body"] = draw(graphs(depth - 1, f"{tag}{i}"))
        nodes.append(helper.make_node(operator, ["a", ""], [f"{tag}n{i}"], domain=domain, doc_string="d", **attributes))
    stored = [draw(tensors(f"{tag}w{i}")) for i in range(draw(st.integers(0, 3)))]
    ends = [
        helper.make_tensor_value_info(f"{tag}{end}", draw(st.sampled_from([1, 10, 7])), draw(SHAPES)) for end in "xyz"
    ]
    return helper.make_graph(nodes, tag, ends[:1], ends[1:2], stored, value_info=ends[2:], doc_string="text")


SHAPES = st.none() | st.lists(st.none() | st.integers(0, 9) | st.just("batch"), max_size=4)


@st.composite
def models(draw: st.DrawFn) -> Any:
    functions = []
    if draw(st.booleans()):
        node = helper.make_node("Tanh", ["p"], ["q"])
        functions = [helper.make_function("mine", "F", ["p"], ["q"], [node], [helper.make_opsetid("", 18)])]
    imports = [helper.make_opsetid("", draw(st.integers(7, 23))), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(draw(graphs(2)), opset_imports=imports, functions=functions, producer_name="peer")
    helper.set_model_props(made, {"size": "4"})
    return made


def count(nodes: Any, operators: Counter[str]) -> int:
    """Count operators in `nodes` and in the graphs they carry; returns the number of those graphs."""
    below = 0
    for node in nodes:
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
        operators[domain + node.op_type] += 1
        for attribute in node.attribute:
            for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                below += 1 + count(graph.node, operators)
    return below


def ends(values: Any) -> list[tuple[str, int, tuple[int | None, ...] | None]]:
    found = []
    for value in values:
        kind = value.type.tensor_type
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
        found.append((value.name, kind.elem_type, dims if kind.HasField("shape") else None))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(made=models())
def test_same_facts_as_onnx(made: Any) -> None:
    facts = walk_model(made.SerializeToString(), Limits())
    operators: Counter[str] = Counter()
    assert facts.subgraphs == count(made.graph.node, operators)
    for function in made.functions:
        count(function.node, operators)
    assert facts.operators == operators
    assert facts.nodes == sum(operators.values())
    assert facts.functions == len(made.functions)
    assert (facts.opset, facts.ir_version) == (made.opset_import[0].version, made.ir_version)
    names = {1: "float32", 7: "int64", 10: "float16"}
    for mine, theirs in [(facts.inputs, made.graph.input), (facts.outputs, made.graph.output)]:
        assert [(v.name, v.dtype, v.shape) for v in mine] == [(n, names[t], s) for n, t, s in ends(theirs)]


@given(tensor=tensors("w"))
def test_same_bytes_as_numpy(tensor: Any) -> None:
    graph = helper.make_graph([], "g", [], [], [tensor])
    facts = walk_model(helper.make_model(graph).SerializeToString(), Limits())
    values = onnx.numpy_helper.to_array(tensor)
    assert facts.initializer_bytes == values.nbytes
    small = values.size <= 16 and values.dtype in (np.float32, np.int64)
    assert facts.constants == ({"w": tuple(values.flatten().tolist())} if small else {})


@pytest.mark.parametrize("name", [name for name in schema.__all__ if name not in ("TENSOR_TYPE", "DIMENSION")])
def test_every_field_of_this_onnx_is_known(name: str) -> None:
    message = getattr(schema, name)
    descriptor = getattr(onnx, message.name, None) or getattr(onnx.onnx_ml_pb2, message.name)
    wires = {1: 1, 2: 5, 3: 0, 4: 0, 5: 0, 9: 2, 11: 2, 12: 2, 14: 0}  # type of a field descriptor -> wire type
    theirs = {field.number: (field.name, wires[field.type]) for field in descriptor.DESCRIPTOR.fields}
    assert {number: (field.name, field.wire) for number, field in message.fields.items()} == theirs


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(made=models(), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_what_passes_damaged_reads_alike_in_onnx(made: Any, where: float, bit: int) -> None:
    """One bit of a real model flipped: refused, or the package sees the same operators."""
    data = bytearray(made.SerializeToString())
    data[int(where * len(data))] ^= 1 << bit
    try:
        facts = walk_model(bytes(data), Limits())
    except ModelRefusedError:
        return
    try:
        read = onnx.ModelProto.FromString(bytes(data))
    except DecodeError:  # in a part that the walker leaves out, such as doc strings and metadata
        return
    operators: Counter[str] = Counter()
    assert facts.subgraphs == count(read.graph.node, operators)
    for function in read.functions:
        count(function.node, operators)
    assert facts.operators == operators


def test_external_data_written_by_onnx_is_refused(tmp_path: Any) -> None:
    tensor = onnx.numpy_helper.from_array(np.zeros(300, np.float32), "w")
    made = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelRefusedError, match="external data"):
        inspect_model((tmp_path / "m.onnx").read_bytes())
