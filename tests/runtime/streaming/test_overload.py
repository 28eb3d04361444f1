"""Live behaviour under overload and after a stall, on a clock that the test moves: exact, and without real time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CollectSink
from edge_runtime.streaming import Branch, FixedPolicy, LadderPolicy, Pipeline, StreamReport

MS = 1_000_000
PERIOD = 33 * MS
Image = npt.NDArray[np.float32]


class Bench:
    """One live stream of `n` frames, 33 ms apart, through rungs with the given costs in ms (by call number)."""

    def __init__(
        self,
        lockstep: Callable[..., Any],
        make_branch: Callable[..., Branch],
        *costs: Callable[[int], float],
        n: int = 60,
        **options: Any,
    ) -> None:
        self.clock = ManualClock(start_ns=5 * MS)
        self.source = lockstep(n, PERIOD, self.clock)
        runners = [
            FakeRunner(compute=self._work(cost), clock=self.clock, variant=f"rung{i}") for i, cost in enumerate(costs)
        ]
        self.sink = CollectSink()
        self.pipeline = Pipeline(
            {"seg": make_branch(*runners, **options)},
            sinks={"s": self.sink},
            clock=self.clock,
            warm_up_runs=0,
            freeze_gc=False,
        )
        self.source.idle = lambda: self.pipeline.report.branches["seg"].ledger.in_flight == 0

    def _work(self, cost: Callable[[int], float]) -> Callable[[Image], Image]:
        calls = iter(range(10**6))

        def work(image: Image) -> Image:
            self.source.serve_ns(round(cost(next(calls)) * MS))
            return image

        return work

    def run(self) -> StreamReport:
        report = self.pipeline.run(self.source)
        assert report.balances
        assert report.branches["seg"].ledger.in_flight == 0
        assert report.branches["seg"].ledger.arrived == self.source.n
        return report


@pytest.fixture
def bench(lockstep: Callable[..., Any], make_branch: Callable[..., Branch]) -> Callable[..., Bench]:
    return lambda *costs, **options: Bench(lockstep, make_branch, *costs, **options)


def test_at_three_times_the_load_the_newest_frame_wins_and_age_is_bounded(bench: Callable[..., Bench]) -> None:
    service = 3 * PERIOD
    run = bench(lambda _: 99, policy=FixedPolicy)
    report = run.run()
    ledger = report.branches["seg"].ledger
    assert ledger.fresh in (20, 21)
    assert ledger.dropped == {"replaced": 60 - ledger.fresh}
    assert max(r.latency_ns for r in run.sink.results) <= 2 * service
    indices = [r.frame.index for r in run.sink.results]
    assert indices == sorted(set(indices))


def test_the_worst_case_of_a_service_that_just_misses_a_frame_is_bounded_too(bench: Callable[..., Bench]) -> None:
    run = bench(lambda call: (98, 61, 130)[call % 3], policy=FixedPolicy)
    run.run()
    assert max(r.latency_ns for r in run.sink.results) <= 2 * 130 * MS


def test_below_capacity_nothing_is_dropped_or_late(bench: Callable[..., Bench]) -> None:
    report = bench(lambda _: 30, budget_ms=33).run()
    ledger = report.branches["seg"].ledger
    assert (ledger.fresh, ledger.misses) == (60, 0)


def test_after_a_stall_of_500_ms_two_frames_are_enough(bench: Callable[..., Bench]) -> None:
    run = bench(lambda call: 500 if call == 20 else 10, budget_ms=33)
    report = run.run()
    ledger = report.branches["seg"].ledger
    stalled = next(r for r in run.sink.results if r.late)
    assert stalled.frame.index == 20
    missed = {r.frame.index for r in run.sink.results if r.missed}
    assert max(missed, default=0) <= 20 + 500 // 33 + 2
    assert ledger.dropped == {"replaced": 14}
    assert ledger.longest_miss_run == ledger.misses <= 17
    assert all(not r.missed for r in run.sink.results if r.frame.index > 37)


def test_the_ladder_keeps_the_deadline_that_a_fixed_rung_misses(bench: Callable[..., Bench]) -> None:
    costs = (lambda _: 99, lambda _: 12)
    fixed = bench(*costs, budget_ms=33, policy=FixedPolicy).run().branches["seg"]
    ladder = bench(*costs, budget_ms=33).run().branches["seg"]
    assert fixed.ledger.misses == 60
    assert ladder.ledger.misses <= 3
    assert ladder.ledger.degraded >= 57


def test_what_does_not_fit_is_stale_and_says_so(bench: Callable[..., Bench]) -> None:
    run = bench(lambda call: 10 if call < 5 else 60, budget_ms=33, policy=lambda: LadderPolicy(probe_after=4))
    ledger = run.run().branches["seg"].ledger
    stale = [r for r in run.sink.results if r.state == "stale"]
    assert ledger.stale == len(stale) > 10
    fresh = {r.frame.index: r for r in run.sink.results if r.state == "fresh"}
    for result in stale:
        assert result.missed
        assert result.reason == "no rung fits"
        source = fresh[result.outputs_from]
        assert source.frame.index < result.frame.index
        assert result.mask is not None
        assert source.mask is not None
        assert np.array_equal(result.mask, source.mask)
        assert result.areas == source.areas
        assert "infer" not in result.stages_ns
        assert sum(result.stages_ns.values()) + sum(result.waits_ns.values()) == result.latency_ns


def test_the_same_run_twice_is_the_same(bench: Callable[..., Bench]) -> None:
    def once() -> tuple[Any, ...]:
        run = bench(lambda call: (10, 40, 90)[call % 3], lambda _: 5, budget_ms=40)
        ledger = run.run().branches["seg"].ledger
        return ledger, [(r.frame.index, r.state, r.latency_ns) for r in run.sink.results]

    assert once() == once()
