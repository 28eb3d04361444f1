"""The pace of a recording played as if live, on a clock that the test moves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame
from edge_runtime.sources import ArraySource, PacedSource, ReplaySource, Source

START = 1_000_000


def recording(count: int = 3, fps: float | None = 10.0) -> ArraySource:
    images = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    return ArraySource(images, fps=fps)


class SlowSource(ArraySource):
    """Each read takes 70 ms of the clock, as a slow decoder would."""

    def __init__(self, clock: ManualClock, count: int) -> None:
        super().__init__(np.zeros((count, 2, 2), np.uint8), fps=10.0)
        self.manual = clock

    def _next(self) -> Frame | None:
        self.manual.advance_ns(70_000_000)
        return super()._next()


def test_frames_come_when_they_are_due_and_say_when_that_was() -> None:
    clock = ManualClock(START)
    source = PacedSource(recording(), clock=clock)
    assert (source.live, source.fps, source.frame_count) == (True, 10.0, 3)
    for k in range(3):
        frame = source.read()
        assert frame is not None
        assert frame.arrival_ns == clock.now_ns() == START + k * 100_000_000
        assert (frame.index, frame.device_ns, int(frame.image[0, 0])) == (k, k * 100_000_000, k)
    assert source.read() is None


def test_arrival_is_the_due_time_not_the_end_of_the_decode() -> None:
    clock = ManualClock(START)
    for k, frame in enumerate(PacedSource(SlowSource(clock, 4), clock=clock)):
        assert frame.arrival_ns == START + k * 100_000_000
        assert clock.now_ns() == frame.arrival_ns + 70_000_000


def test_a_late_consumer_gets_every_frame_it_is_owed_with_its_lateness() -> None:
    clock = ManualClock(START)
    source = PacedSource(recording(6), clock=clock)
    source.read()
    clock.advance_ns(350_000_000)
    lateness = []
    for frame in source:
        lateness.append((clock.now_ns() - frame.arrival_ns) // 1_000_000)
    assert lateness == [250, 150, 50, 0, 0]


def test_asked_rate_replaces_the_recorded_one() -> None:
    clock = ManualClock()
    source = PacedSource(recording(fps=None), fps=25, clock=clock)
    assert [frame.arrival_ns for frame in source] == [0, 40_000_000, 80_000_000]
    assert "as asked" in source.timing_note


def test_recorded_times_pace_the_frames_and_the_seam_of_a_loop() -> None:
    times = [5, 50_000_005, 80_000_005]
    inner = ArraySource(np.zeros((3, 2, 2), np.uint8), times_ns=times)
    source = PacedSource(inner, loop=True, clock=ManualClock())
    frames = [source.read() for _ in range(6)]
    arrivals = [frame.arrival_ns for frame in frames if frame]
    # the mean interval of 40 ms stands between the last frame and the first again
    assert arrivals == [0, 50_000_000, 80_000_000, 120_000_000, 170_000_000, 200_000_000]
    assert [frame.index for frame in frames if frame] == list(range(6))
    assert [frame.device_ns for frame in frames if frame] == arrivals


@given(count=st.integers(1, 9), fps=st.floats(1, 240), seconds=st.floats(0.05, 3))
def test_a_loop_of_seconds_is_one_even_pace(count: int, fps: float, seconds: float) -> None:
    source = PacedSource(recording(count), fps=fps, loop_s=seconds, clock=ManualClock(START))
    frames = list(source)
    due = [frame.arrival_ns - START for frame in frames]
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert np.allclose(due, np.arange(len(frames)) * 1e9 / fps, atol=2 * len(frames))
    assert due[-1] < seconds * 1e9 <= due[-1] + 1e9 / fps + 2 * len(frames)
    assert source.frame_count is None


def test_a_damaged_frame_keeps_its_slot_and_its_index() -> None:
    image = np.zeros((2, 2), np.uint8)
    script = [Frame(image=image, index=0, arrival_ns=0), CorruptFrameError("frame 1: damaged", 1)]
    source = PacedSource(ReplaySource(script, fps=10), loop=True, clock=ManualClock())
    for k in (0, 2, 4):
        frame = source.read()
        assert frame is not None
        assert (frame.index, frame.arrival_ns) == (k, k * 100_000_000)
        with pytest.raises(CorruptFrameError) as caught:
            source.read()
        assert caught.value.index == k + 1


def test_rewind_starts_a_new_schedule_now() -> None:
    clock = ManualClock()
    source = PacedSource(recording(), clock=clock)
    list(source)
    clock.advance_ns(999)
    source.rewind()
    frame = source.read()
    assert frame is not None
    assert (frame.index, frame.arrival_ns) == (0, clock.now_ns())


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_not_positive_is_refused(fps: float) -> None:
    with pytest.raises(ConfigError, match="positive"):
        PacedSource(recording(), fps=fps)


def test_other_misuse_is_refused() -> None:
    with pytest.raises(SourceError, match=r"no rate to play at .*give fps"):
        PacedSource(recording(fps=None))
    with pytest.raises(ConfigError, match="loop_s is 0"):
        PacedSource(recording(), loop_s=0)
    with pytest.raises(ConfigError, match="live already"):
        PacedSource(PacedSource(recording()))
    with pytest.raises(SourceError, match="no frame; there is nothing to loop"):
        PacedSource(ReplaySource([], fps=10), loop=True, clock=ManualClock()).read()


def test_closing_closes_the_recording() -> None:
    inner: Source = recording()
    with PacedSource(inner):
        pass
    with pytest.raises(SourceError, match="is closed"):
        inner.read()
