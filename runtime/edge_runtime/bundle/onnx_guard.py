"""Which ONNX models the device runs. A valid ONNX file is a program; this is the list of what it may do.

What is left out is left out for a reason. Loop, If, Scan, SequenceMap: can run for ever, hide graphs. ConstantOfShape,
Expand, Tile, Range, OneHot, EyeLike: 113 bytes can ask for terabytes. Random*: results differ by run. NonZero, TopK,
NonMaxSuppression, Unique, Compress: output sizes depend on the data, so time does. Strings, sequences: no use.
"""

from __future__ import annotations

import math

from edge_runtime.bundle._onnx_walk import ModelFacts, NodeFacts, TensorFacts, walk_model
from edge_runtime.bundle.limits import DEFAULT_LIMITS, Limits
from edge_runtime.errors import ModelRefusedError

__all__ = ["ALLOWED_OPERATORS", "CONTROL_FLOW", "MIN_OPSET", "ModelFacts", "TensorFacts", "inspect_model"]

MIN_OPSET = 13  # before it, sizes stand in other places than where this guard looks

CONVOLUTIONAL = frozenset({
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "MatMul", "MaxPool",
    "Resize", "SpaceToDepth",
})  # fmt: skip
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Max",
    "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid",
    "Softmax", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where",
})  # fmt: skip
SHAPES = frozenset({
    "Concat", "Constant", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Shape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
})  # fmt: skip
REDUCTIONS = frozenset({"ArgMax", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})
TYPES = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})
ALLOWED_OPERATORS = CONVOLUTIONAL | ELEMENTWISE | SHAPES | REDUCTIONS | TYPES

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def inspect_model(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ModelFacts:
    """The facts of the ONNX model in `data`, or `ModelRefusedError` with the first thing that is not allowed.

    The walk takes time linear in the number of protobuf fields and copies no tensor. The same bytes must then go to the
    backend: a file read again may have changed.
    """
    if len(data) > limits.member_bytes:
        raise ModelRefusedError(f"the model has {len(data)} bytes, over the cap of {limits.member_bytes}")
    facts = walk_model(data, limits)
    _check_operators(facts)
    if facts.opset < MIN_OPSET:
        raise ModelRefusedError(f"the model has opset {facts.opset}; {MIN_OPSET} or later is read, export it again")
    for node in facts.growing:
        _check_growth(node, facts, limits)
    return facts


def _check_operators(facts: ModelFacts) -> None:
    looping = sorted(CONTROL_FLOW & set(facts.operators))
    if looping:
        raise ModelRefusedError(f"the model has control flow ({', '.join(looping)}), which may never end; unroll it")
    if facts.functions:
        raise ModelRefusedError(f"the model defines {facts.functions} functions; inline them before packaging")
    unknown = sorted(set(facts.operators) - ALLOWED_OPERATORS)
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:8])
        raise ModelRefusedError(
            f"the model uses {shown}, not among the allowed operators; fold constants or export without them"
        )
    if facts.subgraphs:
        raise ModelRefusedError(f"the model hides {facts.subgraphs} graphs in attributes; no allowed operator has any")


def _check_growth(node: NodeFacts, facts: ModelFacts, limits: Limits) -> None:
    """Hold what sets the size of an output against `limits.window`, `scale` and `elements`."""
    for name in ("strides", "dilations"):
        _check_range(node, name, node.numbers.get(name, ()), limits.scale)
    for name in ("kernel_shape", "pads", "output_padding"):
        _check_range(node, name, node.numbers.get(name, ()), limits.window)
    _check_product(node, "output_shape", node.numbers.get("output_shape", ()), limits)
    if node.operator == "Pad":
        _check_range(node, "pads", _constant(node, 1, facts), limits.window)
    if node.operator == "Resize":
        _check_range(node, "scales", _constant(node, 2, facts), limits.scale)
        _check_product(node, "sizes", _constant(node, 3, facts), limits)


def _constant(node: NodeFacts, index: int, facts: ModelFacts) -> tuple[float, ...]:
    """The values of an input that must be constant; empty when the input is not used."""
    name = node.inputs[index] if index < len(node.inputs) else ""
    if not name:
        return ()
    values = facts.constants.get(name)
    if values is None or any(map(math.isnan, values)):
        raise ModelRefusedError(
            f"{node.operator} takes its size from {name!r}, which is no small constant; fold constants before packaging"
        )
    return values


def _check_range(node: NodeFacts, what: str, values: tuple[float, ...], cap: float) -> None:
    if not all(abs(value) <= cap for value in values):  # a NaN is refused too
        raise ModelRefusedError(f"{node.operator} has {what} {list(values)}; at most {cap} is allowed")


def _check_product(node: NodeFacts, what: str, values: tuple[float, ...], limits: Limits) -> None:
    if not (all(value >= 0 for value in values) and math.prod(values) <= limits.elements):
        raise ModelRefusedError(f"{node.operator} has {what} {list(values)}; over {limits.elements} elements")
