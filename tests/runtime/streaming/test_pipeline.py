"""What becomes of frames: order, equality with a plain loop, times, several branches, failures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, GeometryError, InferenceError, PipelineError, SourceError
from edge_runtime.frame import Frame
from edge_runtime.result import Result
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CallbackSink, CollectSink
from edge_runtime.streaming import Branch, Pipeline, Rung

MakeBranch = Callable[..., Branch]
MakeFrames = Callable[..., Any]


def quiet(branches: dict[str, Branch], **options: Any) -> Pipeline:
    """A pipeline for tests: no warm-up, no garbage collection of the whole process."""
    return Pipeline(branches, **{"warm_up_runs": 0, "freeze_gc": False, **options})


def plain_loop(branch: Branch, frames: list[Frame]) -> list[tuple[bytes, bytes]]:
    """What the pipeline must equal: mask and probability of each frame, one after the other."""
    rung = branch.rungs[0]
    found = []
    with rung.runner:
        for frame in frames:
            prepared = branch.preprocess(frame)
            outputs = rung.runner.infer({"image": prepared.tensor})
            done = rung.postprocess(outputs, prepared, frame, mask_out=None, probability_out=None)
            assert done.mask is not None
            assert done.probability is not None
            found.append((done.mask.tobytes(), done.probability.tobytes()))
    return found


@pytest.mark.parametrize("sink_ms", [0, 2])
def test_a_file_is_lossless_and_bit_equal_to_a_plain_loop(
    make_branch: MakeBranch, frames: MakeFrames, sink_ms: float
) -> None:
    source = frames(40)
    sinks = {"a": CollectSink(capacity=1), "slow": CallbackSink(lambda _: _nap(sink_ms))}
    report = quiet({"seg": make_branch(FakeRunner(), budget_ms=0.001)}, sinks=sinks).run(source)
    truth = plain_loop(
        make_branch(FakeRunner()), [Frame(image=source.image(i), index=i, arrival_ns=0) for i in range(40)]
    )
    results = sinks["a"].results  # type: ignore[attr-defined]
    assert [r.frame.index for r in results] == list(range(40))
    assert [(r.mask.tobytes(), r.probability.tobytes()) for r in results] == truth
    assert report.branches["seg"].ledger.fresh == report.sinks["slow"].ledger.fresh == 40
    assert report.balances
    assert "budget of 0.001 ms is not applied" in report.to_text()


def _nap(milliseconds: float) -> None:
    time.sleep(milliseconds / 1e3)


def test_stream_gives_the_same_results_as_run(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    with pipeline:
        first = [(r.frame.index, r.mask.tobytes()) for r in pipeline.stream(frames(20)) if r.mask is not None]
        second = [(r.frame.index, r.mask.tobytes()) for r in pipeline.stream(frames(20)) if r.mask is not None]
    assert first == second
    assert len(first) == 20
    assert pipeline.report.branches["seg"].pool_held == 0


def test_stages_and_waits_add_up_to_the_latency(make_branch: MakeBranch, frames: MakeFrames) -> None:
    sink = CollectSink()
    runner = FakeRunner(latency_ms=1, fail_at=[3])
    quiet({"one": make_branch(runner, refine=lambda _: None), "two": make_branch(FakeRunner())}, sinks={"s": sink}).run(
        frames(12)
    )
    assert len(sink.results) == 24
    for result in sink.results:
        parts = {**result.stages_ns, **result.waits_ns}
        assert sum(result.stages_ns.values()) + sum(result.waits_ns.values()) == result.latency_ns
        assert all(part >= 0 for part in parts.values())
        expected = {"capture", "queue", "turn", "preprocess", "infer"}
        if result.state != "failed":
            expected |= {"postprocess", "refine"} if result.branch == "one" else {"postprocess"}
        assert set(parts) == expected


def test_branches_have_their_own_cadence_and_ledger(make_branch: MakeBranch, frames: MakeFrames) -> None:
    sinks = {"all": CollectSink(), "quality": CollectSink(branch="quality")}
    branches = {
        "seg": make_branch(FakeRunner()),
        "quality": make_branch(FakeRunner(variant="q"), cadence=10, bundle_sha256="beef"),
    }
    report = quiet(branches, sinks=sinks).run(frames(25))
    assert [r.frame.index for r in sinks["quality"].results] == [0, 10, 20]
    assert {(r.variant, r.bundle_sha256) for r in sinks["quality"].results} == {("q", "beef")}
    assert len(sinks["all"].results) == 28
    assert (report.branches["seg"].ledger.arrived, report.branches["quality"].ledger.arrived) == (25, 3)
    assert report.balances


def test_a_failing_stage_fails_the_frame_alone(make_branch: MakeBranch, frames: MakeFrames) -> None:
    sink = CollectSink()
    report = quiet({"seg": make_branch(FakeRunner(fail_at=[2, 5]))}, sinks={"s": sink}).run(frames(8))
    ledger = report.branches["seg"].ledger
    assert (ledger.fresh, ledger.failed, ledger.misses) == (6, {"infer: InferenceError": 2}, 2)
    failed = [r for r in sink.results if r.state == "failed"]
    assert [r.frame.index for r in failed] == [2, 5]
    assert failed[0].mask is None
    assert failed[0].areas == ()
    assert "asked to fail" in failed[0].extra["error"]
    assert any("2 frames failed (infer: InferenceError)" in warning for warning in report.warnings)
    assert report.branches["seg"].pool_held == 0


class Refusing:
    """A preprocessor that cannot place odd frames."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, frame: Frame) -> Any:
        if frame.index % 2:
            raise GeometryError("no scan area")
        return self.inner(frame)

    def reset(self) -> None:
        self.inner.reset()


def test_the_reason_names_the_stage(make_branch: MakeBranch, frames: MakeFrames) -> None:
    usual = make_branch(FakeRunner())
    branch = Branch(preprocess=Refusing(usual.preprocess), rungs=usual.rungs)
    report = quiet({"seg": branch}).run(frames(6))
    assert report.branches["seg"].ledger.failed == {"preprocess: GeometryError": 3}


def test_corrupt_frames_are_counted_and_the_stream_goes_on(make_branch: MakeBranch, frames: MakeFrames) -> None:
    sink = CollectSink()
    branches = {"seg": make_branch(FakeRunner()), "every3": make_branch(FakeRunner(), cadence=3)}
    report = quiet(branches, sinks={"s": sink}).run(frames(9, corrupt=(0, 3, 4, 5, 8)))
    seg, every3 = report.branches["seg"].ledger, report.branches["every3"].ledger
    assert (seg.arrived, seg.fresh, seg.failed) == (9, 4, {"corrupt": 5})
    assert (every3.arrived, every3.fresh, every3.failed) == (3, 2, {"corrupt": 1})
    assert [r.frame.index for r in sink.results if r.branch == "every3"] == [1, 6]
    assert report.balances


def test_the_good_frames_before_a_lost_source_are_delivered(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def lose(index: int) -> None:
        if index == 5:
            raise SourceError("the camera is gone")

    sink = CollectSink()
    pipeline = quiet({"seg": make_branch(FakeRunner(latency_ms=2))}, sinks={"s": sink})
    with pytest.raises(SourceError, match="camera is gone"):
        pipeline.run(frames(10, before=lose))
    assert [r.frame.index for r in sink.results] == [0, 1, 2, 3, 4]
    assert "the stream ended with an error: SourceError" in pipeline.report.to_text()


def test_results_are_read_only_and_valid_only_while_held(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    for result in pipeline.stream(frames(3)):
        assert result.mask is not None
        with pytest.raises(ValueError, match="read-only"):
            result.mask[0, 0] = 1
        kept = result.copy()
        assert kept.mask is not None
        assert np.array_equal(kept.mask, result.mask)
        kept.release()  # a copy belongs to no pool
    with pytest.raises(PipelineError, match="released before"):
        result.release()


def test_a_pool_held_by_the_user_drops_frames_and_says_so(make_branch: MakeBranch, frames: MakeFrames) -> None:
    held: list[Result] = []

    def hold(result: Result) -> None:
        result.retain()
        held.append(result)

    pipeline = quiet({"seg": make_branch(FakeRunner())}, sinks={"s": CallbackSink(hold)}, pool_slots=3)
    report = pipeline.run(frames(10))
    ledger = report.branches["seg"].ledger
    assert (ledger.fresh, ledger.dropped) == (3, {"pool": 7})
    assert "7 frames dropped because all 3 results were held" in report.to_text()
    for result in held:
        result.release()
    assert pipeline.report.branches["seg"].pool_held == 0


def test_a_postprocessor_with_buffers_of_its_own_is_copied_into_the_pool(
    make_branch: MakeBranch, frames: MakeFrames
) -> None:
    usual = make_branch(FakeRunner())
    inner = usual.rungs[0].postprocess

    def own(outputs: Any, prepared: Any, frame: Frame, **_: Any) -> Any:
        return inner(outputs, prepared, frame, mask_out=None, probability_out=None)

    branch = Branch(preprocess=usual.preprocess, rungs=(Rung(runner=usual.rungs[0].runner, postprocess=own),))
    sink = CollectSink()
    source = frames(5)
    quiet({"seg": branch}, sinks={"s": sink}).run(source)
    truth = plain_loop(
        make_branch(FakeRunner()), [Frame(image=source.image(i), index=i, arrival_ns=0) for i in range(5)]
    )
    assert [(r.mask.tobytes(), r.probability.tobytes()) for r in sink.results] == truth  # type: ignore[union-attr]


def test_warm_up_keeps_only_cheaper_rungs(make_branch: MakeBranch, frames: MakeFrames) -> None:
    runners = [FakeRunner(latency_ms=ms, variant=name) for ms, name in ((20, "fp32"), (40, "int8"), (4, "small"))]
    pipeline = quiet({"seg": make_branch(*runners)}, warm_up_runs=2, warm_up_frame=frames(1).read())
    report = pipeline.run(frames(3))
    ladder = report.branches["seg"].ladder
    assert [(rung.variant, rung.kept) for rung in ladder] == [("fp32", True), ("int8", False), ("small", True)]
    assert "not cheaper than the rung above, fp32 on fake" in ladder[1].note
    assert any("int8 on fake is no rung" in warning for warning in report.warnings)


def test_the_report_is_json_and_shows_what_was_set(make_branch: MakeBranch, frames: MakeFrames) -> None:
    sinks = {"s": CallbackSink(lambda _: None)}
    report = quiet({"seg": make_branch(FakeRunner(fail_at=[0]), budget_ms=20)}, sinks=sinks).run(frames(30))
    content = json.loads(json.dumps(report.to_dict()))
    assert content["schema"] == "edge-runtime.stream-report/1"
    assert content["balances"] is True
    seg = content["branches"]["seg"]
    assert (seg["budget_ms"], seg["budget_applied"], seg["policy"]) == (20, False, "LadderPolicy")
    assert seg["ledger"]["arrived"] == 30
    assert (seg["latency"]["total"]["n"], seg["latency"]["total"]["too_few"]) == (29, ["p99"])
    assert seg["variants"] == {"fake": 29}
    assert content["configuration"]["threads"] == "capture, compute, sink s, watch"
    text = report.to_text()
    assert "30 arrived = 29 fresh + 0 degraded + 0 stale + 0 dropped + 1 failed (1 infer: InferenceError)" in text
    assert "* too few samples" in text
    assert max(map(len, text.splitlines())) <= 160


def test_misuse_is_refused(make_branch: MakeBranch, frames: MakeFrames) -> None:
    branch = make_branch(FakeRunner())
    with pytest.raises(ConfigError, match="without branches"):
        Pipeline({})
    with pytest.raises(ConfigError, match="asks for branch 'liver'"):
        Pipeline({"seg": branch}, sinks={"s": CollectSink(branch="liver")})
    with pytest.raises(ConfigError, match="queue 0"):
        Pipeline({"seg": branch}, queue=0)
    for wrong in ({"cadence": 0}, {"budget_ms": 0}, {"budget_ms": float("nan")}):
        with pytest.raises(ConfigError):
            make_branch(FakeRunner(), **wrong)
    with pytest.raises(ConfigError, match="at least one Rung"):
        make_branch()
    with pytest.raises(ConfigError, match="different inputs"):
        make_branch(FakeRunner(), FakeRunner(shape=(32, 32)))
    pipeline = quiet({"seg": branch})
    with pytest.raises(PipelineError, match="no stream"):
        _ = pipeline.report
    with pytest.raises(PipelineError, match="open already"), pipeline, pipeline:
        pass
    stream = pipeline.stream(frames(5))
    next(stream)
    with pytest.raises(PipelineError, match="is running"):
        pipeline.run(frames(5))
    stream.close()  # type: ignore[attr-defined]


def test_a_model_that_fails_at_warm_up_stops_the_start(make_branch: MakeBranch, frames: MakeFrames) -> None:
    source = frames(5)
    with pytest.raises(InferenceError, match="asked to fail"):
        Pipeline({"seg": make_branch(FakeRunner(fail_at=[0]))}, freeze_gc=False).run(source)
    assert source.next == 0


def test_the_effective_settings_are_told(make_branch: MakeBranch) -> None:
    sinks = {"s": CollectSink(capacity=3)}
    pipeline = quiet({"seg": make_branch(FakeRunner(variant="v"), budget_ms=20, cadence=2)}, sinks=sinks, queue=7)
    told = json.loads(json.dumps(pipeline.describe()))
    seg = told["branches"]["seg"]
    assert (seg["rungs"], seg["cadence"], seg["budget_ms"], seg["policy"]) == (["v on fake"], 2, 20, "LadderPolicy")
    assert seg["errors"]["infer"] == "skip"
    assert told["sinks"]["s"] == {"kind": "CollectSink", "branch": None, "capacity": 3}
    assert (told["queue"], told["watchdogs"]["silent_s"], told["intake"]["geometry"]) == (7, 2.0, "keep")
