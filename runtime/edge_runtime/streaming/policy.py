"""What to do with a frame that may miss its deadline: the border of a policy, and the two that are shipped."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["Action", "Decision", "FixedPolicy", "LadderPolicy", "Point", "Policy", "Situation"]

_UNLIKELY = 10

Action = Literal["run", "reuse", "skip", "drop"]
Point = Literal["preprocess", "infer", "refine", "cap"]


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before a costly stage.

    `slack_ns` is the time left to the deadline (None: no deadline). `rest_ns[r]` is the predicted p95 of all that is
    left to do on rung r, without the optional stage unless that is what is asked about; `typical_ns[r]` the median.
    `rung` is the one chosen for this frame so far; `can_reuse` whether an earlier result is at hand. `first_rung` is
    the best rung that may be used now (heat, power mode); what is above it is not run whatever the decision says.
    `period_ns` is the time between the branch's frames where the source states its rate: a rung that takes longer loses
    frames, however far away the deadline is.
    """

    point: Point
    slack_ns: int | None
    rung: int
    rest_ns: tuple[int, ...]
    typical_ns: tuple[int, ...]
    can_reuse: bool
    first_rung: int = 0
    period_ns: int | None = None

    @property
    def limit_ns(self) -> int | None:
        """What a rung may take: the slack, and no more than the period. None without a deadline."""
        if self.slack_ns is None or self.period_ns is None:
            return self.slack_ns
        return min(self.slack_ns, self.period_ns)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """`run` goes on with `rung`; `reuse` gives the last result out again, marked stale; `skip` leaves the optional
    stage out; `drop` gives nothing. `probing` marks a run against the prediction: when it is in time, the estimates
    of its rung start anew. `holds` says that the answer at this point will never be another on this ladder under this
    cap: the policy is not asked again until one of them changes.
    """

    action: Action
    rung: int
    reason: str
    probing: bool = False
    holds: bool = False


class Policy(Protocol):
    """Decides for one branch, in its compute thread; may keep state from frame to frame."""

    def decide(self, situation: Situation) -> Decision:
        """Called before preprocessing, before inference and before the optional stage; a rung that is not on the
        ladder ends the stream with `ConfigError`."""

    def settle(self, *, missed: bool, lost: int) -> None:
        """Called once for each frame that reached the branch.

        `missed`: it had no fresh or degraded result in time. `lost`: frames lost before the branch since the last call.
        """


class FixedPolicy:
    """Always the same rung, whatever the clock says; late results are counted as misses."""

    def __init__(self, rung: int = 0) -> None:
        self._rung = rung

    def decide(self, situation: Situation) -> Decision:
        return Decision(action="run", rung=self._rung, reason="fixed", holds=True)

    def settle(self, *, missed: bool, lost: int) -> None:
        return None


class LadderPolicy:
    """Steps down a ladder of ever cheaper rungs when the deadline is in danger, and up again when it is not.

    For each frame the highest rung, from the present level down, whose predicted p95 fits the slack and the time
    between frames is run. When none fits, the cheapest is still run if its median fits the slack (the alternatives are
    misses for certain); else the last result is reused, marked stale, or the frame dropped. After `probe_after` such
    frames in a row the cheapest rung is run anyway, so that one bad measurement cannot shut the branch for good.

    Hysteresis: `down_after` misses in a row (real, predicted, or frames lost to overload) lower the level by one;
    `up_after` clean frames in a row allow a trial one rung higher (ten times as many when the prediction speaks
    against it: conditions may have changed since that rung was last measured), and a trial in time raises the level.
    Each trial that fails, and each fall soon after a rise, doubles the wait before the next, up to 32 times.
    """

    def __init__(self, *, down_after: int = 3, up_after: int = 60, probe_after: int = 10) -> None:
        for name, value in (("down_after", down_after), ("up_after", up_after), ("probe_after", probe_after)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it counts frames and must be at least 1")
        self._down_after, self._up_after, self._probe_after = down_after, up_after, probe_after
        self.level = 0
        self._rungs = 1
        self._wait = up_after
        self._bad = self._clean = self._refused = 0
        self._since_rise: int | None = None
        self._timed = self._trial = self._probe = self._short = False

    def decide(self, situation: Situation) -> Decision:
        if situation.point == "refine":
            return self._refine(situation)
        if situation.point == "preprocess":
            self._begin(situation)
        if situation.slack_ns is None:
            rung = max(self.level, situation.first_rung)
            return Decision(action="run", rung=rung, reason="no deadline", holds=True)
        if self._trial:
            return Decision(action="run", rung=self.level - 1, reason="trial", probing=True)
        if self._probe:
            return Decision(action="run", rung=self._rungs - 1, reason="probe", probing=True)
        level = max(self.level, situation.first_rung)
        first = level if situation.point == "preprocess" else situation.rung
        return self._fitting(situation, first, situation.slack_ns, situation.limit_ns or 0)

    def _begin(self, situation: Situation) -> None:
        """A new frame: is it one for a trial or a probe?"""
        self._rungs = len(situation.rest_ns)
        self.level = min(self.level, self._rungs - 1)
        self._timed = situation.slack_ns is not None
        in_time = situation.slack_ns is not None and situation.slack_ns > 0
        self._trial = in_time and self._may_rise(situation)
        self._probe = in_time and self._refused >= self._probe_after
        self._refused = 0 if self._probe else self._refused
        self._short = False

    def _may_rise(self, situation: Situation) -> bool:
        limit_ns = situation.limit_ns
        if self.level <= situation.first_rung or limit_ns is None:
            return False
        likely = situation.rest_ns[self.level - 1] <= limit_ns
        return self._clean >= (self._wait if likely else _UNLIKELY * self._wait)

    def _fitting(self, situation: Situation, first: int, slack_ns: int, limit_ns: int) -> Decision:
        for rung in range(first, self._rungs):
            if situation.rest_ns[rung] <= limit_ns:
                top = max(self.level, situation.first_rung)
                self._short = self._short or rung > top
                return Decision(action="run", rung=rung, reason="fits" if rung == top else "lower rung fits")
        self._short = True
        if situation.typical_ns[-1] <= slack_ns:
            return Decision(action="run", rung=self._rungs - 1, reason="median of the cheapest rung fits")
        self._refused += 1
        if situation.can_reuse:
            return Decision(action="reuse", rung=first, reason="no rung fits")
        return Decision(action="drop", rung=first, reason="no rung fits")

    def _refine(self, situation: Situation) -> Decision:
        if situation.slack_ns is None:
            return Decision(action="run", rung=situation.rung, reason="no deadline", holds=True)
        if situation.rest_ns[situation.rung] <= situation.slack_ns:
            return Decision(action="run", rung=situation.rung, reason="fits")
        return Decision(action="skip", rung=situation.rung, reason="optional stage does not fit")

    def settle(self, *, missed: bool, lost: int) -> None:
        if not self._timed:  # without a deadline there is no level but the first
            return
        if not missed:
            self._refused = 0
        if self._since_rise is not None:
            self._since_rise += 1
        clean = not (missed or lost or self._short)
        self._bad = 0 if clean else self._bad + 1
        self._clean = self._clean + 1 if clean else 0
        if self._trial:
            self._settle_trial(clean)
        elif self._bad >= self._down_after and self.level < self._rungs - 1:
            self._fall()

    def _settle_trial(self, clean: bool) -> None:
        self._trial = False
        self._clean = 0
        if clean:
            self.level -= 1
            self._since_rise = 0
        else:
            self._wait = min(2 * self._wait, 32 * self._up_after)

    def _fall(self) -> None:
        soon = self._since_rise is not None and self._since_rise < self._wait
        self._wait = min(2 * self._wait, 32 * self._up_after) if soon else self._up_after
        self._since_rise = None
        self.level += 1
        self._bad = self._clean = 0
