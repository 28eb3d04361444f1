"""`TraceWriter`: the trace of a stream on disk while it runs, for ui.perfetto.dev and chrome://tracing."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from edge_runtime.clock import Clock, MonotonicClock
from edge_runtime.errors import ConfigError, PipelineError, SourceFormatError
from edge_runtime.sinks.partial_file import PartialFile
from edge_runtime.streaming.records import StreamRecord
from edge_runtime.telemetry.gc_pauses import GcPause
from edge_runtime.telemetry.trace_events import Event, TraceEvents

__all__ = ["TraceWriter", "read_trace"]

_EVERY_S = 0.2
_WAITING = 16384  # records between two turns of the writer
_RESERVE = 512  # bytes kept for the last event


class TraceWriter:
    """An observer (`Pipeline(observe=...)`) that writes what it is told as a trace; `with` opens and closes it.

    A call keeps the record and returns; a thread writes five times a second, so neither a slow disk nor a full one
    reaches the stream. Bounded: 16384 records may wait, and the file ends at `max_mb` MiB. What did not fit is counted
    in `left_out`, and the last event of the trace says so. One event a line; a file that a crash left (`.partial`)
    lacks only the closing bracket, which the format leaves out by right, and what came after the last write.
    """

    def __init__(self, path: str | Path, *, max_mb: float = 256.0, clock: Clock | None = None) -> None:
        if not max_mb > 0:
            raise ConfigError(f"max_mb is {max_mb}; a trace needs room above 0 MiB")
        self.left_out = 0
        self.error: OSError | None = None
        self._file = PartialFile(path)
        self._max_bytes = int(max_mb * 2**20)
        self._clock: Clock = clock or MonotonicClock()
        self._events = TraceEvents(self._clock.now_ns())
        self._records: deque[StreamRecord] = deque()
        self._pauses: deque[GcPause] = deque(maxlen=_WAITING)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)

    def __enter__(self) -> TraceWriter:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Make the file and start writing. Raises `ConfigError` for a place that cannot be written."""
        self._file.open()
        try:
            self._file.write(b"[\n" + msgspec.json.encode(self._events.named()))
        except OSError as error:
            raise ConfigError(f"{self._file.path} cannot be written: {error.strerror}; name another file") from error
        self._thread.start()

    def __call__(self, record: StreamRecord) -> None:
        """Take a record; quick, from any thread."""
        if len(self._records) >= _WAITING:
            with self._lock:
                self.left_out += 1
        else:
            self._records.append(record)

    def pause(self, pause: GcPause) -> None:
        """Take a pause of the garbage collector (`GcPauses(note=...)`); takes no lock."""
        self._pauses.append(pause)

    def close(self) -> None:
        """Write the rest and finish the file. Raises `PipelineError` when the trace is not whole for want of a disk."""
        if self._closing.is_set() or not self._thread.is_alive():
            return
        self._closing.set()
        self._thread.join()
        if self.error is not None:
            raise PipelineError(
                f"the trace {self._file.path.name} is cut off: {self.error.strerror or self.error}; what was written "
                f"is in {self._file.partial.name}"
            )

    def _run(self) -> None:
        try:
            while not self._closing.wait(_EVERY_S):
                self._drain()
            self._drain()
            self._end()
        except OSError as error:
            self.error = error
            while not self._closing.wait(_EVERY_S):
                self._forget()
            self._forget()
        finally:
            self._file.close()

    def _drain(self) -> None:
        lines: list[bytes] = []
        for waiting in (self._records, self._pauses):
            for _ in range(len(waiting)):
                events = self._events.of(waiting.popleft())
                lines += [msgspec.json.encode(event) for event in events]
        if lines:
            self._put(lines)

    def _put(self, lines: list[bytes]) -> None:
        """Write as many events as there is room for, in one piece."""
        room = self._max_bytes - _RESERVE - self._file.size
        fitting = 0
        while fitting < len(lines) and room >= len(lines[fitting]) + 2:
            room -= len(lines[fitting]) + 2
            fitting += 1
        if fitting:
            self._file.write(b"".join(b",\n" + line for line in lines[:fitting]))
        if fitting < len(lines):
            self._max_bytes = 0  # full: later, shorter events would be out of their place
            with self._lock:
                self.left_out += len(lines) - fitting

    def _forget(self) -> None:
        with self._lock:
            self.left_out += len(self._records)
        self._records.clear()
        self._pauses.clear()

    def _end(self) -> None:
        left_out = self.left_out + self._events.left_out
        end = self._events.note("end of the trace", self._clock.now_ns(), {"left out": left_out})
        self._file.write(b",\n" + msgspec.json.encode(end) + b"\n]\n")


def read_trace(path: str | Path) -> list[Event]:
    """The events of a trace, whole or cut off anywhere; a last line that was cut off is left out.

    Raises `SourceFormatError` for another kind of file.
    """
    text = Path(path).read_bytes()
    if not text.startswith(b"[\n"):
        raise SourceFormatError(f"{path}: not a trace of events (it does not begin with a bracket and a line end)")
    lines = text[2:].removesuffix(b"\n]\n").split(b",\n")
    events: list[Any] = []
    for number, line in enumerate(lines):
        try:
            events.append(msgspec.json.decode(line, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number < len(lines) - 1:
                raise SourceFormatError(f"{path}, event {number + 1}: not a JSON object ({error})") from error
    return events
