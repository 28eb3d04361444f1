"""Header and pixels of a one-file image: bounded reading, and unpacking that never makes more than was declared."""

from __future__ import annotations

import os
import zlib
from typing import BinaryIO

from edge_runtime.errors import SourceFormatError

__all__ = ["GZIP", "ZLIB", "inflate", "read_body", "read_until"]

ZLIB, GZIP = 15, 31  # wbits of zlib.decompressobj
DEFLATE_RATIO = 1032  # no deflate stream grows by more
CHUNK = 1 << 16


def read_until(file: BinaryIO, marks: tuple[bytes, ...], limit: int) -> bytes | None:
    """Bytes up to and including the first of `marks`, leaving `file` behind it; None without one in `limit` bytes."""
    head = bytearray()
    overlap = max(map(len, marks)) - 1
    while len(head) < limit and (chunk := file.read(min(CHUNK, limit - len(head)))):
        start = max(0, len(head) - overlap)
        head += chunk
        ends = [at + len(mark) for mark in marks if (at := head.find(mark, start)) >= 0]
        if ends:
            file.seek(min(ends))
            return bytes(head[: min(ends)])
    return None


def read_body(file: BinaryIO, size: int, wbits: int | None, name: str) -> bytes:
    """Exactly `size` bytes of pixels from here to the end of `file`, packed with `wbits` or (None) stored.

    Nothing of the declared size is allocated before the file is known to be long enough for it.
    """
    left = os.fstat(file.fileno()).st_size - file.tell()
    if size > left * (1 if wbits is None else DEFLATE_RATIO):
        raise SourceFormatError(f"{name}: {size} bytes of pixels are declared and {left} are stored; it was cut short")
    if wbits is None:
        if left != size:
            raise SourceFormatError(f"{name}: {left} bytes of data where {size} are declared")
        return file.read(size)
    return inflate(file.read(left), size, wbits, name)


def inflate(packed: bytes, size: int, wbits: int, name: str) -> bytes:
    """The `size` bytes that `packed` holds; `SourceFormatError` when they are damaged, fewer or more."""
    unpacker = zlib.decompressobj(wbits)
    try:
        body = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise SourceFormatError(f"{name}: the packed data are damaged ({error})") from error
    if len(body) == size and not unpacker.eof:
        raise SourceFormatError(f"{name}: the packed data end early, without their checksum")
    if len(body) != size:
        raise SourceFormatError(
            f"{name}: {'at least ' if len(body) > size else ''}{len(body)} bytes of data where {size} are declared"
        )
    return body
