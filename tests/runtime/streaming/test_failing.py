"""What a branch does when a stage raises, and hooks that raise or block."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, InferenceError, PipelineError
from edge_runtime.result import Result
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CallbackSink, CollectSink
from edge_runtime.streaming import Branch, ErrorPolicy, Pipeline, Rung, StreamEvent

MakeBranch = Callable[..., Branch]
MakeFrames = Callable[..., Any]


def quiet(branches: dict[str, Branch], **options: Any) -> Pipeline:
    return Pipeline(branches, **{"warm_up_runs": 0, "freeze_gc": False, **options})


class Counting(FakeRunner):
    """Counts how often its model was loaded; fails until it was loaded `heals` times."""

    def __init__(self, *, fail_at: tuple[int, ...] = (), heals: int = 0) -> None:
        super().__init__()
        self.loads, self.total, self.bad, self.heals = 0, 0, fail_at, heals

    def _activate(self) -> None:
        super()._activate()
        self.loads += 1

    def _infer(self, inputs: Any) -> Any:
        self.total += 1
        if self.total - 1 in self.bad or self.loads < self.heals:
            raise InferenceError("the device was lost")
        return super()._infer(inputs)


def test_skip_substitute_and_raise(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def once(answer: str) -> tuple[list[str], Any]:
        sink = CollectSink()
        branch = make_branch(FakeRunner(fail_at=[0, 3]), errors=ErrorPolicy(infer=answer))  # type: ignore[arg-type]
        report = quiet({"seg": branch}, sinks={"s": sink}).run(frames(6))
        assert report.event_counts == {"stage_failed": 2}
        assert report.balances
        return [result.state for result in sink.results], (report, sink)

    assert once("skip")[0] == ["failed", "fresh", "fresh", "failed", "fresh", "fresh"]
    found, (report, sink) = once("substitute")
    assert found == ["failed", "fresh", "fresh", "stale", "fresh", "fresh"]  # nothing to repeat before the first
    stale = sink.results[3]
    assert (stale.outputs_from, stale.reason, stale.missed) == (2, "infer: InferenceError", True)
    assert np.array_equal(stale.mask, sink.results[2].mask)
    assert report.branches["seg"].ledger.stale == 1
    raising = quiet({"seg": make_branch(FakeRunner(fail_at=[3]), errors=ErrorPolicy(infer="raise"))})
    with pytest.raises(InferenceError, match="asked to fail"):
        raising.run(frames(9))
    ledger = raising.report.branches["seg"].ledger
    assert (ledger.fresh, ledger.failed, ledger.in_flight) == (3, {"infer: InferenceError": 1}, 0)


def test_a_model_is_loaded_again_and_given_up_when_that_does_not_help(
    make_branch: MakeBranch, frames: MakeFrames
) -> None:
    runner = Counting(heals=3)
    report = quiet({"seg": make_branch(runner, errors=ErrorPolicy(infer="restart"))}).run(frames(8))
    ledger = report.branches["seg"].ledger
    assert (runner.loads, ledger.fresh, ledger.failed) == (3, 6, {"infer: InferenceError": 2})
    assert report.event_counts == {"stage_failed": 2, "stage_restarted": 2}
    hopeless = quiet({"seg": make_branch(Counting(heals=99), errors=ErrorPolicy(infer="restart", max_restarts=2))})
    with pytest.raises(PipelineError, match=r"infer failed again after 2 restarts.*device was lost") as caught:
        hopeless.run(frames(8))
    assert isinstance(caught.value.__cause__, InferenceError)
    assert hopeless.report.branches["seg"].ledger.in_flight == 0


def test_give_up_counts_failures_in_a_row(make_branch: MakeBranch, frames: MakeFrames) -> None:
    errors = ErrorPolicy(infer="substitute", give_up_after=3)
    fine = quiet({"seg": make_branch(FakeRunner(fail_at=[1, 2, 4, 5]), errors=errors)}).run(frames(8))
    assert fine.branches["seg"].ledger.stale == 4
    assert any("answered without failing the frame" in warning for warning in fine.warnings)
    with pytest.raises(PipelineError, match="3 frames failed in a row"):
        quiet({"seg": make_branch(FakeRunner(fail_at=[1, 2, 3]), errors=errors)}).run(frames(8))


def test_the_optional_stage_may_be_left_out_when_it_fails(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def refine(result: Result) -> None:
        if result.frame.index % 2:
            raise KeyError("a bug of the user's")

    sink = CollectSink()
    errors = ErrorPolicy(refine="substitute", any_exception=True)
    quiet({"seg": make_branch(FakeRunner(), refine=refine, errors=errors)}, sinks={"s": sink}).run(frames(4))
    assert [result.state for result in sink.results] == ["fresh", "degraded"] * 2
    assert sink.results[1].mask is not None
    assert sink.results[1].reason == "refine: KeyError"
    failing = CollectSink()
    errors = ErrorPolicy(any_exception=True)
    quiet({"seg": make_branch(FakeRunner(), refine=refine, errors=errors)}, sinks={"s": failing}).run(frames(2))
    assert (failing.results[1].state, failing.results[1].mask, failing.results[1].areas) == ("failed", None, ())


def test_a_nan_output_fails_the_frame(frames: MakeFrames, make_branch: MakeBranch) -> None:
    pytest.importorskip("cv2")
    from edge_runtime.postprocess import MaskPostprocessor
    from edge_runtime.preprocess import Letterbox, Normalize, Preprocessor, PreprocessSpec

    calls = iter(range(9))
    runner = FakeRunner(compute=lambda x: x * np.float32(np.nan if next(calls) == 1 else 1))
    spec = PreprocessSpec(steps=(Letterbox(height=64, width=64), Normalize()))
    rung = Rung(runner=runner, postprocess=MaskPostprocessor(runner.outputs[0]))
    report = quiet({"seg": Branch(preprocess=Preprocessor(spec), rungs=(rung,))}).run(frames(3))
    assert report.branches["seg"].ledger.failed == {"postprocess: InferenceError": 1}
    assert "not finite" in report.events[0].message


def test_hooks_that_raise_are_left_out_and_named(make_branch: MakeBranch, frames: MakeFrames) -> None:
    def wrong(_: object) -> None:
        raise ZeroDivisionError("my hook")

    branch = make_branch(FakeRunner(fail_at=[1, 2, 3]))
    report = quiet({"seg": branch}, on_event=wrong, observe=wrong).run(frames(5))
    assert report.branches["seg"].ledger.fresh == 2
    assert report.event_counts == {"callback_failed": 2, "stage_failed": 3}
    told = [event.message for event in report.events if event.kind == "callback_failed"]
    assert sorted(message.split(" raised")[0] for message in told) == ["on_event", "the observer"]


def test_a_callback_that_blocks_does_not_hold_up_the_stream(make_branch: MakeBranch, frames: MakeFrames) -> None:
    gate, told = threading.Event(), []

    def slow(event: StreamEvent) -> None:
        gate.wait(20)
        told.append(event.frame)

    done = CallbackSink(lambda result: gate.set() if result.frame.index == 199 else None)
    branch = make_branch(FakeRunner(fail_at=range(100)))
    report = quiet({"seg": branch}, sinks={"s": done}, on_event=slow).run(frames(200))
    assert report.event_counts == {"stage_failed": 100}
    assert len(told) + 36 >= 100
    assert len(told) < 100
    assert told[-1] == 99
    assert any("on_event was too slow for" in warning for warning in report.warnings)


def test_policies_out_of_range_are_refused() -> None:
    for wrong in ({"max_restarts": 0}, {"give_up_after": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            ErrorPolicy(**wrong)  # type: ignore[arg-type]
