"""What a lint rule is, what it looks at, and the runtimes that read the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from edge_export._graph import GraphView, attribute, single_line
from edge_runtime.errors import EdgeError

__all__ = [
    "ALL",
    "CPU",
    "NVIDIA",
    "TARGETS",
    "Complaints",
    "Context",
    "LintTarget",
    "Rule",
    "TargetSpec",
    "label",
    "operand",
    "read_constants",
    "result",
]

LintTarget = Literal["jetpack6", "jetpack7", "tensorrt11", "rtx", "ort-cpu", "openvino"]
Complaints = Iterator[tuple[str, str]]  # (node name or "", message)
Array = npt.NDArray[np.generic]

NVIDIA: tuple[LintTarget, ...] = ("jetpack6", "jetpack7", "tensorrt11", "rtx")
CPU: tuple[LintTarget, ...] = ("ort-cpu", "openvino")
ALL: tuple[LintTarget, ...] = NVIDIA + CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A runtime that reads the file: the newest opset that is written for it, and why that one."""

    name: LintTarget
    max_opset: int
    reason: str


TARGETS: dict[LintTarget, TargetSpec] = {
    item.name: item
    for item in (
        TargetSpec(
            name="jetpack6", max_opset=18, reason="TensorRT 10.3; Q/DQ of opset 19 and later is not trodden on Orin"
        ),
        TargetSpec(name="jetpack7", max_opset=21, reason="TensorRT 10.13 and later, below the 24 that 10.15 documents"),
        TargetSpec(name="tensorrt11", max_opset=23, reason="newest opset that is tried with its parser family"),
        TargetSpec(name="rtx", max_opset=24, reason="TensorRT-RTX 1.7 builds opset 24"),
        TargetSpec(name="ort-cpu", max_opset=21, reason="ONNX Runtime releases that have Python 3.10 wheels"),
        TargetSpec(name="openvino", max_opset=21, reason="newest opset that is tried with OpenVINO's ONNX reader"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a rule looks at. `view` is None when the graph's types cannot be inferred (`problem` says why).

    `values` holds every constant (initializers and Constant nodes) that is whole and in the file; `broken` says of the
    others why not. Nothing outside the file is read.
    """

    model: onnx.ModelProto
    target: TargetSpec
    view: GraphView | None
    problem: str = ""
    values: dict[str, Array] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(model: onnx.ModelProto, target: TargetSpec) -> Context:
        """Index the model once for all rules."""
        values, broken = read_constants(model)
        view, problem = None, ""
        try:
            view = GraphView(model)
        except EdgeError as error:
            problem = single_line(error)
        return Context(model=model, target=target, view=view, problem=problem, values=values, broken=broken)

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.model.graph.node for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def elem(self, name: str) -> int:
        """`TensorProto.DataType` of a tensor; UNDEFINED (0) when it is not known."""
        kind = None if self.view is None else self.view.types.get(name)
        return TensorProto.UNDEFINED if kind is None else kind.elem

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The shape of a tensor; None when it is not known."""
        kind = None if self.view is None else self.view.types.get(name)
        return None if kind is None else kind.shape

    def named(self, name: str) -> str:
        """The name of the node that makes a tensor, or "" (an input or a constant)."""
        maker = self.makers.get(name)
        return "" if maker is None else label(maker)

    def read_by(self, name: str) -> str:
        """The name of the first node that reads a tensor, or "" when nobody does."""
        readers = self.readers.get(name)
        return label(readers[0]) if readers else ""

    def behind_casts(self, name: str) -> NodeProto | None:
        """The node that makes a tensor, Casts left out."""
        return self.makers.get(self.source(name))

    def source(self, name: str) -> str:
        """The tensor that a chain of Casts starts from."""
        seen = {name}
        node = self.makers.get(name)
        while node is not None and node.op_type == "Cast" and node.input and node.input[0] not in seen:
            name = node.input[0]
            seen.add(name)
            node = self.makers.get(name)
        return name

    def quantizers(self, *operators: str) -> Iterator[NodeProto]:
        """Every whole QuantizeLinear and DequantizeLinear, or those of them that are named."""
        for node in self.model.graph.node:
            wanted = node.op_type in (operators or ("QuantizeLinear", "DequantizeLinear"))
            if wanted and len(node.input) >= 2 and len(node.output) == 1:
                yield node


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table."""

    id: str
    check: Callable[[Context], Complaints]
    reason: str
    fix: str
    targets: tuple[LintTarget, ...] = ALL
    severity: Literal["error", "warning"] = "error"


def label(node: NodeProto) -> str:
    """How a node is called in a finding: its name, else its operator and first output."""
    return node.name or f"{node.op_type}->{next(iter(node.output), '?')}"


def operand(node: NodeProto, index: int) -> str:
    """The name at input `index` of a node, "" when it is absent."""
    return node.input[index] if len(node.input) > index else ""


def result(node: NodeProto) -> str:
    """The name of a node's first output, "" when it has none."""
    return node.output[0] if node.output else ""


def read_constants(model: onnx.ModelProto) -> tuple[dict[str, Array], dict[str, str]]:
    """Every whole constant in the file by name, and of each broken one why. External ones are in neither."""
    tensors = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto) and node.output:
            tensors[node.output[0]] = value
    values: dict[str, Array] = {}
    broken: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            continue  # a rule of its own; reading it would follow a path that the file gives
        try:
            values[name] = numpy_helper.to_array(tensor)
        except Exception as error:  # onnx and numpy raise half a dozen kinds here
            broken[name] = single_line(error)
    return values, broken
