"""Multiply-adds of one inference, counted from the shapes in an ONNX graph."""

from __future__ import annotations

import math

import onnx
from onnx import NodeProto

from edge_export._graph import GraphView, attribute
from edge_runtime.errors import LoweringError

__all__ = ["count_macs", "node_macs"]


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-adds of Conv, ConvTranspose, Gemm and MatMul for one run at the model's fixed shapes.

    Conv: output elements x kernel area x input channels / groups. ConvTranspose: input elements x kernel area x
    output channels / groups. Gemm, MatMul: output elements x inner size. Biases, activations, poolings and resizes
    are not counted, as in the literature's figures for convolutional networks. Raises `LoweringError` when a
    shape that is needed is not fixed.
    """
    view = GraphView(model)
    return sum(node_macs(view, node) for node in view.nodes)


def node_macs(view: GraphView, node: NodeProto) -> int:
    """Multiply-adds of one node by the rules of `count_macs`; 0 for an operator that is not counted."""
    if node.op_type == "Conv":
        weight = _shape(view, node, node.input[1])
        return math.prod(_shape(view, node, node.output[0])) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        weight = _shape(view, node, node.input[1])
        return math.prod(_shape(view, node, node.input[0])) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        left = _shape(view, node, node.input[0])
        return math.prod(_shape(view, node, node.output[0])) * left[0 if attribute(node, "transA", 0) else 1]
    if node.op_type == "MatMul":
        return math.prod(_shape(view, node, node.output[0])) * _shape(view, node, node.input[0])[-1]
    return 0


def _shape(view: GraphView, node: NodeProto, name: str) -> tuple[int, ...]:
    kind = view.types.get(name)
    if kind is None or any(size is None for size in kind.shape):
        found = None if kind is None else kind.shape
        raise LoweringError(f"{node.name}: tensor {name!r} has shape {found}; export with fixed shapes to count MACs")
    return tuple(size for size in kind.shape if size is not None)
