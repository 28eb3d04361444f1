"""Where Q/DQ goes: which convolutions run in int8, which tensors share a scale.

The rules are NVIDIA's for explicit quantization: Q/DQ on the inputs and weights of what is quantized, none on
outputs or biases. Concat, MaxPool and nearest Resize between quantized operators take and give int8, which needs
one scale on all their sides. Of a residual Add only the branch that does not come straight from a convolution
is quantized, so that the other one can be fused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnx import NodeProto

from edge_export._graph import GraphView, attribute
from edge_export._retype import QuantPlan
from edge_runtime.errors import ConfigError

__all__ = [
    "carries_int8",
    "check_excluded",
    "makes_output",
    "plan_int8",
    "scale_groups",
    "shared_groups",
    "weight_axis",
]

_SAME_VALUES = frozenset(
    {"DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze"}
)
_MIN_MATMUL = 16  # below 16 rows or columns an int8 matrix product is not faster


def plan_int8(
    view: GraphView,
    clip: dict[str, float],
    *,
    exclude: Iterable[str] = (),
    exclude_first: bool = True,
    exclude_head: bool = True,
) -> QuantPlan:
    """The quantized edges, with one scale (clip / 127) per group of `scale_groups`.

    Quantized: Conv with group 1 and constant weights, Gemm and MatMul with constant weights of at least 16 x 16. Not:
    ConvTranspose, grouped convolutions, nodes in `exclude`, the convolutions that read the graph input
    (`exclude_first`: one grey channel gains nothing) and those that make a graph output (`exclude_head`).
    Raises `ConfigError` when `exclude` names a node that does not exist.
    """
    left_out = check_excluded(view, exclude)
    weights: dict[tuple[str, int], int] = {}
    for node in view.nodes:
        axis = weight_axis(view, node)
        first = exclude_first and node.input[0] in view.inputs
        head = exclude_head and makes_output(view, node)
        if axis is not None and not (first or head or node.name in left_out):
            weights[(node.name, 1)] = axis
    edges = _activation_edges(view, {name for name, _ in weights})
    inputs = {node.name: node.input for node in view.nodes}
    used = {inputs[name][index] for name, index in edges}
    tops = scale_groups(view, clip)
    return QuantPlan(scales={name: _scale(tops[name]) for name in used}, edges=frozenset(edges), weights=weights)


def check_excluded(view: GraphView, exclude: Iterable[str]) -> frozenset[str]:
    """The names as a set. Raises `ConfigError` for one that no node has."""
    names = frozenset(exclude)
    unknown = sorted(names - {node.name for node in view.nodes})
    if unknown:
        raise ConfigError(f"exclude names {unknown}, which the model does not have")
    return names


def scale_groups(view: GraphView, clip: dict[str, float]) -> dict[str, float]:
    """Clip of every tensor after tensors that must share a scale were joined; a group takes its largest."""
    group = shared_groups(view, clip)
    tops: dict[str, float] = {}
    for name, value in clip.items():
        tops[group[name]] = max(tops.get(group[name], 0.0), value)
    return {name: tops[group[name]] for name in clip}


def shared_groups(
    view: GraphView, names: Iterable[str], among: Callable[[NodeProto], bool] | None = None
) -> dict[str, str]:
    """Name of the group of each tensor; tensors of one group must share a scale.

    Joined are the inputs and the output of a Concat, and the two sides of operators whose outputs are a selection or
    an average of their inputs (MaxPool, Resize, Reshape, ...), of all nodes or of those that `among` takes.
    """
    parent = {name: name for name in names}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in view.nodes:
        if node.op_type not in ("Concat", "Resize") and node.op_type not in _SAME_VALUES:
            continue
        for name in list(node.input) if node.op_type == "Concat" else list(node.input[:1]):
            if name in parent and node.output[0] in parent and (among is None or among(node)):
                parent[find(name)] = find(node.output[0])
    return {name: find(name) for name in parent}


def _scale(top: float) -> float:
    return top / 127.0 if top > 0 else 1.0


def carries_int8(node: NodeProto) -> bool:
    """Whether int8 in means the same int8 out: selections; of Resize only the nearest one, linear would round twice."""
    if node.op_type == "Resize":
        return attribute(node, "mode", b"nearest") == b"nearest"
    return node.op_type == "Concat" or node.op_type in _SAME_VALUES


def weight_axis(view: GraphView, node: NodeProto, *, grouped: bool = False) -> int | None:
    """Axis of the output channels of a weight that may be int8, or None; `grouped` allows grouped convolutions."""
    weight = view.weight(node)
    if weight is None or node.input[0] in view.constants:
        return None
    if node.op_type == "Conv":
        return 0 if grouped or attribute(node, "group", 1) == 1 else None
    if node.op_type in ("Gemm", "MatMul") and weight.ndim == 2 and min(weight.shape) >= _MIN_MATMUL:
        return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1
    return None


def makes_output(view: GraphView, node: NodeProto) -> bool:
    """Whether the node gives a graph output, directly or through elementwise operators and a Resize."""
    through = {"Sigmoid", "Softmax", "Identity", "Resize", "Clip", "Squeeze", "Reshape", "Flatten"}
    pending = [node.output[0]]
    while pending:
        name = pending.pop()
        if name in view.outputs:
            return True
        pending += [n.output[0] for n, _ in view.consumers.get(name, []) if n.op_type in through]
    return False


def _activation_edges(view: GraphView, quantized: set[str]) -> set[tuple[str, int]]:
    edges = {(name, 0) for name in quantized}
    for node in view.nodes:
        if node.op_type == "Add":
            edges |= _residual_edge(view, node, quantized)
    # walk up from the readers: an operator that carries int8 and feeds only int8 readers is quantized on its inputs too
    for node in reversed(view.nodes):
        readers = view.consumers.get(node.output[0], [])
        if not readers or not carries_int8(node) or node.output[0] in view.outputs:
            continue
        if all((reader.name, index) in edges for reader, index in readers):
            count = len(node.input) if node.op_type == "Concat" else 1
            edges |= {(node.name, index) for index in range(count) if node.input[index] not in view.constants}
    return edges


def _residual_edge(view: GraphView, node: NodeProto, quantized: set[str]) -> set[tuple[str, int]]:
    """The edge of an Add that gets Q/DQ: the branch beside the one that a quantized convolution makes for it alone."""
    if any(name in view.constants for name in node.input):
        return set()
    fused: Callable[[str], bool] = lambda name: (  # noqa: E731
        name in view.producer and view.producer[name].name in quantized and len(view.consumers[name]) == 1
    )
    for index in (0, 1):
        if fused(node.input[index]):
            return {(node.name, 1 - index)}
    return set()
