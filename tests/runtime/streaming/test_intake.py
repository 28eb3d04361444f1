"""Frames that do not fit the ones before: told, used, failed or the end, as configured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink
from edge_runtime.sources import ArraySource, Fault, FaultSource
from edge_runtime.streaming import Branch, Intake, Pipeline
from edge_runtime.streaming.intake import Gate
from edge_runtime.streaming.journal import Journal

MakeBranch = Callable[..., Branch]
SECOND = 1_000_000_000
KNOWN = FrameGeometry(row_mm=0.5, column_mm=0.5, origin="user", trusted=True, reason="")
GREY, COLOUR, SMALL = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((4, 8), np.uint8)


def quiet(branches: dict[str, Branch], **options: Any) -> Pipeline:
    return Pipeline(branches, **{"warm_up_runs": 0, "freeze_gc": False, **options})


def frame(index: int, image: Any = GREY, *, device_ns: int | None = None, at: int = 0, **more: Any) -> Frame:
    return Frame(image=image, index=index, arrival_ns=at, device_ns=device_ns, **more)


def kinds(frames: list[Frame], *, live: bool = False, now_ns: int = 0, **settings: Any) -> list[str]:
    clock = ManualClock(now_ns)
    journal = Journal(clock=clock)
    gate = Gate(Intake(**settings), live=live, clock=clock, journal=journal, source="s")
    for item in frames:
        gate.check(item)
    return [event.kind for event in journal.events]


def test_each_oddity_is_told_once_when_it_begins() -> None:
    fine = [frame(k, device_ns=k * 1000) for k in range(5)]
    assert kinds(fine) == []
    assert kinds([*fine, frame(5, device_ns=3000), frame(6, device_ns=4000)]) == ["timestamps"]
    assert kinds([*fine, frame(5, device_ns=4000)]) == ["timestamps"]
    assert kinds([*fine, frame(5, device_ns=11 * SECOND)]) == ["timestamps"]
    assert kinds([*fine, frame(5, SMALL), frame(6, SMALL)]) == ["resolution"]
    assert kinds([frame(0), frame(1, COLOUR), frame(2, COLOUR), frame(3)]) == ["colour", "colour"]
    assert kinds([frame(0), frame(1, geometry=KNOWN), frame(2, geometry=KNOWN)]) == ["geometry"]


def test_the_arrival_is_judged_on_a_live_source_alone() -> None:
    now = 1000 * SECOND
    cases = {"": now, "future": now + SECOND, "old": now - 61 * SECOND}
    for name, at in cases.items():
        assert kinds([frame(0, at=at)], live=True, now_ns=now) == (["absurd_time"] if name else [])
        assert kinds([frame(0, at=at)], live=False, now_ns=now) == []
    assert kinds([frame(0, at=now), frame(1, at=now - 1)], live=True, now_ns=now) == ["timestamps"]


@pytest.mark.parametrize("kind", ["resolution", "colour", "geometry", "timestamps"])
@pytest.mark.parametrize("answer", ["keep", "fail", "raise"])
def test_the_stream_goes_on_or_ends_as_configured(make_branch: MakeBranch, kind: str, answer: str) -> None:
    odd = {
        "resolution": Fault(kind="resolution", at=3),
        "colour": Fault(kind="colour", at=3),
        "geometry": Fault(kind="depth", at=3),
        "timestamps": Fault(kind="late_stamp", at=3, ms=100.0),
    }[kind]
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 48), np.uint8)
    source = FaultSource(ArraySource(images, fps=30.0, geometry=KNOWN), [odd])
    sink = CollectSink()
    branch = make_branch(FakeRunner())
    pipeline = quiet({"seg": _flat(branch)}, sinks={"s": sink}, intake=Intake(**{kind: answer}))
    if answer == "raise":
        with pytest.raises(SourceError, match="frame 3"):
            pipeline.run(source)
        assert [result.frame.index for result in sink.results] == [0, 1, 2]
    else:
        pipeline.run(source)
        back = kind in ("resolution", "colour", "geometry")  # changing back is a change too
        failed = {kind: 1 + back} if answer == "fail" else {}
        assert pipeline.report.branches["seg"].ledger.failed == failed
        assert len(sink.results) == 6 - sum(failed.values())
    assert pipeline.report.event_counts[kind] >= 1
    assert pipeline.report.balances


def _flat(branch: Branch) -> Branch:
    """Colour is taken as its first channel, so that the fakes can work on it."""
    inner = branch.preprocess

    class First:
        def __call__(self, item: Frame) -> Any:
            image = item.image if item.image.ndim == 2 else np.ascontiguousarray(item.image[..., 0])
            return inner(Frame(image=image, index=item.index, arrival_ns=item.arrival_ns))

        def reset(self) -> None:
            inner.reset()

    return Branch(preprocess=First(), rungs=branch.rungs)


def test_an_earlier_result_is_not_given_out_for_another_scale_of_millimetres(make_branch: MakeBranch) -> None:
    """The depth knob was turned while the model fails: a stale mask and its mm would lie about the new image."""
    from edge_runtime.streaming import ErrorPolicy

    images = np.full((6, 16, 24), 200, np.uint8)
    geometries = [KNOWN] * 3 + [FrameGeometry(row_mm=0.25, column_mm=0.25, origin="user", trusted=True, reason="")] * 3
    sink = CollectSink()
    branch = make_branch(FakeRunner(fail_at=[2, 3, 5]), errors=ErrorPolicy(infer="substitute"))
    report = quiet({"seg": branch}, sinks={"s": sink}).run(ArraySource(images, fps=30.0, geometry=geometries))
    assert [result.state for result in sink.results] == ["fresh", "fresh", "stale", "failed", "fresh", "stale"]
    assert report.event_counts["geometry"] == 1
    assert branch.preprocess.resets == 2  # type: ignore[attr-defined]


class Zero:
    """A source whose frame 2 has no pixel, or each of them."""

    name, live, fps, index = "zero", False, None, -1

    def __init__(self, every: bool = False) -> None:
        self.every = every

    def read(self) -> Frame | None:
        self.index += 1
        if self.index == 99:
            return None
        empty = self.every or self.index == 2
        return Frame(image=np.zeros((0 if empty else 4, 4), np.uint8), index=self.index, arrival_ns=0)


def test_a_frame_without_pixels_is_failed_or_the_end(make_branch: MakeBranch) -> None:
    report = quiet({"seg": make_branch(FakeRunner())}).run(Zero())
    ledger = report.branches["seg"].ledger
    assert (ledger.arrived, ledger.fresh, ledger.failed) == (99, 98, {"bad_frame": 1})
    assert report.event_counts == {"bad_frame": 1}
    with pytest.raises(SourceError, match=r"1 bad frames in a row.*shape \(0, 4\)"):
        quiet({"seg": make_branch(FakeRunner())}, intake=Intake(bad_frame="raise")).run(Zero())
    with pytest.raises(SourceError, match="30 bad frames in a row"):
        quiet({"seg": make_branch(FakeRunner())}).run(Zero(every=True))


def test_limits_out_of_range_are_refused() -> None:
    for name in ("max_step_s", "max_ahead_ms", "max_age_s"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match=name):
                Intake(**{name: value})


def test_what_is_no_frame_ends_the_stream_with_its_kind() -> None:
    with pytest.raises(SourceError, match="'s' gave a ndarray; a Frame, or None at the end"):
        kinds([GREY])  # type: ignore[list-item]
