"""Rules on single operators: forms that are legal ONNX and that a device's parser refuses or gets wrong."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from edge_export._graph import attribute
from edge_export._rules.base import NVIDIA, Complaints, Context, Rule, label, operand, result

__all__ = ["RULES"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_TRANSFORMS = (b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric", b"align_corners")


def _kernel_shape(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type in _CONVOLUTIONS and attribute(node, "kernel_shape") is None:
            yield label(node), "no kernel_shape."


def _computed_weight(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type in _CONVOLUTIONS:
            name = operand(node, 1)
            if not _is_constant(context, name):
                yield label(node), f"the weight {name!r} of {node.op_type} is computed at run time."


def _is_constant(context: Context, name: str) -> bool:
    """Whether a tensor comes from a constant through Casts and Q/DQ alone."""
    for _ in range(16):  # longer chains are none of ours
        name = context.source(name)
        if name in context.values or name in context.broken:
            return True
        node = context.makers.get(name)
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            break
        name = operand(node, 0)
    return any(item.name == name for item in context.model.graph.initializer)


def _half_group(context: Context) -> Complaints:
    for node in context.model.graph.node:
        grouped = node.op_type in _CONVOLUTIONS and attribute(node, "group", 1) != 1
        if grouped and context.elem(result(node)) == TensorProto.FLOAT16:
            yield label(node), f"grouped {node.op_type} (group {attribute(node, 'group', 1)}) in FP16."


def _grid_sample(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type == "GridSample":
            yield label(node), "GridSample."


def _resize(context: Context) -> Complaints:
    for node in context.model.graph.node:
        found = _resize_problems(node) if node.op_type == "Resize" else []
        if found:
            yield label(node), f"Resize with {', '.join(found)}."


def _resize_problems(node: NodeProto) -> list[str]:
    mode = attribute(node, "mode", b"nearest")
    transform = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    policy = attribute(node, "keep_aspect_ratio_policy", b"stretch")
    found = []
    if mode not in (b"nearest", b"linear"):
        found.append(f"mode {_text(mode)}")
    if transform not in _TRANSFORMS:
        found.append(f"coordinate_transformation_mode {_text(transform)}")
    if policy != b"stretch":
        found.append(f"keep_aspect_ratio_policy {_text(policy)}")
    if attribute(node, "antialias", 0):
        found.append("antialias")
    if attribute(node, "axes") is not None:
        found.append("axes")
    return found


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else repr(value)


def _align_corners(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type == "Resize" and attribute(node, "coordinate_transformation_mode") == b"align_corners":
            scales, shape = context.values.get(operand(node, 2)), context.shape(operand(node, 0))
            axes = attribute(node, "axes")
            if scales is None or scales.dtype.kind != "f" or not scales.size or shape is None or axes is not None:
                continue
            pairs = list(zip(shape, scales.astype(float).ravel(), strict=False))
            if any(size and abs(size * scale - round(size * scale)) > 1e-4 for size, scale in pairs):
                yield label(node), f"Resize of {shape} by {scales.tolist()} with align_corners ends between two pixels."


def _mod_float(context: Context) -> Complaints:
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    for node in context.model.graph.node:
        if node.op_type == "Mod" and not attribute(node, "fmod", 0) and context.elem(operand(node, 0)) in kinds:
            yield label(node), "Mod of floating-point numbers without fmod=1."


def _pool_dilation(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type not in ("AveragePool", "MaxPool"):
            continue
        dilations = attribute(node, "dilations")
        if isinstance(dilations, list) and any(step != 1 for step in dilations):
            yield label(node), f"{node.op_type} with dilations {dilations}."


def _pool_ceil(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type in ("AveragePool", "MaxPool") and attribute(node, "ceil_mode", 0):
            yield label(node), f"{node.op_type} with ceil_mode."


def _extra_outputs(context: Context) -> Complaints:
    for node in context.model.graph.node:
        extra = [name for name in node.output[1:] if name]
        if extra and node.op_type in ("BatchNormalization", "LayerNormalization", "MaxPool"):
            yield label(node), f"{node.op_type} gives the further outputs {extra}."


RULES: tuple[Rule, ...] = (
    Rule(
        id="kernel-shape",
        check=_kernel_shape,
        reason="NVIDIA's parser demands it behind Q/DQ",
        fix="run tidy, which fills it in",
        targets=NVIDIA,
    ),
    Rule(
        id="computed-weight",
        check=_computed_weight,
        reason="engines pack and quantize weights when they are built",
        fix="fold the computation of the weight before export",
        targets=NVIDIA,
    ),
    Rule(
        id="half-group",
        check=_half_group,
        reason="TensorRT 11.2.1 has no strongly typed FP16 kernel for grouped convolutions and fails to build",
        fix="keep the node in float32 (to_fp16 does so by default)",
        targets=("tensorrt11",),
    ),
    Rule(
        id="grid-sample",
        check=_grid_sample,
        reason="engines of TensorRT 11.1 with GridSample gave wrong values without an error",
        fix="warp outside the network, or use Resize",
        targets=("tensorrt11",),
    ),
    Rule(
        id="resize-mode",
        check=_resize,
        reason="NVIDIA documents nearest and linear, five coordinate transforms, stretch; the rest is risky",
        fix="use nearest or bilinear interpolation by a fixed factor",
        targets=NVIDIA,
    ),
    Rule(
        id="resize-align-corners",
        check=_align_corners,
        reason="with align_corners and a size that is not whole, ONNX's reference and ONNX Runtime differ",
        fix="give a scale whose product with the size is whole, or another coordinate transform",
    ),
    Rule(
        id="mod-float",
        check=_mod_float,
        reason="before opset 28 it is undefined, and ONNX Runtime fails at the first frame",
        fix="set fmod=1, or compute x - y * Floor(x / y)",
    ),
    Rule(
        id="pool-dilation",
        check=_pool_dilation,
        reason="NVIDIA's parser refuses dilations in pooling",
        fix="pool without dilations, or use a strided convolution",
        targets=NVIDIA,
    ),
    Rule(
        id="pool-ceil",
        check=_pool_ceil,
        reason="runtimes differ in the size and the divisor of the last window",
        fix="pad to a multiple of the stride and pool without ceil_mode",
        severity="warning",
    ),
    Rule(
        id="extra-output",
        check=_extra_outputs,
        reason="NVIDIA's parser gives the first output of pooling and normalization only",
        fix="compute the indices or moments with operators of their own, or drop them",
        targets=NVIDIA,
    ),
)
