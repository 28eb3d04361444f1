from __future__ import annotations

import gc
import http.client
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, PipelineError
from edge_runtime.metrics.latency import LatencyHistogram
from edge_runtime.sinks import CallbackSink
from edge_runtime.sources import ArraySource
from edge_runtime.streaming import BranchReport, LatencySummary, LedgerSnapshot, StreamReport
from edge_runtime.telemetry import GcPauses, MetricsServer, exposition
from edge_runtime.telemetry.exposition import CONTENT_TYPE


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Name and labels -> value, as Prometheus' own client reads it."""
    reader = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    found = {}
    for family in reader.text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("counter", "gauge", "summary")
        for sample in family.samples:
            key = (sample.name.removeprefix("edge_runtime_"), frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def failing(result: object) -> None:
    raise ValueError("a sink's bug")


@pytest.fixture
def report(pipeline: Callable[..., Any]) -> StreamReport:
    sinks = {"view": CallbackSink(lambda result: None), "bad": CallbackSink(failing)}
    made: StreamReport = pipeline(sinks=sinks, fail_at=(3,)).run(ArraySource(np.zeros((40, 16, 16), np.uint8)))
    return made


def test_the_text_says_what_the_report_says(report: StreamReport) -> None:
    with GcPauses() as pauses:
        gc.collect()
    found = parsed(exposition(report, pauses))
    assert found[key("frames_arrived_total", branch="seg")] == 40
    assert found[key("frames_total", branch="seg", outcome="fresh", reason="")] == 39
    assert found[key("frames_total", branch="seg", outcome="failed", reason="infer: InferenceError")] == 1
    assert found[key("misses_total", branch="seg")] == 1
    assert found[key("longest_miss_run", branch="seg")] == 1
    assert found[key("frames_in_flight", branch="seg")] == 0
    assert found[key("results_total", branch="seg", variant="fake")] == 39
    assert key("budget_seconds", branch="seg") not in found  # an array waits: no budget was applied
    assert found[key("sink_up", sink="view")] == 1
    assert found[key("sink_up", sink="bad")] == 0
    assert found[key("gc_pause_seconds_count")] >= 1
    arrived = sum(v for (name, labels), v in found.items() if name == "frames_total")
    assert arrived == 40
    total = report.branches["seg"].latency["total"]
    labels = {"branch": "seg", "stage": "total"}
    assert found[key("latency_seconds_count", **labels)] == 39
    assert found[key("latency_seconds_sum", **labels)] == pytest.approx(total.mean * 39 / 1e3)
    assert total.p50 is not None
    assert found[key("latency_seconds", quantile="0.5", **labels)] == pytest.approx(total.p50 / 1e3)
    assert key("latency_seconds", quantile="0.99", **labels) not in found  # 39 samples cannot say
    parts = sum(v for (name, labels), v in found.items() if name == "latency_seconds_sum") / 2
    assert parts == pytest.approx(found[key("latency_seconds_sum", **labels)])


def test_the_lines_are_those_of_the_format(report: StreamReport) -> None:
    text = exposition(report)
    assert text.endswith("\n")
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) > 10
    for line in text.splitlines():
        assert line.startswith("#") or len(line.rsplit(" ", 1)) == 2


def of_samples(n: int) -> StreamReport:
    histogram = LatencyHistogram()
    for _ in range(n):
        histogram.record(1_000_000)
    ledger = LedgerSnapshot(
        arrived=n, fresh=n, degraded=0, stale=0, dropped={'a "b"\\\n': 1}, failed={}, in_flight=0, misses=0,
        longest_miss_run=0,
    )  # fmt: skip
    branch = BranchReport(
        ledger=ledger, latency={"total": LatencySummary.of(histogram)}, ladder=(), budget_ms=33.0, budget_applied=True,
        cadence=1, policy="", variants={}, decisions={}, recent_decisions=(), pool_slots=1, pool_held=0, errors={},
    )  # fmt: skip
    return StreamReport(configuration={}, duration_s=1.0, branches={"seg": branch}, sinks={}, warnings=())


@pytest.mark.parametrize(("n", "shown"), [(0, set()), (19, set()), (20, {"0.5"}), (1000, {"0.5", "0.99"})])
def test_a_quantile_without_samples_behind_it_is_left_out(n: int, shown: set[str]) -> None:
    found = parsed(exposition(of_samples(n)))
    assert {dict(labels)["quantile"] for _, labels in found if "quantile" in dict(labels)} == shown
    assert found[key("budget_seconds", branch="seg")] == 0.033


@pytest.mark.parametrize(("n", "shown"), [(9_999, False), (10_000, True)])
def test_p999_is_refused_below_ten_thousand(n: int, shown: bool) -> None:
    found = parsed(exposition(of_samples(n)))
    assert (key("latency_seconds", branch="seg", stage="total", quantile="0.999") in found) is shown


def test_labels_are_escaped() -> None:
    found = parsed(exposition(of_samples(1)))
    assert found[key("frames_total", branch="seg", outcome="dropped", reason='a "b"\\\n')] == 1


def scraped(port: int, path: str = "/metrics", **headers: str) -> tuple[int, str | None, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.getheader("Content-Type"), answer.read().decode()
    connection.close()
    return found


def test_the_endpoint_serves_the_stream_as_it_stands(pipeline: Callable[..., Any]) -> None:
    made = pipeline()
    with MetricsServer(lambda: made.report, 0, pauses=GcPauses()) as server:
        status, kind, text = scraped(server.port)
        assert (status, kind) == (200, CONTENT_TYPE)
        assert not any(name == "frames_arrived_total" for name, _ in parsed(text))
        seen = []
        for result in made.stream(ArraySource(np.zeros((5, 16, 16), np.uint8))):
            seen.append(parsed(scraped(server.port)[2])[key("frames_arrived_total", branch="seg")])
            assert result.frame.index == len(seen) - 1
        assert len(seen) == 5
        assert seen == sorted(seen)
        assert parsed(scraped(server.port)[2])[key("frames_arrived_total", branch="seg")] == 5
        assert scraped(server.port, "/")[0] == 404
        assert scraped(server.port, Host="evil.example")[0] == 403


def test_others_may_not_look_in_and_errors_are_raised_at_the_end() -> None:
    def broken() -> StreamReport:
        raise ValueError("a bug")

    with pytest.raises(ConfigError, match="other_host=True"), MetricsServer(broken, 0, host="0.0.0.0"):
        pass
    with pytest.raises(PipelineError, match="a bug"), MetricsServer(broken, 0) as server:
        assert scraped(server.port)[0] == 500
