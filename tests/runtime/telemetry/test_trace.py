from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, PipelineError, SourceFormatError
from edge_runtime.sinks import CallbackSink
from edge_runtime.sources import ArraySource
from edge_runtime.streaming.records import (
    DecisionRecord,
    FrameRecord,
    Lap,
    LossRecord,
    SinkRecord,
    StreamEvent,
    StreamRecord,
)
from edge_runtime.telemetry import GcPause, GcPauses, TraceWriter, read_trace
from edge_runtime.telemetry import trace as trace_module
from edge_runtime.telemetry.trace_events import TraceEvents

MS = 1_000_000


def frame(index: int, start_ms: float = 0.0, **changes: Any) -> FrameRecord:
    """A frame with 1 ms in each of four parts."""
    start = int((start_ms + 10 * index) * MS)
    names = (("capture", False), ("queue", True), ("preprocess", False), ("infer", False))
    laps = tuple(Lap(name, start + k * MS, start + (k + 1) * MS, wait) for k, (name, wait) in enumerate(names))
    values: dict[str, Any] = {
        "branch": "seg",
        "frame": index,
        "arrival_ns": start,
        "deadline_ns": start + 33 * MS,
        "done_ns": start + 4 * MS,
        "outcome": "fresh",
        "reason": "",
        "missed": False,
        "variant": "int8",
        "laps": laps,
    }
    return FrameRecord(**{**values, **changes})


def sink(index: int, start_ms: float, length_ms: float = 1.0) -> SinkRecord:
    start = int(start_ms * MS)
    return SinkRecord(
        sink="view", branch="seg", frame=index, start_ns=start, end_ns=start + int(length_ms * MS), outcome="fresh",
        reason="",
    )  # fmt: skip


RECORDS: list[StreamRecord | GcPause] = [
    DecisionRecord(
        frame=0, point="infer", action="run", rung=1, reason="does not fit", slack_ns=5 * MS, predicted_ns=9 * MS,
        time_ns=2 * MS, branch="seg",
    ),
    frame(0),
    sink(0, 5),
    LossRecord(number=1, time_ns=12 * MS, outcome="dropped", reason="replaced"),
    StreamEvent(kind="silent_source", time_ns=13 * MS, message="no frame for 2.0 s"),
    GcPause(start_ns=14 * MS, end_ns=15 * MS, generation=2, collected=7),
    sink(2, 20, 0),
]  # fmt: skip


def written(path: Path, records: list[Any], **options: Any) -> list[dict[str, Any]]:
    with TraceWriter(path, clock=ManualClock(), **options) as writer:
        for record in records:
            writer.pause(record) if isinstance(record, GcPause) else writer(record)
    assert os.listdir(path.parent) == [path.name]
    assert json.loads(path.read_bytes()) == read_trace(path)
    return read_trace(path)


def test_each_record_has_its_event_on_its_track(tmp_path: Path, trace: Any) -> None:
    found = trace(written(tmp_path / "t.json", RECORDS))
    found.check()
    (whole,) = found.slices("seg: frames")
    assert (whole["name"], whole["ts"], whole["dur"]) == ("frame 0", 0.0, 4000.0)
    assert whole["args"] == {"outcome": "fresh", "reason": "", "missed": False, "variant": "int8", "deadline_ms": 33.0}
    parts = [found.slices(f"seg: {name}")[0] for name in ("capture", "queue", "preprocess", "infer")]
    assert [(part["ts"], part["dur"]) for part in parts] == [(k * 1000.0, 1000.0) for k in range(4)]
    assert [part["args"]["wait"] for part in parts] == [False, True, False, False]
    (decision,) = found.instants("seg: decisions")
    assert decision["name"] == "run at rung 1: does not fit"
    assert decision["args"]["slack_ms"] == 5.0
    assert decision["args"]["predicted_ms"] == 9.0
    (lost,) = found.instants("lost")
    assert (lost["name"], lost["args"]) == ("dropped: replaced", {"number": 1})
    (told,) = found.instants("events")
    assert (told["name"], told["args"]["message"]) == ("silent_source", "no frame for 2.0 s")
    (pause,) = found.slices("garbage collection")
    assert (pause["name"], pause["dur"]) == ("generation 2", 1000.0)
    assert [e["args"]["frame"] for e in found.slices("sink view")] == [0]
    assert [e["args"]["frame"] for e in found.instants("sink view")] == [2]
    assert found.events[-1]["args"] == {"left out": 0}
    assert [e["args"] for e in found.events if e["ph"] == "C"] == [{"ms": 4.0}]


def test_arrows_lead_through_the_stages_of_a_frame_and_to_the_sink(tmp_path: Path, trace: Any) -> None:
    found = trace(written(tmp_path / "t.json", [frame(0), frame(1), sink(0, 5), sink(0, 7), sink(9, 30)]))
    found.check()
    arrows = [(e["cat"], e["ph"], found.tracks[e["tid"]]) for e in found.events if e["ph"] in "stf"]
    names = ("capture", "queue", "preprocess", "infer")
    through = [("frame", phase, f"seg: {name}") for phase, name in zip("sttf", names, strict=True)]
    to_sink = [("result", "s", "seg: infer"), ("result", "f", "sink view")]
    assert arrows == through * 2 + to_sink * 2


SPANS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 200)), min_size=1, max_size=40)


@given(SPANS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_what_overlaps_is_spread_over_tracks(trace: Any, spans: list[tuple[int, int]]) -> None:
    events = TraceEvents(0)
    made = [
        event
        for index, (start, length) in enumerate(spans)
        for event in events.of(frame(index, laps=(Lap("queue", start, start + length, True),), arrival_ns=start))
    ]
    found = trace(made)
    found._check_nesting()
    kept = sum(len(found.slices(name)) for name in found.tracks.values() if "queue" in name)
    frames = sum(len(found.slices(name)) for name in found.tracks.values() if "frames" in name)
    assert kept + frames + events.left_out == len(spans) + sum(length > 0 for _, length in spans)


def test_a_trace_cut_anywhere_gives_the_events_before_the_cut(tmp_path: Path) -> None:
    whole = written(tmp_path / "t.json", RECORDS)
    data = (tmp_path / "t.json").read_bytes()
    cut = tmp_path / "cut.json"
    for size in range(2, len(data), 11):
        cut.write_bytes(data[:size])
        found = read_trace(cut)
        assert found == whole[: len(found)]
        assert len(found) >= data[:size].count(b",\n") - 1


def test_a_trace_of_a_crash_lacks_only_the_bracket(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t.json")
    writer.open()
    writer(frame(0))
    while writer._file.size < 1000:  # until the writer's next turn
        threading.Event().wait(0.01)
    data = (tmp_path / "t.json.partial").read_bytes()
    assert json.loads(data + b"]") == read_trace(tmp_path / "t.json.partial")
    writer.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"[\n1,\n2", b'[\n{"\xff":1},\n{}', b"[\n{},\n{]},\n{}\n]\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SourceFormatError, match="x"):
        read_trace(tmp_path / "x")


def test_the_file_is_bounded_and_says_what_it_left_out(tmp_path: Path, trace: Any) -> None:
    records = [frame(index) for index in range(500)]
    everything = len(written(tmp_path / "t.json", records))
    events = written(tmp_path / "t.json", records, max_mb=0.05)
    assert (tmp_path / "t.json").stat().st_size <= 0.05 * 2**20
    assert len(events) - 1 + events[-1]["args"]["left out"] == everything - 1
    assert events[-1]["args"]["left out"] > 0
    assert {e["ph"] for e in events} >= {"X", "M", "C"}


def test_memory_is_bounded_while_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(trace_module, "_WAITING", 10)
    monkeypatch.setattr(trace_module, "_EVERY_S", 0.01)
    writer = TraceWriter(tmp_path / "t.json")
    writer.open()
    write = writer._file.write

    def hang(data: bytes) -> None:
        hanging.set()
        assert go_on.wait(10)
        write(data)

    writer._file.write = hang  # type: ignore[method-assign]
    writer(frame(0))
    assert hanging.wait(10)
    for index in range(1, 31):  # nothing here waits for the disk
        writer(frame(index))
    assert len(writer._records) == 10
    go_on.set()
    writer.close()
    assert writer.left_out == 20
    assert read_trace(tmp_path / "t.json")[-1]["args"] == {"left out": 20}


def test_a_full_disk_stops_the_trace_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "_EVERY_S", 0.01)
    writer = TraceWriter(tmp_path / "t.json")
    writer.open()

    def full(data: bytes) -> None:
        raise OSError(28, "No space left on device")

    writer._file.write = full  # type: ignore[method-assign]
    for index in range(40_000):
        writer(frame(0) if index == 0 else LossRecord(number=index, time_ns=0, outcome="dropped", reason="replaced"))
    with pytest.raises(PipelineError, match=r"No space left on device.*t\.json\.partial"):
        writer.close()
    writer.close()


def test_a_place_that_cannot_be_written_is_an_error_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        TraceWriter(tmp_path / "none" / "t.json").open()
    with pytest.raises(ConfigError, match="max_mb is 0"):
        TraceWriter(tmp_path / "t.json", max_mb=0)


def test_the_trace_of_a_stream_agrees_with_its_report(tmp_path: Path, trace: Any, pipeline: Callable[..., Any]) -> None:
    source = ArraySource(np.zeros((40, 16, 16), np.uint8))
    with TraceWriter(tmp_path / "t.json") as writer, GcPauses(note=writer.pause):
        made = pipeline(sinks={"view": CallbackSink(lambda result: None)}, fail_at=(3,), observe=writer)
        report = made.run(source)
    found = trace(read_trace(tmp_path / "t.json"))
    found.check()
    ledger = report.branches["seg"].ledger
    frames = [e for e in found.events if e["ph"] == "X" and found.tracks[e["tid"]].startswith("seg: frames")]
    outcomes = [e["args"]["outcome"] for e in frames]
    assert (outcomes.count("fresh"), outcomes.count("failed")) == (ledger.fresh, 1) == (39, 1)
    assert sum(e["args"]["missed"] for e in frames) == ledger.misses
    assert len(found.slices("sink view")) + len(found.instants("sink view")) == 40
    assert sum(e["ph"] == "C" for e in found.events) == 40


def test_the_parts_of_every_frame_add_up_to_its_time(tmp_path: Path, pipeline: Callable[..., Any]) -> None:
    told: list[StreamRecord] = []
    report = pipeline(observe=told.append).run(ArraySource(np.zeros((20, 16, 16), np.uint8)))
    frames = [record for record in told if isinstance(record, FrameRecord)]
    assert len(frames) == 20
    for record in frames:
        assert sum(lap.end_ns - lap.start_ns for lap in record.laps) == record.done_ns - record.arrival_ns
        assert [lap.start_ns for lap in record.laps[1:]] == [lap.end_ns for lap in record.laps[:-1]]
    latency = report.branches["seg"].latency
    parts = sum(summary.mean for name, summary in latency.items() if name != "total")
    assert parts == pytest.approx(latency["total"].mean, rel=1e-9)
