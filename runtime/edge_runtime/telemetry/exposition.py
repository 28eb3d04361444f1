"""A stream report in the text format of Prometheus (version 0.0.4), and the endpoint that serves it.

Seconds and totals, as Prometheus wants them. Latencies are summaries from the runtime's own histograms; a quantile
with too few samples behind it is left out rather than shown (0.999 below 10,000).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import fields
from types import TracebackType
from typing import TYPE_CHECKING

from edge_runtime.errors import PipelineError
from edge_runtime.streaming.ledger import LedgerSnapshot
from edge_runtime.streaming.report import StreamReport
from edge_runtime.streaming.table import LatencySummary
from edge_runtime.telemetry.gc_pauses import GcPauses

if TYPE_CHECKING:
    from edge_runtime.sinks.local_server import LocalServer

__all__ = ["CONTENT_TYPE", "MetricsServer", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "edge_runtime_"
Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]  # suffix of the name, labels, value


def exposition(report: StreamReport, pauses: GcPauses | None = None) -> str:
    """Every number of a report as text; `pauses` adds those of the garbage collector."""
    branches, sinks = report.branches, report.sinks
    families: list[tuple[str, str, str, Iterator[Sample]]] = [
        ("frames_arrived_total", "counter", "Frames that reached the branch.",
         (("", {"branch": name}, b.ledger.arrived) for name, b in branches.items())),
        ("frames_total", "counter", "Frames by what became of them, and why.",
         (s for name, b in branches.items() for s in _outcomes({"branch": name}, b.ledger))),
        ("frames_in_flight", "gauge", "Frames that are not settled yet.",
         (("", {"branch": name}, b.ledger.in_flight) for name, b in branches.items())),
        ("misses_total", "counter", "Frames without a fresh or degraded result by their deadline.",
         (("", {"branch": name}, b.ledger.misses) for name, b in branches.items())),
        ("longest_miss_run", "gauge", "Most misses in a row so far.",
         (("", {"branch": name}, b.ledger.longest_miss_run) for name, b in branches.items())),
        ("results_total", "counter", "New results by variant of the model.",
         (("", {"branch": name, "variant": v}, n) for name, b in branches.items() for v, n in b.variants.items())),
        ("budget_seconds", "gauge", "Budget of a frame from its arrival, where one is applied.",
         (("", {"branch": name}, b.budget_ms / 1e3)
          for name, b in branches.items() if b.budget_ms is not None and b.budget_applied)),
        ("latency_seconds", "summary", "Time of a frame by stage and wait; total is from arrival to result.",
         (s for name, b in branches.items() for stage, latency in b.latency.items()
          for s in _summary({"branch": name, "stage": stage}, latency))),
        ("sink_results_total", "counter", "Results by what became of them at the sink, and why.",
         (s for name, sink in sinks.items() for s in _outcomes({"sink": name}, sink.ledger))),
        ("sink_age_seconds", "summary", "From a frame's arrival to the end of its delivery.",
         (s for name, sink in sinks.items() for s in _summary({"sink": name}, sink.age))),
        ("sink_up", "gauge", "0 once the sink was disabled by an error.",
         (("", {"sink": name}, 0 if sink.error else 1) for name, sink in sinks.items())),
        ("events_total", "counter", "Events of the stream by kind.",
         (("", {"kind": kind}, n) for kind, n in report.event_counts.items())),
    ]  # fmt: skip
    if pauses is not None:
        summary = LatencySummary.of(pauses.histogram)
        longest: Iterator[Sample] = iter([("", {}, pauses.histogram.max_ns / 1e9)])
        families += [
            ("gc_pause_seconds", "summary", "Pauses by Python's garbage collector.", _summary({}, summary)),
            ("gc_longest_pause_seconds", "gauge", "The longest pause so far.", longest),
        ]
    return "".join(_family(*family) for family in families)


def _outcomes(labels: Labels, ledger: LedgerSnapshot) -> Iterator[Sample]:
    for outcome in ("fresh", "degraded", "stale"):
        yield "", {**labels, "outcome": outcome, "reason": ""}, getattr(ledger, outcome)
    for outcome, reasons in (("dropped", ledger.dropped), ("failed", ledger.failed)):
        for reason, n in reasons.items():
            yield "", {**labels, "outcome": outcome, "reason": reason}, n


def _summary(labels: Labels, latency: LatencySummary) -> Iterator[Sample]:
    for name in (field.name for field in fields(latency)):
        value = getattr(latency, name)
        if name[0] == "p" and name[1:].isdigit() and value is not None and name not in latency.too_few:
            yield "", {**labels, "quantile": f"0.{name[1:].rstrip('0')}"}, value / 1e3  # p50: 0.5, p999: 0.999
    yield "_sum", labels, latency.mean * latency.n / 1e3
    yield "_count", labels, latency.n


def _family(name: str, kind: str, help: str, samples: Iterator[Sample]) -> str:
    lines = [f"# HELP {_PREFIX}{name} {help}", f"# TYPE {_PREFIX}{name} {kind}"]
    for suffix, labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{_PREFIX}{name}{suffix}" + (f"{{{inside}}}" if inside else "") + f" {float(value)!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """A label's value: backslash, quote and line feed are escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class MetricsServer:
    """Serves `http://127.0.0.1:PORT/metrics`; `with` opens and closes it.

    `report` is asked at every scrape, in the thread of the client: give `lambda: pipeline.report`. Before the first
    stream there is nothing to report, and only the garbage collector's pauses, if any, are shown. `port` 0 takes
    any free one; `port` then says which. `host` and `other_host` as in `MjpegSink`.
    """

    def __init__(
        self,
        report: Callable[[], StreamReport],
        port: int,
        *,
        pauses: GcPauses | None = None,
        host: str = "127.0.0.1",
        other_host: bool = False,
    ) -> None:
        self.port = port
        self._report, self._pauses, self._host, self._other_host = report, pauses, host, other_host
        self._server: LocalServer | None = None

    def __enter__(self) -> MetricsServer:
        """Raises `ConfigError` for an address that is refused or cannot be had."""
        from edge_runtime.sinks.local_server import LocalServer

        self._server = LocalServer(
            {"/metrics": self._page}, port=self.port, host=self._host, other_host=self._other_host
        )
        self.port = self._server.port
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises `PipelineError` when a scrape failed for another reason than the client's own."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            if server.failure is not None and error is None:
                raise PipelineError(f"the metrics endpoint failed: {server.failure}") from server.failure

    def _page(self) -> tuple[str, Generator[bytes, None, None]]:
        try:
            report = self._report()
        except PipelineError:  # no stream yet
            report = StreamReport(configuration={}, duration_s=0.0, branches={}, sinks={}, warnings=())
        text = exposition(report, self._pauses)
        return CONTENT_TYPE, (part for part in (text.encode(),))
