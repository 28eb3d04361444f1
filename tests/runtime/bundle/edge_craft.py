"""Hand-made ONNX, ZIP and manifests: an encoder that knows nothing of the code under test, and can lie."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

# --- protobuf -----------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def f(number: int, value: int | float | str | bytes) -> bytes:
    """One field: int as varint, float as fixed32, text and bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, dims: tuple[int, ...], data_type: int = 1, raw: bytes | None = None, extra: bytes = b"") -> bytes:
    if raw is None:
        raw = bytes(int(np.prod(dims)) * {1: 4, 7: 8, 10: 2, 3: 1}[data_type])
    return b"".join(f(1, dim) for dim in dims) + f(2, data_type) + f(8, name) + f(9, raw) + extra


def int64s(name: str, values: list[int]) -> bytes:
    return tensor(name, (len(values),), 7, struct.pack(f"<{len(values)}q", *values))


def float32s(name: str, values: list[float]) -> bytes:
    return tensor(name, (len(values),), 1, struct.pack(f"<{len(values)}f", *values))


def value_info(name: str, shape: tuple[int, ...], elem_type: int = 1) -> bytes:
    dims = b"".join(f(1, f(1, dim)) for dim in shape)
    return f(1, name) + f(2, f(1, f(1, elem_type) + f(2, dims)))


def attribute(name: str, value: Any) -> bytes:
    """An attribute: int, list of ints, or ("t" | "g" | "sparse_tensor", message)."""
    if isinstance(value, int):
        return f(5, f(1, name) + f(3, value) + f(20, 2))
    if isinstance(value, list):
        return f(5, f(1, name) + b"".join(f(8, item) for item in value) + f(20, 7))
    number, kind = {"t": (5, 4), "g": (6, 5), "sparse_tensor": (22, 11)}[value[0]]
    return f(5, f(1, name) + f(number, value[1]) + f(20, kind))


def node(op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any) -> bytes:
    body = b"".join(f(1, name) for name in inputs) + b"".join(f(2, name) for name in outputs) + f(4, op)
    body += b"".join(attribute(name, value) for name, value in attributes.items())
    return body + (f(7, domain) if domain else b"")


def graph(
    nodes: Sequence[bytes],
    initializers: Sequence[bytes] = (),
    inputs: Sequence[bytes] = (),
    outputs: Sequence[bytes] = (),
) -> bytes:
    lists = [(1, nodes), (5, initializers), (11, inputs), (12, outputs)]
    return b"".join(f(number, item) for number, items in lists for item in items) + f(2, "g")


def model(body: bytes, opset: int = 17, extra: bytes = b"", domain: str = "") -> bytes:
    return f(1, 8) + f(7, body) + f(8, (f(1, domain) if domain else b"") + f(2, opset)) + extra


SHAPE = (1, 1, 4, 4)


def net(*nodes: bytes, initializers: Sequence[bytes] = (), opset: int = 17, extra: bytes = b"") -> bytes:
    """A whole model from "x" to "y", both (1, 1, 4, 4) float32."""
    io = {"inputs": [value_info("x", SHAPE)], "outputs": [value_info("y", SHAPE)]}
    return model(graph(nodes, initializers, **io), opset, extra)


def relu_net() -> bytes:
    return net(node("Relu", ["x"], ["y"]))


def endless_loop() -> bytes:
    """The body gives its condition back as true and the trip count is left out: it never ends."""
    body = graph(
        [node("Identity", ["c"], ["c2"]), node("Identity", ["v"], ["v2"])],
        inputs=[value_info("i", (), 7), value_info("c", (), 9), value_info("v", SHAPE)],
        outputs=[value_info("c2", (), 9), value_info("v2", SHAPE)],
    )
    true = tensor("t", (), 9, b"\1")
    return net(node("Loop", ["", "t", "x"], ["y"], body=("g", body)), initializers=[true])


# --- .npy ---------------------------------------------------------------------------------------------------------


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(header) + 1) + header.encode() + b"\n" + data


def zeros_npy(shape: tuple[int, ...] = SHAPE) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape!r}, }}"
    return npy(header, bytes(4 * int(np.prod(shape))))


# --- manifest -----------------------------------------------------------------------------------------------------

CONTENT = {
    "card.md": b"# Card\n",
    "evidence/dice.json": b'{"dice": 0.9}',
    "golden/0_in.npy": zeros_npy(),
    "golden/0_out.npy": zeros_npy(),
    "variants/a.onnx": relu_net(),
}


def manifest(content: dict[str, bytes] = CONTENT, **changes: Any) -> dict[str, Any]:
    """A valid manifest of `content` as plain values, with `changes` on top."""
    plain: dict[str, Any] = {
        "schema_version": 1,
        "name": "tiny",
        "version": "1.0",
        "created": "2026-01-31T12:00:00Z",
        "producer": "test",
        "task": "segmentation",
        "intended_use": "none",
        "input": {"name": "x", "shape": list(SHAPE)},
        "outputs": [{"name": "y", "shape": list(SHAPE), "kind": "mask_logits"}],
        "preprocess": {"steps": [{"step": "to_gray"}]},
        "variants": [
            {"id": "a", "model": "variants/a.onnx", "precision": "fp32", "opset": 17, "macs": 0, "parity_abs": 1e-4}
        ],
        "ladders": {"ort-cpu": ["a"]},
        "golden": [{"input": "golden/0_in.npy", "outputs": {"y": "golden/0_out.npy"}}],
        "evidence": [{"path": "evidence/dice.json", "title": "Dice"}],
        "card": "card.md",
        "members": [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in sorted(content.items())
        ],
    }
    return plain | changes


# --- ZIP ----------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """One member and the lies told about it: in both headers, in the local one, in the central one."""

    name: bytes
    data: bytes
    both: dict[str, int | bytes] = field(default_factory=dict)
    local: dict[str, int | bytes] = field(default_factory=dict)
    central: dict[str, int | bytes] = field(default_factory=dict)
    gap: bytes = b""  # before the local header


def _local(part: Part) -> bytes:
    v: dict[str, Any] = {
        "version": 20, "flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(part.data),
        "packed": len(part.data), "size": len(part.data), "name": part.name, "extra": b"",
    } | part.both | part.local  # fmt: skip
    numbers = (v["version"], v["flags"], v["method"], v["time"], v["date"], v["crc"], v["packed"], v["size"])
    return struct.pack("<4s5H3L2H", b"PK\3\4", *numbers, len(v["name"]), len(v["extra"])) + v["name"] + v["extra"]


def _central(part: Part, offset: int) -> bytes:
    v: dict[str, Any] = {
        "made_by": 0x314, "version": 20, "flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(part.data),
        "packed": len(part.data), "size": len(part.data), "name": part.name, "extra": b"", "comment": b"",
        "disk": 0, "internal": 0, "mode": 0o100644, "offset": offset,
    } | part.both | part.central  # fmt: skip
    head = (v["made_by"], v["version"], v["flags"], v["method"], v["time"], v["date"], v["crc"], v["packed"], v["size"])
    tail = (len(v["name"]), len(v["extra"]), len(v["comment"]), v["disk"], v["internal"], v["mode"] << 16, v["offset"])
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *head, *tail) + v["name"] + v["extra"] + v["comment"]


def zipped(parts: list[Part], *, prefix: bytes = b"", hidden: bytes = b"", suffix: bytes = b"", **end: int) -> bytes:
    """An archive; `prefix` shifts all offsets, `hidden` stands before the directory, `end` changes the end record."""
    out, central = prefix, b""
    for part in parts:
        out += part.gap
        central += _central(part, len(out))
        out += _local(part) + part.data
    out += hidden
    e = {"disk": 0, "start": 0, "here": len(parts), "total": len(parts), "size": len(central), "offset": len(out)}
    e |= {"comment": 0} | end
    return out + central + struct.pack("<4s4H2LH", b"PK\5\6", *e.values()) + suffix


def parts(content: dict[str, bytes] = CONTENT, document: Any = None, **changes: Any) -> list[Part]:
    """Manifest first, then `content` by path."""
    text = document if isinstance(document, bytes) else json.dumps(document or manifest(content, **changes)).encode()
    return [Part(b"manifest.json", text), *(Part(name.encode(), data) for name, data in sorted(content.items()))]


def edge(content: dict[str, bytes] = CONTENT, document: Any = None, **changes: Any) -> bytes:
    """A bundle as honest as its arguments."""
    return zipped(parts(content, document, **changes))


def lying(name: str, **lies: Any) -> bytes:
    """A good bundle but for the headers of one member; `lies` are fields of `Part`."""
    return zipped([replace(part, **lies) if part.name == name.encode() else part for part in parts()])


def with_model(data: bytes, **changes: Any) -> bytes:
    return edge(CONTENT | {"variants/a.onnx": data}, **changes)
