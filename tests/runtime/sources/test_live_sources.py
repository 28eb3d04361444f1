"""Sources that are live: pushed frames, reconnecting, the three reads."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from edge_runtime.clock import ManualClock, MonotonicClock
from edge_runtime.errors import ConfigError, CorruptFrameError, EdgeError, SourceError, SourceFormatError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.sources import (
    ArraySource,
    Fault,
    FaultSource,
    LatestReader,
    PacedSource,
    PushSource,
    ReconnectEvent,
    Reconnecting,
    ReplaySource,
    with_geometry,
)

IMAGE = np.zeros((4, 6), np.uint8)
MM = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="user", trusted=True, reason="")


# --- push -------------------------------------------------------------------------------------------------------------


def test_pushed_frames_are_stamped_when_pushed_and_owned_by_the_reader() -> None:
    clock = ManualClock(5)
    source = PushSource(geometry=MM, clock=clock)
    image = IMAGE.copy()
    assert source.push(image, device_ns=77)
    image[:] = 9
    clock.advance_ns(100)
    assert source.push(image, geometry=FrameGeometry(), arrival_ns=50, copy=False)
    first, second = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert (first.index, first.arrival_ns, first.device_ns, first.image.max(), first.geometry) == (0, 5, 77, 0, MM)
    assert (second.index, second.arrival_ns, second.geometry.trusted) == (1, 50, False)
    assert second.image is image


def test_a_full_source_drops_the_oldest_and_counts_it() -> None:
    source = PushSource(capacity=2)
    for _ in range(5):
        assert source.push(IMAGE)
    source.end()
    assert not source.push(IMAGE)
    assert [frame.index for frame in source] == [3, 4]
    counts = source.counts()
    assert (counts.put, counts.taken, counts.dropped, counts.inside) == (6, 2, {"replaced": 3, "closed": 1}, 0)


def test_many_threads_push_without_loss_into_a_blocking_source() -> None:
    source = PushSource(capacity=2, policy="block", live=False)
    threads = [threading.Thread(target=lambda: [source.push(IMAGE) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    ender = threading.Thread(target=lambda: ([t.join() for t in threads], source.end()))
    ender.start()
    assert [frame.index for frame in source] == list(range(200))
    ender.join()
    counts = source.counts()
    assert (counts.put, counts.taken, counts.inside) == (200, 200, 0)


def test_a_waiting_read_ends_with_the_source() -> None:
    source = PushSource()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(source.read()))
    thread.start()
    source.interrupt()
    thread.join(10)
    assert found == [None]
    source.close()
    assert not source.push(IMAGE)


@pytest.mark.parametrize(
    "image", [np.zeros((0, 3), np.uint8), np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8)]
)
def test_an_image_that_is_none_is_refused_where_it_is_pushed(image: Any) -> None:
    source = PushSource()
    with pytest.raises(ConfigError, match="frame 0: image has shape"):
        source.push(image)
    assert source.counts().put == 0
    with pytest.raises(ConfigError, match="capacity"):
        PushSource(capacity=0)


# --- reconnecting -----------------------------------------------------------------------------------------------------


class Line:
    """A factory that plays its scripts one after the other; an error in place of a script fails that opening."""

    def __init__(self, *scripts: list[Frame | EdgeError] | EdgeError) -> None:
        self.scripts = list(scripts)
        self.opened: list[ReplaySource] = []

    def __call__(self) -> ReplaySource:
        script = self.scripts.pop(0)
        if isinstance(script, EdgeError):
            raise script
        self.opened.append(ReplaySource(script))
        return self.opened[-1]


def frames(count: int) -> list[Frame | EdgeError]:
    return [Frame(image=IMAGE, index=k, arrival_ns=k) for k in range(count)]


LOST = SourceError("unplugged")


def test_a_lost_source_is_opened_again_with_growing_waits() -> None:
    clock = ManualClock()
    told: list[ReconnectEvent] = []
    line = Line([*frames(2), LOST], LOST, LOST, LOST, [*frames(1), LOST], frames(2))
    source = Reconnecting(line, first_s=1, factor=3, limit_s=5, on_event=told.append, clock=clock)
    assert [frame.index for frame in source] == [0, 1, 2, 3, 4]
    seconds = [(event.kind, event.time_ns // 10**9, event.attempt) for event in source.events]
    assert seconds == [
        ("lost", 0, 0),
        ("retry", 1, 1),
        ("retry", 4, 2),
        ("retry", 9, 3),
        ("reconnected", 14, 4),
        ("lost", 14, 0),
        ("reconnected", 15, 1),
    ]
    assert tuple(told) == source.events
    counts = source.counts()
    assert (counts.lost, counts.attempts, counts.reconnected) == (2, 5, 2)
    for old in line.opened[:-1]:
        with pytest.raises(SourceError, match="is closed"):
            old.read()


def test_a_source_that_opens_and_gives_nothing_uses_up_its_attempts() -> None:
    source = Reconnecting(Line(*[[LOST]] * 4), first_s=0.1, attempts=2, clock=ManualClock())
    with pytest.raises(SourceError, match="gone after 2 attempts: unplugged"):
        source.read()
    assert [event.kind for event in source.events] == ["lost", "reconnected", "lost", "reconnected", "lost", "gave_up"]


def test_corrupt_frames_pass_with_the_index_of_the_whole() -> None:
    bad = CorruptFrameError("torn", 0)
    source = Reconnecting(Line([*frames(1), LOST], [bad, *frames(1)]), first_s=0, clock=ManualClock())
    assert source.read() is not None
    with pytest.raises(CorruptFrameError) as caught:
        source.read()
    assert caught.value.index == 1
    frame = source.read()
    assert frame is not None
    assert (frame.index, source.read()) == (2, None)


def test_a_recording_that_can_be_opened_again_can_also_be_looped() -> None:
    source = PacedSource(Reconnecting(Line(frames(2))), fps=10, loop_s=0.4, clock=ManualClock())
    assert [frame.index for frame in source] == [0, 1, 2, 3]


def test_what_will_not_get_better_is_raised_at_once() -> None:
    with pytest.raises(SourceError, match="unplugged"):
        Reconnecting(Line(LOST))
    source = Reconnecting(Line([SourceFormatError("no such coding")]), clock=ManualClock())
    with pytest.raises(SourceFormatError):
        source.read()
    for wrong in ({"first_s": -1}, {"first_s": 20}, {"factor": 0.5}, {"attempts": 0}):
        with pytest.raises(ConfigError):
            Reconnecting(Line(frames(1)), **wrong)  # type: ignore[arg-type]


def test_a_wait_can_be_interrupted() -> None:
    source = Reconnecting(Line([LOST]), first_s=1e3, limit_s=1e3, clock=MonotonicClock())
    errors: list[BaseException] = []

    def read() -> None:
        try:
            source.read()
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    source.interrupt()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    source.close()


# --- the three reads --------------------------------------------------------------------------------------------------


def settled(reader: LatestReader, arrived: int) -> None:
    """Wait until the reader's thread has taken `arrived` frames."""
    for _ in range(10_000):
        if reader.counts().arrived >= arrived:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{reader.counts()} after ten seconds")


def test_the_three_reads_differ_as_they_say() -> None:
    clock = ManualClock()
    push = PushSource(clock=clock)
    with LatestReader(push, clock=clock) as reader:
        assert reader.read_latest() is None
        assert reader.async_read(0) is None
        for _ in range(3):
            push.push(IMAGE)
        settled(reader, 3)
        clock.advance_ns(30_000_000)
        latest = reader.read_latest()
        assert latest is not None
        assert (latest.frame.index, latest.age_ns) == (2, 30_000_000)
        assert reader.read_latest(max_age_ms=29) is None
        newest = reader.async_read(0)
        assert newest is not None
        assert newest.index == 2
        assert reader.async_read(0) is None, "it has been seen"
        assert reader.read_latest() is not None, "a look does not mind"
        push.push(IMAGE)
        settled(reader, 4)
        assert reader.read(0) is None, "what was there before the call is not a new frame"
        counts = reader.counts()
        assert (counts.arrived, counts.corrupt) == (4, 0)
        assert counts.unseen == 3  # two of the first three, and the one that `read` passed over


def test_read_waits_for_a_new_frame() -> None:
    push = PushSource()
    with LatestReader(push) as reader:
        push.push(IMAGE)
        settled(reader, 1)
        found: list[Frame | None] = []
        thread = threading.Thread(target=lambda: found.append(reader.read(10_000)))
        thread.start()
        while not found:
            push.push(IMAGE)
            thread.join(0.01)
        assert found[0] is not None
        assert found[0].index >= 1


def test_an_end_a_loss_and_a_corrupt_frame() -> None:
    torn = CorruptFrameError("torn", 0)
    with LatestReader(ReplaySource([torn, *frames(1)], live=True, clock=ManualClock())) as reader:
        last = reader.async_read(10_000)
        assert last is not None
        with pytest.raises(SourceError, match="no more frames: it has ended"):
            reader.async_read(10_000)
        assert reader.counts().corrupt == 1
    with LatestReader(ReplaySource([LOST], live=True)) as reader, pytest.raises(SourceError, match="unplugged"):
        reader.read(10_000)
    with pytest.raises(SourceError, match="is closed"):
        reader.async_read()
    with pytest.raises(ConfigError, match="is not live"):
        LatestReader(ArraySource(IMAGE[None]))
    with LatestReader(PushSource()) as reader, pytest.raises(ConfigError, match="timeout_ms"):
        reader.async_read(-1)


def test_a_source_that_does_not_return_is_named() -> None:
    gate = threading.Event()

    class Stuck(ReplaySource):
        def _next(self) -> Frame | None:
            gate.wait()
            return None

    reader = LatestReader(Stuck([], live=True))
    with pytest.raises(SourceError, match=r"not returned for 0\.01 s"):
        reader.close(timeout_s=0.01)
    gate.set()
    reader.close()


# --- being stopped ----------------------------------------------------------------------------------------------------


def test_what_waits_for_its_time_ends_when_it_is_interrupted() -> None:
    images = np.zeros((2, 4, 6), np.uint8)
    hour = 3600 * 10**9
    sources = (
        PacedSource(ArraySource(images, times_ns=[0, hour])),
        FaultSource(PacedSource(ArraySource(images, fps=10)), [Fault(kind="stall", at=1, ms=3.6e6)]),
        ReplaySource([*frames(1), Frame(image=IMAGE, index=1, arrival_ns=10**18)], live=True),
        with_geometry(PacedSource(ArraySource(images, times_ns=[0, hour])), MM),
    )
    for source in sources:
        found: list[Frame | None] = []
        thread = threading.Thread(
            target=lambda source=source, found=found: found.extend([source.read(), source.read()])
        )
        thread.start()
        source.interrupt()
        thread.join(10)
        assert not thread.is_alive(), type(source).__name__
        assert found[-1] is None
        source.close()


def test_what_is_opened_while_it_is_stopped_is_not_read() -> None:
    opened: list[PushSource] = []

    def factory() -> PushSource:
        opened.append(PushSource())
        if len(opened) == 1:
            opened[0].close()  # so that it is lost at once
        else:
            source.interrupt()
        return opened[-1]

    source = Reconnecting(factory, first_s=0, clock=ManualClock())
    with pytest.raises(SourceError, match="stopped while it was opened again"):
        source.read()
    source.close()
    with pytest.raises(SourceError, match="is closed"):
        opened[1].read()


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps: float) -> None:
    images = np.zeros((2, 4, 6), np.uint8)
    for make in (lambda: PushSource(fps=fps), lambda: ArraySource(images, fps=fps)):
        with pytest.raises(ConfigError, match="fps is"):
            make()


@pytest.mark.parametrize("times", [np.array([0, 2**64 - 1], np.uint64), np.array([-(2**63), 2**62])])
def test_times_beyond_64_bits_are_refused(times: Any) -> None:
    with pytest.raises(ConfigError, match="at most 2"):
        ArraySource(np.zeros((2, 4, 6), np.uint8), times_ns=times)


def test_a_frame_that_was_under_way_when_read_was_called_is_passed_over() -> None:
    clock = ManualClock(1000)
    source = PushSource(clock=clock)
    with LatestReader(source, clock=clock) as reader:
        found: list[Frame | None] = []
        thread = threading.Thread(target=lambda: found.append(reader.read()))
        thread.start()
        while thread.is_alive():  # again and again, as it is not known when the thread begins to wait
            source.push(IMAGE, arrival_ns=400)
            time.sleep(0.002)
            source.push(IMAGE, arrival_ns=1000)
            time.sleep(0.002)
        thread.join(10)
        assert found[0] is not None
        assert found[0].arrival_ns == 1000
        source.push(IMAGE, arrival_ns=999)
        assert reader.async_read(None) is not None  # the newest not yet given, whenever it arrived
