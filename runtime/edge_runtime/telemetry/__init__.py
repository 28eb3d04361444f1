"""What a running stream tells about itself: a trace of every frame, numbers for Prometheus, pauses of the collector."""

from edge_runtime.telemetry.exposition import MetricsServer, exposition
from edge_runtime.telemetry.gc_pauses import GcPause, GcPauses
from edge_runtime.telemetry.trace import TraceWriter, read_trace

__all__ = ["GcPause", "GcPauses", "MetricsServer", "TraceWriter", "exposition", "read_trace"]
