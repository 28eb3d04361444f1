"""Writing a new graph beside an old one: fresh names, stored constants, emitted nodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper

from edge_export._graph import GraphView, constant, replace_graph

__all__ = ["GraphWriter"]


class GraphWriter:
    """The nodes and constants of a graph that is being written from `view`; its names never clash with the view's.

    Subclasses fill `made`, which holds what was written once and is read by several.
    """

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.made: dict[tuple[object, ...], str] = {}
        self._counts: dict[str, int] = {}

    def finish(self) -> onnx.ModelProto:
        """The model written so far, with the view's inputs, outputs and operator set."""
        return replace_graph(self.view.model, self.nodes, self.initializers.values())

    def keep(self, tensor: TensorProto) -> str:
        """Take over a constant as it is; its name."""
        self.initializers.setdefault(tensor.name, tensor)
        return tensor.name

    def store(self, letter: str, array: npt.NDArray[np.generic]) -> str:
        """Store a new constant under a fresh name."""
        name = self.fresh(letter)
        self.initializers[name] = constant(name, array)
        return name

    def emit(
        self, operator: str, letter: str, inputs: list[str], *, axis: int | None = None, output: str | None = None
    ) -> str:
        """Append a node; the name of its one output, fresh unless `output` names it."""
        name = self.fresh(letter)
        node = helper.make_node(operator, inputs, [output or name], name=name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return output or name

    def fresh(self, letter: str) -> str:
        """A name that neither graph has."""
        while True:
            number = self._counts[letter] = self._counts.get(letter, -1) + 1
            name = f"{letter}{number}"
            if name not in self.view.types and name not in self.view.producer:
                return name
