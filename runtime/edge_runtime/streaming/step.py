"""`BranchStep`: what one branch does with one frame, and the account of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError
from edge_runtime.frame import Frame
from edge_runtime.metrics.latency import LatencyHistogram
from edge_runtime.result import Outcome, Result
from edge_runtime.streaming.branch import Branch
from edge_runtime.streaming.cadence import Cadence
from edge_runtime.streaming.contracts import Segmented
from edge_runtime.streaming.deadline import DeadlineController
from edge_runtime.streaming.ledger import Ledger
from edge_runtime.streaming.policy import Decision, Point
from edge_runtime.streaming.pool import ResultPool, Slot
from edge_runtime.streaming.warmup import Ladder
from edge_runtime.streaming.watch import Watch

__all__ = ["Arrived", "BranchStep"]

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrived:
    """A frame on its way to the compute thread: its number in the stream and when it was put in the mailbox."""

    number: int
    frame: Frame
    put_ns: int


class BranchStep:
    """One branch during one stream. `arrive` and `lose` are called by any thread, the call itself by the compute
    thread."""

    def __init__(self, name: str, branch: Branch, ladder: Ladder, *, clock: Clock, live: bool, slots: int) -> None:
        self.name = name
        self.branch = branch
        self.ladder = ladder
        self.ledger = Ledger()
        self.cadence = Cadence(branch.cadence, self.ledger)
        self.pool = ResultPool(slots)
        budget_ns = None if branch.budget_ms is None or not live else round(branch.budget_ms * 1e6)
        self.controller = DeadlineController(
            policy=branch.policy(), rungs=len(ladder.rungs), budget_ns=budget_ns, clock=clock
        )
        for stage, rung, cost_ns in ladder.costs:
            self.controller.record(stage, rung, cost_ns)
        self.latency: dict[str, LatencyHistogram] = {}
        self.errors: dict[str, str] = {}  # first message of each reason of failure
        self.variants: Counter[str] = Counter()  # new results by variant
        self._clock = clock
        self._last: Result | None = None
        self._lost_seen = 0

    def __call__(self, arrived: Arrived, taken_ns: int) -> Result | None:
        """The result of a frame (one holder: the caller), or None when the branch is not due or the frame was
        dropped."""
        ticket = self.cadence.serve(arrived.number)
        if ticket is None:
            return None
        watch = Watch(self._clock, arrived.frame.arrival_ns)
        watch.lap("capture", at_ns=arrived.put_ns)
        watch.lap("queue", at_ns=taken_ns, wait=True)
        result = self._new_result(arrived.frame)
        dropped = ""
        try:
            dropped = self._produce(result, watch)
        except EdgeError as error:
            if watch.failed is None:  # not a stage's failure: the pipeline itself is set up wrongly
                raise
            self._fail(result, f"{watch.failed}: {type(error).__name__}", error)
        finally:
            if dropped or result.state == "failed":
                self._let_go(result)
        result.stages_ns, result.waits_ns, result.done_ns = watch.stages_ns, watch.waits_ns, watch.now_ns
        self._settle(ticket, result, dropped)
        return None if dropped else result

    def _produce(self, result: Result, watch: Watch) -> str:
        """The order of a step. Fills `result`; returns why the frame is dropped, or nothing."""
        frame = result.frame
        plan = self._decide("preprocess", result, 0)
        slot = self.pool.lease((0, 0), (0, 0)) if plan.action == "run" else None
        watch.lap("turn", wait=True)
        if plan.action != "run":
            return self._without(plan, result)
        if slot is None:
            return "pool"
        result.lease = slot
        with watch.stage("preprocess"):
            prepared = self.branch.preprocess(frame)
        plan = self._decide("infer", result, plan.rung)
        if plan.action != "run":
            watch.lap("infer")
            return self._without(plan, result)
        rung = self.ladder.rungs[plan.rung]
        with watch.stage("infer"):
            outputs = rung.runner.infer({rung.runner.input.name: prepared.tensor})
        with watch.stage("postprocess"):
            slot.fit(frame.shape, rung.probability_shape)
            segmented = rung.postprocess(outputs, prepared, frame, mask_out=slot.mask, probability_out=slot.probability)
            self._fill(result, segmented, slot, plan)
        self._learn(watch, plan.rung)
        self._refine(result, plan.rung, watch)
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
        return self.controller.decide(
            point,
            frame=result.frame.index,
            deadline_ns=result.deadline_ns,
            rung=rung,
            can_reuse=self._last is not None,
        )

    def _without(self, plan: Decision, result: Result) -> str:
        """Reuse the last result, marked stale, or drop the frame."""
        last = self._last
        if plan.action != "reuse" or last is None:
            return "budget"
        self._let_go(result)
        last.retain()
        result.state, result.reason, result.lease = "stale", plan.reason, last.lease
        result.mask, result.probability, result.areas = last.mask, last.probability, last.areas
        result.uncertainty, result.outputs_from = last.uncertainty, last.outputs_from
        result.classes, result.detections = last.classes, last.detections
        result.image, result.uncertainty_map = last.image, last.uncertainty_map
        result.variant, result.runner = last.variant, last.runner
        return ""

    def _fill(self, result: Result, segmented: Segmented, slot: Slot, plan: Decision) -> None:
        """Outputs into the leased slot (where the postprocessor did not write there itself), read-only from here."""
        runner = self.ladder.rungs[plan.rung].runner
        if segmented.mask is not None:
            if segmented.mask is not slot.mask:
                np.copyto(slot.mask, segmented.mask)
            result.mask = _read_only(slot.mask)
        if segmented.probability is not None:
            if segmented.probability is not slot.probability:
                slot.fit(result.frame.shape, segmented.probability.shape)
                np.copyto(slot.probability, segmented.probability)
            result.probability = _read_only(slot.probability)
        result.areas, result.uncertainty = segmented.areas, segmented.uncertainty
        if isinstance(segmented, Outcome):
            result.classes, result.detections = segmented.classes, segmented.detections
            result.image, result.uncertainty_map = segmented.image, segmented.uncertainty_map
        result.variant, result.runner, result.outputs_from = runner.variant, runner.name, result.frame.index
        if plan.rung > 0:
            result.state, result.reason = "degraded", f"rung {plan.rung}: {plan.reason}"

    def _learn(self, watch: Watch, rung: int) -> None:
        for stage in ("preprocess", "infer", "postprocess"):
            self.controller.record(stage, rung, watch.stages_ns[stage])

    def _refine(self, result: Result, rung: int, watch: Watch) -> None:
        if self.branch.refine is None:
            return
        if self._decide("refine", result, rung).action == "run":
            with watch.stage("refine"):
                self.branch.refine(result)
            self.controller.record("refine", rung, watch.stages_ns["refine"])
        else:
            result.state, result.reason = "degraded", result.reason or "optional stage skipped"

    def _fail(self, result: Result, reason: str, error: EdgeError) -> None:
        self.errors.setdefault(reason, str(error))
        result.state, result.reason, result.outputs_from = "failed", reason, -1
        result.extra["error"] = str(error)

    def _settle(self, ticket: int, result: Result, dropped: str) -> None:
        missed = bool(dropped) or result.missed
        self.ledger.settle(
            ticket, "dropped" if dropped else result.state, reason=dropped or result.reason, missed=missed
        )
        lost = self.cadence.lost
        self.controller.settle(missed=missed, lost=lost - self._lost_seen)
        self._lost_seen = lost
        if dropped or result.state == "failed":
            return
        for stage, duration_ns in (*result.stages_ns.items(), *result.waits_ns.items(), ("total", result.latency_ns)):
            self.latency.setdefault(stage, LatencyHistogram()).record(duration_ns)
        if result.state != "stale":
            self.variants[result.variant] += 1
            self._remember(result)

    def _remember(self, result: Result | None) -> None:
        """Hold the newest good result for reuse, and let go of the one before."""
        if result is not None:
            result.retain()
        if self._last is not None:
            self._last.release()
        self._last = result

    def _let_go(self, result: Result) -> None:
        result.release()
        result.lease = result.mask = result.probability = result.image = result.uncertainty_map = None
        result.classes, result.detections = (), ()

    def finish(self) -> None:
        """The stream is over: settle what never came through and free what is held."""
        self.cadence.finish()
        self._remember(None)


def _read_only(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    view = array.view()
    view.flags.writeable = False
    return view
