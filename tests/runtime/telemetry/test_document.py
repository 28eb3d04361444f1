"""docs/telemetry.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.metrics.latency import LatencyHistogram
from edge_runtime.sinks.recording import MAGIC
from edge_runtime.streaming import StreamReport
from edge_runtime.telemetry import GcPauses, exposition

TEXT = (Path(__file__).parents[3] / "docs" / "telemetry.md").read_text(encoding="utf-8")


def test_every_metric_is_in_the_table_and_the_table_has_no_other() -> None:
    section = TEXT.split("## Metrics for Prometheus")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    empty = StreamReport(configuration={}, duration_s=0.0, branches={}, sinks={}, warnings=())
    assert named == set(re.findall(r"# TYPE edge_runtime_(\w+)", exposition(empty, GcPauses())))


def test_the_numbers_of_samples_are_the_true_ones() -> None:
    for q, n in ((0.5, 20), (0.99, 1000), (0.999, 10_000)):
        histogram = LatencyHistogram()
        histogram.count = n - 1
        assert not histogram.supports(q)
        histogram.count = n
        assert histogram.supports(q)
        assert f"{n:,} for" in TEXT


def test_the_recording_begins_as_described() -> None:
    assert f"`{MAGIC.decode()}`" in TEXT
