"""The source with faults: each does what its table says, and the same seed does the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.sources import ArraySource, Fault, FaultSource, PacedSource, Reconnecting, Source

MM = FrameGeometry(row_mm=0.5, column_mm=0.25, origin="user", trusted=True, reason="")


def paced(clock: ManualClock, count: int = 8) -> Source:
    """10 frames a second of 4 x 6 pixels."""
    images = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 6), np.uint8)
    return PacedSource(ArraySource(images, fps=10, geometry=MM), clock=clock)


def play(source: Source) -> list[Frame | SourceError]:
    """All that comes, until the end or a loss."""
    found: list[Frame | SourceError] = []
    while True:
        try:
            frame = source.read()
        except CorruptFrameError as error:
            found.append(error)
            continue
        except SourceError as error:
            return [*found, error]
        if frame is None:
            return found
        found.append(frame)


def with_fault(*faults: Fault, count: int = 8, seed: int = 0) -> tuple[list[Any], FaultSource]:
    clock = ManualClock()
    source = FaultSource(paced(clock, count), faults, seed=seed, clock=clock)
    return play(source), source


def ms(found: list[Any]) -> list[int]:
    return [frame.arrival_ns // 10**6 for frame in found]


def test_without_faults_nothing_changes() -> None:
    found, source = with_fault()
    assert [frame.index for frame in found] == list(range(8))
    assert ms(found) == list(range(0, 800, 100))
    assert source.injected == []
    assert (source.live, source.fps, source.due_ns(3)) == (True, 10.0, 300_000_000)


def test_a_stall_holds_frames_up_and_they_arrive_after_it() -> None:
    found, source = with_fault(Fault(kind="stall", at=2, ms=350))
    assert [frame.index for frame in found] == list(range(8))
    assert ms(found) == [0, 100, 450, 450, 450, 500, 600, 700]
    assert [frame.device_ns // 10**6 for frame in found] == list(range(0, 800, 100))
    assert [(i.at, i.kind) for i in source.injected] == [(2, "stall")]


def test_a_burst_comes_at_once() -> None:
    found, _ = with_fault(Fault(kind="burst", at=2, count=3))
    assert [frame.index for frame in found] == list(range(8))
    assert ms(found) == [0, 100, 400, 400, 400, 500, 600, 700]


def test_bursts_on_every_frame_end() -> None:
    found, _ = with_fault(Fault(kind="burst", probability=1.0, count=2))
    assert [frame.index for frame in found] == list(range(8))
    assert ms(found) == [100, 100, 300, 300, 500, 500, 700, 700]


def test_corrupt_and_duplicate_frames() -> None:
    found, _ = with_fault(Fault(kind="corrupt", at=1, count=2), Fault(kind="duplicate", at=4, count=2))
    assert [item.index for item in found] == [0, 1, 2, 3, 4, 4, 4, 5, 6, 7]
    assert [type(item) for item in found[:4]] == [Frame, CorruptFrameError, CorruptFrameError, Frame]
    assert found[4].device_ns == found[6].device_ns


def test_a_late_stamp_lies_before_the_frame_before() -> None:
    found, _ = with_fault(Fault(kind="late_stamp", at=3, ms=250))
    assert [frame.device_ns // 10**6 for frame in found] == [0, 100, 200, 50, 400, 500, 600, 700]
    assert ms(found) == list(range(0, 800, 100))
    images = np.zeros((2, 2, 2), np.uint8)
    plain = FaultSource(ArraySource(images, clock=ManualClock(10**9)), [Fault(kind="late_stamp", at=1, ms=1)])
    assert [frame.arrival_ns for frame in plain] == [10**9, 10**9 - 10**6]


def test_resolution_colour_and_depth_for_a_while() -> None:
    found, _ = with_fault(
        Fault(kind="resolution", at=1, count=2), Fault(kind="colour", at=2, count=1), Fault(kind="depth", at=5, count=2)
    )
    assert [frame.image.shape for frame in found[:4]] == [(4, 6), (2, 3), (2, 3, 3), (4, 6)]
    assert (found[1].geometry.row_mm, found[1].geometry.column_mm) == (1.0, 0.5)
    assert [frame.geometry.row_mm for frame in found[4:]] == [0.5, 0.25, 0.25, 0.5]
    assert found[5].image.shape == (4, 6)
    colour = ArraySource(np.zeros((1, 2, 2, 3), np.uint8))
    grey = FaultSource(colour, [Fault(kind="colour", at=0)]).read()
    assert grey is not None
    assert grey.image.shape == (2, 2)


def test_a_loss_and_a_death_at_the_opening() -> None:
    found, source = with_fault(Fault(kind="lost", at=3))
    assert [type(item) for item in found] == [Frame, Frame, Frame, SourceError]
    assert "lost after 3 frames" in str(found[-1])
    with pytest.raises(SourceError, match="lost"):
        source.read()
    source.rewind()
    assert isinstance(play(source)[0], Frame)
    inner = ArraySource(np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(SourceError, match="died at the opening"):
        FaultSource(inner, [Fault(kind="dead")])
    with pytest.raises(SourceError, match="is closed"):
        inner.read()


def test_reconnecting_outlives_losses() -> None:
    clock = ManualClock()
    plans = [[Fault(kind="lost", at=3)], [Fault(kind="dead")], []]
    source = Reconnecting(lambda: FaultSource(paced(clock), plans.pop(0), clock=clock), clock=clock)
    found = play(source)
    assert [frame.index for frame in found if isinstance(frame, Frame)] == list(range(11))
    assert (source.counts().lost, source.counts().attempts, source.counts().reconnected) == (1, 2, 1)


@given(seed=st.integers(0, 2**32), p=st.floats(0, 0.5))
def test_the_same_seed_does_the_same_and_every_frame_is_accounted_for(seed: int, p: float) -> None:
    faults = [
        Fault(kind=kind, probability=p, ms=70) for kind in ("stall", "corrupt", "duplicate", "colour", "resolution")
    ]
    first, source = with_fault(*faults, count=20, seed=seed)
    second, again = with_fault(*faults, count=20, seed=seed)
    assert source.injected == again.injected
    assert ms([f for f in first if isinstance(f, Frame)]) == ms([f for f in second if isinstance(f, Frame)])
    copies = sum(i.kind == "duplicate" and i.at < 20 for i in source.injected)
    assert len(first) == 20 + copies
    arrivals = ms([f for f in first if isinstance(f, Frame)])
    assert arrivals == sorted(arrivals), "what arrived never goes back"


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "sulk"}, {"probability": 2.0}, {"ms": -1.0}, {"count": 0}, {"at": -1}, {"at": 1, "probability": 0.5}],
)
def test_a_fault_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Fault(**({"kind": "stall"} | wrong))
