"""A float32 graph that computes what the types of a typed graph say, for a CPU that would not.

ONNX Runtime's CPU backend computes FP16 parts in float32 and removes the Casts between them, so it hides FP16's
rounding. Here every FP16 tensor is rounded to 11 significant bits by Veltkamp's splitting (Dekker, "A
floating-point technique for extending the available precision", 1971, section 5): with c = (2^13 + 1) x,
hi = c - (c - x) is x rounded to 24 - 13 bits. Sums inside one operator stay in float32, as tensor cores keep them.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edge_export._graph import GraphView, attribute, constant, replace_graph

__all__ = ["simulate_types"]

_SPLIT = np.float32(2**13 + 1)
# outputs are inputs, moved or selected: already rounded
_EXACT = frozenset({"Concat", "Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "Squeeze", "Transpose"})


def simulate_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 model with the values of the typed `model`: FP16 tensors rounded after each operator, Q/DQ kept.

    Numbers below 2^-14 keep more digits than FP16 would; none above 65504 turns into infinity. Run it with
    `optimize=False`: fusions would move the roundings. Raises `LoweringError` when shape inference fails.
    """
    view = GraphView(model)
    nodes: list[NodeProto] = []
    for node in view.nodes:
        nodes += _simulated(view, node)
    initializers = [_widened(item) for item in model.graph.initializer]
    return replace_graph(model, nodes, [*initializers, constant("split", np.asarray(_SPLIT))])


def _widened(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return constant(tensor.name, numpy_helper.to_array(tensor).astype(np.float32))


def _simulated(view: GraphView, node: NodeProto) -> list[NodeProto]:
    copy = NodeProto()
    copy.CopyFrom(node)
    if node.op_type == "Cast" and attribute(node, "to") in (TensorProto.FLOAT, TensorProto.FLOAT16):
        copy = helper.make_node("Identity", list(node.input), list(node.output), name=node.name)
    rounds = node.op_type == "Cast" or node.op_type not in _EXACT
    made = [copy]
    for index, name in enumerate(node.output):
        kind = view.types.get(name)
        if rounds and kind is not None and kind.elem == TensorProto.FLOAT16:
            copy.output[index] = f"{name}/x"
            made += _rounding(f"{name}/x", name)
    return made


def _rounding(source: str, target: str) -> list[NodeProto]:
    return [
        helper.make_node("Mul", [source, "split"], [f"{target}/c"], name=f"{target}/c"),
        helper.make_node("Sub", [f"{target}/c", source], [f"{target}/d"], name=f"{target}/d"),
        helper.make_node("Sub", [f"{target}/c", f"{target}/d"], [target], name=f"{target}/r"),
    ]
