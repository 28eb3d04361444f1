"""Rules on shapes and element types: what must be known at build time, and which numbers a device computes with."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from edge_export._rules.base import CPU, NVIDIA, Complaints, Context, Rule, label, result

__all__ = ["RULES"]

_SMALLEST_HALF = 2.0**-14  # below it float16 loses bits: subnormal
_COMPUTED = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.BOOL, TensorProto.INT32}
_KNOWN = {TensorProto.UNDEFINED, TensorProto.INT64, TensorProto.UINT8, TensorProto.DOUBLE, *_COMPUTED}
# which inputs of an operator hold sizes, axes or indices
_SHAPE_OPERANDS = {
    "Gather": (1,),
    "Pad": (1, 3),
    "ReduceL2": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (3,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}


def _unranked(item: onnx.ValueInfoProto) -> bool:
    return item.type.WhichOneof("value") == "tensor_type" and not item.type.tensor_type.HasField("shape")


def _open_shapes(context: Context) -> Complaints:
    if context.view is None:
        return
    unranked = {item.name for item in (*context.model.graph.input, *context.model.graph.output) if _unranked(item)}
    for name in sorted(unranked):
        yield context.named(name), f"tensor {name!r} has no rank."
    for name, kind in context.view.types.items():
        if any(size is None for size in kind.shape):
            yield context.named(name), f"tensor {name!r} has the open shape {kind.shape}."


def _empty(context: Context) -> Complaints:
    if context.view is not None:
        for name, kind in context.view.types.items():
            regions = context.readers.get(name) and all(node.op_type == "Resize" for node in context.readers[name])
            if 0 in kind.shape and kind.elem != TensorProto.INT64 and not regions:
                yield context.named(name) or context.read_by(name), f"tensor {name!r} of shape {kind.shape} is empty."


def _computed_shapes(context: Context) -> Complaints:
    for node in context.model.graph.node:
        made = node.op_type != "Constant" and any(context.elem(name) == TensorProto.INT64 for name in node.output)
        if made:
            yield label(node), f"{node.op_type} computes INT64 values at run time."


def _integer_constants(context: Context) -> Complaints:
    for node in context.model.graph.node:
        for index, name in enumerate(node.input):
            value = context.values.get(name)
            if value is None or index in _SHAPE_OPERANDS.get(node.op_type, ()):
                continue
            if value.dtype.name in ("int64", "bool"):
                yield label(node), f"{node.op_type} computes with the {value.dtype.name.upper()} constant {name!r}."


def _double(context: Context) -> Complaints:
    yield from _of_types(context, {TensorProto.DOUBLE})


def _rare(context: Context) -> Complaints:
    yield from _of_types(context, set(TensorProto.DataType.values()) - _KNOWN)


def _of_types(context: Context, kinds: set[int]) -> Complaints:
    if context.view is not None:
        for name, kind in context.view.types.items():
            if kind.elem in kinds:
                yield context.named(name), f"tensor {name!r} is {_name(kind.elem)}."


def _name(elem: int) -> str:
    return "float64" if elem == TensorProto.DOUBLE else str(TensorProto.DataType.Name(elem)).lower()


def _subnormal(context: Context) -> Complaints:
    for name, value in context.values.items():
        readers = context.readers.get(name, [])
        if value.dtype != np.float16 or value.size == 0 or not readers:
            continue
        channels = np.abs(value.reshape(value.shape[0] if value.ndim > 1 else 1, -1).astype(np.float32)).max(axis=1)
        small = np.flatnonzero((channels > 0) & (channels < _SMALLEST_HALF))
        if small.size:
            yield (
                label(readers[0]),
                f"channel {small[0]} of the float16 constant {name!r} reaches {channels[small[0]]:.2g} at most "
                f"({small.size} such channels of {channels.size}).",
            )


def _half_on_cpu(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type != "Cast" and context.elem(result(node)) == TensorProto.FLOAT16:
            yield label(node), f"{node.op_type} is typed FP16; here it is computed in float32 between casts."
            return  # one finding says it for the file


RULES: tuple[Rule, ...] = (
    Rule(
        id="open-shape",
        check=_open_shapes,
        reason="fixed shapes build one engine, without profiles",
        fix="export with fixed shapes, batch 1",
    ),
    Rule(
        id="empty-tensor",
        check=_empty,
        reason="backends differ on tensors without elements: some refuse, some crash",
        fix="slice and reduce over at least one element",
    ),
    Rule(
        id="computed-shape",
        check=_computed_shapes,
        reason="shape arithmetic in INT64 breaks fusions and needs shape tensors",
        fix="give sizes as Python integers in the module, then run tidy",
    ),
    Rule(
        id="integer-constant",
        check=_integer_constants,
        reason="INT64 and BOOL arithmetic has few device kernels and breaks fusions; older parsers clamp it to INT32",
        fix="compute with float32, masks as multiplication by 0 and 1",
        targets=NVIDIA,
        severity="warning",
    ),
    Rule(
        id="float64",
        check=_double,
        reason="no device kernel computes in float64",
        fix="cast to float32 in the module",
        targets=NVIDIA,
    ),
    Rule(
        id="element-type",
        check=_rare,
        reason="only float32, float16, int8, uint8, int32, int64 and bool are computed with on every device",
        fix="export in float32 and lower from there",
    ),
    Rule(
        id="half-subnormal",
        check=_subnormal,
        reason="below 2^-14 float16 loses precision bit by bit, and some kernels flush to zero",
        fix="keep the node in float32, or rescale the weights into the layer before",
        severity="warning",
    ),
    Rule(
        id="half-on-cpu",
        check=_half_on_cpu,
        reason="ONNX Runtime has no FP16 kernels for x86: the parts are computed in float32, so nothing gets faster",
        fix="use the fp32 or the CPU's int8 variant here",
        targets=CPU[:1],
        severity="warning",
    ),
)
