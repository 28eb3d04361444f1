"""Rules on QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from edge_export._graph import attribute
from edge_export._rules.base import CPU, NVIDIA, Complaints, Context, Rule, label, operand, result

__all__ = ["RULES"]


def _bias(context: Context) -> Complaints:
    for node in context.quantizers("DequantizeLinear"):
        if context.elem(node.input[0]) == TensorProto.INT32:
            yield label(node), f"dequantizes the int32 tensor {node.input[0]!r} (a quantized bias)."


def _zero_point(context: Context) -> Complaints:
    for node in context.quantizers():
        name = operand(node, 2)
        value = context.values.get(name)
        if name and (value is None or np.any(value)):
            found = "is computed" if value is None else f"holds {int(np.asarray(value).flat[np.flatnonzero(value)[0]])}"
            yield label(node), f"zero point {name!r} {found}; it must be the constant 0."


def _unsigned(context: Context) -> Complaints:
    for node in context.quantizers():
        name = result(node) if node.op_type == "QuantizeLinear" else node.input[0]
        if context.elem(name) == TensorProto.UINT8:
            yield label(node), f"tensor {name!r} is uint8."


def _positive(value: npt.NDArray[np.float64]) -> bool:
    return bool(np.isfinite(value).all() and (value > 0).all())


def _scale_values(context: Context) -> Complaints:
    for node in context.quantizers():
        value = context.values.get(node.input[1])
        if value is None:
            yield label(node), f"scale {node.input[1]!r} is computed."
        elif value.dtype.kind != "f" or not _positive(value.astype(np.float64)):
            yield label(node), f"scale {node.input[1]!r} has values that are not positive numbers."


def _half_scale_opset(context: Context) -> Complaints:
    if any(item.domain in ("", "ai.onnx") and item.version < 19 for item in context.model.opset_import):
        yield from _half_scale(context)


def _half_scale(context: Context) -> Complaints:
    # types come from the constants, since inference itself may refuse such a graph
    for node in context.quantizers():
        value = context.values.get(node.input[1])
        if value is not None and value.dtype == np.float16:
            yield label(node), f"scale {node.input[1]!r} is float16."


def _lonely(context: Context) -> Complaints:
    outputs = {item.name for item in context.model.graph.output}
    for node in context.quantizers("QuantizeLinear"):
        readers = {reader.op_type for reader in context.readers.get(node.output[0], [])}
        if readers != {"DequantizeLinear"} or node.output[0] in outputs:
            shown = sorted(readers) or "nobody"
            yield label(node), f"its output goes to {shown}; to DequantizeLinear alone is needed."
    for node in context.quantizers("DequantizeLinear"):
        maker = context.makers.get(node.input[0])
        constant = node.input[0] in context.values or node.input[0] in context.broken
        if not constant and (maker is None or maker.op_type != "QuantizeLinear"):
            shown = f"{maker.op_type} {label(maker)}" if maker else repr(node.input[0])
            yield label(node), f"its input comes from {shown}; from QuantizeLinear or a constant is needed."


def _twice(context: Context) -> Complaints:
    for node in context.quantizers("QuantizeLinear"):
        maker = context.behind_casts(node.input[0])
        if maker is not None and maker.op_type == "DequantizeLinear":
            yield label(node), f"quantizes again what {label(maker)} has just dequantized."


def _axis(context: Context) -> Complaints:
    for node in context.quantizers("DequantizeLinear"):
        scale = context.values.get(node.input[1])
        if scale is None or scale.size < 2:
            continue
        if not _of_constant(context, node):
            yield label(node), f"{scale.size} scales on an activation; one is needed."
            continue
        axis = attribute(node, "axis", 1)
        for reader, index in _weight_readers(context, result(node)):
            wanted = _channel_axis(reader, index)
            if wanted is not None and axis != wanted:
                yield (
                    label(node),
                    f"axis {axis} for the weight of {reader.op_type} {label(reader)}; its output channels are "
                    f"axis {wanted}.",
                )


def _of_constant(context: Context, node: NodeProto) -> bool:
    maker = context.makers.get(node.input[0])
    name = operand(maker, 0) if maker is not None and maker.op_type == "QuantizeLinear" else node.input[0]
    return context.source(name) in context.values


def _weight_readers(context: Context, name: str) -> list[tuple[NodeProto, int]]:
    """Who reads a tensor as input 1, through Casts."""
    found: list[tuple[NodeProto, int]] = []
    waiting, seen = [name], {name}
    while waiting:
        current = waiting.pop()
        for reader in context.readers.get(current, []):
            if reader.op_type == "Cast" and result(reader) not in seen:
                seen.add(result(reader))
                waiting.append(result(reader))
            elif operand(reader, 1) == current:
                found.append((reader, 1))
    return found


def _channel_axis(node: NodeProto, index: int) -> int | None:
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)


def _concat(context: Context) -> Complaints:
    for node in context.model.graph.node:
        makers = [context.behind_casts(name) for name in node.input] if node.op_type == "Concat" else []
        quantized = [m for m in makers if m is not None and m.op_type == "DequantizeLinear" and len(m.input) > 1]
        found = [context.values.get(maker.input[1]) for maker in quantized]
        scales = {float(value.astype(np.float64).flat[0]) for value in found if value is not None and value.size}
        if quantized and (len(scales) > 1 or len(quantized) != len(makers)):
            what = f"scales {sorted(scales)}" if len(scales) > 1 else "only some inputs quantized"
            yield label(node), f"Concat with {what}."


def _transposed(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type == "ConvTranspose":
            makers = [context.behind_casts(name) for name in node.input[:2]]
            if any(m is not None and m.op_type == "DequantizeLinear" for m in makers):
                yield label(node), "ConvTranspose is quantized."


RULES: tuple[Rule, ...] = (
    Rule(
        id="qdq-bias",
        check=_bias,
        reason="NVIDIA's parser refuses an int32 DequantizeLinear",
        fix="leave biases in floating point",
        targets=NVIDIA,
    ),
    Rule(
        id="qdq-zero-point",
        check=_zero_point,
        reason="NVIDIA's parser asserts zero shifts",
        fix="use symmetric ranges, zero point 0",
        targets=NVIDIA,
    ),
    Rule(
        id="qdq-uint8",
        check=_unsigned,
        reason="uint8 activations are the form for CPUs; NVIDIA reads them for DLA only",
        fix="quantize to int8 (the variant int8, not int8-cpu)",
        targets=NVIDIA,
    ),
    Rule(
        id="qdq-scale",
        check=_scale_values,
        reason="a scale is a positive constant",
        fix="collect ranges again; give 1 to empty tensors",
    ),
    Rule(
        id="qdq-half-scale-opset",
        check=_half_scale_opset,
        reason="before opset 19 Q/DQ is float32 only; some builders take it all the same",
        fix="use qdq_form='opset17', or lift the model to opset 19",
    ),
    Rule(
        id="qdq-half-scale-ort",
        check=_half_scale,
        reason="ONNX Runtime 1.31 misreads float16 scales when it quantizes biases, and gives wrong outputs",
        fix="use qdq_form='opset17' for the CPU",
        targets=CPU[:1],
    ),
    Rule(
        id="qdq-lonely",
        check=_lonely,
        reason="a backend fuses pairs: a Q without its DQ, or a DQ without a Q, is refused or computed as it stands",
        fix="write Q and DQ side by side, and nothing between them",
    ),
    Rule(
        id="qdq-twice",
        check=_twice,
        reason="the value is rounded twice and the pair stops a fusion",
        fix="keep the first pair alone",
    ),
    Rule(
        id="qdq-axis",
        check=_axis,
        reason="fused kernels take a scale per output channel of a weight and one of an activation",
        fix="axis 0 for Conv, 1 for ConvTranspose; one scale for an activation",
        targets=NVIDIA,
    ),
    Rule(
        id="qdq-concat",
        check=_concat,
        reason="unequal scales force a requantization and stop the fusion",
        fix="share one scale",
        targets=NVIDIA,
    ),
    Rule(
        id="qdq-conv-transpose",
        check=_transposed,
        reason="int8 ConvTranspose has been wrong on some TensorRT releases and slower than FP16 on others",
        fix="leave it in FP16",
        targets=NVIDIA,
    ),
)
