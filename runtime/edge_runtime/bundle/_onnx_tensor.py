"""One `TensorProto`: the declared dims must be exactly what is stored in the file itself."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.bundle import _onnx_schema as schema
from edge_runtime.bundle._wire import Budget, count_varints, fields, varints
from edge_runtime.bundle.limits import Limits
from edge_runtime.errors import ModelRefusedError

__all__ = ["TENSOR_TYPES", "ConstantValues", "StoredTensor", "TensorType", "read_tensor", "text"]

ConstantValues = dict[str, tuple[float, ...]]
SMALL = 16  # elements: twice the largest rank, what a Pad needs
LONGEST_NAME = 1024


class TensorType(NamedTuple):
    """Name, bytes of an element, and the typed field that may hold it instead of `raw_data`."""

    name: str
    width: int
    field: str


TENSOR_TYPES = {
    1: TensorType("float32", 4, "float_data"),
    2: TensorType("uint8", 1, "int32_data"),
    3: TensorType("int8", 1, "int32_data"),
    4: TensorType("uint16", 2, "int32_data"),
    5: TensorType("int16", 2, "int32_data"),
    6: TensorType("int32", 4, "int32_data"),
    7: TensorType("int64", 8, "int64_data"),
    9: TensorType("bool", 1, "int32_data"),
    10: TensorType("float16", 2, "int32_data"),
    11: TensorType("float64", 8, "double_data"),
    12: TensorType("uint32", 4, "uint64_data"),
    13: TensorType("uint64", 8, "uint64_data"),
    16: TensorType("bfloat16", 2, "int32_data"),
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor held in the file: size in bytes as declared; the values of a small float32 or int64 one."""

    name: str
    size: int
    values: tuple[float, ...] | None


class _Content:
    """What the fields of a `TensorProto` said, before it is held against the dims."""

    def __init__(self) -> None:
        self.name = ""
        self.dims: list[int] = []
        self.data_type = 0
        self.raw: memoryview | None = None
        self.counts: dict[str, int] = {}
        self.first: list[int | memoryview] = []


def text(value: memoryview) -> str:
    """A name as text; `ModelRefusedError` when it is too long or not UTF-8."""
    if len(value) > LONGEST_NAME:
        raise ModelRefusedError(f"a name in the model has {len(value)} bytes; at most {LONGEST_NAME} are allowed")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise ModelRefusedError(f"a name in the model is not UTF-8: {error}") from error


def read_tensor(data: memoryview, limits: Limits, budget: Budget) -> StoredTensor:
    """The tensor in `data`.

    Raises `ModelRefusedError` on external data, a type not in `TENSOR_TYPES`, dims that differ from the stored values
    or exceed the limits.
    """
    content = _Content()
    for field, value in fields(data, schema.TENSOR, budget):
        _take(content, field, value, limits)
    kind = TENSOR_TYPES.get(content.data_type)
    if kind is None:
        raise ModelRefusedError(f"tensor {content.name!r} has element type {content.data_type}; numbers are allowed")
    count = math.prod(content.dims)
    if count > limits.elements:
        raise ModelRefusedError(f"tensor {content.name!r} declares {count} elements, over the cap of {limits.elements}")
    _check_stored(content, kind, count)
    return StoredTensor(name=content.name, size=count * kind.width, values=_values(content, kind.name, count))


def _take(content: _Content, field: str, value: int | memoryview, limits: Limits) -> None:
    if field == "external_data" or (field == "data_location" and value):
        where = repr(content.name) if content.name else "a tensor"
        raise ModelRefusedError(f"{where} keeps its values in another file (external data); store them in the model")
    if field in ("segment", "string_data"):
        raise ModelRefusedError(f"tensor {content.name!r} holds {field}; whole tensors of numbers are allowed")
    if field == "dims":
        for size in varints(value):
            content.dims.append(size)
            if size < 0 or len(content.dims) > limits.rank:
                raise ModelRefusedError(
                    f"tensor {content.name!r} has dims {content.dims}; not negative, at most {limits.rank} axes"
                )
    elif field == "data_type" and isinstance(value, int):
        content.data_type = value
    elif field == "name" and not isinstance(value, int):
        content.name = text(value)
    elif field == "raw_data" and not isinstance(value, int):
        content.raw = value
    elif field.endswith("_data"):
        _take_typed(content, field, value)


def _take_typed(content: _Content, field: str, value: int | memoryview) -> None:
    width = {"float_data": 4, "double_data": 8}.get(field)
    if width is None:
        count = count_varints(value)
    else:
        size = 0 if isinstance(value, int) else len(value)
        if size % width:
            raise ModelRefusedError(f"tensor {content.name!r} has {field} of {size} bytes, no multiple of {width}")
        count = size // width
    content.counts[field] = content.counts.get(field, 0) + count
    if content.counts[field] <= SMALL:
        content.first.append(value)


def _check_stored(content: _Content, kind: TensorType, count: int) -> None:
    stored = {field: number for field, number in content.counts.items() if number}
    if content.raw is not None and len(content.raw):
        stored["raw_data"] = len(content.raw)
    wanted = {"raw_data": count * kind.width} if "raw_data" in stored else {kind.field: count}
    if stored != {field: number for field, number in wanted.items() if number}:
        raise ModelRefusedError(
            f"tensor {content.name!r} of {kind.name} declares dims {content.dims} and stores {stored or 'nothing'}"
        )


def _values(content: _Content, kind: str, count: int) -> tuple[float, ...] | None:
    if count > SMALL or kind not in ("float32", "int64"):
        return None
    code = "f" if kind == "float32" else "q"
    if content.raw is not None and len(content.raw):
        return tuple(struct.unpack(f"<{count}{code}", content.raw))
    if kind == "int64":
        return tuple(number for part in content.first for number in varints(part))
    return tuple(v for part in content.first if not isinstance(part, int) for (v,) in struct.iter_unpack("<f", part))
