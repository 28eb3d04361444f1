"""A read-only index of an ONNX graph, and the few small edits that every pass shares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from edge_runtime.errors import LoweringError

__all__ = [
    "GraphView",
    "TensorType",
    "attribute",
    "constant",
    "default_opset",
    "drop_unused",
    "main_input",
    "replace_graph",
    "single_line",
]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """Element type (`TensorProto.DataType`) and shape; an unknown dimension is None."""

    elem: int
    shape: tuple[int | None, ...]


def attribute(node: NodeProto, name: str, default: object = None) -> object:
    """The value of a node's attribute as Python data, or `default` when it is absent."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def constant(name: str, array: Array) -> TensorProto:
    """An initializer holding `array` in little-endian raw bytes."""
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set. Raises `LoweringError` when the model imports none."""
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx"):
            return int(item.version)
    raise LoweringError("the model imports no default operator set; export it with one (opset 18 is the default here)")


def main_input(model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """Name and static shape of the one input that is not an initializer. Raises `LoweringError` otherwise."""
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    if len(inputs) != 1:
        raise LoweringError(f"the model has inputs {[i.name for i in inputs]}; exactly one is supported")
    shape = _tensor_type(inputs[0]).shape
    if any(size is None for size in shape):
        raise LoweringError(f"input {inputs[0].name!r} has shape {shape}; every dimension must be fixed, batch 1")
    return inputs[0].name, tuple(size for size in shape if size is not None)


def single_line(error: BaseException) -> str:
    """The first 300 characters of an error on one line, for a message."""
    return " ".join(str(error).split())[:300]


def _tensor_type(item: onnx.ValueInfoProto) -> TensorType:
    tensor = item.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorType(elem=tensor.elem_type, shape=dims)


class GraphView:
    """Who makes and who reads each tensor of `model.graph`, its constants, and its inferred types.

    The view is made once and does not follow later edits. Raises `LoweringError` when shape inference fails.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.inputs = {item.name for item in model.graph.input}
        self.outputs = [item.name for item in model.graph.output]
        self.constants: dict[str, TensorProto] = {item.name: item for item in model.graph.initializer}
        self.producer: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[tuple[NodeProto, int]]] = {}
        for node in self.nodes:
            for name in node.output:
                self.producer[name] = node
            for index, name in enumerate(node.input):
                self.consumers.setdefault(name, []).append((node, index))
        self.types = self._infer()

    def _infer(self) -> dict[str, TensorType]:
        try:
            inferred = shape_inference.infer_shapes(self.model, strict_mode=True, data_prop=True).graph
        except Exception as error:
            raise LoweringError(f"ONNX shape inference failed: {single_line(error)}") from error
        types = {t.name: TensorType(elem=t.data_type, shape=tuple(t.dims)) for t in inferred.initializer}
        for group in (inferred.input, inferred.value_info, inferred.output):
            types.update({item.name: _tensor_type(item) for item in group})
        return types

    def array(self, name: str) -> Array | None:
        """The value of a constant, or None when `name` is not one."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_float(self, name: str) -> bool:
        """Whether the tensor is known to be float32."""
        kind = self.types.get(name)
        return kind is not None and kind.elem == TensorProto.FLOAT

    def weight(self, node: NodeProto, index: int = 1) -> Array | None:
        """The constant at input `index` of `node`, or None when it is computed or absent."""
        return self.array(node.input[index]) if len(node.input) > index else None


def drop_unused(nodes: Iterable[NodeProto], initializers: Iterable[TensorProto]) -> list[TensorProto]:
    """The initializers that some node reads, in their order."""
    used = {name for node in nodes for name in node.input}
    return [item for item in initializers if item.name in used]


def replace_graph(
    model: onnx.ModelProto, nodes: Iterable[NodeProto], initializers: Iterable[TensorProto]
) -> onnx.ModelProto:
    """A new model with the same inputs, outputs and operator sets, these nodes, and no value_info or metadata."""
    kept = list(nodes)
    graph = helper.make_graph(
        kept, "g", list(model.graph.input), list(model.graph.output), drop_unused(kept, initializers)
    )
    opsets = [helper.make_opsetid("", default_opset(model))]
    made = helper.make_model(graph, opset_imports=opsets)
    made.ir_version = helper.find_min_ir_version_for(opsets)
    made.ClearField("producer_name")
    return made
