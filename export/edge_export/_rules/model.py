"""Rules on the file as a whole: what it declares, what it brings along, where it begins and ends."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from edge_export._graph import default_opset, single_line
from edge_export._rules.base import Complaints, Context, Rule, label
from edge_runtime.bundle.onnx_guard import CONTROL_FLOW
from edge_runtime.errors import EdgeError, LoweringError

__all__ = ["RULES"]


def _types(context: Context) -> Complaints:
    if not context.model.graph.node:
        yield "", "the graph holds no node."
    if context.view is None:
        yield "", context.problem


def _opset(context: Context) -> Complaints:
    from edge_runtime.bundle.onnx_guard import MIN_OPSET

    try:
        found = default_opset(context.model)
    except LoweringError as error:
        yield "", single_line(error)
        return
    target = context.target
    if not MIN_OPSET <= found <= target.max_opset:
        yield "", f"opset {found}; {target.name} is served with {MIN_OPSET} to {target.max_opset} ({target.reason})."


def _external(context: Context) -> Complaints:
    for item in context.model.graph.initializer:
        if item.data_location == TensorProto.EXTERNAL or item.external_data:
            yield context.read_by(item.name), f"constant {item.name!r} lies in another file."


def _broken(context: Context) -> Complaints:
    for name, reason in context.broken.items():
        yield context.read_by(name), f"constant {name!r} is not whole: {reason}."


def _not_finite(context: Context) -> Complaints:
    for name, value in context.values.items():
        if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
            bad = int(value.size - np.count_nonzero(np.isfinite(value)))
            if bad:
                yield context.read_by(name), f"constant {name!r} has {bad} of {value.size} values NaN or Inf."


def _control_flow(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type in CONTROL_FLOW:
            yield label(node), f"{node.op_type} decides at run time what is computed."


def _operators(context: Context) -> Complaints:
    from edge_runtime.bundle import ALLOWED_OPERATORS

    for node in context.model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in ALLOWED_OPERATORS:
            yield label(node), f"operator {node.domain or 'ai.onnx'}.{node.op_type} is not on the runtime's list."


def _device_guard(context: Context) -> Complaints:
    from edge_runtime.bundle import inspect_model

    try:
        inspect_model(context.model.SerializeToString())
    except EdgeError as error:
        yield "", f"the device's guard refuses it: {single_line(error)}."
    except Exception as error:  # protobuf's own kinds, when the message is over 2 GB or not valid text
        yield "", f"the file cannot be written: {single_line(error)}."


def _rank(item: onnx.ValueInfoProto) -> int | None:
    """Axes of a tensor, None when they are not declared."""
    tensor = item.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _type_name(item: onnx.ValueInfoProto) -> str:
    if item.type.WhichOneof("value") != "tensor_type":
        return "no tensor"
    elem = item.type.tensor_type.elem_type
    return TensorProto.DataType.Name(elem).lower() if elem in TensorProto.DataType.values() else f"type {elem}"


def _inputs(context: Context) -> Complaints:
    stored = {item.name for item in context.model.graph.initializer}
    inputs = [item for item in context.model.graph.input if item.name not in stored]
    if len(inputs) != 1:
        yield "", f"the graph has {len(inputs)} inputs {[item.name for item in inputs][:8]}; the runtime feeds one."
    for item in inputs:
        if _type_name(item) != "float" or _rank(item) != 4:
            axes = "unknown" if _rank(item) is None else _rank(item)
            yield "", f"input {item.name!r} is {_type_name(item)} of rank {axes}; float32 NCHW is fed."


def _outputs(context: Context) -> Complaints:
    if not context.model.graph.output:
        yield "", "the graph has no output."
    for item in context.model.graph.output:
        if _type_name(item) != "float":
            yield context.named(item.name), f"output {item.name!r} is {_type_name(item)}; the runtime reads float32."


def _names(context: Context) -> Complaints:
    seen: set[str] = set()
    for node in context.model.graph.node:
        if not node.name or node.name in seen:
            yield label(node), f"{node.op_type} has {'the name of another node' if node.name else 'no name'}."
        seen.add(node.name)


def _leftovers(context: Context) -> Complaints:
    for node in context.model.graph.node:
        if node.op_type in ("BatchNormalization", "Constant", "Dropout", "Identity"):
            yield label(node), f"{node.op_type} is left in the graph."


RULES: tuple[Rule, ...] = (
    Rule(
        id="graph-types",
        check=_types,
        reason="types and shapes must be consistent",
        fix="run onnx.checker with full_check and mend the graph",
    ),
    Rule(
        id="opset",
        check=_opset,
        reason="a parser refuses, or misreads, operator sets that it was not written for",
        fix="export at opset 18, or lift the model with convert_opset",
    ),
    Rule(
        id="external-data",
        check=_external,
        reason="models reach a runner as bytes, never as a path",
        fix="export with external_data=False",
    ),
    Rule(
        id="constant-data",
        check=_broken,
        reason="a tensor must hold exactly the values that its shape declares",
        fix="export again; the file was cut or damaged",
    ),
    Rule(
        id="not-finite",
        check=_not_finite,
        reason="one NaN or Inf among the weights spoils every output that it reaches",
        fix="train again from the last finite checkpoint, or find the cast that overflowed",
    ),
    Rule(
        id="control-flow",
        check=_control_flow,
        reason="branches and loops hide graphs and may never end",
        fix="export with fixed shapes so that they are unrolled",
    ),
    Rule(
        id="operator",
        check=_operators,
        reason="the runtime loads listed operators only",
        fix="replace the operator, or let it be decomposed",
    ),
    Rule(
        id="device-guard",
        check=_device_guard,
        reason="the runtime reads the file through its guard",
        fix="see the message",
    ),
    Rule(
        id="inputs",
        check=_inputs,
        reason="the runtime feeds one float32 NCHW tensor",
        fix="fold the other inputs into constants; normalise and cast inside the graph",
    ),
    Rule(
        id="outputs",
        check=_outputs,
        reason="the runtime reads float32 outputs only",
        fix="give logits, or cast to float32 at the end of the graph",
    ),
    Rule(
        id="node-name",
        check=_names,
        reason="errors and read-backs name nodes; without names nobody finds them",
        fix="run tidy, which names every node",
        severity="warning",
    ),
    Rule(
        id="leftover",
        check=_leftovers,
        reason="should have been folded",
        fix="run tidy",
        severity="warning",
    ),
)
