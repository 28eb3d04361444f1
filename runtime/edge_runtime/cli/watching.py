"""What `edge-runtime run` shows and writes beside the report: live view, results, frames, trace, metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from edge_runtime.errors import PipelineError
from edge_runtime.sinks import JsonlSink, MjpegSink, RecorderSink, Sink
from edge_runtime.streaming import Pipeline, StreamReport
from edge_runtime.telemetry import GcPauses, MetricsServer, TraceWriter

__all__ = ["SINK_NAMES", "Watching", "watching"]

# option -> name of the sink that it adds
SINK_NAMES = {"ndjson": "ndjson", "mjpeg_port": "live view", "save_frames": "recorder"}


@dataclass(slots=True, kw_only=True)
class Watching:
    """What was asked for: sinks by name, the trace, and the pauses of the garbage collector."""

    sinks: dict[str, Sink]
    pauses: GcPauses
    trace: TraceWriter | None
    pipelines: list[Pipeline] = field(default_factory=list)

    @property
    def hooks(self) -> dict[str, Any]:
        """Keywords of `run_stream` and `run_config`."""
        return {"sinks": self.sinks, "observe": self.trace, "started": self.pipelines.append}

    def report(self) -> StreamReport:
        """Of the stream as it stands; `PipelineError` before it starts."""
        if not self.pipelines:
            raise PipelineError("no stream has been started yet")
        return self.pipelines[0].report

    def pauses_text(self) -> str:
        """One line on the garbage collector."""
        told = self.pauses.to_dict()
        total, longest = (f"{told[name]:.2f} ms" for name in ("total_ms", "longest_ms"))
        return f"garbage collection, warm-up included: {told['pauses']} pauses, {total} in all, the longest {longest}\n"


@contextmanager
def watching(
    *,
    ndjson: Path | None,
    mjpeg_port: int | None,
    save_frames: Path | None,
    trace: Path | None,
    metrics_port: int | None,
) -> Iterator[Watching]:
    """Make ready what was asked for, and finish it at the end."""
    sinks: dict[str, Sink] = {}
    if ndjson is not None:
        sinks[SINK_NAMES["ndjson"]] = JsonlSink(ndjson)
    if mjpeg_port is not None:
        sinks[SINK_NAMES["mjpeg_port"]] = MjpegSink(mjpeg_port)
        typer.echo(f"live view: http://127.0.0.1:{mjpeg_port}/", err=True)
    if save_frames is not None:
        sinks[SINK_NAMES["save_frames"]] = RecorderSink(save_frames)
    with ExitStack() as stack:
        writer = None if trace is None else stack.enter_context(TraceWriter(trace))
        pauses = stack.enter_context(GcPauses(note=None if writer is None else writer.pause))
        watch = Watching(sinks=sinks, pauses=pauses, trace=writer)
        if metrics_port is not None:
            stack.enter_context(MetricsServer(watch.report, metrics_port, pauses=pauses))
            typer.echo(f"metrics: http://127.0.0.1:{metrics_port}/metrics", err=True)
        yield watch
