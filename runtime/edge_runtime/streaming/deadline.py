"""`DeadlineController`: predicted cost against slack, before each costly stage, with every decision on record."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from msgspec.structs import replace

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError
from edge_runtime.streaming.estimate import CostEstimate
from edge_runtime.streaming.policy import Action, Decision, Point, Policy, Situation
from edge_runtime.streaming.records import DecisionRecord
from edge_runtime.streaming.thermal import Cap

__all__ = ["DeadlineController", "DecisionRecord"]

_LOG_LENGTH = 4096
_LEFT: dict[Point, tuple[str, ...]] = {
    "preprocess": ("preprocess", "infer", "postprocess"),
    "infer": ("infer", "postprocess"),
}


_Logged = tuple[Point, Decision, int, int | None, int, int]  # frame, slack, prediction and time, in ns


class DeadlineController:
    """Holds the deadline and the cost estimates of one branch and asks its policy.

    The deadline of a frame is `arrival_ns + budget_ns`; without a budget nothing is refused. Costs are kept for
    `preprocess` and `refine` of the branch and for `infer` and `postprocess` of each rung. What is left is predicted as
    the sum of the p95 of its stages, which errs on the slow side. `log` keeps the last 4096 decisions, `counts` counts
    all of them by (point, action, reason); `note` is called with each. `cap` is the best rung that may be used: the
    policy is told, and held to it whatever it says.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        rungs: int,
        budget_ns: int | None,
        clock: Clock,
        period_ns: int | None = None,
        branch: str = "",
        note: Callable[[DecisionRecord], None] | None = None,
    ) -> None:
        self.budget_ns = budget_ns
        self.period_ns = period_ns
        self.branch = branch
        self.cap: Cap | None = None
        self._note_record = note
        self._log: deque[_Logged] = deque(maxlen=_LOG_LENGTH)
        self.counts: Counter[tuple[Point, Action, str]] = Counter()
        self._clock = clock
        self.renew(policy, rungs)

    def renew(self, policy: Policy, rungs: int) -> None:
        """Start anew with another policy and ladder; the log and the counts go on."""
        self.policy = policy
        shared = {"preprocess": CostEstimate(), "refine": CostEstimate()}
        self._costs = [{**shared, "infer": CostEstimate(), "postprocess": CostEstimate()} for _ in range(rungs)]
        self._probing: int | None = None
        self._forget()

    def _forget(self) -> None:
        """Ask the policy again about everything."""
        self._standing: dict[tuple[Point, int], tuple[Decision, int]] = {}  # those that hold, with what was predicted
        self.learns = True  # whether the costs of frames matter: not when the decisions on every frame hold

    def deadline_ns(self, arrival_ns: int) -> int | None:
        """When a result of a frame that arrived then is due."""
        return None if self.budget_ns is None else arrival_ns + self.budget_ns

    def record(self, stage: str, rung: int, duration_ns: int) -> None:
        """Learn what a stage cost; `rung` matters for `infer` and `postprocess`."""
        self._costs[rung][stage].record(duration_ns)

    def decide(self, point: Point, *, frame: int, deadline_ns: int | None, rung: int, can_reuse: bool) -> Decision:
        """What to do before the stage `point`; `rung` is the choice so far."""
        slack_ns = None if deadline_ns is None else deadline_ns - self._clock.now_ns()
        all_standing = self._standing  # this one, should a cap be set meanwhile
        if (standing := all_standing.get((point, rung))) is not None:
            self._enter(point, standing[0], frame, slack_ns, standing[1])
            return standing[0]
        stages = _LEFT.get(point, (point,))
        situation = Situation(
            point=point,
            slack_ns=slack_ns,
            rung=rung,
            rest_ns=tuple([sum([costs[stage].p95_ns for stage in stages]) for costs in self._costs]),
            typical_ns=tuple([sum([costs[stage].median_ns for stage in stages]) for costs in self._costs]),
            can_reuse=can_reuse,
            first_rung=self._first_rung(),
            period_ns=self.period_ns,
        )
        decision = self._held(self._checked(self.policy.decide(situation)), situation)
        self._probing = decision.rung if decision.probing else self._probing
        predicted_ns = situation.rest_ns[decision.rung]
        if decision.holds:
            all_standing[point, rung] = decision, predicted_ns
            self.learns = not _LEFT.keys() <= {point for point, _ in self._standing}
        self._enter(point, decision, frame, slack_ns, predicted_ns)
        return decision

    def _checked(self, decision: Decision) -> Decision:
        if not 0 <= decision.rung < len(self._costs):
            raise ConfigError(
                f"policy {type(self.policy).__name__} chose rung {decision.rung}; after warm-up the ladder has "
                f"{len(self._costs)}, counted from 0"
            )
        return decision

    def set_cap(self, cap: Cap | None) -> bool:
        """From now on (or no longer) at best `cap.rung`; True, and on record, when that is a change."""
        before, self.cap = self.cap, cap
        if before != cap:
            self._forget()
        if (None if before is None else before.rung) == (None if cap is None else cap.rung):
            return False
        reason = cap.reason if cap is not None else f"no longer: {before.reason if before is not None else ''}"
        self._enter("cap", Decision(action="run", rung=self._first_rung(), reason=reason), -1, None, 0)
        return True

    def _first_rung(self) -> int:
        return 0 if self.cap is None else min(self.cap.rung, len(self._costs) - 1)

    def _held(self, decision: Decision, situation: Situation) -> Decision:
        """A policy that does not know of caps is held to them all the same."""
        if self.cap is None or decision.action != "run" or decision.rung > situation.first_rung:
            return decision
        if decision.rung < situation.first_rung:
            return replace(decision, rung=situation.first_rung, reason=f"capped: {self.cap.reason}", probing=False)
        return replace(decision, reason=f"capped: {self.cap.reason}") if situation.first_rung else decision

    @property
    def log(self) -> list[DecisionRecord]:
        """The last 4096 decisions."""
        return [self._record(logged) for logged in self._log.copy()]

    def _enter(self, point: Point, decision: Decision, frame: int, slack_ns: int | None, predicted_ns: int) -> None:
        self.counts[point, decision.action, decision.reason] += 1
        logged = (point, decision, frame, slack_ns, predicted_ns, self._clock.now_ns())
        self._log.append(logged)
        if self._note_record is not None:
            self._note_record(self._record(logged))

    def _record(self, logged: _Logged) -> DecisionRecord:
        point, decision, frame, slack_ns, predicted_ns, time_ns = logged
        return DecisionRecord(
            frame=frame,
            point=point,
            action=decision.action,
            rung=decision.rung,
            reason=decision.reason,
            slack_ns=slack_ns,
            predicted_ns=predicted_ns,
            time_ns=time_ns,
            branch=self.branch,
        )

    def settle(self, *, missed: bool, lost: int) -> None:
        """A frame is through; `lost` frames were lost before the branch since the last one."""
        if self._probing is not None and not missed:
            for stage in _LEFT["preprocess"]:
                self._costs[self._probing][stage].restart()
        self._probing = None
        self.policy.settle(missed=missed, lost=lost)
