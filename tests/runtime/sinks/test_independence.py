"""A sink that hangs, or fails, costs its own results and nothing else."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.frame import Frame
from edge_runtime.result import Outcome, Result
from edge_runtime.runners import FakeRunner
from edge_runtime.sinks import CallbackSink, MjpegSink, Sink
from edge_runtime.sources import ReplaySource
from edge_runtime.streaming import Branch, Pipeline, Rung, StreamReport

N = 50


class Prepared(NamedTuple):
    tensor: npt.NDArray[np.float32]


class Ones:
    def __call__(self, frame: Frame) -> Prepared:
        return Prepared(np.ones((1, 1, 8, 8), np.float32))

    def reset(self) -> None:
        return None


def streamed(sink: Sink, done: threading.Event, last: threading.Event) -> tuple[StreamReport, list[int]]:
    """Live frames, the next one after the result of the one before, past `sink`; the other sink's frames.

    `done` is set when every result has been through the other sink, `last` before the source ends.
    """
    clock = ManualClock()
    seen: list[int] = []
    answered = threading.Semaphore(1)

    def take(result: Result) -> None:
        seen.append(result.frame.index)
        if len(seen) == N:
            done.set()
        answered.release()

    class Paced(ReplaySource):
        def _next(self) -> Frame | None:
            assert answered.acquire(timeout=20)
            frame = super()._next()
            if frame is None:
                assert last.wait(20)
            return frame

    frames = [Frame(image=np.zeros((8, 8), np.uint8), index=k, arrival_ns=0) for k in range(N)]
    rung = Rung(runner=FakeRunner(shape=(8, 8), clock=clock), postprocess=lambda *a, **k: Outcome())
    branch = Branch(preprocess=Ones(), rungs=(rung,), budget_ms=10.0)
    sinks = {"bad": sink, "good": CallbackSink(take, capacity=N)}
    pipeline = Pipeline({"seg": branch}, sinks=sinks, clock=clock, warm_up_runs=0, freeze_gc=False)
    return pipeline.run(Paced(frames, live=True, clock=clock)), seen


def test_a_sink_that_hangs_loses_its_own_results_alone() -> None:
    done = threading.Event()  # the sink hangs until all other results are through: no time is involved
    report, seen = streamed(CallbackSink(lambda result: done.wait(20)), done, done)  # type: ignore[arg-type]
    assert seen == list(range(N))
    ledger = report.branches["seg"].ledger
    assert (ledger.fresh, ledger.misses) == (N, 0)
    bad = report.sinks["bad"].ledger
    assert bad.balances
    assert bad.fresh + bad.dropped["slow"] == N
    assert bad.fresh <= 3  # the one it hung on, and two that could wait


def test_a_sink_that_fails_is_left_out_and_named() -> None:
    done = threading.Event()

    def failing(result: Result) -> None:
        raise OSError(28, "No space left on device")

    report, seen = streamed(CallbackSink(failing), done, done)
    assert seen == list(range(N))
    assert report.branches["seg"].ledger.fresh == N
    assert "No space left" in report.sinks["bad"].error
    assert any("bad" in warning for warning in report.warnings)


def test_a_live_view_that_nobody_can_draw_costs_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    done = threading.Event()

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("cannot draw")

    sink = MjpegSink(0)
    monkeypatch.setattr("edge_runtime.sinks.mjpeg.draw_overlay", broken)
    sink._looking = 1  # as if somebody looked
    sink._silent_s = 0.01
    report, seen = streamed(sink, done, done)
    assert seen == list(range(N))
    assert "cannot draw" in report.sinks["bad"].error
    assert sink._server is None
