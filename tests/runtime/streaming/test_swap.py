"""A branch exchanged under a running stream: taken over between frames, rolled back, or never begun."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from edge_runtime.errors import ConfigError, PipelineError, SelfTestError
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink
from edge_runtime.streaming import Branch, ErrorPolicy, Pipeline

MakeBranch = Callable[..., Branch]
MakeFrames = Callable[..., Any]


class Running:
    """A stream of 1 ms frames in the background until `end`."""

    def __init__(self, make_branch: MakeBranch, frames: MakeFrames, **options: Any) -> None:
        self.old = FakeRunner(variant="old", latency_ms=1)
        self.sink = CollectSink(capacity=500)
        self.ending = threading.Event()
        self.pipeline = Pipeline(
            {"seg": make_branch(self.old, budget_ms=500.0, bundle_sha256="a" * 64, **options)},
            sinks={"s": self.sink},
            warm_up_runs=1,
            warm_up_frame=frames(1).read(),
            freeze_gc=False,
        )
        self.source = frames(10**9, before=lambda index: self.pipeline.stop() if self.ending.is_set() else None)
        self.thread = threading.Thread(target=lambda: self.pipeline.run(self.source))

    def __enter__(self) -> Running:
        self.thread.start()
        while not self.sink.results and self.thread.is_alive():
            self.ending.wait(0.001)
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_the_new_branch_takes_over_between_two_frames(make_branch: MakeBranch, frames: MakeFrames) -> None:
    new = FakeRunner(variant="new", latency_ms=1)
    with Running(make_branch, frames) as stream:
        stream.pipeline.swap("seg", lambda: make_branch(new, bundle_sha256="b" * 64, budget_ms=1.0), trial_frames=5)
        assert (stream.old._active, new._active) == (0, 1)
    variants = [result.variant for result in stream.sink.results]
    at = variants.index("new")
    assert set(variants[:at]) == {"old"}
    assert set(variants[at:]) == {"new"}
    assert {result.bundle_sha256[0] for result in stream.sink.results[at:]} == {"b"}
    indices = [result.frame.index for result in stream.sink.results]
    assert indices == list(range(len(indices)))  # nothing was lost
    report = stream.pipeline.report
    assert (report.branches["seg"].budget_ms, report.balances) == (500.0, True)
    assert report.event_counts == {"swapped": 1}
    assert new._active == 0


def test_a_failure_on_trial_brings_the_old_branch_back(make_branch: MakeBranch, frames: MakeFrames) -> None:
    new = FakeRunner(variant="new", latency_ms=1, fail_at=[5])  # two calls of warm-up before
    for errors in (ErrorPolicy(), ErrorPolicy(infer="raise")):
        with Running(make_branch, frames) as stream:
            with pytest.raises(PipelineError, match=r"taken out again.*infer: InferenceError.*asked to fail"):
                stream.pipeline.swap("seg", lambda errors=errors: make_branch(new, errors=errors), trial_frames=50)
            assert (stream.old._active, new._active) == (1, 0)
            seen = len(stream.sink.results)
            while len(stream.sink.results) < seen + 20:
                stream.ending.wait(0.001)
        states = [(result.variant, result.state) for result in stream.sink.results]
        assert states.count(("new", "fresh")) == 3
        assert [state for _, state in states].count("failed") == 1
        assert states[-1] == ("old", "fresh")
        report = stream.pipeline.report
        assert report.event_counts == {"swapped": 1, "rolled_back": 1}
        assert report.balances


def test_what_fails_before_the_exchange_changes_nothing(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def refuse() -> Branch:
        raise SelfTestError("golden samples differ")

    with Running(make_branch, frames) as stream:
        with pytest.raises(SelfTestError, match="golden samples differ"):
            stream.pipeline.swap("seg", refuse)
        broken = FakeRunner(fail_at=[0])
        with pytest.raises(Exception, match="asked to fail"):
            stream.pipeline.swap("seg", lambda: make_branch(broken))
        with pytest.raises(ConfigError, match="no branch 'liver'"):
            stream.pipeline.swap("liver", refuse)
        assert (stream.old._active, broken._active) == (1, 0)
    assert {result.variant for result in stream.sink.results} == {"old"}
    assert stream.pipeline.report.event_counts == {"swap_failed": 2}


def test_without_a_stream_the_next_one_has_the_new_branch(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = Pipeline(
        {"seg": make_branch(FakeRunner(variant="old"))}, warm_up_runs=1, warm_up_frame=frames(1).read(), freeze_gc=False
    )
    new = FakeRunner(variant="new")
    pipeline.swap("seg", lambda: make_branch(new))
    assert new._active == 0
    assert pipeline.run(frames(3)).branches["seg"].variants == {"new": 3}
    with pipeline:
        newer = FakeRunner(variant="newer")
        pipeline.swap("seg", lambda: make_branch(newer))
        assert (new._active, newer._active) == (0, 1)
        assert pipeline.run(frames(3)).branches["seg"].variants == {"newer": 3}
    assert newer._active == 0


def test_a_stream_that_ends_in_the_trial_ends_it(make_branch: MakeBranch, frames: MakeFrames) -> None:
    new = FakeRunner(variant="new", latency_ms=1)
    stream = Running(make_branch, frames)
    with stream:
        threading.Timer(0.05, stream.ending.set).start()
        stream.pipeline.swap("seg", lambda: make_branch(new), trial_frames=10**9)
    assert new._active == stream.old._active == 0
