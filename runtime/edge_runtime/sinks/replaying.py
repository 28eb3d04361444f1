"""`RecordingSource`: the frames of a recording, as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import CorruptFrameError, EdgeError, SourceError, SourceFormatError
from edge_runtime.frame import Frame
from edge_runtime.sinks.recording import Block, read_block, read_magic
from edge_runtime.sources.base import Source

__all__ = ["RecordingSource"]


class _FrameBlock(msgspec.Struct, frozen=True, kw_only=True):
    """What the index needs of a `frame` block; `msgspec.convert` refuses another shape."""

    index: int
    arrival_ns: int
    device_ns: int | None
    shape: tuple[int, ...]


class RecordingSource(Source):
    """Plays what `RecorderSink` wrote: pixels, index, `device_ns` and geometry bit-equal, `arrival_ns` that of now.

    Frames are due (`PacedSource`) at their recorded times of arrival. `results` holds what was recorded of every
    result, in order, with the digests of its outputs; `account` the account at the end, None when the recording was
    cut off, of which `timing_note` then tells. A frame whose checksum does not fit is a `CorruptFrameError`, and
    reading goes on after it. Raises `SourceFormatError` for another kind of file and for damage between blocks.
    """

    def __init__(self, path: str | Path, *, clock: Clock | None = None) -> None:
        self._path = Path(path)
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise SourceError(f"{path}: cannot be opened: {error.strerror}") from error
        self.results: tuple[dict[str, Any], ...] = ()
        self.account: dict[str, Any] | None = None
        self._offsets: list[int] = []
        self._frames: list[_FrameBlock] = []
        try:
            self._scan()
        except EdgeError:
            self._file.close()
            raise
        times = [frame.arrival_ns for frame in self._frames]
        span = times[-1] - times[0] if times else 0
        super().__init__(
            name=self._path.name,
            frame_count=len(times),
            fps=(len(times) - 1) * 1e9 / span if span > 0 else None,
            timing_note="times of arrival as recorded" + ("" if self.account else "; the recording was cut off"),
            clock=clock,
        )
        self._position = 0

    def due_ns(self, index: int) -> int | None:
        if index < len(self._frames):
            return self._frames[index].arrival_ns - self._frames[0].arrival_ns
        return super().due_ns(index)

    def _scan(self) -> None:
        """Find every frame, without its pixels, and read every result."""
        results = []
        read_magic(self._file, str(self._path))
        at = self._file.tell()
        while (block := read_block(self._file, str(self._path), data=False)) is not None:
            kind = block.content.get("kind")
            if kind == "frame":
                self._offsets.append(at)
                self._frames.append(self._checked(block))
            elif kind == "result":
                results.append(block.content)
            elif kind == "end":
                self.account = {key: value for key, value in block.content.items() if key != "kind"}
            else:
                raise SourceFormatError(f"{self._path}: a block of kind {kind!r}; frame, result and end are read")
            at = self._file.tell()
        self.results = tuple(results)

    def _checked(self, block: Block) -> _FrameBlock:
        try:
            return msgspec.convert(block.content, _FrameBlock)
        except msgspec.ValidationError as error:
            raise SourceFormatError(f"{self._path}: a frame block that is none ({error})") from error

    def _next(self) -> Frame | None:
        if self._position >= len(self._offsets):
            return None
        position = self._position
        self._position += 1
        self._file.seek(self._offsets[position])
        block = read_block(self._file, str(self._path), data=True)
        if block is None or block.damaged:
            raise CorruptFrameError(f"{self._path}: frame {position} does not fit its checksum", position)
        try:
            return block.frame(self._clock.now_ns())
        except (EdgeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise CorruptFrameError(f"{self._path}: frame {position} makes no sense ({error})", position) from error

    def _rewind(self) -> None:
        self._position = 0

    def _release(self) -> None:
        self._file.close()
