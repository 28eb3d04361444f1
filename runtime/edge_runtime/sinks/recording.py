"""Frames and results in one file that can be played again: the opt-in flight recorder.

The file begins with `MAGIC`. Then come blocks: a head of 16 bytes (little endian: uint32 length of the JSON, uint64
length of the data, uint32 CRC-32 of both), the JSON, the data. Kinds of blocks: `frame` (times, shape and geometry; the
data are the pixels), `result` (what `JsonlSink` writes, and SHA-256 of the outputs), `end` (the account). No other text
of the source is kept; what is burnt into the pixels is kept, as pixels.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, PipelineError, SourceFormatError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle, Sector
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.sinks.partial_file import PartialFile
from edge_runtime.sinks.record import result_fields

__all__ = ["MAGIC", "Block", "RecorderSink", "frame_block", "output_digests", "read_block", "read_magic"]

MAGIC = b"edge-recording/1"

_HEAD = struct.Struct("<IQI")
_MAX_JSON = 1 << 20
_MAX_DATA = 1 << 31
_RESERVE = 4096  # bytes kept for the account


class RecorderSink(Sink):
    """Records every frame that a result was made for, with the result; `RecordingSource` plays it again.

    Without a stale result in between, or with steps that keep nothing from frame to frame, a replay on the first rung
    gives bit-equal outputs to those recorded as `fresh`: hold them against the digests. The account at the end says how
    many results of each state there are and how many frames in between were not recorded (dropped before a result, or
    by this sink). The file ends at `max_mb` MiB, which disables the sink and says so in the report; on the way it is
    called `NAME.partial` (`PartialFile`) and can be read up to where it was cut off. Pixels are written as they are,
    with whatever is burnt into them; tags, names and `Result.extra` are not written.
    """

    def __init__(
        self, path: str | Path, *, max_mb: float = 4096.0, branch: str | None = None, capacity: int = 16
    ) -> None:
        super().__init__(branch=branch, capacity=capacity)
        if not max_mb > 0:
            raise ConfigError(f"max_mb is {max_mb}; a recording needs room above 0 MiB")
        self._file = PartialFile(path)
        self._max_bytes = int(max_mb * 2**20)
        self._open = False
        self._last: Frame | None = None
        self._first_index = 0
        self._frames = 0
        self._states: Counter[str] = Counter()

    def open(self) -> None:
        """Raises `ConfigError` for a folder that is not there."""
        self._file.open()
        self._file.write(MAGIC)
        self._open, self._last, self._frames, self._states = True, None, 0, Counter()

    def write(self, result: Result) -> None:
        """Raises `PipelineError` when the file is full."""
        frame = result.frame
        known = self._last is not None and self._last is frame
        content = {"kind": "result", **result_fields(result), "digests": output_digests(result)}
        blocks = [] if known else [frame_block(frame)]
        blocks.append(_block(content))
        if self._file.size + sum(map(len, blocks)) > self._max_bytes - _RESERVE:
            raise PipelineError(f"the recording {self._file.path.name} is full at {self._max_bytes / 2**20:.3g} MiB")
        self._file.write(b"".join(blocks))
        if not known:
            self._first_index = frame.index if self._frames == 0 else self._first_index
            self._frames += 1
            self._last = frame
        self._states[result.state] += 1

    def close(self) -> None:
        if self._open:
            self._open = False
            span = 0 if self._last is None else self._last.index - self._first_index + 1
            account = {"frames": self._frames, "not_recorded": span - self._frames, "results": dict(self._states)}
            try:
                self._file.write(_block({"kind": "end", **account}))
            finally:
                self._last = None
                self._file.close()


def output_digests(result: Result) -> dict[str, str]:
    """SHA-256 of each array of a result (bytes in C order), by name; those that are None are left out."""
    arrays = {
        "mask": result.mask,
        "probability": result.probability,
        "image": result.image,
        "uncertainty_map": result.uncertainty_map,
        "instances": result.instances,
    }
    return {
        name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        for name, array in arrays.items()
        if array is not None
    }


def frame_block(frame: Frame) -> bytes:
    """The block of a frame, as `read_block` reads it."""
    return _block(_frame_fields(frame), frame.image.tobytes())


def _frame_fields(frame: Frame) -> dict[str, Any]:
    return {
        "kind": "frame",
        "index": frame.index,
        "arrival_ns": frame.arrival_ns,
        "device_ns": frame.device_ns,
        "shape": frame.image.shape,
        "geometry": msgspec.to_builtins(frame.geometry),
    }


def _block(content: dict[str, Any], data: bytes = b"") -> bytes:
    text = msgspec.json.encode(content)
    return _HEAD.pack(len(text), len(data), zlib.crc32(data, zlib.crc32(text))) + text + data


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block as it stands in the file: what it says, and its data unless they were skipped."""

    content: dict[str, Any]
    data: bytes | None
    damaged: bool

    def frame(self, arrival_ns: int) -> Frame:
        """The frame of a `frame` block that was read with its data."""
        shape = tuple(self.content["shape"])
        image: npt.NDArray[np.uint8] = np.frombuffer(bytearray(self.data or b""), np.uint8).reshape(shape)
        told = dict(self.content["geometry"])
        area = told.pop("scan_area")
        if area is not None:
            area = Sector(**area) if "apex_x" in area else Rectangle(**area)
        return Frame(
            image=image,
            index=self.content["index"],
            arrival_ns=arrival_ns,
            device_ns=self.content["device_ns"],
            geometry=FrameGeometry(**told, scan_area=area),
        )


def read_magic(file: BinaryIO, name: str) -> None:
    """Raises `SourceFormatError` unless `file` begins as a recording."""
    if (start := file.read(len(MAGIC))) != MAGIC:
        raise SourceFormatError(f"{name}: begins with {start!r}; a recording begins with {MAGIC!r}")


def read_block(file: BinaryIO, name: str, *, data: bool) -> Block | None:
    """The next block, with its `data` (and its checksum held against them) or without; None where the file ends.

    A block that was cut off counts as the end. `SourceFormatError` for lengths or JSON that no recording has.
    """
    at = file.tell()
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    text_size, data_size, checksum = _HEAD.unpack(head)
    if not 2 <= text_size <= _MAX_JSON or data_size > _MAX_DATA:
        raise SourceFormatError(f"{name}: no block of a recording at byte {at}; the file is damaged there")
    text = file.read(text_size)
    pixels = file.read(data_size) if data else b""
    if not data:
        end = file.seek(0, 2)
        if file.seek(at + _HEAD.size + text_size + data_size) > end:
            return None
    if len(text) < text_size or (data and len(pixels) < data_size):
        return None
    damaged = data and zlib.crc32(pixels, zlib.crc32(text)) != checksum
    try:
        content = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SourceFormatError(f"{name}: the block at byte {at} says nothing readable ({error})") from error
    return Block(content=content, data=pixels if data else None, damaged=damaged)
