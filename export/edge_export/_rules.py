"""The lint rules: one checking function and one row of the table each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto

from edge_export._graph import GraphView, attribute, default_opset, single_line
from edge_runtime.errors import EdgeError, ModelRefusedError

__all__ = ["RULES", "TARGETS", "Context", "Rule", "TargetSpec"]

Complaints = Iterator[tuple[str, str]]  # (node name or "", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A runtime that reads the file: the newest opset that is written for it, and why that one."""

    name: str
    max_opset: int
    reason: str


TARGETS = {
    "jetpack6": TargetSpec(
        name="jetpack6", max_opset=18, reason="TensorRT 10.3; Q/DQ of opset 19 and later is not trodden on Orin"
    ),
    "tensorrt11": TargetSpec(
        name="tensorrt11", max_opset=23, reason="newest opset that is tried with its parser family"
    ),
    "rtx": TargetSpec(name="rtx", max_opset=24, reason="TensorRT-RTX 1.7 builds opset 24"),
    "ort-cpu": TargetSpec(name="ort-cpu", max_opset=21, reason="ONNX Runtime releases that have Python 3.10 wheels"),
}
_ALL = ("jetpack6", "tensorrt11", "rtx", "ort-cpu")
_NVIDIA = ("jetpack6", "tensorrt11", "rtx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a rule looks at. `view` is None when the graph's types cannot be inferred (`problem` says why)."""

    model: onnx.ModelProto
    target: TargetSpec
    view: GraphView | None
    problem: str = ""

    @staticmethod
    def of(model: onnx.ModelProto, target: TargetSpec) -> Context:
        """Index the model once for all rules."""
        try:
            return Context(model=model, target=target, view=GraphView(model))
        except EdgeError as error:
            return Context(model=model, target=target, view=None, problem=single_line(error))

    def quantizers(self) -> Iterator[tuple[GraphView, NodeProto]]:
        """Every QuantizeLinear and DequantizeLinear of an indexed graph."""
        if self.view is not None:
            for node in self.view.nodes:
                if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                    yield self.view, node


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table."""

    id: str
    severity: Literal["error", "warning"]
    targets: tuple[str, ...]
    reason: str
    fix: str
    check: Callable[[Context], Complaints]


def _types(context: Context) -> Complaints:
    if context.view is None:
        yield "", context.problem


def _opset(context: Context) -> Complaints:
    found = default_opset(context.model)
    if found > context.target.max_opset:
        yield (
            "",
            f"opset {found}; {context.target.name} reads up to {context.target.max_opset} ({context.target.reason}).",
        )


def _external(context: Context) -> Complaints:
    for item in context.model.graph.initializer:
        if item.data_location == TensorProto.EXTERNAL or item.external_data:
            yield "", f"constant {item.name!r} lies in another file."


def _operators(context: Context) -> Complaints:
    from edge_runtime.bundle import ALLOWED_OPERATORS

    for node in context.model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ALLOWED_OPERATORS:
            yield node.name, f"operator {node.domain or 'ai.onnx'}.{node.op_type} is not on the runtime's list."


def _device_guard(context: Context) -> Complaints:
    from edge_runtime.bundle import inspect_model

    try:
        inspect_model(context.model.SerializeToString())
    except ModelRefusedError as error:
        yield "", f"the device's guard refuses it: {single_line(error)}."


def _dimensions(context: Context) -> Complaints:
    if context.view is None:
        return
    for name, kind in context.view.types.items():
        maker = context.view.producer.get(name)
        if any(size is None for size in kind.shape):
            yield maker.name if maker else "", f"tensor {name!r} has the open shape {kind.shape}."


def _computed_shapes(context: Context) -> Complaints:
    if context.view is None:
        return
    for node in context.view.nodes:
        kinds = [context.view.types.get(name) for name in node.output]
        if any(kind is not None and kind.elem == TensorProto.INT64 for kind in kinds):
            yield node.name, f"{node.op_type} computes INT64 values at run time."


def _kernel_shape(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and attribute(node, "kernel_shape") is None:
            yield node.name, "no kernel_shape."


def _half_group(context: Context) -> Complaints:
    if context.view is None:
        return
    for node in context.view.nodes:
        kind = context.view.types.get(node.output[0])
        grouped = node.op_type in ("Conv", "ConvTranspose") and attribute(node, "group", 1) != 1
        if grouped and kind is not None and kind.elem == TensorProto.FLOAT16:
            yield node.name, f"grouped {node.op_type} (group {attribute(node, 'group', 1)}) in FP16."


def _bias(context: Context) -> Complaints:
    for view, node in context.quantizers():
        kind = view.types.get(node.input[0])
        if node.op_type == "DequantizeLinear" and kind is not None and kind.elem == TensorProto.INT32:
            yield node.name, f"dequantizes the int32 tensor {node.input[0]!r} (a quantized bias)."


def _zero_point(context: Context) -> Complaints:
    for view, node in context.quantizers():
        value = view.weight(node, 2)
        if len(node.input) > 2 and node.input[2] and (value is None or np.any(value)):
            found = "is computed" if value is None else f"holds {int(np.asarray(value).flat[np.flatnonzero(value)[0]])}"
            yield node.name, f"zero point {node.input[2]!r} {found}; it must be the constant 0."


def _unsigned(context: Context) -> Complaints:
    for view, node in context.quantizers():
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        kind = view.types.get(name)
        if kind is not None and kind.elem == TensorProto.UINT8:
            yield node.name, f"tensor {name!r} is uint8."


def _positive(value: npt.NDArray[np.float64]) -> bool:
    return bool(np.isfinite(value).all() and (value > 0).all())


def _scale_values(context: Context) -> Complaints:
    for view, node in context.quantizers():
        value = view.weight(node, 1)
        if value is None:
            yield node.name, f"scale {node.input[1]!r} is computed."
        elif not _positive(np.asarray(value, np.float64)):
            yield node.name, f"scale {node.input[1]!r} has values that are not positive numbers."


def _half_scale_opset(context: Context) -> Complaints:
    if default_opset(context.model) < 19:
        yield from _half_scale(context)


def _half_scale(context: Context) -> Complaints:
    # types come from the initializers, since inference itself may refuse such a graph
    half = {t.name for t in context.model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    for node in context.model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] in half:
            yield node.name, f"scale {node.input[1]!r} is float16 at opset {default_opset(context.model)}."


def _behind_casts(view: GraphView, name: str) -> NodeProto | None:
    node = view.producer.get(name)
    while node is not None and node.op_type == "Cast":
        node = view.producer.get(node.input[0])
    return node


def _concat(context: Context) -> Complaints:
    if context.view is None:
        return
    for node in context.view.nodes:
        makers = [_behind_casts(context.view, name) for name in node.input] if node.op_type == "Concat" else []
        quantized = [m for m in makers if m is not None and m.op_type == "DequantizeLinear"]
        scales = {
            float(np.asarray(value).flat[0]) for m in quantized if (value := context.view.weight(m, 1)) is not None
        }
        if quantized and (len(scales) > 1 or len(quantized) != len(makers)):
            what = f"scales {sorted(scales)}" if len(scales) > 1 else "only some inputs quantized"
            yield node.name, f"Concat with {what}."


def _transposed(context: Context) -> Complaints:
    if context.view is None:
        return
    for node in context.view.nodes:
        if node.op_type == "ConvTranspose":
            makers = [_behind_casts(context.view, name) for name in node.input[:2]]
            if any(m is not None and m.op_type == "DequantizeLinear" for m in makers):
                yield node.name, "ConvTranspose is quantized."


def _leftovers(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type in ("BatchNormalization", "Dropout", "Identity"):
            yield node.name, f"{node.op_type} is left in the graph."


def _double(context: Context) -> Complaints:
    if context.view is None:
        return
    for name, kind in context.view.types.items():
        if kind.elem == TensorProto.DOUBLE:
            maker = context.view.producer.get(name)
            yield maker.name if maker else "", f"tensor {name!r} is float64."


def _rule(
    id: str,
    check: Callable[[Context], Complaints],
    reason: str,
    fix: str,
    targets: tuple[str, ...] = _ALL,
    severity: Literal["error", "warning"] = "error",
) -> Rule:
    return Rule(id=id, severity=severity, targets=targets, reason=reason, fix=fix, check=check)


RULES: tuple[Rule, ...] = (
    _rule(
        "graph-types",
        _types,
        "types and shapes must be consistent",
        "run onnx.checker with full_check and mend the graph",
    ),
    _rule("opset", _opset, "a parser refuses, or misreads, newer operator sets", "export at opset 18"),
    _rule(
        "external-data", _external, "models reach a runner as bytes, never as a path", "export with external_data=False"
    ),
    _rule(
        "operator",
        _operators,
        "the runtime loads listed operators only",
        "replace the operator, or let it be decomposed",
    ),
    _rule("device-guard", _device_guard, "the runtime reads the file through its guard", "see the message"),
    _rule(
        "open-shape",
        _dimensions,
        "fixed shapes build one engine, without profiles",
        "export with fixed shapes, batch 1",
    ),
    _rule(
        "computed-shape",
        _computed_shapes,
        "shape arithmetic in INT64 breaks fusions and needs shape tensors",
        "give sizes as Python integers in the module, then run tidy",
    ),
    _rule(
        "kernel-shape", _kernel_shape, "NVIDIA's parser demands it behind Q/DQ", "run tidy, which fills it in", _NVIDIA
    ),
    _rule(
        "half-group",
        _half_group,
        "TensorRT 11.2.1 has no strongly typed FP16 kernel for grouped convolutions and fails to build",
        "keep the node in float32 (to_fp16 does so by default)",
        ("tensorrt11",),
    ),
    _rule(
        "qdq-bias",
        _bias,
        "NVIDIA's parser refuses an int32 DequantizeLinear",
        "leave biases in floating point",
        _NVIDIA,
    ),
    _rule(
        "qdq-zero-point",
        _zero_point,
        "NVIDIA's parser asserts zero shifts",
        "use symmetric ranges, zero point 0",
        _NVIDIA,
    ),
    _rule("qdq-uint8", _unsigned, "uint8 activations are read for DLA only", "quantize to int8", _NVIDIA),
    _rule(
        "qdq-scale", _scale_values, "a scale is a positive constant", "collect ranges again; give 1 to empty tensors"
    ),
    _rule(
        "qdq-half-scale-opset",
        _half_scale_opset,
        "before opset 19 Q/DQ is float32 only; some builders take it all the same",
        "use qdq_form='opset17', or lift the model to opset 19",
    ),
    _rule(
        "qdq-half-scale-ort",
        _half_scale,
        "ONNX Runtime 1.31 misreads float16 scales when it quantizes biases, and gives wrong outputs",
        "use qdq_form='opset17' for the CPU",
        ("ort-cpu",),
    ),
    _rule(
        "qdq-concat", _concat, "unequal scales force a requantization and stop the fusion", "share one scale", _NVIDIA
    ),
    _rule(
        "qdq-conv-transpose",
        _transposed,
        "int8 ConvTranspose has been wrong on some TensorRT releases and slower than FP16 on others",
        "leave it in FP16",
        _NVIDIA,
    ),
    _rule("float64", _double, "no device kernel computes in float64", "cast to float32 in the module", _NVIDIA),
    _rule("leftover", _leftovers, "should have been folded", "run tidy", severity="warning"),
)
