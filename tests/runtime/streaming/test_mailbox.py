from __future__ import annotations

import random
import threading
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_runtime.clock import ManualClock, MonotonicClock
from edge_runtime.errors import ConfigError
from edge_runtime.streaming.mailbox import HandOff, Mailbox


class MailboxModel(RuleBasedStateMachine):
    """Against a plain list, in one thread: same order, same losses, and the counters always add up."""

    @initialize(policy=st.sampled_from(["latest", "drop_oldest", "block"]), capacity=st.integers(1, 4))
    def make(self, policy: HandOff, capacity: int) -> None:
        self.capacity = 1 if policy == "latest" else capacity
        self.policy = policy
        self.lost: list[tuple[int, str]] = []
        self.expected_lost: list[tuple[int, str]] = []
        self.model: deque[int] = deque()
        self.closed = False
        self.next = 0
        self.box: Mailbox[int] = Mailbox(
            policy=policy,
            capacity=self.capacity,
            clock=ManualClock(),
            on_drop=lambda item, why: self.lost.append((item, why)),
        )

    @precondition(lambda self: self.policy != "block" or len(self.model) < self.capacity or self.closed)
    @rule()
    def put(self) -> None:
        item, self.next = self.next, self.next + 1
        assert self.box.put(item) is not self.closed
        if self.closed:
            self.expected_lost.append((item, "closed"))
            return
        if len(self.model) == self.capacity:
            self.expected_lost.append((self.model.popleft(), "replaced"))
        self.model.append(item)

    @rule()
    def take(self) -> None:
        expected = self.model.popleft() if self.model else None
        assert self.box.take(timeout_ns=0) == expected

    @rule(discard=st.booleans())
    def close(self, discard: bool) -> None:
        self.box.close(discard=discard)
        self.closed = True
        if discard:
            self.expected_lost += [(item, "closed") for item in self.model]
            self.model.clear()

    @invariant()
    def adds_up(self) -> None:
        counts = self.box.counts()
        assert counts.put == counts.taken + sum(counts.dropped.values()) + counts.inside == self.next
        assert counts.inside == len(self.model) <= self.capacity
        assert self.lost == self.expected_lost


MailboxModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMailboxModel = MailboxModel.TestCase


@pytest.mark.parametrize(("policy", "capacity"), [("latest", 1), ("drop_oldest", 3), ("block", 2), ("block", 1)])
@pytest.mark.parametrize("close_early", [False, True])
def test_threads_lose_nothing_uncounted_and_keep_order(policy: HandOff, capacity: int, close_early: bool) -> None:
    lost: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    box: Mailbox[tuple[int, int]] = Mailbox(
        policy=policy,
        capacity=capacity,
        clock=MonotonicClock(),
        on_drop=lambda item, _: lost.append(item),
    )

    def produce(who: int) -> None:
        for number in range(300):
            box.put((who, number))

    def consume() -> None:
        chance = random.Random(5)
        while (item := box.take()) is not None:
            taken.append(item)
            if chance.random() < 0.05:
                threading.Event().wait(0.0005)

    producers = [threading.Thread(target=produce, args=(who,)) for who in range(2)]
    consumer = threading.Thread(target=consume)
    for thread in (*producers, consumer):
        thread.start()
    if close_early:
        threading.Event().wait(0.005)
        box.close()
    for thread in producers:
        thread.join(20)
    box.close()
    consumer.join(20)
    assert not any(thread.is_alive() for thread in (*producers, consumer))
    counts = box.counts()
    assert (counts.put, counts.taken, counts.inside) == (600, len(taken), 0)
    assert sum(counts.dropped.values()) == len(lost)
    assert sorted(taken + lost) == [(who, number) for who in range(2) for number in range(300)]
    for who in range(2):
        of_one = [number for name, number in taken if name == who]
        assert of_one == sorted(of_one)
    if policy == "block" and not close_early:
        assert not lost


@pytest.mark.parametrize("capacity", [1, 2])
def test_several_takers_and_putters_wake_each_other(capacity: int) -> None:
    box: Mailbox[int] = Mailbox(policy="block", capacity=capacity, clock=MonotonicClock())
    taken: list[int] = []

    def consume() -> None:
        while (item := box.take()) is not None:
            taken.append(item)

    takers = [threading.Thread(target=consume) for _ in range(4)]
    putters = [threading.Thread(target=lambda: [box.put(k) for k in range(500)]) for _ in range(4)]
    for thread in (*takers, *putters):
        thread.start()
    for thread in putters:
        thread.join(20)
    box.close()
    for thread in takers:
        thread.join(20)
    assert not any(thread.is_alive() for thread in (*takers, *putters))
    assert sorted(taken) == sorted(list(range(500)) * 4)


def test_close_wakes_a_blocked_put_and_a_blocked_take() -> None:
    full: Mailbox[int] = Mailbox(policy="block", capacity=1, clock=MonotonicClock())
    empty: Mailbox[int] = Mailbox(policy="block", capacity=1, clock=MonotonicClock())
    full.put(1)
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(full.put(2))),
        threading.Thread(target=lambda: answers.append(empty.take())),
    ]
    for thread in threads:
        thread.start()
    full.close()
    empty.close()
    for thread in threads:
        thread.join(10)
    assert sorted(map(str, answers)) == ["False", "None"]
    assert full.take() == 1
    assert full.take() is None
    assert full.counts().dropped == {"closed": 1}


def test_take_gives_up_when_the_clock_says_so() -> None:
    clock = ManualClock()
    box: Mailbox[int] = Mailbox(policy="latest", clock=clock)
    answers: list[int | None] = []
    thread = threading.Thread(target=lambda: answers.append(box.take(timeout_ns=1_000_000)))
    thread.start()
    clock.advance_ns(999_999)
    assert thread.is_alive()
    clock.advance_ns(1)
    thread.join(10)
    assert answers == [None]
    assert not box.closed


@pytest.mark.parametrize(("policy", "capacity"), [("newest", 1), ("latest", 2), ("block", 0), ("drop_oldest", -1)])
def test_bad_settings_are_refused(policy: HandOff, capacity: int) -> None:
    with pytest.raises(ConfigError, match="mailbox"):
        Mailbox(policy=policy, capacity=capacity, clock=ManualClock())
