"""The shipped source and preprocessor in a pipeline: they fit the contracts, and the pace is in the figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_runtime.clock import Clock, ManualClock, MonotonicClock
from edge_runtime.frame import FrameGeometry
from edge_runtime.postprocess import MaskPostprocessor
from edge_runtime.preprocess import Letterbox, Normalize, Preprocessor, PreprocessSpec
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink
from edge_runtime.sources import ArraySource, PacedSource
from edge_runtime.streaming import Branch, FrameSource, Pipeline, Postprocess, Preprocess, Rung

pytest.importorskip("cv2")

SPEC = PreprocessSpec(steps=(Letterbox(height=64, width=64), Normalize()))
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 64, 64), np.uint8)
KNOWN = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="user", trusted=True, reason="")


def shipped_branch(clock: Clock, **options: Any) -> Branch:
    prepare: Preprocess = Preprocessor(SPEC)
    runner = FakeRunner(clock=clock)
    read: Postprocess = MaskPostprocessor(runner.outputs[0])
    return Branch(preprocess=prepare, rungs=(Rung(runner=runner, postprocess=read),), **options)


def test_a_recording_that_waits_is_lossless_and_right() -> None:
    pipeline = Pipeline({"seg": shipped_branch(MonotonicClock())}, warm_up_runs=1, freeze_gc=False)
    source: FrameSource = ArraySource(IMAGES, geometry=KNOWN)
    results = [result.copy() for result in pipeline.stream(source)]
    assert [result.frame.index for result in results] == list(range(20))
    for result, image in zip(results, IMAGES, strict=True):
        assert result.mask is not None
        assert np.array_equal(result.mask, image >= 128)
        assert result.areas[0].mm2 == np.count_nonzero(image >= 128) * 0.125


def test_a_paced_recording_is_timed_from_when_frames_were_due() -> None:
    clock = ManualClock(start_ns=7)
    source: FrameSource = PacedSource(ArraySource(IMAGES, fps=25.0, clock=clock), clock=clock)
    branch = shipped_branch(clock, budget_ms=40, preprocess_sha256=SPEC.sha256)
    sink = CollectSink()
    report = Pipeline({"seg": branch}, sinks={"s": sink}, clock=clock, freeze_gc=False).run(source)
    ledger = report.branches["seg"].ledger
    assert (ledger.arrived, ledger.in_flight, report.balances) == (20, 0, True)
    assert report.configuration["source"].endswith("25 frames/s")
    start = sink.results[0].frame.arrival_ns - 40_000_000 * sink.results[0].frame.index
    for result in sink.results:
        assert result.frame.arrival_ns == start + 40_000_000 * result.frame.index
        assert result.deadline_ns == result.frame.arrival_ns + 40_000_000
        assert result.preprocess_sha256 == SPEC.sha256
