"""What `edge-runtime run` shows and writes beside the report: live view, results, frames; pauses of the collector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from edge_runtime.sinks import JsonlSink, MjpegSink, RecorderSink, Sink
from edge_runtime.telemetry import GcPauses

__all__ = ["Watching", "watching"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """What was asked for: sinks by name, and the pauses of the garbage collector."""

    sinks: dict[str, Sink]
    pauses: GcPauses

    def pauses_text(self) -> str:
        """One line on the garbage collector."""
        told = self.pauses.to_dict()
        total, longest = (f"{told[name]:.2f} ms" for name in ("total_ms", "longest_ms"))
        return f"garbage collection, warm-up included: {told['pauses']} pauses, {total} in all, the longest {longest}\n"


@contextmanager
def watching(*, ndjson: Path | None, mjpeg_port: int | None, save_frames: Path | None) -> Iterator[Watching]:
    """Make ready what was asked for, and finish it at the end."""
    sinks: dict[str, Sink] = {}
    if ndjson is not None:
        sinks["ndjson"] = JsonlSink(ndjson)
    if mjpeg_port is not None:
        sinks["live view"] = MjpegSink(mjpeg_port)
        typer.echo(f"live view: http://127.0.0.1:{mjpeg_port}/", err=True)
    if save_frames is not None:
        sinks["recorder"] = RecorderSink(save_frames)
    with ExitStack() as stack:
        yield Watching(sinks=sinks, pauses=stack.enter_context(GcPauses()))
