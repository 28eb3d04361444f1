"""`BranchStep`: what one branch does with one frame, and the account of it."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import PipelineError
from edge_runtime.frame import Frame
from edge_runtime.metrics.latency import LatencyHistogram
from edge_runtime.result import Result, State
from edge_runtime.streaming.branch import Branch
from edge_runtime.streaming.cadence import Cadence
from edge_runtime.streaming.deadline import DeadlineController
from edge_runtime.streaming.journal import Journal
from edge_runtime.streaming.ledger import Ledger
from edge_runtime.streaming.outputs import alike, fill, let_go, repeat
from edge_runtime.streaming.policy import Decision, Point
from edge_runtime.streaming.pool import ResultPool
from edge_runtime.streaming.records import FrameRecord, Lap
from edge_runtime.streaming.warmup import Ladder
from edge_runtime.streaming.watch import Watch

__all__ = ["Arrived", "BranchStep"]

_LOOK_NS = 5_000_000
_AT_ONCE = 16  # results whose times are counted together


class Arrived(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A frame on its way to the compute thread: its number in the stream and when it was put in the mailbox."""

    number: int
    frame: Frame
    put_ns: int


@dataclass(slots=True, kw_only=True)
class _Trial:
    """What stood here before an exchange, how many frames may still undo it, and why it was undone."""

    branch: Branch
    ladder: Ladder
    left: int
    failure: str = ""


class BranchStep:
    """One branch during one stream. `arrive` and `lose` are called by any thread, the call itself by the compute
    thread. `newest` is the last good result, of which only the times may be read; `watch` the frame in work."""

    def __init__(
        self,
        name: str,
        branch: Branch,
        ladder: Ladder,
        *,
        clock: Clock,
        live: bool,
        fps: float | None,
        slots: int,
        journal: Journal,
    ) -> None:
        self.name = name
        self.ledger = Ledger()
        self.cadence = Cadence(branch.cadence, self.ledger)
        self.pool = ResultPool(slots)
        budget_ns = None if branch.budget_ms is None or not live else round(branch.budget_ms * 1e6)
        self.controller = DeadlineController(
            policy=branch.policy(),
            rungs=len(ladder.rungs),
            budget_ns=budget_ns,
            period_ns=round(1e9 * branch.cadence / fps) if live and fps else None,
            clock=clock,
            branch=name,
            note=journal.note if journal.observed else None,
        )
        self._latency: dict[str, LatencyHistogram] = {}
        self._untold: deque[tuple[dict[str, int], dict[str, int], int]] = deque()  # times that are not in it yet
        self._telling = threading.Lock()
        self.errors: dict[str, str] = {}  # first message of each reason of failure
        self.variants: Counter[str] = Counter()  # new results by variant
        self.marked: Counter[str] = Counter()  # new results beyond a gate, or against a plausibility rule, by which
        self.newest: Result | None = None
        self.watch: Watch | None = None
        self.failures = 0  # since the last frame that did not fail
        self._between = threading.Lock()  # held while a frame is in work: a branch is exchanged between frames
        self._clock = clock
        self._journal = journal
        self._last: Result | None = None
        self._frame: Frame | None = None  # the frame before
        self._rung = 0
        self._restarts: Counter[str] = Counter()
        self._lost_seen = 0
        self._trial: _Trial | None = None
        self._use(branch, ladder)

    def _use(self, branch: Branch, ladder: Ladder) -> None:
        self.branch, self.ladder = branch, ladder
        for stage, rung, cost_ns in ladder.costs:
            self.controller.record(stage, rung, cost_ns)

    @property
    def latency(self) -> dict[str, LatencyHistogram]:
        """By stage and wait, and `total`, of every result so far."""
        self._tell_times()
        return self._latency

    def _tell_times(self) -> None:
        """Count the times of results; some together, because one at a time costs a frame three times as much."""
        with self._telling:
            while self._untold:
                stages_ns, waits_ns, total_ns = self._untold.popleft()
                for spent in (stages_ns, waits_ns, {"total": total_ns}):
                    for stage, duration_ns in spent.items():
                        if (histogram := self._latency.get(stage)) is None:
                            histogram = self._latency[stage] = LatencyHistogram()
                        histogram.record(duration_ns)

    def exchange(self, branch: Branch, ladder: Ladder, *, trial_frames: int) -> None:
        """Go on with another branch from the next frame; when one of the next `trial_frames` fails, the one before is
        put back. Cadence and budget stay. Any thread; then ask for the `verdict`."""
        with self._between:
            self._trial = _Trial(branch=self.branch, ladder=self.ladder, left=trial_frames)
            self._exchange(branch, ladder)

    def _exchange(self, branch: Branch, ladder: Ladder) -> None:
        self.controller.renew(branch.policy(), len(ladder.rungs))
        branch.reset()
        self._use(branch, ladder)
        self._remember(None)
        self.failures = 0
        self._restarts.clear()

    def verdict(self, *, until_ns: int, over: Callable[[], bool]) -> str:
        """Wait for the end of the trial, `until_ns` or `over`; what failed, or nothing."""
        changed = threading.Condition()
        while (trial := self._trial) is not None and trial.left > 0 and self._clock.now_ns() < until_ns and not over():
            with changed:
                self._clock.wait(changed, _LOOK_NS)
        with self._between:
            trial, self._trial = self._trial, None
        return "" if trial is None else trial.failure

    def _undo(self, trial: _Trial, reason: str) -> None:
        """Put the branch before back."""
        trial.left, trial.failure = 0, reason
        self._exchange(trial.branch, trial.ladder)
        self._journal.tell(
            "rolled_back", f"the new branch failed on trial ({reason}); the old one is back", branch=self.name
        )

    def __call__(self, arrived: Arrived, taken_ns: int, publish: Callable[[Result], None]) -> None:
        """Work on a frame, if the branch is due. `publish` is called with its result, unless the frame was dropped or
        the stream ends by it, as soon as it is there: before the accounts. Whoever keeps it there retains it."""
        ticket = self.cadence.serve(arrived.number)
        if ticket is None:
            return
        with self._between:
            watch = self.watch = Watch(self._clock, arrived.frame.arrival_ns)
            try:
                self._work(ticket, arrived, taken_ns, watch, publish)
            finally:
                self.watch = None

    def _work(
        self, ticket: int, arrived: Arrived, taken_ns: int, watch: Watch, publish: Callable[[Result], None]
    ) -> None:
        watch.lap("capture", at_ns=arrived.put_ns)
        watch.lap("queue", at_ns=taken_ns, wait=True)
        self._see(arrived.frame)
        result = self._new_result(arrived.frame)
        dropped, fatal = "", None
        try:
            dropped = self._produce(result, watch)
        except Exception as error:
            failed, trial = watch.fail(), self._trial
            if trial is not None and trial.left > 0:
                self._fail(result, f"{failed or 'trial'}: {type(error).__name__}", error)
                self._undo(trial, f"{result.reason}: {error}")
            elif failed and self.branch.errors.covers(error):
                fatal = self._handle(result, failed, error)
            else:  # a bug, or the pipeline is set up wrongly
                self._fail(result, f"{failed or 'step'}: {type(error).__name__}", error)
                self.ledger.settle(ticket, "failed", reason=result.reason)
                raise
        if dropped:
            let_go(result)
        result.stages_ns, result.waits_ns, result.done_ns = watch.stages_ns, watch.waits_ns, watch.now_ns
        if not dropped and fatal is None:
            publish(result)
        self._settle(ticket, result, dropped, watch)
        if fatal is not None:
            raise fatal
        result.release()

    def _see(self, frame: Frame) -> None:
        """Another size, colour or scale of millimetres: what is remembered of earlier frames does not fit any more."""
        last, self._frame = self._frame, frame
        if last is not None and not alike(last, frame):
            self.branch.reset()
            self._remember(None)

    def _produce(self, result: Result, watch: Watch) -> str:
        """The order of a step. Fills `result`; returns why the frame is dropped, or nothing."""
        frame = result.frame
        plan = self._decide("preprocess", result, 0)
        slot = self.pool.lease() if plan.action == "run" else None
        watch.lap("turn", wait=True)
        if plan.action != "run":
            return self._without(plan, result)
        if slot is None:
            return "pool"
        result.lease = slot
        watch.current = "preprocess"
        prepared = self.branch.preprocess(frame)
        watch.lap("preprocess")
        plan = self._decide("infer", result, plan.rung)
        if plan.action != "run":
            watch.lap("infer")
            return self._without(plan, result)
        self._rung = plan.rung
        rung = self.ladder.rungs[plan.rung]
        watch.current = "infer"
        outputs = rung.runner.infer({rung.runner.input.name: prepared.tensor})
        watch.lap("infer")
        watch.current = "postprocess"
        slot.fit(frame.shape, rung.probability_shape)
        segmented = rung.postprocess(outputs, prepared, frame, mask_out=slot.mask, probability_out=slot.probability)
        fill(result, segmented, slot, rung.runner)
        if plan.rung > 0:
            result.state, result.reason = "degraded", f"rung {plan.rung}: {plan.reason}"
        watch.lap("postprocess")
        if self.controller.learns:
            self._learn(watch, plan.rung)
        if self.branch.refine is not None:
            self._refine(result, plan.rung, watch, self.branch.refine)
        return ""

    def _new_result(self, frame: Frame) -> Result:
        return Result(
            frame=frame,
            branch=self.name,
            state="fresh",
            bundle_sha256=self.branch.bundle_sha256,
            preprocess_sha256=self.branch.preprocess_sha256,
            deadline_ns=self.controller.deadline_ns(frame.arrival_ns),
        )

    def _decide(self, point: Point, result: Result, rung: int) -> Decision:
        last = self._last is not None
        return self.controller.decide(
            point, frame=result.frame.index, deadline_ns=result.deadline_ns, rung=rung, can_reuse=last
        )

    def _without(self, plan: Decision, result: Result) -> str:
        """Reuse the last result, marked stale, or drop the frame."""
        if plan.action != "reuse" or self._last is None:
            return "budget"
        repeat(self._last, result, plan.reason)
        return ""

    def _learn(self, watch: Watch, rung: int) -> None:
        for stage in ("preprocess", "infer", "postprocess"):
            self.controller.record(stage, rung, watch.stages_ns[stage])

    def _refine(self, result: Result, rung: int, watch: Watch, refine: Callable[[Result], None]) -> None:
        if self._decide("refine", result, rung).action == "run":
            watch.current = "refine"
            refine(result)
            watch.lap("refine")
            self.controller.record("refine", rung, watch.stages_ns["refine"])
        else:
            result.state, result.reason = "degraded", result.reason or "optional stage skipped"

    def _handle(self, result: Result, stage: str, error: Exception) -> Exception | None:
        """Do what the error policy says; returns the error that ends the stream, if it does."""
        policy, reason = self.branch.errors, f"{stage}: {type(error).__name__}"
        answer = policy.answer(stage)
        self.failures += 1
        self.errors.setdefault(reason, str(error))
        result.extra["error"] = str(error)
        text = f"{reason}: {error} ({answer})"
        self._journal.tell("stage_failed", text, branch=self.name, frame=result.frame.index)
        if answer == "substitute" and stage == "refine":
            result.state, result.reason = "degraded", reason
        elif answer == "substitute" and self._last is not None:
            repeat(self._last, result, reason)
        else:
            self._fail(result, reason, error)
        if answer == "raise":
            return error
        if policy.give_up_after is not None and self.failures >= policy.give_up_after:
            return self._given_up(f"{self.failures} frames failed in a row", error)
        return self._restart(stage, error) if answer == "restart" else None

    def _fail(self, result: Result, reason: str, error: Exception) -> None:
        let_go(result)
        self.errors.setdefault(reason, str(error))
        result.state, result.reason, result.outputs_from = "failed", reason, -1
        result.extra["error"] = str(error)

    def _restart(self, stage: str, error: Exception) -> Exception | None:
        self._restarts[stage] += 1
        if self._restarts[stage] > self.branch.errors.max_restarts:
            return self._given_up(f"{stage} failed again after {self._restarts[stage] - 1} restarts", error)
        start_ns, rung = self._clock.now_ns(), self.ladder.rungs[self._rung]
        try:
            if stage == "infer":
                rung.runner.restart()
            else:
                owner = {"preprocess": self.branch.preprocess, "postprocess": rung.postprocess}.get(stage)
                getattr(owner, "reset", lambda: None)()
        except Exception as failure:
            return self._given_up(f"{stage} could not be restarted ({type(failure).__name__}: {failure})", error)
        took_ms = (self._clock.now_ns() - start_ns) / 1e6
        text = f"{stage} was restarted in {took_ms:.1f} ms, {self._restarts[stage]} in a row"
        self._journal.tell("stage_restarted", text, branch=self.name)
        return None

    def _given_up(self, why: str, error: Exception) -> PipelineError:
        end = PipelineError(f"branch {self.name!r}: {why}; the last error: {type(error).__name__}: {error}")
        end.__cause__ = error
        return end

    def _settle(self, ticket: int, result: Result, dropped: str, watch: Watch) -> None:
        missed = bool(dropped) or result.missed
        outcome: State | Literal["dropped"] = "dropped" if dropped else result.state
        self.ledger.settle(ticket, outcome, reason=dropped or result.reason, missed=missed)
        lost = self.cadence.lost
        self.controller.settle(missed=missed, lost=lost - self._lost_seen)
        self._lost_seen = lost
        if self._trial is not None and not dropped:
            self._trial.left -= 1
        if self._journal.observed:
            self._record(result, outcome, dropped or result.reason, missed, watch)
        if dropped or result.state == "failed":
            return
        self._untold.append((result.stages_ns, result.waits_ns, result.latency_ns))
        if len(self._untold) >= _AT_ONCE:
            self._tell_times()
        self.newest = result
        if result.state != "stale":
            self.failures = 0
            self._restarts.clear()
            self.variants[result.variant] += 1
            if result.gates or result.findings:
                self.marked.update(f"{gate.output} beyond its gate" for gate in result.gates if gate.beyond)
                self.marked.update(f"rule {name!r}" for name in {finding.rule for finding in result.findings})
            self._remember(result)

    def _record(self, result: Result, outcome: State | Literal["dropped"], reason: str, missed: bool, w: Watch) -> None:
        self._journal.note(
            FrameRecord(
                branch=self.name,
                frame=result.frame.index,
                arrival_ns=result.frame.arrival_ns,
                deadline_ns=result.deadline_ns,
                done_ns=w.now_ns,
                outcome=outcome,
                reason=reason,
                missed=missed,
                variant=result.variant,
                laps=tuple(Lap(*lap) for lap in w.laps),
            )
        )

    def _remember(self, result: Result | None) -> None:
        """Hold the newest good result for reuse, and let go of the one before."""
        if result is not None:
            result.retain()
        if self._last is not None:
            self._last.release()
        self._last = result

    def finish(self) -> None:
        """The stream is over: settle what never came through and free what is held."""
        self.cadence.finish()
        self._remember(None)
