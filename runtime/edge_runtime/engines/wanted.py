"""Which precision a typed ONNX graph asks for, node by node: the engine is held against this."""

from __future__ import annotations

from dataclasses import dataclass

from edge_runtime.bundle import _onnx_schema as schema
from edge_runtime.bundle._onnx_tensor import text
from edge_runtime.bundle._wire import Budget, fields
from edge_runtime.bundle.limits import DEFAULT_LIMITS

__all__ = ["WEIGHTED", "wanted_precisions"]

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# operators that move values without computing with them
MOVES = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
TYPES = {1: "fp32", 10: "fp16", 16: "bf16"}  # TensorProto.DataType (onnx.proto)
LONGEST = 64  # nodes between a weight and its use


@dataclass(frozen=True)
class _Node:
    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cast: int


def wanted_precisions(model: bytes) -> dict[str, str]:
    """Named Conv, ConvTranspose, Gemm and MatMul nodes of the main graph with "int8", "fp16", "bf16" or "fp32".

    int8 where both operands come from a DequantizeLinear, else the type of the weights; nodes without a name or with
    weights of another type are left out. Raises `ModelRefusedError` on bytes that are no ONNX model.
    """
    nodes, types = _read(memoryview(model))
    makers = {output: node for node in nodes for output in node.outputs}
    found = {}
    for node in nodes:
        if node.operator not in WEIGHTED or not node.name or len(node.inputs) < 2:
            continue
        data, weights = (_origin(value, makers, types) for value in node.inputs[:2])
        precision = "int8" if data == weights == "int8" else weights if weights != "int8" else ""
        if precision:
            found[node.name] = precision
    return found


def _origin(value: str, makers: dict[str, _Node], types: dict[str, int]) -> str:
    """ "int8" behind a DequantizeLinear, else the type that `value` has as far as it can be traced, or ""."""
    cast = 0
    for _ in range(LONGEST):
        node = makers.get(value)
        if node is None:
            return TYPES.get(cast or types.get(value, 0), "")
        if node.operator == "DequantizeLinear":
            return "int8"
        if node.operator == "Cast":
            cast = cast or node.cast
        elif node.operator not in MOVES:
            break
        if not node.inputs:
            break
        value = node.inputs[0]
    return TYPES.get(cast, "")


def _read(model: memoryview) -> tuple[list[_Node], dict[str, int]]:
    budget = Budget(DEFAULT_LIMITS.fields)
    nodes: list[_Node] = []
    types: dict[str, int] = {}
    for name, graph in fields(model, schema.MODEL, budget):
        if name != "graph" or isinstance(graph, int):
            continue
        for part, value in fields(graph, schema.GRAPH, budget):
            if isinstance(value, int):
                continue
            if part == "node":
                nodes.append(_node(value, budget))
            elif part == "initializer":
                tensor, kind = _tensor(value, budget)
                types[tensor] = kind
    return nodes, types


def _tensor(data: memoryview, budget: Budget) -> tuple[str, int]:
    """Name and element type of a `TensorProto`."""
    name, kind = "", 0
    for part, value in fields(data, schema.TENSOR, budget):
        if part == "data_type" and isinstance(value, int):
            kind = value
        elif part == "name" and not isinstance(value, int):
            name = text(value)
    return name, kind


def _node(data: memoryview, budget: Budget) -> _Node:
    name, operator, cast = "", "", 0
    inputs: list[str] = []
    outputs: list[str] = []
    for part, value in fields(data, schema.NODE, budget):
        if isinstance(value, int):
            continue
        if part == "name":
            name = text(value)
        elif part == "op_type":
            operator = text(value)
        elif part in ("input", "output"):
            (inputs if part == "input" else outputs).append(text(value))
        elif part == "attribute":
            cast = _to(value, budget) or cast
    return _Node(name, operator, tuple(inputs), tuple(outputs), cast if operator == "Cast" else 0)


def _to(data: memoryview, budget: Budget) -> int:
    """The value of an attribute named "to", else 0."""
    name, number = "", 0
    for part, value in fields(data, schema.ATTRIBUTE, budget):
        if part == "name" and not isinstance(value, int):
            name = text(value)
        elif part == "i" and isinstance(value, int):
            number = value
    return number if name == "to" else 0
