"""A model from anywhere, made to take exactly one input shape."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import shape_inference

from edge_export._graph import single_line
from edge_export.admit import admit
from edge_runtime.bundle.limits import DEFAULT_LIMITS
from edge_runtime.errors import ConfigError, LoweringError

__all__ = ["read_bytes", "read_model", "with_input_shape"]


def read_model(path: Path) -> onnx.ModelProto:
    """The ONNX model in `path`, as `admit` lets it pass. Raises `ConfigError` when it cannot be read."""
    return admit(read_bytes(path), name=str(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a model file, at least one and no more than a bundle holds. Raises `ConfigError`."""
    try:
        size, cap = path.stat().st_size, DEFAULT_LIMITS.member_bytes
        if size > cap:  # before it fills the memory
            raise ConfigError(f"{path} has {size:,} bytes; a bundle holds models of at most {cap:,}")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give an ONNX file") from error
    if not data:
        raise ConfigError(f"{path} is empty; give an ONNX file")
    return data


def with_input_shape(model: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    """`model` with its one input fixed to `shape` (N, C, H, W) and the shapes of the outputs that follow from it.

    Open dimensions (named or unknown) are filled in; fixed ones must be equal already. Raises `ConfigError` for another
    number of inputs, a shape that differs, and a model with the channels last; and `LoweringError` where an output's
    shape does not follow from the input's.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    weights = {item.name for item in fixed.graph.initializer}
    inputs = [item for item in fixed.graph.input if item.name not in weights]
    if len(inputs) != 1:
        raise ConfigError(f"the model has the inputs {[item.name for item in inputs]}; one, of frames, is packaged")
    tensor = inputs[0].type.tensor_type
    found = [dim.dim_value or None for dim in tensor.shape.dim]
    _check_shape(inputs[0].name, found, shape)
    for dim, size in zip(tensor.shape.dim, shape, strict=True):
        dim.dim_value = size
    if None in found:
        _infer_outputs(fixed, shape)
    return fixed


def _check_shape(name: str, found: list[int | None], shape: tuple[int, ...]) -> None:
    if len(found) == len(shape) and all(a is None or a == b for a, b in zip(found, shape, strict=True)):
        return
    shown = tuple("?" if size is None else size for size in found)
    last = (shape[0], *shape[2:], shape[1])
    if shape[1] != shape[-1] and len(found) == 4 and all(a is None or a == b for a, b in zip(found, last, strict=True)):
        raise ConfigError(
            f"input {name!r} has shape {shown}, channels last; {shape} (channels first) is needed. Convert the model "
            f"again with channels first (tf2onnx: --inputs-as-nchw {name} --outputs-as-nchw OUTPUT)"
        )
    raise ConfigError(f"input {name!r} of the model takes {shown} and preprocess gives {shape}; correct the size step")


def _infer_outputs(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    del model.graph.value_info[:]
    for item in model.graph.output:
        item.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:
        raise LoweringError(f"the model cannot take an input of {shape}: {single_line(error)}") from error
    for item, known in zip(model.graph.output, inferred.graph.output, strict=True):
        if not all(dim.dim_value > 0 for dim in known.type.tensor_type.shape.dim):
            raise LoweringError(
                f"the shape of output {item.name!r} does not follow from the input's {shape}; export the model with "
                "fixed sizes"
            )
        item.CopyFrom(known)
