"""How a stream ends: at the source's end, stopped, interrupted, by a bug, with a sink that fails, slows or hangs."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_runtime.errors import ConfigError, PipelineError
from edge_runtime.result import Result
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CallbackSink, CollectSink, Sink
from edge_runtime.streaming import Branch, Pipeline

MakeBranch = Callable[..., Branch]
MakeFrames = Callable[..., Any]


def quiet(branches: dict[str, Branch], **options: Any) -> Pipeline:
    return Pipeline(branches, **{"warm_up_runs": 0, "freeze_gc": False, **options})


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread.name


def test_stop_from_another_thread_settles_every_frame(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    source = frames(10**9, before=lambda i: threading.Thread(target=pipeline.stop).start() if i == 200 else None)
    report = pipeline.run(source)
    ledger = report.branches["seg"].ledger
    assert report.balances
    assert ledger.in_flight == 0
    assert ledger.fresh + sum(ledger.dropped.values()) == ledger.arrived >= 200
    assert "stopped before its source ended" in report.to_text()


def test_stop_without_a_stream_does_nothing(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    pipeline.stop()
    assert pipeline.run(frames(3)).branches["seg"].ledger.fresh == 3
    pipeline.stop()
    assert pipeline.run(frames(3)).branches["seg"].ledger.fresh == 3


def test_leaving_the_loop_early_stops_the_stream(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())}, sinks={"s": CollectSink()})
    for result in pipeline.stream(frames(10**9)):
        if result.frame.index == 5:
            break
    gc.collect()  # ends the generator where reference counting has not
    report = pipeline.report
    assert report.balances
    assert report.branches["seg"].ledger.in_flight == report.branches["seg"].pool_held == 0
    assert report.sinks["stream"].ledger.fresh == 6


def test_an_error_in_the_loop_stops_the_stream(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    stream = pipeline.stream(frames(10**9))
    next(stream)
    with pytest.raises(ZeroDivisionError):
        stream.throw(ZeroDivisionError)  # type: ignore[attr-defined]
    assert pipeline.report.balances


def test_a_bug_stops_everything_and_reaches_the_caller(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def bug(result: Result) -> None:
        if result.frame.index == 7:
            raise KeyError("bug")

    sink = CollectSink()
    pipeline = quiet({"seg": make_branch(FakeRunner(), refine=bug)}, sinks={"s": sink})
    with pytest.raises(KeyError, match="bug"):
        pipeline.run(frames(10**9))
    assert [r.frame.index for r in sink.results] == list(range(7))
    assert pipeline.report.balances


def test_a_bug_in_the_source_reaches_the_caller(make_branch: MakeBranch, frames: MakeFrames) -> None:
    pipeline = quiet({"seg": make_branch(FakeRunner())})
    with pytest.raises(ZeroDivisionError):
        list(pipeline.stream(frames(10, before=lambda index: 1 // (4 - index))))  # type: ignore[arg-type]
    assert pipeline.report.branches["seg"].ledger.fresh == 4


class Failing(Sink):
    """Raises at the third result; notes that it was closed."""

    def __init__(self, *, at_close: bool = False) -> None:
        super().__init__()
        self.at_close, self.written, self.closed = at_close, 0, 0

    def write(self, result: Result) -> None:
        self.written += 1
        if self.written == 3 and not self.at_close:
            raise OSError("disk full")

    def close(self) -> None:
        self.closed += 1
        if self.at_close:
            raise OSError("disk full at the end")


def test_a_sink_that_raises_is_left_out_and_reported(make_branch: MakeBranch, frames: MakeFrames) -> None:
    failing, other = Failing(), CollectSink()
    report = quiet({"seg": make_branch(FakeRunner())}, sinks={"bad": failing, "good": other}).run(frames(20))
    assert len(other.results) == 20
    assert (failing.written, failing.closed) == (3, 1)
    ledger = report.sinks["bad"].ledger
    assert (ledger.fresh, ledger.failed, ledger.dropped) == (2, {"sink: OSError": 1}, {"disabled": 17})
    assert report.sinks["bad"].error == "OSError: disk full"
    assert "sink bad was disabled after an error: OSError: disk full" in report.to_text()
    assert report.branches["seg"].pool_held == 0


def test_an_error_at_close_is_reported(make_branch: MakeBranch, frames: MakeFrames) -> None:
    report = quiet({"seg": make_branch(FakeRunner())}, sinks={"bad": Failing(at_close=True)}).run(frames(3))
    assert report.sinks["bad"].ledger.fresh == 3
    assert "disk full at the end" in report.to_text()


def test_a_sink_that_cannot_open_stops_the_start_and_closes_the_others(
    make_branch: MakeBranch, frames: MakeFrames
) -> None:
    class Closed(CollectSink):
        def open(self) -> None:
            raise ConfigError("no such folder")

    first, source = Failing(), frames(5)
    with pytest.raises(ConfigError, match="no such folder"):
        quiet({"seg": make_branch(FakeRunner())}, sinks={"a": first, "b": Closed()}).run(source)
    assert (first.closed, source.next) == (1, 0)


def test_a_slow_sink_on_a_live_source_loses_its_own_results_only(make_branch: MakeBranch, frames: MakeFrames) -> None:
    gate, taken = threading.Event(), []

    def wait(result: Result) -> None:
        gate.wait(20)
        taken.append(result.frame.index)

    quick = CollectSink(capacity=200)
    computed = threading.Semaphore(0)
    runner = FakeRunner(compute=lambda image: (computed.release(), image)[1])

    def pace(index: int) -> None:  # one frame at a time, so that none is replaced before the model
        if index:
            assert computed.acquire(timeout=20)
        if index == 100:
            gate.set()

    report = quiet({"seg": make_branch(runner)}, sinks={"slow": CallbackSink(wait), "quick": quick}).run(
        frames(101, live=True, before=pace)
    )
    assert [r.frame.index for r in quick.results] == list(range(101))
    slow = report.sinks["slow"].ledger
    assert slow.balances
    assert slow.dropped["slow"] >= 90  # all but the one held, two that wait, and the last few after the gate opened
    assert taken == sorted(taken)
    assert taken[-1] == 100
    assert report.branches["seg"].ledger.dropped == {}


@pytest.mark.parametrize("where", ["source", "runner", "sink"])
def test_a_call_that_does_not_return_is_named(make_branch: MakeBranch, frames: MakeFrames, where: str) -> None:
    gate, inside = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        gate.wait(30)

    runner = FakeRunner(compute=lambda image: (hang() if where == "runner" else None, image)[1])
    sinks = {"s": CallbackSink(lambda _: hang() if where == "sink" else None)}
    pipeline = quiet({"seg": make_branch(runner)}, sinks=sinks, join_timeout_s=0.1)
    source = frames(10**9, before=lambda index: hang() if where == "source" and index == 3 else None)
    stopper = threading.Thread(target=lambda: (inside.wait(20), pipeline.stop()))
    stopper.start()
    name = {"source": "capture", "runner": "compute", "sink": "sink s"}[where]
    with pytest.raises(PipelineError, match=f"thread {name} did not stop within 0.1 s"):
        pipeline.run(source)
    assert pipeline.report.balances
    gate.set()
    stopper.join(10)


def test_there_are_three_threads_and_one_a_sink(make_branch: MakeBranch, frames: MakeFrames) -> None:
    seen: set[int] = set()
    before = threading.active_count()
    sinks = {name: CallbackSink(lambda _: seen.add(threading.active_count())) for name in "abc"}
    quiet({"seg": make_branch(FakeRunner()), "two": make_branch(FakeRunner())}, sinks=sinks).run(frames(200))
    assert max(seen) <= before + 3 + 3


def test_gc_is_frozen_during_the_stream_and_thawed_after(make_branch: MakeBranch, frames: MakeFrames) -> None:
    during: list[int] = []
    before = gc.get_freeze_count()
    pipeline = Pipeline(
        {"seg": make_branch(FakeRunner(), refine=lambda _: during.append(gc.get_freeze_count()))}, warm_up_runs=0
    )
    pipeline.run(frames(2))
    assert min(during) > before
    assert gc.get_freeze_count() == 0


def test_runners_are_closed_when_one_cannot_be_opened(make_branch: MakeBranch, frames: MakeFrames) -> None:
    class Broken(FakeRunner):
        def _activate(self) -> None:
            raise ConfigError("no model")

    first = FakeRunner()
    with pytest.raises(ConfigError, match="no model"):
        quiet({"seg": make_branch(first, Broken())}).run(frames(1))
    assert not first._active


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
from edge_runtime.frame import Frame
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.streaming import Branch, Pipeline, Rung

class Source:
    name, live, fps, index = "endless", False, None, 0
    def read(self):
        self.index += 1
        if self.index == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return Frame(image=np.zeros((8, 8), np.uint8), index=self.index, arrival_ns=0)

class Prepare:
    tensor = np.zeros((1, 1, 64, 64), np.float32)
    def __call__(self, frame): return self
    def reset(self): pass

class Empty:
    mask = probability = uncertainty = None
    areas = ()
    def __call__(self, *a, **k): return self

pipeline = Pipeline({"seg": Branch(preprocess=Prepare(), rungs=(Rung(runner=FakeRunner(), postprocess=Empty()),))})
try:
    pipeline.run(Source())
except KeyboardInterrupt:
    assert pipeline.report.balances and threading.active_count() == 1
    sys.exit(42)
"""


def test_an_interrupt_ends_the_stream_cleanly() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], timeout=60, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (42, "")


def test_streaming_imports_neither_opencv_nor_onnxruntime() -> None:
    code = "import sys, edge_runtime.streaming, edge_runtime.sinks; print({'cv2', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
