"""The model guard: what it refuses, made by hand, and what it lets pass."""

from __future__ import annotations

import struct
from collections.abc import Callable

import edge_craft as craft
import pytest
from edge_craft import SHAPE, attribute, f, float32s, graph, int64s, model, net, node, tensor, value_info

from edge_runtime.bundle import ALLOWED_OPERATORS, Limits, inspect_model
from edge_runtime.errors import ModelRefusedError

RELU = node("Relu", ["x"], ["y"])
EXTERNAL = f(13, f(1, "location") + f(2, "/etc/passwd"))


def with_tensor(message: bytes) -> bytes:
    return net(RELU, initializers=[message])


def constant(message: bytes) -> bytes:
    return net(RELU, node("Constant", [], ["c"], value=("t", message)))


def nested(depth: int) -> bytes:
    body = graph([RELU])
    for _ in range(depth):
        body = graph([node("If", ["c"], ["y"], then_branch=("g", body))])
    return model(body)


def resize(*inputs: str, initializers: tuple[bytes, ...], **attributes: int) -> bytes:
    return net(node("Resize", ["x", *inputs], ["y"], **attributes), initializers=initializers)


def typed(kind: bytes) -> bytes:
    """A model whose input has the given TypeProto."""
    return model(graph([RELU], inputs=[f(1, "x") + f(2, kind)], outputs=[value_info("y", SHAPE)]))


FUNCTION = f(1, "F") + f(4, "x") + f(5, "y") + f(7, node("Loop", ["x"], ["y"])) + f(10, "mine")
SPARSE = f(1, tensor("s", (1,))) + f(2, tensor("i", (1,), 7)) + f(3, 1 << 40)
SPARSE_EXTERNAL = f(1, tensor("s", (1,), extra=EXTERNAL))

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "no ONNX model"),
    "text": (lambda: b"not a model at all", "ModelProto"),
    "no opset": (lambda: f(1, 8) + f(7, graph([RELU])), "no opset"),
    "old opset": (lambda: net(RELU, opset=11), "opset 11; 13 or later"),
    "opset twice": (lambda: net(RELU, extra=f(8, f(1, "ai.onnx") + f(2, 9))), "domain '' twice"),
    "second graph": (lambda: net(RELU, extra=f(7, graph([node("Loop", [], [])]))), "ModelProto.graph occurs twice"),
    "operator named twice": (lambda: net(RELU + f(4, "Loop")), "NodeProto.op_type occurs twice"),
    "unknown model field": (lambda: net(RELU, extra=f(99, b"?")), "field 99"),
    "unknown node field": (lambda: net(RELU + f(77, 1)), "NodeProto has field 77"),
    "wrong wire type": (lambda: net(RELU + f(3, 5)), "NodeProto.name has wire type 0"),
    "group": (lambda: net(RELU, extra=b"\x0b\x0c"), "wire type 3"),
    "field number 0": (lambda: net(RELU, extra=b"\x00\x00"), "field 0"),
    "length past the end": (lambda: net(RELU, extra=b"\x72\x7f"), "truncated"),
    "length of 2^63": (lambda: net(RELU, extra=b"\x72" + b"\xff" * 8 + b"\x7f"), "more than 32 bits"),
    "number cut off": (lambda: net(RELU, extra=b"\x28\xff"), "truncated"),
    "number of 11 bytes": (lambda: net(RELU, extra=b"\x28" + b"\xff" * 10 + b"\x01"), "more than 64 bits"),
    "number of 70 bits": (lambda: net(RELU, extra=b"\x28" + b"\xff" * 9 + b"\x7f"), "more than 64 bits"),
    "tag of 6 bytes": (lambda: net(RELU, extra=b"\xf2\x80\x80\x80\x80\x00\x00"), "more than 32 bits"),
    "name not UTF-8": (lambda: net(node("Relu", ["x"], []) + f(2, b"\xff")), "not UTF-8"),
    "name of 2 kB": (lambda: net(node("R" * 2000, [], [])), "at most 1024"),
    "training": (lambda: net(RELU, extra=f(20, b"")), "training"),
    "external initializer": (lambda: with_tensor(tensor("w", (1,), extra=EXTERNAL)), "'w' keeps its values in another"),
    "external by location alone": (lambda: with_tensor(tensor("w", (1,), extra=f(14, 1))), "external data"),
    "external by unknown location": (lambda: with_tensor(tensor("w", (1,), extra=f(14, 7))), "external data"),
    "external in an attribute": (lambda: constant(tensor("w", (1,), extra=EXTERNAL)), "external data"),
    "external in a sparse tensor": (
        lambda: net(RELU, node("Constant", [], ["c"], v=("sparse_tensor", SPARSE_EXTERNAL))), "external data",
    ),
    "external in a subgraph": (
        lambda: net(node("If", ["x"], ["y"], g=("g", graph([], [tensor("w", (1,), extra=EXTERNAL)])))), "external data",
    ),
    "external in a function": (
        lambda: net(RELU, extra=f(25, f(1, "F") + f(7, node("C", [], [], v=("t", tensor("w", (1,), extra=EXTERNAL)))))),
        "external data",
    ),
    "sparse initializer": (lambda: model(graph([RELU]) + f(15, SPARSE)), "sparse"),
    "string tensor": (lambda: with_tensor(f(1, 1) + f(2, 8) + f(6, "x")), "string_data"),
    "unknown element type": (lambda: with_tensor(f(1, 0) + f(2, 99)), "element type 99"),
    "segment": (lambda: with_tensor(tensor("w", (1,), extra=f(3, b""))), "segment"),
    "dims over the data": (lambda: with_tensor(tensor("w", (1 << 27,), raw=b"1234")), "dims [134217728] and stores"),
    "dims of 2^60": (lambda: with_tensor(tensor("w", (1 << 30, 1 << 30), raw=b"")), "over the cap"),
    "dims that overflow": (lambda: with_tensor(tensor("w", (1 << 32, 1 << 32), raw=b"")), "over the cap"),
    "negative dim": (lambda: with_tensor(tensor("w", (-1,), raw=b"")), "not negative"),
    "rank 9": (lambda: with_tensor(tensor("w", (1,) * 9, raw=b"1234")), "at most 8 axes"),
    "data over the dims": (lambda: with_tensor(tensor("w", (1,), raw=bytes(8))), "stores {'raw_data': 8}"),
    "data twice": (lambda: with_tensor(tensor("w", (1,), extra=f(4, 1.0))), "stores"),
    "data in another field": (lambda: with_tensor(f(1, 1) + f(2, 1) + f(7, 5)), "stores {'int64_data': 1}"),
    "packed data cut off": (lambda: with_tensor(f(1, 1) + f(2, 7) + f(7, b"\xff")), "cut off"),
    "packed number too long": (lambda: with_tensor(f(1, 1) + f(2, 7) + f(7, b"\xff" * 11 + b"\1")), "64 bits"),
    "packed floats odd": (lambda: with_tensor(f(1, 1) + f(2, 1) + f(4, b"123")), "no multiple of 4"),
    "value defined twice": (lambda: net(RELU, node("Abs", ["x"], ["y"])), "'y' twice"),
    "initializer twice": (lambda: net(RELU, initializers=[tensor("w", (1,)), tensor("w", (1,))]), "'w' twice"),
    "attribute twice": (
        lambda: net(node("Conv", ["x"], ["y"], strides=[1, 1]) + attribute("strides", [9, 9])), "'strides' twice",
    ),
    "endless loop": (craft.endless_loop, "control flow (Loop)"),
    "if": (lambda: net(node("If", ["x"], ["y"], then_branch=("g", graph([RELU])))), "control flow (If)"),
    "scan": (lambda: net(node("Scan", ["x"], ["y"], body=("g", graph([RELU])))), "control flow (Scan)"),
    "loop inside a function": (lambda: net(RELU, extra=f(25, FUNCTION)), "control flow (Loop)"),
    "function": (lambda: net(RELU, extra=f(25, FUNCTION.replace(b"Loop", b"Relu"))), "1 functions"),
    "graph in an allowed operator": (lambda: net(node("Relu", ["x"], ["y"], g=("g", graph([RELU])))), "hides 1 graphs"),
    "graphs 9 deep": (lambda: nested(9), "more than 8 deep"),
    "operator unknown": (lambda: net(node("Evil", ["x"], ["y"])), "'Evil'"),
    "domain unknown": (lambda: net(node("Relu", ["x"], ["y"], "com.microsoft")), "'com.microsoft::Relu'"),
    "ConstantOfShape of 2^40": (
        lambda: net(node("ConstantOfShape", ["s"], ["y"]), initializers=[int64s("s", [1 << 40])]), "'ConstantOfShape'",
    ),
    "Expand": (lambda: net(node("Expand", ["x", "s"], ["y"]), initializers=[int64s("s", [1 << 40])]), "'Expand'"),
    "random": (lambda: net(node("RandomNormalLike", ["x"], ["y"])), "'RandomNormalLike'"),
    "stride": (lambda: net(node("ConvTranspose", ["x", "x"], ["y"], strides=[9999, 1])), "strides [9999, 1]"),
    "padding": (lambda: net(node("Conv", ["x", "x"], ["y"], pads=[0, 0, 1 << 40, 0])), "pads"),
    "negative padding": (lambda: net(node("Conv", ["x", "x"], ["y"], pads=[-(1 << 40), 0])), "pads"),
    "dilation": (lambda: net(node("Conv", ["x", "x"], ["y"], dilations=[1000])), "dilations"),
    "output shape": (lambda: net(node("ConvTranspose", ["x", "x"], ["y"], output_shape=[1 << 30])), "output_shape"),
    "thousand pads": (lambda: net(node("Conv", ["x", "x"], ["y"], pads=[0] * 1000)), "1000 numbers"),
    "million packed pads": (
        lambda: net(node("Conv", ["x"], ["y"]) + f(5, f(1, "pads") + f(8, bytes(10**6)))), "1000000 numbers",
    ),
    "resize scale": (lambda: resize("", "s", initializers=(float32s("s", [1, 1, 4096, 4096]),)), "scales"),
    "resize scale NaN": (lambda: resize("", "s", initializers=(float32s("s", [1, float("nan")]),)), "no small"),
    "resize sizes": (lambda: resize("", "", "s", initializers=(int64s("s", [1, 1, 1 << 20, 1 << 20]),)), "sizes"),
    "resize sizes negative": (lambda: resize("", "", "s", initializers=(int64s("s", [1, -1]),)), "sizes"),
    "resize by what is computed": (lambda: resize("", "x", initializers=()), "fold constants"),
    "resize by a large constant": (lambda: resize("", "s", initializers=(float32s("s", [1.0] * 17),)), "no small"),
    "resize by a Constant": (
        lambda: net(
            node("Constant", [], ["s"], value=("t", float32s("", [1, 1, 999, 1]))), node("Resize", ["x", "", "s"], [])
        ),
        "scales [1.0, 1.0, 999.0, 1.0]",
    ),
    "pad by a Constant": (
        lambda: net(node("Constant", [], ["p"], value_ints=[0, 1 << 40]), node("Pad", ["x", "p"], ["y"])), "pads",
    ),
    "input a sequence": (lambda: typed(f(4, f(1, f(1, f(1, 1))))), "sequence type"),
    "input an optional": (lambda: typed(f(9, f(1, f(1, f(1, 1))))), "optional type"),
    "input of two types": (lambda: typed(f(1, f(1, 1)) + f(5, b"")), "map type"),
    "input of 2^40 elements": (lambda: typed(f(1, f(1, 1) + f(2, f(1, f(1, 1 << 40))))), "elements"),
    "input of dim -1": (lambda: typed(f(1, f(1, 1) + f(2, f(1, f(1, -1))))), "not negative"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, fragment = REFUSED[name]
    with pytest.raises(ModelRefusedError) as caught:
        inspect_model(build())
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "fragment"),
    [
        (Limits(nodes=1), "Limits.nodes"),
        (Limits(tensors=0), "Limits.tensors"),
        (Limits(fields=10), "Limits.fields"),
        (Limits(member_bytes=10), "over the cap of 10"),
        (Limits(elements=8), "over 8 elements"),
        (Limits(rank=2), "at most 2 axes"),
    ],
)
def test_over_a_cap(limits: Limits, fragment: str) -> None:
    data = net(RELU, node("Abs", ["x"], ["z"]), initializers=[tensor("w", (2,))])
    inspect_model(data)
    with pytest.raises(ModelRefusedError, match=fragment):
        inspect_model(data, limits)


def test_facts_of_a_hand_made_model() -> None:
    conv = node("Conv", ["x", "w"], ["h"], kernel_shape=[1, 1], strides=[2, 2])
    up = node("Resize", ["h", "", "s"], ["y"], domain="ai.onnx")
    facts = inspect_model(
        net(conv, up, initializers=[tensor("w", (1, 1, 1, 1)), float32s("s", [1, 1, 2, 2])], opset=18)
    )
    assert facts.opset == 18
    assert facts.operators == {"Conv": 1, "Resize": 1}
    assert [(value.name, value.dtype, value.shape) for value in facts.inputs] == [("x", "float32", SHAPE)]
    assert [value.name for value in facts.outputs] == ["y"]
    assert (facts.nodes, facts.initializers, facts.initializer_bytes) == (2, 2, 20)


@pytest.mark.parametrize(
    "message",
    [
        f(1, 2) + f(2, 1) + f(4, struct.pack("<2f", 1, 2)),  # packed
        f(1, 2) + f(2, 1) + f(4, 1.0) + f(4, 2.0),  # not packed
        f(1, b"\x02") + f(2, 7) + f(7, b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),  # packed dims; 1, -1
        f(1, 2) + f(2, 7) + f(7, 1) + f(7, -1),
        f(1, 2) + f(2, 10) + f(5, b"\x80\x78\x01"),  # float16 in int32_data
        f(1, 1) + f(2, 11) + f(10, bytes(8)),
        f(1, 0) + f(2, 1),  # no elements, no data
        f(2, 1) + f(9, bytes(4)),  # a scalar
    ],
)
def test_every_way_to_store_a_tensor(message: bytes) -> None:
    assert inspect_model(with_tensor(message)).initializers == 1


def test_an_unused_import_of_another_domain_is_harmless() -> None:
    assert inspect_model(net(RELU, extra=f(8, f(1, "com.microsoft") + f(2, 1)))).imports == {"": 17, "com.microsoft": 1}


def test_no_operator_on_the_list_takes_a_graph_or_a_size_in_data() -> None:
    never = {"Loop", "If", "Scan", "SequenceMap", "ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "NonZero"}
    assert not never & ALLOWED_OPERATORS
