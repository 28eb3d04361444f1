"""The two clocks."""

from __future__ import annotations

import threading

import pytest

from edge_runtime.clock import Clock, ManualClock, MonotonicClock


def test_the_system_clock_only_grows_and_sleeps_at_least_as_long_as_asked() -> None:
    clock: Clock = MonotonicClock()
    start = clock.now_ns()
    clock.sleep_until_ns(start + 3_000_000)
    assert clock.now_ns() >= start + 3_000_000
    clock.sleep_until_ns(start)  # the past: returns at once


def test_a_manual_clock_moves_when_told() -> None:
    clock: Clock = ManualClock(start_ns=5)
    assert isinstance(clock, ManualClock)
    assert (clock.now_ns(), clock.now_ns()) == (5, 5)
    clock.advance_ns(7)
    assert clock.now_ns() == 12
    clock.sleep_until_ns(10**15)  # eleven days, at once
    assert clock.now_ns() == 10**15
    clock.sleep_until_ns(3)
    assert clock.now_ns() == 10**15
    with pytest.raises(ValueError, match="-1 ns"):
        clock.advance_ns(-1)


@pytest.mark.parametrize("clock", [MonotonicClock(), ManualClock()])
def test_a_wait_ends_when_notified(clock: Clock) -> None:
    condition, seen = threading.Condition(), threading.Event()

    def work() -> None:
        with condition:
            while not seen.is_set():
                clock.wait(condition, None)

    thread = threading.Thread(target=work)
    thread.start()
    with condition:
        seen.set()
        condition.notify_all()
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.mark.parametrize("timeout_ns", [0, -5, 1_000_000])
def test_a_wait_ends_after_its_time(timeout_ns: int) -> None:
    for clock in (MonotonicClock(), ManualClock()):
        condition = threading.Condition()
        with condition:
            clock.wait(condition, timeout_ns)


def test_threads_may_share_a_manual_clock() -> None:
    clock = ManualClock()
    threads = [threading.Thread(target=lambda: [clock.advance_ns(1) for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now_ns() == 4000
