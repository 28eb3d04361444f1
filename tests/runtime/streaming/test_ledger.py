from __future__ import annotations

import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import PipelineError
from edge_runtime.streaming.ledger import Ledger, Outcome

OUTCOMES: list[Outcome] = ["fresh", "degraded", "stale", "dropped", "failed"]


@given(
    st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(["", "pool", "slow"]), st.booleans()), max_size=40),
    st.randoms(use_true_random=False),
)
def test_balances_at_every_step_and_runs_follow_arrival(
    fates: list[tuple[Outcome, str, bool]], chance: random.Random
) -> None:
    ledger = Ledger()
    waiting: list[int] = []
    order = list(range(len(fates)))
    while order or waiting:
        if order and (not waiting or chance.random() < 0.5):
            waiting.append(ledger.arrive())
            order.pop()
        else:
            ticket = waiting.pop(chance.randrange(len(waiting)))
            outcome, reason, missed = fates[ticket]
            ledger.settle(ticket, outcome, reason=reason, missed=missed)
        snapshot = ledger.snapshot()
        assert snapshot.balances
        assert snapshot.in_flight == len(waiting)
    end = ledger.snapshot()
    longest = run = 0
    for _, _, missed in fates:
        run = run + 1 if missed else 0
        longest = max(longest, run)
    assert (end.arrived, end.misses, end.longest_miss_run) == (len(fates), sum(m for *_, m in fates), longest)
    for state in ("fresh", "degraded", "stale"):
        assert getattr(end, state) == sum(outcome == state for outcome, *_ in fates)
    assert sum(end.dropped.values()) == sum(outcome == "dropped" for outcome, *_ in fates)


def test_balances_in_every_snapshot_while_threads_work() -> None:
    ledger = Ledger()
    done = threading.Event()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(400):
            ticket = ledger.arrive()
            if chance.random() < 0.02:
                done.wait(0.0005)
            ledger.settle(ticket, chance.choice(OUTCOMES), reason="why")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert ledger.snapshot().balances
    end = ledger.snapshot()
    assert (end.arrived, end.in_flight) == (1200, 0)
    assert end.misses == end.stale + sum(end.dropped.values()) + sum(end.failed.values())
    assert ledger._ahead == {}


def test_stale_dropped_failed_and_late_are_misses() -> None:
    ledger = Ledger()
    for outcome in OUTCOMES:
        ledger.settle(ledger.arrive(), outcome)
    ledger.settle(ledger.arrive(), "fresh", missed=True)
    ledger.arrive()
    snapshot = ledger.snapshot()
    assert (snapshot.misses, snapshot.longest_miss_run, snapshot.in_flight) == (4, 4, 1)
    assert snapshot.miss_ratio == pytest.approx(4 / 6)


def test_a_ticket_is_settled_once() -> None:
    ledger = Ledger()
    ticket = ledger.arrive()
    ledger.settle(ticket, "fresh")
    for wrong in (ticket, 7):
        with pytest.raises(PipelineError, match="not open"):
            ledger.settle(wrong, "fresh")
    assert ledger.snapshot().balances


def test_a_snapshot_does_not_change() -> None:
    ledger = Ledger()
    before = ledger.snapshot()
    ledger.settle(ledger.arrive(), "dropped", reason="pool")
    assert (before.arrived, before.dropped) == (0, {})
    assert ledger.snapshot().dropped == {"pool": 1}
