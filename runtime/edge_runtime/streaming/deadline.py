"""`DeadlineController`: predicted cost against slack, before each costly stage, with every decision on record."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from edge_runtime.clock import Clock
from edge_runtime.streaming.estimate import CostEstimate
from edge_runtime.streaming.policy import Action, Decision, Point, Policy, Situation

__all__ = ["DeadlineController", "DecisionRecord"]

_LOG_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision: on which frame, before which stage, with how much slack and which prediction, and why."""

    frame: int
    point: Point
    action: Action
    rung: int
    reason: str
    slack_ns: int | None
    predicted_ns: int


class DeadlineController:
    """Holds the deadline and the cost estimates of one branch and asks its policy.

    The deadline of a frame is `arrival_ns + budget_ns`; without a budget nothing is refused. Costs are kept for
    `preprocess` and `refine` of the branch and for `infer` and `postprocess` of each rung. What is left is predicted as
    the sum of the p95 of its stages, which errs on the slow side. `log` keeps the last 4096 decisions, `counts` counts
    all of them by (point, action, reason).
    """

    def __init__(self, *, policy: Policy, rungs: int, budget_ns: int | None, clock: Clock) -> None:
        self.policy = policy
        self.budget_ns = budget_ns
        self.log: deque[DecisionRecord] = deque(maxlen=_LOG_LENGTH)
        self.counts: Counter[tuple[Point, Action, str]] = Counter()
        self._clock = clock
        self._shared = {"preprocess": CostEstimate(), "refine": CostEstimate()}
        self._rungs = [{"infer": CostEstimate(), "postprocess": CostEstimate()} for _ in range(rungs)]
        self._probing: int | None = None

    def deadline_ns(self, arrival_ns: int) -> int | None:
        """When a result of a frame that arrived then is due."""
        return None if self.budget_ns is None else arrival_ns + self.budget_ns

    def record(self, stage: str, rung: int, duration_ns: int) -> None:
        """Learn what a stage cost; `rung` matters for `infer` and `postprocess`."""
        estimates = self._shared if stage in self._shared else self._rungs[rung]
        estimates[stage].record(duration_ns)

    def decide(self, point: Point, *, frame: int, deadline_ns: int | None, rung: int, can_reuse: bool) -> Decision:
        """What to do before the stage `point`; `rung` is the choice so far."""
        left = {"preprocess": ("preprocess", "infer", "postprocess"), "infer": ("infer", "postprocess")}
        stages = left.get(point, (point,))
        situation = Situation(
            point=point,
            slack_ns=None if deadline_ns is None else deadline_ns - self._clock.now_ns(),
            rung=rung,
            rest_ns=tuple(sum(self._cost(stage, r).p95_ns for stage in stages) for r in range(len(self._rungs))),
            typical_ns=tuple(sum(self._cost(stage, r).median_ns for stage in stages) for r in range(len(self._rungs))),
            can_reuse=can_reuse,
        )
        decision = self.policy.decide(situation)
        self._note(situation, decision, frame)
        return decision

    def _cost(self, stage: str, rung: int) -> CostEstimate:
        return self._shared[stage] if stage in self._shared else self._rungs[rung][stage]

    def _note(self, situation: Situation, decision: Decision, frame: int) -> None:
        self._probing = decision.rung if decision.probing else self._probing
        self.counts[situation.point, decision.action, decision.reason] += 1
        self.log.append(
            DecisionRecord(
                frame=frame,
                point=situation.point,
                action=decision.action,
                rung=decision.rung,
                reason=decision.reason,
                slack_ns=situation.slack_ns,
                predicted_ns=situation.rest_ns[decision.rung],
            )
        )

    def settle(self, *, missed: bool, lost: int) -> None:
        """A frame is through; `lost` frames were lost before the branch since the last one."""
        if self._probing is not None and not missed:
            for estimate in (self._shared["preprocess"], *self._rungs[self._probing].values()):
                estimate.restart()
        self._probing = None
        self.policy.settle(missed=missed, lost=lost)
