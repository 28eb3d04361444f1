"""The protobuf wire format, read-only and strict (protobuf.dev, "Encoding").

A parser of the real thing merges a message field that occurs twice, takes the last of a scalar that does, and skips
what it does not know. So two parsers can see different models in the same bytes. Here a singular field occurs at most
once, and every field is known with its wire type; what passes has one meaning.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import ModelRefusedError

__all__ = [
    "FIXED32", "FIXED64", "LEN", "VARINT", "Budget", "Field", "Message", "count_varints", "fields", "floats", "signed",
    "varints",
]  # fmt: skip

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5
_WIDTH = {FIXED64: 8, FIXED32: 4}


@dataclass(frozen=True)
class Field:
    """A field's name, wire type, and whether it may occur again; numbers that may are also read packed."""

    name: str
    wire: int
    repeated: bool = False


@dataclass(frozen=True)
class Message:
    """A message type: its name for error texts, its fields by number."""

    name: str
    fields: Mapping[int, Field]


class Budget:
    """How many fields may still be read; it bounds the time that a file of empty fields can take."""

    def __init__(self, left: int) -> None:
        self._left = self._all = left

    def spend(self) -> None:
        """Count one field; `ModelRefusedError` when there were too many."""
        self._left -= 1
        if self._left < 0:
            raise ModelRefusedError(f"the model has more than {self._all} protobuf fields (Limits.fields)")


def fields(data: memoryview, message: Message, budget: Budget) -> Iterator[tuple[str, int | memoryview]]:
    """Name and value of every field of `data`: an int for a varint, else a view of the bytes (a packed run whole).

    Raises `ModelRefusedError` on an unknown field, a wrong wire type, a second occurrence, a truncation.
    """
    position, seen = 0, set()
    while position < len(data):
        budget.spend()
        tag, position = _varint(data, position, longest=5)
        number, wire = tag >> 3, tag & 7
        field = message.fields.get(number)
        if wire in (3, 4) or field is None:
            raise ModelRefusedError(
                f"{message.name} has field {number} (wire type {wire}), which this reader does not know"
            )
        packed = wire == LEN and field.repeated and field.wire != LEN
        if wire != field.wire and not packed:
            raise ModelRefusedError(f"{message.name}.{field.name} has wire type {wire}; it is {field.wire}")
        if number in seen and not field.repeated:
            raise ModelRefusedError(f"{message.name}.{field.name} occurs twice; parsers differ on what that means")
        seen.add(number)
        value, position = _value(data, position, wire, f"{message.name}.{field.name}")
        yield field.name, value


def _value(data: memoryview, position: int, wire: int, where: str) -> tuple[int | memoryview, int]:
    if wire == VARINT:
        return _varint(data, position)
    width = _WIDTH.get(wire)
    if width is None:
        width, position = _varint(data, position, longest=5)
    end = position + width
    if end > len(data):
        raise ModelRefusedError(f"{where} has {width} bytes, {len(data) - position} are left: truncated")
    return data[position:end], end


def _varint(data: memoryview, position: int, longest: int = 10) -> tuple[int, int]:
    """The unsigned value at `position` and the position behind it; at most 64 bits (`longest` 10) or 32 (5)."""
    value, bits = 0, 64 if longest == 10 else 32
    for index in range(longest):
        if position + index >= len(data):
            raise ModelRefusedError("a number runs past the end of its message: truncated")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> bits:
                break
            return value, position + index + 1
    raise ModelRefusedError(f"a number has more than {bits} bits")


def signed(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - (1 << 64) if value >> 63 else value


def varints(value: int | memoryview) -> Iterator[int]:
    """The numbers of one occurrence of a repeated varint field, signed, packed or not."""
    if isinstance(value, int):
        yield signed(value)
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield signed(number)


def floats(value: memoryview) -> tuple[float, ...]:
    """The numbers of one occurrence of a repeated float field, packed or not."""
    if len(value) % 4:
        raise ModelRefusedError(f"a packed run of floats has {len(value)} bytes, no multiple of 4")
    return struct.unpack(f"<{len(value) // 4}f", value)


def count_varints(value: int | memoryview) -> int:
    """How many numbers one occurrence holds, without decoding them.

    Raises `ModelRefusedError` when a packed number is cut off or longer than 10 bytes.
    """
    if isinstance(value, int) or not len(value):
        return int(isinstance(value, int))
    last = np.flatnonzero(np.frombuffer(value, dtype=np.uint8) < 0x80)
    if not len(last) or last[-1] != len(value) - 1:
        raise ModelRefusedError("a packed run of numbers is cut off")
    if int(np.diff(last, prepend=-1).max()) > 10:
        raise ModelRefusedError("a packed number has more than 64 bits")
    return len(last)
