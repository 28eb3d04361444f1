"""The one place that reads a foreign ONNX file and refuses what cannot go on, before anything runs it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from edge_export._graph import single_line
from edge_export._rules.base import label, read_constants
from edge_runtime.bundle import ALLOWED_OPERATORS
from edge_runtime.bundle.limits import DEFAULT_LIMITS
from edge_runtime.bundle.onnx_guard import CONTROL_FLOW
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["admit", "admit_frames"]

_REMOVED = frozenset({"Dropout"})  # by tidy


def admit(model: onnx.ModelProto | bytes, *, name: str = "the model") -> onnx.ModelProto:
    """The model, when it can be lowered: one file, whole, finite, with operators that the runtime knows.

    `name` is what messages call it (a path). Nothing outside the file is read, no tensor is allocated by what the
    file declares, nothing is run. Open axes pass here, an unknown rank does not. Raises `LoweringError` for bytes
    that are no ONNX model or more than a bundle holds, external or missing values, NaN or Inf in a constant, operators
    of other domains or outside the runtime's list, control flow, local functions, several inputs, an input that is
    not float32 or has no rank, and what `onnx.checker` refuses; the message names the node or the constant.
    """
    parsed = _parse(model, name)
    try:
        for problem in _problems(parsed):
            raise LoweringError(f"{name}: {problem}")
        onnx.checker.check_model(parsed, full_check=True)
    except LoweringError:
        raise
    except Exception as error:  # onnx and protobuf raise many kinds on what is not consistent
        raise LoweringError(f"{name}: onnx.checker refuses it: {single_line(error)}; export it again") from error
    return parsed


def admit_frames(inputs: Sequence[npt.NDArray[np.float32]], name: str, shape: tuple[int, ...]) -> None:
    """Hold the frames of a quantization calibration set against the model's input `name` of `shape`.

    A set in which every frame holds one value throughout gives ranges of nothing and is refused; single black frames
    among others are a part of real sweeps and pass. Raises `ConfigError` for no frames, another dtype or shape, values
    that are not finite, or a set without any picture in it.
    """
    if len(inputs) == 0:
        raise ConfigError("no inputs for quantization calibration; give preprocessed frames, never random numbers")
    flat = 0
    for index, sample in enumerate(inputs):
        if sample.dtype != np.float32 or sample.shape != shape:
            raise ConfigError(f"input {index} is {sample.dtype} {sample.shape}; {name!r} takes float32 {shape}")
        low, high = float(sample.min()), float(sample.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ConfigError(f"input {index} has values that are not finite; look at the preprocessing")
        flat += low == high
    if flat == len(inputs):
        raise ConfigError(
            f"all {flat} inputs for quantization calibration are constant (input 0 is {float(inputs[0].flat[0]):g} "
            "throughout); give frames that show something"
        )


def _parse(model: onnx.ModelProto | bytes, name: str) -> onnx.ModelProto:
    cap = DEFAULT_LIMITS.member_bytes
    size = len(model) if isinstance(model, bytes) else model.ByteSize()
    if size > cap:
        raise LoweringError(f"{name} has {size:,} bytes; a bundle holds models of at most {cap:,}")
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's own type, by version
        raise LoweringError(
            f"{name} is not an ONNX model: {single_line(error)}; give a file that an exporter wrote"
        ) from error


def _problems(model: onnx.ModelProto) -> Iterator[str]:
    """What stands against the model, the plainest first."""
    if not model.graph.node:
        yield "it holds no graph; it is no ONNX model, or was cut"
    if not any(item.domain in ("", "ai.onnx") for item in model.opset_import):
        yield "it imports no default operator set; export it with one (opset 18 is the default here)"
    if model.functions:
        yield f"it defines {len(model.functions)} functions; export with optimize=True so that they are inlined"
    if model.training_info:
        yield "it carries training information; export it for inference"
    yield from _constants(model)
    yield from _operators(model)
    yield from _ends(model)


def _constants(model: onnx.ModelProto) -> Iterator[str]:
    if model.graph.sparse_initializer:
        yield f"constant {model.graph.sparse_initializer[0].values.name!r} is sparse; store it dense"
    for tensor in _tensors(model.graph):
        shown = repr(tensor.name) if tensor.name else "of a node"
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield f"constant {shown} lies in another file (external data); export with external_data=False"
        count = math.prod(tensor.dims)
        if any(size < 0 for size in tensor.dims) or count > DEFAULT_LIMITS.elements:
            yield (
                f"constant {shown} declares the shape {list(tensor.dims)}; not negative and at most "
                f"{DEFAULT_LIMITS.elements:,} elements are allowed"
            )
    values, broken = read_constants(model)
    for name, reason in broken.items():
        yield f"constant {name!r} is not whole: {reason}; the file was cut or damaged, export it again"
    for name, value in values.items():
        bad = int(value.size - np.count_nonzero(np.isfinite(value))) if _floating(value) else 0
        if bad:
            reader = next((label(node) for node in model.graph.node if name in node.input), "nobody")
            yield f"constant {name!r} of {reader} has {bad} of {value.size} values NaN or Inf; the training diverged"


def _floating(value: npt.NDArray[np.generic]) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph, its attributes and its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            if item.type == AttributeProto.TENSOR or item.HasField("t"):
                yield item.t
            yield from item.tensors
            for inner in (*item.graphs, *([item.g] if item.HasField("g") else [])):
                yield from _tensors(inner)


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"operator at {label(node)}: {node.domain}.{node.op_type} is a custom operator; export without it"
        if node.op_type in CONTROL_FLOW:
            yield f"operator at {label(node)}: {node.op_type} is control flow; export with fixed shapes to unroll it"
        if node.op_type not in ALLOWED_OPERATORS | _REMOVED:
            yield (
                f"operator at {label(node)}: {node.op_type} is not on the runtime's list; replace it, or let it be "
                "decomposed"
            )
        if not _whole(node):
            yield f"node {label(node)} ({node.op_type}) has no output; the file is damaged, export it again"


def _whole(node: NodeProto) -> bool:
    return any(node.output)


def _ends(model: onnx.ModelProto) -> Iterator[str]:
    stored = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in stored]
    if len(inputs) != 1:
        yield f"it has inputs {[item.name for item in inputs][:8]}; exactly one is supported, fold the others"
    for item in inputs:
        tensor = item.type.tensor_type
        if item.type.WhichOneof("value") != "tensor_type" or tensor.elem_type != TensorProto.FLOAT:
            yield f"input {item.name!r} is no float32 tensor; cast inside the graph"
        if not tensor.HasField("shape"):
            yield f"input {item.name!r} has no rank (dynamic rank); export with a fixed shape"
        sizes = [axis.dim_value for axis in tensor.shape.dim if axis.HasField("dim_value")]
        if any(size < 1 for size in sizes) or math.prod(sizes) > DEFAULT_LIMITS.elements:
            yield (
                f"input {item.name!r} declares the sizes {sizes}; at least 1 each and at most "
                f"{DEFAULT_LIMITS.elements:,} elements are allowed"
            )
    if not model.graph.output:
        yield "it has no output"
