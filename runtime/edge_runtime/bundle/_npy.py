"""Golden arrays: the narrow part of the `.npy` format (NumPy NEP 1) that a bundle holds. No pickle, no guessing."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.limits import DEFAULT_LIMITS, Limits
from edge_runtime.errors import BundleFormatError

__all__ = ["npy_bytes", "parse_npy"]

HEADER = re.compile(
    rb"\{'descr': '([^']{1,16})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,10}, )*\d{1,10},?|)\), \} *\n"
)
LONGEST_HEADER = 1024


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """`array` as a `.npy` member: version 1.0, little-endian float32 ('<f4'), C order; the array is cast to float32."""
    values = np.ascontiguousarray(array, dtype="<f4").reshape(array.shape)
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {values.shape!r}, }}".encode("ascii")
    head += b" " * (-(len(head) + 11) % 64) + b"\n"  # data begin at a multiple of 64, as NumPy aligns them
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + values.tobytes()


def parse_npy(data: bytes, limits: Limits = DEFAULT_LIMITS) -> npt.NDArray[np.float32]:
    """The read-only float32 array in `data`.

    Takes versions 1.0, 2.0 and 3.0, '<f4', C order, the exact length, finite values. Raises `BundleFormatError`.
    """
    if len(data) > limits.array_bytes:
        raise BundleFormatError(
            f"array has {len(data)} bytes, over the cap of {limits.array_bytes} (Limits.array_bytes)"
        )
    start, shape = _parse_header(data)
    if len(shape) > limits.rank:
        raise BundleFormatError(f"array has {len(shape)} axes, over the cap of {limits.rank}")
    wanted = 4 * math.prod(shape)
    if len(data) - start != wanted:
        raise BundleFormatError(f"array of shape {shape} needs {wanted} bytes of values, {len(data) - start} are there")
    array = np.frombuffer(data, dtype="<f4", offset=start).reshape(shape)
    if not np.isfinite(array).all():
        raise BundleFormatError("array holds NaN or infinity; golden values are finite")
    return array.astype(np.float32, copy=False)


def _parse_header(data: bytes) -> tuple[int, tuple[int, ...]]:
    magic, version = data[:6], data[6:8]
    if magic != b"\x93NUMPY" or version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise BundleFormatError(f"array begins with {data[:8]!r}: not a .npy of version 1.0, 2.0 or 3.0")
    width = 2 if version == b"\x01\x00" else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    start = 8 + width + length
    if length > LONGEST_HEADER or start > len(data):
        raise BundleFormatError(f"array header says {length} bytes; at most {LONGEST_HEADER}, and inside the member")
    match = HEADER.fullmatch(data[8 + width : start])
    if match is None:
        raise BundleFormatError("array header is not the plain form that NumPy writes for a simple type")
    descr, fortran, dims = match.groups()
    if descr != b"<f4" or fortran != b"False":
        raise BundleFormatError(
            f"array is {descr.decode('latin-1')!r}, Fortran order {fortran.decode()}; '<f4' in C order"
        )
    return start, tuple(int(part) for part in dims.replace(b",", b" ").split())
