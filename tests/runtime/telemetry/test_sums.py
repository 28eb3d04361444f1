"""Waits and work add up to the whole, for every frame, whatever happens to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.clock import ManualClock
from edge_runtime.frame import Frame
from edge_runtime.result import Outcome
from edge_runtime.runners import FakeRunner
from edge_runtime.sources import ReplaySource
from edge_runtime.streaming import Branch, Pipeline, Rung
from edge_runtime.streaming.records import FrameRecord, StreamRecord
from edge_runtime.streaming.watch import Watch

STEPS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 10**9), st.booleans(), st.booleans()), max_size=30)


@given(st.integers(0, 10**12), STEPS)
def test_laps_leave_no_gap(start_ns: int, steps: list[tuple[str, int, bool, bool]]) -> None:
    clock = ManualClock(start_ns)
    watch = Watch(clock, start_ns)
    for name, length_ns, wait, fails in steps:
        watch.current = "" if wait else name
        clock.advance_ns(length_ns)
        if not wait and fails:
            assert watch.fail() == name
        else:
            watch.lap(name, wait=wait)
        assert watch.fail() == ""
    total = clock.now_ns() - start_ns
    assert sum(watch.stages_ns.values()) + sum(watch.waits_ns.values()) == total == watch.now_ns - start_ns


class Prepared:
    tensor = np.ones((1, 1, 8, 8), np.float32)


class Slow:
    """Preprocessing that takes the given times, one a frame."""

    def __init__(self, clock: ManualClock, costs_ns: list[int]) -> None:
        self.clock, self.costs = clock, iter(costs_ns)

    def __call__(self, frame: Frame) -> Any:
        self.clock.advance_ns(next(self.costs))
        return Prepared()

    def reset(self) -> None:
        return None


@given(st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 100), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_the_parts_of_every_frame_of_a_stream_add_up(costs: list[tuple[int, int, bool]]) -> None:
    clock = ManualClock(7)
    fail_at = [k for k, cost in enumerate(costs) if cost[2]]
    runner = FakeRunner(shape=(8, 8), latency_ms=[cost[1] for cost in costs], fail_at=fail_at, clock=clock)
    rung = Rung(runner=runner, postprocess=lambda *a, **k: Outcome())
    branch = Branch(preprocess=Slow(clock, [cost[0] for cost in costs]), rungs=(rung,), budget_ms=50.0)
    told: list[StreamRecord] = []
    pipeline = Pipeline({"seg": branch}, clock=clock, warm_up_runs=0, freeze_gc=False, observe=told.append)
    frames = [Frame(image=np.zeros((8, 8), np.uint8), index=k, arrival_ns=7) for k in range(len(costs))]
    report = pipeline.run(ReplaySource(frames, clock=clock))
    records = [record for record in told if isinstance(record, FrameRecord)]
    assert [record.outcome for record in records] == ["failed" if cost[2] else "fresh" for cost in costs]
    for record in records:
        assert sum(lap.end_ns - lap.start_ns for lap in record.laps) == record.done_ns - record.arrival_ns
        assert [lap.start_ns for lap in record.laps[1:]] == [lap.end_ns for lap in record.laps[:-1]]
    latency = pipeline.report.branches["seg"].latency
    histograms = pipeline._run.steps["seg"].latency if pipeline._run is not None else {}
    parts = sum(histogram.sum_ns for name, histogram in histograms.items() if name != "total")
    assert not latency or parts == histograms["total"].sum_ns
    assert report.branches["seg"].ledger.longest_miss_run <= len(costs)
