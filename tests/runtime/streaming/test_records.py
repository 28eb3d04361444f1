"""What an observer is told: every frame, every decision, every delivery, each part of the time."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.buffers import ImuBuffer, ImuSample, InterpolatedPose, PoseBuffer, PoseRefusal
from edge_runtime.errors import ConfigError
from edge_runtime.geometry import Pose
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink, JsonlSink, read_jsonl
from edge_runtime.sources import ArraySource
from edge_runtime.streaming import (
    Beside,
    Branch,
    DecisionRecord,
    FrameRecord,
    LossRecord,
    Pipeline,
    Scheduling,
    SinkRecord,
    StreamEvent,
    StreamRecord,
    imu_of,
    pose_of,
)
from edge_runtime.streaming.scheduling import apply_scheduling

MakeBranch = Callable[..., Branch]
MakeFrames = Callable[..., Any]
MS = 1_000_000


def quiet(branches: dict[str, Branch], **options: Any) -> Pipeline:
    return Pipeline(branches, **{"warm_up_runs": 0, "freeze_gc": False, **options})


def test_the_records_add_up_to_the_ledgers_and_the_times(make_branch: MakeBranch, frames: MakeFrames) -> None:
    records: list[StreamRecord] = []
    sink = CollectSink()
    branches = {"seg": make_branch(FakeRunner(fail_at=[4])), "slow": make_branch(FakeRunner(), cadence=3)}
    report = quiet(branches, sinks={"s": sink}, observe=records.append).run(frames(12, corrupt=[2]))
    by_kind = Counter(type(record) for record in records)
    assert by_kind == {FrameRecord: 11 + 4, SinkRecord: 15, LossRecord: 1, DecisionRecord: 30, StreamEvent: 2}
    for name, branch in report.branches.items():
        outcomes = Counter(r.outcome for r in records if isinstance(r, FrameRecord) and r.branch == name)
        assert (outcomes["fresh"], outcomes["failed"]) == (
            branch.ledger.fresh,
            sum(branch.ledger.failed.values()) - ("corrupt" in branch.ledger.failed),
        )
    for record in records:
        if isinstance(record, FrameRecord):
            assert record.laps[0].start_ns == record.arrival_ns
            assert record.laps[-1].end_ns == record.done_ns
            assert all(a.end_ns == b.start_ns for a, b in zip(record.laps, record.laps[1:], strict=False))
            assert [lap.name for lap in record.laps][:3] == ["capture", "queue", "turn"]
    shown = next(r for r in records if isinstance(r, FrameRecord) and r.branch == "seg" and r.frame == 1)
    same = next(r for r in sink.results if r.branch == "seg" and r.frame.index == 1)
    assert {lap.name: lap.end_ns - lap.start_ns for lap in shown.laps} == {**same.stages_ns, **same.waits_ns}
    lost = next(r for r in records if isinstance(r, LossRecord))
    assert (lost.number, lost.outcome, lost.reason) == (2, "failed", "corrupt")
    delivered = [r for r in records if isinstance(r, SinkRecord)]
    assert all(r.sink == "s" and r.end_ns >= r.start_ns for r in delivered)


def test_the_records_do_not_change_the_results(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def once(**options: Any) -> list[bytes]:
        sink = CollectSink()
        quiet({"seg": make_branch(FakeRunner())}, sinks={"s": sink}, **options).run(frames(10))
        return [result.mask.tobytes() for result in sink.results]  # type: ignore[union-attr]

    assert once() == once(observe=lambda _: None, on_event=lambda _: None)


def poses(n: int) -> PoseBuffer:
    buffer = PoseBuffer()
    for k in range(n):
        T = np.eye(4)
        T[0, 3] = k
        buffer.append(Pose(T_world_image=T, time_ns=k * 40 * MS, covariance=None, origin="tracker"))
    return buffer


def test_a_pose_for_the_frames_time_comes_with_each_result(make_branch: MakeBranch) -> None:
    """Poses every 40 ms move by 1 mm; frames every 20 ms lie on or half-way between them."""
    source = ArraySource(np.zeros((8, 8, 8), np.uint8), fps=50.0)
    source.poses = poses(4)
    found = []
    for result in quiet({"seg": make_branch(FakeRunner())}).stream(source):
        pose = pose_of(result)
        assert imu_of(result) is None
        found.append(pose.pose.T_world_image[0, 3] if isinstance(pose, InterpolatedPose) else None)
    assert found[:7] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3])
    assert found[7] == pytest.approx(3)  # held: no sample after it, and not extrapolated
    source.rewind()
    strict = Beside(poses=poses(4), max_gap_ms=10.0)
    refused = [pose_of(result) for result in quiet({"seg": make_branch(FakeRunner())}, beside=strict).stream(source)]
    assert [isinstance(pose, PoseRefusal) for pose in refused] == [False, True] * 3 + [False, True]
    assert isinstance(refused[1], PoseRefusal)
    assert refused[1].reason == "gap"


def test_inertial_samples_since_the_result_before(make_branch: MakeBranch) -> None:
    imu = ImuBuffer()
    for k in range(100):
        imu.append(ImuSample(time_ns=k * 2 * MS, gyro_rad_s=np.full(3, float(k)), accel_m_s2=np.zeros(3)))
    source = ArraySource(np.zeros((4, 8, 8), np.uint8), fps=50.0)
    beside = Beside(imu=imu, max_gap_ms=10.0)
    counts = []
    for result in quiet({"seg": make_branch(FakeRunner())}, beside=beside).stream(source):
        samples = imu_of(result)
        assert samples is not None
        assert pose_of(result) is None
        counts.append(samples.times_ns.tolist())
    assert counts == [[], *([t * MS for t in range(20 * k, 20 * k + 20, 2)] for k in range(3))]
    with pytest.raises(ConfigError, match="max_gap_ms"):
        Beside(max_gap_ms=0)


def test_poses_and_inertial_samples_are_fields_that_are_recorded(make_branch: MakeBranch, tmp_path: Path) -> None:
    imu = ImuBuffer()
    for k in range(40):
        imu.append(ImuSample(time_ns=k * 2 * MS, gyro_rad_s=np.full(3, float(k)), accel_m_s2=np.zeros(3)))
    source = ArraySource(np.zeros((4, 8, 8), np.uint8), fps=50.0)
    kept, path = CollectSink(), tmp_path / "log.jsonl"
    beside = Beside(poses=poses(2), imu=imu, max_gap_ms=15.0)
    quiet({"seg": make_branch(FakeRunner())}, sinks={"kept": kept, "log": JsonlSink(path)}, beside=beside).run(source)
    first, second = kept.results[:2]
    assert first.pose is not None
    assert second.pose is None
    assert second.tracked == PoseRefusal(reason="gap", gap_ns=40 * MS)
    assert first.extra == second.extra == {}
    lines = read_jsonl(path).results
    assert lines[0]["pose"] == {
        "T_world_image": first.pose.T_world_image.tolist(), "time_ns": 0, "covariance": None, "origin": "tracker",
        "gap_ns": 0, "held": False,
    }  # fmt: skip
    assert lines[1]["pose"] == {"refused": "gap", "gap_ns": 40 * MS}
    assert lines[1]["imu"]["times_ns"] == list(range(0, 20 * MS, 2 * MS))
    assert lines[1]["imu"]["gyro_rad_s"][3] == [3.0, 3.0, 3.0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel interface is Linux's")
def test_scheduling_is_asked_for_and_what_came_of_it_is_told(make_branch: MakeBranch, frames: MakeFrames) -> None:
    import os

    here = min(os.sched_getaffinity(0))
    seen: set[frozenset[int]] = set()
    branch = make_branch(FakeRunner(), refine=lambda _: seen.add(frozenset(os.sched_getaffinity(0))))
    report = quiet({"seg": branch}, scheduling=Scheduling(cpus=(here,))).run(frames(3))
    assert seen == {frozenset({here})}
    assert f"compute processors {here}: granted, runs on {here}" in report.configuration["scheduling"]
    refused = quiet({"seg": branch}, scheduling=Scheduling(cpus=(100_000,))).run(frames(3))
    assert "NOT granted" in refused.configuration["scheduling"]
    assert refused.event_counts == {"scheduling": 2}
    assert refused.branches["seg"].ledger.fresh == 3
    grants: list[Any] = []
    thread = threading.Thread(target=lambda: grants.extend(apply_scheduling(Scheduling(fifo_priority=5), "test")))
    thread.start()
    thread.join(10)
    assert [grant.what for grant in grants] == ["SCHED_FIFO 5"]
    assert grants[0].granted == ("priority 5" in grants[0].detail)


def test_scheduling_out_of_range_is_refused() -> None:
    for wrong in ({"cpus": ()}, {"cpus": (-1,)}, {"fifo_priority": 0}, {"fifo_priority": 100}):
        with pytest.raises(ConfigError):
            Scheduling(**wrong)
