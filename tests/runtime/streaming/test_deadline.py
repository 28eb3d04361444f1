from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError
from edge_runtime.streaming.deadline import DeadlineController
from edge_runtime.streaming.estimate import CostEstimate
from edge_runtime.streaming.policy import FixedPolicy, LadderPolicy, Policy, Situation

MS = 1_000_000


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200))
def test_estimates_are_order_statistics_of_the_last_64(costs: list[int]) -> None:
    estimate = CostEstimate()
    for cost in costs:
        estimate.record(cost)
    window = sorted(costs[-64:])
    assert estimate.p95_ns == window[math.ceil(0.95 * len(window) - 1e-9) - 1]
    assert estimate.median_ns == window[(len(window) - 1) // 2]
    estimate.restart()
    assert estimate.p95_ns == estimate.median_ns == costs[-1]


def test_an_estimate_without_samples_predicts_nothing() -> None:
    estimate = CostEstimate()
    estimate.restart()
    assert (estimate.p95_ns, estimate.median_ns) == (0, 0)


class Simulation:
    """A branch without threads: each frame is decided, costs what its rung costs now, and is settled."""

    def __init__(
        self,
        policy: Policy,
        costs_ms: list[float],
        budget_ms: float | None = 30.0,
        period_ms: float | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.costs_ms = costs_ms
        budget_ns = None if budget_ms is None else round(budget_ms * MS)
        period_ns = None if period_ms is None else round(period_ms * MS)
        self.controller = DeadlineController(
            policy=policy, rungs=len(costs_ms), budget_ns=budget_ns, clock=self.clock, period_ns=period_ns
        )
        for rung, cost in enumerate(costs_ms):
            self.controller.record("infer", rung, round(cost * MS))
        self.frame = 0
        self.results = 0

    def step(self, *, late_ms: float = 0.0, lost: int = 0) -> str:
        """`run R` or the action; the frame has waited `late_ms`, and `lost` were dropped before it."""
        arrival = self.clock.now_ns()
        self.clock.advance_ns(round(late_ms * MS))
        deadline = self.controller.deadline_ns(arrival)
        plan = self.controller.decide(
            "preprocess", frame=self.frame, deadline_ns=deadline, rung=0, can_reuse=self.results > 0
        )
        self.frame += 1
        missed = True
        if plan.action == "run":
            cost = round(self.costs_ms[plan.rung] * MS)
            self.clock.advance_ns(cost)
            self.controller.record("infer", plan.rung, cost)
            self.results += 1
            missed = deadline is not None and self.clock.now_ns() > deadline
        self.controller.settle(missed=missed, lost=lost)
        return f"run {plan.rung}" if plan.action == "run" else plan.action

    def steps(self, n: int) -> list[str]:
        return [self.step() for _ in range(n)]


def test_stays_on_the_first_rung_while_it_fits() -> None:
    assert set(Simulation(LadderPolicy(), [20, 5]).steps(100)) == {"run 0"}


def test_a_rung_that_does_not_fit_is_not_run_even_before_the_level_falls() -> None:
    policy = LadderPolicy(down_after=3)
    simulation = Simulation(policy, [40, 10])
    assert simulation.steps(2) == ["run 1", "run 1"]
    assert policy.level == 0
    simulation.step()
    assert policy.level == 1


def test_a_rung_that_is_slower_than_the_frames_come_loses_frames_however_late_they_are_due() -> None:
    policy = LadderPolicy()
    assert set(Simulation(policy, [50, 30], budget_ms=160, period_ms=33.3).steps(100)) == {"run 1"}
    assert policy.level == 1
    # nothing is that fast: the cheapest rung, and of frames that come too fast some are lost
    assert set(Simulation(LadderPolicy(), [100, 50], budget_ms=160, period_ms=33.3).steps(100)) == {"run 1"}
    assert set(Simulation(LadderPolicy(), [30, 10], budget_ms=160, period_ms=33.3).steps(100)) == {"run 0"}
    no_deadline = Simulation(LadderPolicy(), [50, 30], budget_ms=None, period_ms=33.3)
    assert set(no_deadline.steps(10)) == {"run 0"}, "nobody asked for a rhythm"


def test_a_frame_that_waited_too_long_takes_the_rung_that_still_fits() -> None:
    simulation = Simulation(LadderPolicy(), [20, 5])
    assert [simulation.step(late_ms=late) for late in (0, 15, 0)] == ["run 0", "run 1", "run 0"]


def test_without_a_fitting_rung_the_last_result_is_reused_or_the_frame_dropped() -> None:
    simulation = Simulation(LadderPolicy(), [20, 5])
    assert simulation.step(late_ms=29) == "drop"
    simulation.step()
    assert simulation.step(late_ms=29) == "reuse"
    assert simulation.controller.counts["preprocess", "reuse", "no rung fits"] == 1


def test_one_outlier_does_not_shut_a_branch_whose_median_fits() -> None:
    simulation = Simulation(LadderPolicy(), [20])
    simulation.steps(4)
    simulation.controller.record("infer", 0, 500 * MS)
    assert simulation.step() == "run 0"


def test_a_branch_shut_by_old_estimates_probes_and_opens_again() -> None:
    simulation = Simulation(LadderPolicy(probe_after=10), [200])
    simulation.costs_ms = [10]
    assert simulation.steps(12) == ["drop"] * 10 + ["run 0", "run 0"]
    assert set(simulation.steps(50)) == {"run 0"}


def test_a_probe_that_fails_waits_again() -> None:
    simulation = Simulation(LadderPolicy(probe_after=4), [200])
    done = simulation.steps(25)
    assert [i for i, what in enumerate(done) if what == "run 0"] == [4, 9, 14, 19, 24]


def test_frames_lost_to_overload_lower_the_level_though_each_one_run_is_in_time() -> None:
    policy = LadderPolicy(down_after=3)
    simulation = Simulation(policy, [20, 5])
    for _ in range(3):
        assert simulation.step(lost=2) == "run 0"
    assert simulation.step() == "run 1"


def test_rises_after_clean_frames_when_the_prediction_fits() -> None:
    policy = LadderPolicy(down_after=1, up_after=10)
    simulation = Simulation(policy, [20, 5])
    simulation.step(lost=1)
    assert simulation.steps(12) == ["run 1"] * 10 + ["run 0", "run 0"]
    assert simulation.controller.counts["preprocess", "run", "trial"] == 1


def test_an_unlikely_trial_comes_ten_times_later_and_each_failure_doubles_the_wait() -> None:
    policy = LadderPolicy(down_after=1, up_after=3)
    simulation = Simulation(policy, [40, 5])
    done = simulation.steps(200)
    assert [i for i, what in enumerate(done) if what == "run 0"] == [31, 92]


def test_a_rung_that_became_fast_again_is_found_by_a_trial() -> None:
    policy = LadderPolicy(down_after=1, up_after=3)
    simulation = Simulation(policy, [40, 5])
    simulation.steps(5)
    simulation.costs_ms[0] = 10
    assert simulation.steps(60)[-1] == "run 0"
    assert policy.level == 0


def test_a_fall_soon_after_a_rise_doubles_the_wait() -> None:
    policy = LadderPolicy(down_after=1, up_after=5)
    simulation = Simulation(policy, [20, 5])
    waits = []
    for _ in range(4):
        simulation.step(lost=1)
        waits.append(0)
        while policy.level:
            simulation.step()
            waits[-1] += 1
    assert waits == [6, 11, 21, 41]


def test_without_a_deadline_nothing_is_refused() -> None:
    simulation = Simulation(LadderPolicy(down_after=1), [500, 5], budget_ms=None)
    assert {simulation.step(lost=3) for _ in range(10)} == {"run 0"}


def test_a_fixed_policy_runs_its_rung_whatever_the_clock_says() -> None:
    simulation = Simulation(FixedPolicy(1), [5, 400])
    assert set(simulation.steps(5)) == {"run 1"}
    with pytest.raises(ConfigError, match="ladder has 1"):
        Simulation(FixedPolicy(1), [5]).step()


def test_the_optional_stage_is_skipped_when_it_does_not_fit() -> None:
    simulation = Simulation(LadderPolicy(), [5])
    simulation.controller.record("refine", 0, 10 * MS)
    now = simulation.clock.now_ns()
    for left_ms, expected in ((20, "run"), (10, "run"), (9, "skip")):
        plan = simulation.controller.decide("refine", frame=0, deadline_ns=now + left_ms * MS, rung=0, can_reuse=True)
        assert plan.action == expected


def test_every_decision_is_on_record_and_the_log_is_bounded() -> None:
    simulation = Simulation(LadderPolicy(), [20, 5])
    simulation.steps(5000)
    assert sum(simulation.controller.counts.values()) == 5000
    assert len(simulation.controller.log) == 4096
    last = simulation.controller.log[-1]
    assert (last.frame, last.action, last.reason, last.slack_ns, last.predicted_ns) == (
        4999,
        "run",
        "fits",
        30 * MS,
        20 * MS,
    )


@given(st.lists(st.integers(-50, 50), max_size=80), st.integers(1, 4))
def test_the_level_stays_on_the_ladder_and_only_fitting_or_marked_rungs_run(slacks: list[int], rungs: int) -> None:
    policy = LadderPolicy(down_after=1, up_after=2, probe_after=3)
    rest = tuple(range(10 * rungs, 0, -10))
    for slack in slacks:
        situation = Situation(
            point="preprocess", slack_ns=slack, rung=0, rest_ns=rest, typical_ns=rest, can_reuse=False
        )
        plan = policy.decide(situation)
        assert 0 <= plan.rung < rungs
        assert 0 <= policy.level < rungs
        assert plan.action != "run" or rest[plan.rung] <= slack or plan.probing
        policy.settle(missed=plan.action != "run", lost=0)


@pytest.mark.parametrize("name", ["down_after", "up_after", "probe_after"])
def test_bad_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        LadderPolicy(**{name: 0})
