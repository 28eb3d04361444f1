"""Bring an exported graph to the plain form that the later passes and the device parsers expect."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_export._graph import GraphView, attribute, constant, default_opset, replace_graph
from edge_runtime.errors import LoweringError

__all__ = ["convert_opset", "tidy"]

Float64 = npt.NDArray[np.float64]

# attributes that stay although they hold the default: parsers have read them wrongly or demanded them when absent
_KEPT_ATTRIBUTES = frozenset({"kernel_shape", "axis", "group"})


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with less in the file; the argument is not changed.

    Constant nodes become initializers, Identity and inference-time Dropout disappear, BatchNormalization is folded into
    the convolution before it or, where it has none of its own, becomes a Mul and an Add, `kernel_shape` is filled in,
    equal integer initializers are shared, attributes equal to their default, documentation, metadata and `value_info`
    are dropped, and nodes and tensors get short names (`Conv_3`, its weight `Conv_3.1`). Graph inputs and outputs keep
    their names.
    Raises `LoweringError` when a BatchNormalization has computed statistics or the graph has sub-functions.
    """
    if model.functions:
        raise LoweringError("the model holds local functions; export with optimize=True so that they are inlined")
    work = onnx.ModelProto()
    work.CopyFrom(model)
    _constants_to_initializers(work)
    _bypass(work, {"Identity", "Dropout"})
    _fold_batch_norm(work)
    for node in work.graph.node:
        _fill_kernel_shape(node, work)
        _drop_defaults(node, default_opset(work))
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    _share_integers(work)
    _rename(work)
    for item in [*work.graph.input, *work.graph.output]:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    return replace_graph(work, work.graph.node, work.graph.initializer)


def convert_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model at another version of the default operator set, by `onnx.version_converter`.

    Raises `LoweringError` when the converter refuses or delivers another version.
    """
    if default_opset(model) == opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except Exception as error:
        raise LoweringError(
            f"the model cannot go from opset {default_opset(model)} to {opset} ({' '.join(str(error).split())[:200]}); "
            "export it at the wanted opset instead"
        ) from error
    if default_opset(converted) != opset:
        raise LoweringError(f"asked the converter for opset {opset} and got {default_opset(converted)}")
    return converted


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    kept: list[NodeProto] = []
    for node in model.graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            value.name = node.output[0]
            model.graph.initializer.append(value)
        else:
            kept.append(node)
    _set_nodes(model, kept)


def _set_nodes(model: onnx.ModelProto, nodes: list[NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _redirect(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _bypass(model: onnx.ModelProto, kinds: set[str]) -> None:
    """Remove nodes that pass their first input on; one that joins a graph input or constant to an output stays."""
    outputs = {item.name for item in model.graph.output}
    makers = {name: node for node in model.graph.node for name in node.output}
    kept: list[NodeProto] = []
    for node in model.graph.node:
        source, target = (node.input[0], node.output[0]) if node.op_type in kinds else ("", "")
        if not source or (target in outputs and (source not in makers or source in outputs)):
            kept.append(node)
        elif target in outputs:
            maker = makers[source]
            maker.output[list(maker.output).index(source)] = target
            makers[target] = maker
            _redirect(model, source, target)
        else:
            _redirect(model, target, source)
    _set_nodes(model, kept)


def _fold_batch_norm(model: onnx.ModelProto) -> None:
    """y = (Wx + b - mean) g / sqrt(var + eps) + beta is a convolution with W g/s and (b - mean) g/s + beta."""
    view = GraphView(model)
    kept: list[NodeProto] = []
    for node in view.nodes:
        if node.op_type != "BatchNormalization":
            kept.append(node)
            continue
        conv = view.producer.get(node.input[0])
        if not all(name in view.constants for name in node.input[1:5]) or len([o for o in node.output if o]) > 1:
            raise LoweringError(
                f"BatchNormalization {node.name!r} computes its statistics as in training; export in inference mode"
            )
        if conv is not None and _foldable(view, conv):
            _fold_one(model, view, conv, node)
        else:
            kept += _scale_and_shift(model, view, node)
    _set_nodes(model, kept)


def _scale_and_shift(model: onnx.ModelProto, view: GraphView, norm: NodeProto) -> list[NodeProto]:
    """y = x f + (beta - mean f), channel by channel, for a normalization without a convolution of its own."""
    factor, beta, mean = _normalization(view, norm)
    shape = [-1] + [1] * (len(view.types[norm.input[0]].shape) - 2)
    name = norm.output[0]
    model.graph.initializer.append(constant(f"{name}.f", factor.reshape(shape).astype(np.float32)))
    model.graph.initializer.append(constant(f"{name}.s", (beta - mean * factor).reshape(shape).astype(np.float32)))
    return [
        helper.make_node("Mul", [norm.input[0], f"{name}.f"], [f"{name}.x"]),
        helper.make_node("Add", [f"{name}.x", f"{name}.s"], [name]),
    ]


def _normalization(view: GraphView, norm: NodeProto) -> tuple[Float64, Float64, Float64]:
    """(g / sqrt(var + eps), beta, mean) by channel."""
    gamma, beta, mean, variance = (numpy_helper.to_array(view.constants[n]).astype(np.float64) for n in norm.input[1:5])
    epsilon = attribute(norm, "epsilon", 1e-5)
    assert isinstance(epsilon, float)
    return gamma / np.sqrt(variance + epsilon), beta, mean


def _foldable(view: GraphView, conv: NodeProto) -> bool:
    if conv.op_type not in ("Conv", "ConvTranspose") or len(view.consumers.get(conv.output[0], [])) != 1:
        return False
    if conv.op_type == "ConvTranspose" and attribute(conv, "group", 1) != 1:
        return False
    return view.weight(conv) is not None and conv.output[0] not in view.outputs


def _fold_one(model: onnx.ModelProto, view: GraphView, conv: NodeProto, norm: NodeProto) -> None:
    factor, beta, mean = _normalization(view, norm)
    weight = numpy_helper.to_array(view.constants[conv.input[1]])
    shape = [1] * weight.ndim
    shape[0 if conv.op_type == "Conv" else 1] = -1
    old_bias = view.weight(conv, 2)
    bias = np.zeros_like(mean) if old_bias is None else old_bias.astype(np.float64)
    names = (conv.output[0] + ".folded_w", conv.output[0] + ".folded_b")
    model.graph.initializer.append(constant(names[0], (weight * factor.reshape(shape)).astype(np.float32)))
    model.graph.initializer.append(constant(names[1], ((bias - mean) * factor + beta).astype(np.float32)))
    del conv.input[1:]
    conv.input.extend(names)
    conv.output[0] = norm.output[0]


def _fill_kernel_shape(node: NodeProto, model: onnx.ModelProto) -> None:
    if node.op_type in ("Conv", "ConvTranspose") and attribute(node, "kernel_shape") is None:
        for item in model.graph.initializer:
            if item.name == node.input[1]:
                node.attribute.append(helper.make_attribute("kernel_shape", list(item.dims)[2:]))


def _drop_defaults(node: NodeProto, opset: int) -> None:
    if node.domain not in ("", "ai.onnx"):
        return
    defaults = onnx.defs.get_schema(node.op_type, opset, "").attributes
    kept = []
    for item in node.attribute:
        item.ClearField("doc_string")
        known = defaults.get(item.name)
        same = known is not None and known.default_value.name and _same_value(known.default_value, item)
        if item.name in _KEPT_ATTRIBUTES or not same:
            kept.append(item)
    copies = [helper.make_attribute(i.name, helper.get_attribute_value(i)) for i in kept]
    del node.attribute[:]
    node.attribute.extend(copies)


def _same_value(left: onnx.AttributeProto, right: onnx.AttributeProto) -> bool:
    return bool(helper.get_attribute_value(left) == helper.get_attribute_value(right))


def _share_integers(model: onnx.ModelProto) -> None:
    first: dict[bytes, str] = {}
    for item in model.graph.initializer:
        if item.data_type in (TensorProto.INT64, TensorProto.INT32):
            array = numpy_helper.to_array(item)
            key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
            if key in first:
                _redirect(model, item.name, first[key])
            first.setdefault(key, item.name)


def _rename(model: onnx.ModelProto) -> None:
    """Nodes get `Op_k`; a tensor takes the name of its node, a constant `Op_k.i` of its first reader."""
    fixed = {item.name for item in [*model.graph.input, *model.graph.output]}
    names: dict[str, str] = {name: name for name in fixed}
    counts: dict[str, int] = {}
    for node in model.graph.node:
        number = counts[node.op_type] = counts.get(node.op_type, -1) + 1
        node.name = f"{node.op_type}_{number}"
        for index, name in enumerate(node.input):
            if name:
                names.setdefault(name, f"{node.name}.{index}")
        for index, name in enumerate(node.output):
            if name:
                names.setdefault(name, node.name if index == 0 else f"{node.name}:{index}")
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for item in model.graph.initializer:
        item.name = names.get(item.name, item.name)
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
