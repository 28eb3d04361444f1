"""`StreamReport`: what a stream was set to do and what became of it, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge_runtime.streaming.branch import RungReport
from edge_runtime.streaming.lane import Lane
from edge_runtime.streaming.ledger import LedgerSnapshot
from edge_runtime.streaming.records import DecisionRecord, StreamEvent
from edge_runtime.streaming.run import StreamRun
from edge_runtime.streaming.step import BranchStep
from edge_runtime.streaming.table import LatencySummary, latency_table, ledger_line

__all__ = ["SCHEMA", "BranchReport", "SinkReport", "StreamReport", "build_report"]

SCHEMA = "edge-runtime.stream-report/1"
_ORDER = ("capture", "queue", "turn", "preprocess", "infer", "postprocess", "refine", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchReport:
    """One branch. `latency` is by stage and wait, `total` from arrival to result; `variants` counts new results by
    variant, `marked` those beyond a gate or against a plausibility rule; `decisions` counts by what and why."""

    ledger: LedgerSnapshot
    latency: dict[str, LatencySummary]
    ladder: tuple[RungReport, ...]
    budget_ms: float | None
    budget_applied: bool
    cadence: int
    policy: str
    variants: dict[str, int]
    decisions: dict[str, int]
    recent_decisions: tuple[DecisionRecord, ...]
    pool_slots: int
    pool_held: int
    errors: dict[str, str]
    marked: dict[str, int] = field(default_factory=dict)

    @property
    def miss_ratio(self) -> float:
        """Share of settled frames without a fresh or degraded result in time."""
        return self.ledger.miss_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport:
    """One sink: its own ledger, the age of frames when delivered, and the error that disabled it, if any."""

    ledger: LedgerSnapshot
    age: LatencySummary
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """Effective configuration and outcome of one stream.

    `warnings` lists everything that a reader must not overlook: disabled sinks, failed frames, rungs taken out, budgets
    that were not applied, results that are marked, events by kind. `events` are the newest 256, `event_counts` counts
    all by kind.
    """

    configuration: dict[str, Any]
    duration_s: float
    branches: dict[str, BranchReport]
    sinks: dict[str, SinkReport]
    warnings: tuple[str, ...]
    events: tuple[StreamEvent, ...] = ()
    event_counts: dict[str, int] = field(default_factory=dict)

    @property
    def balances(self) -> bool:
        """Whether every ledger adds up."""
        ledgers = [branch.ledger for branch in self.branches.values()] + [sink.ledger for sink in self.sinks.values()]
        return all(ledger.balances for ledger in ledgers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, schema `edge-runtime.stream-report/1`; the decision log is left out, its counts are in."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        for name, branch in content["branches"].items():
            del branch["recent_decisions"]
            branch["miss_ratio"] = self.branches[name].miss_ratio
        return {"schema": SCHEMA, "balances": self.balances, **content}

    def to_text(self) -> str:
        """Plain text, at most 120 columns."""
        lines = [f"{key}: {value}" for key, value in self.configuration.items()]
        lines.append(f"duration: {self.duration_s:.2f} s")
        for name, branch in self.branches.items():
            lines += ["", *_branch_lines(name, branch)]
        for name, sink in self.sinks.items():
            lines += ["", f"sink {name}: {ledger_line(sink.ledger)}"]
            lines += latency_table("ms", {"age at delivery": sink.age})
        lines += ["", *(f"warning: {warning}" for warning in self.warnings)] if self.warnings else []
        return "\n".join(lines) + "\n"


def _branch_lines(name: str, branch: BranchReport) -> list[str]:
    ledger = branch.ledger
    budget = "none" if branch.budget_ms is None else f"{branch.budget_ms:g} ms"
    budget += "" if branch.budget_ms is None or branch.budget_applied else " (not applied)"
    lines = [
        f"branch {name}: every frame" if branch.cadence == 1 else f"branch {name}: every {branch.cadence} frames",
        f"  budget {budget}, policy {branch.policy}, result pool {branch.pool_slots}",
        f"  {ledger_line(ledger)}",
        f"  misses {ledger.misses} ({100 * branch.miss_ratio:.2f} %), longest run {ledger.longest_miss_run}",
    ]
    for rung in branch.ladder:
        cost = "not measured" if rung.median_ns is None else f"{rung.median_ns / 1e6:.2f} ms"
        left_out = "" if rung.kept else f", left out: {rung.note}"
        lines.append(f"  rung {rung.name}: {cost}{left_out}")
    lines += [f"  decision {what}: {count}" for what, count in sorted(branch.decisions.items())]
    lines += [f"  results of {variant}: {count}" for variant, count in branch.variants.items()]
    return lines + latency_table("ms from arrival", branch.latency)


def build_report(run: StreamRun, *, warm_up_runs: int, queue: int) -> StreamReport:
    """The report of a stream as it stands."""
    counts = dict(run.journal.counts.copy())
    scheduling = [f"{g.thread} {g.what}: {'granted' if g.granted else 'NOT granted'}, {g.detail}" for g in run.grants]
    ended_ns = run.ended_ns if run.ended_ns is not None else run.now_ns()
    fps = run.source.fps
    branches = {name: _branch(step, run.live) for name, step in run.steps.items()}
    sinks = {lane.name: _sink(lane) for lane in run.lanes}
    return StreamReport(
        configuration={
            "source": f"{run.source.name}, " + ("no frame rate" if fps is None else f"{fps:.4g} frames/s"),
            "hand-off": "live: latest frame wins" if run.live else f"not live: lossless, queue of {queue}",
            "threads": ", ".join((*run.threads.names, *run.watching.names)),
            "warm-up": f"{warm_up_runs} runs a rung" if warm_up_runs else "none",
            **({"scheduling": "; ".join(scheduling)} if scheduling else {}),
        },
        duration_s=(ended_ns - run.started_ns) / 1e9,
        branches=branches,
        sinks=sinks,
        warnings=(*_branch_warnings(branches), *_sink_warnings(sinks), *_run_warnings(run), *_event_warnings(run)),
        events=tuple(run.journal.events.copy()),
        event_counts={str(kind): n for kind, n in counts.items()},
    )


def _branch(step: BranchStep, live: bool) -> BranchReport:
    branch, counts = step.branch, step.controller.counts.copy()
    latency = {stage: LatencySummary.of(step.latency[stage]) for stage in _ORDER if stage in step.latency}
    return BranchReport(
        ledger=step.ledger.snapshot(),
        latency=latency,
        ladder=step.ladder.reports,
        budget_ms=branch.budget_ms,
        budget_applied=live and branch.budget_ms is not None,
        cadence=branch.cadence,
        policy=type(step.controller.policy).__name__,
        variants=dict(step.variants),
        decisions={f"{point}, {action}: {reason}": n for (point, action, reason), n in counts.items()},
        recent_decisions=tuple(step.controller.log),
        pool_slots=step.pool.slots,
        pool_held=step.pool.leased,
        errors=dict(step.errors),
        marked=dict(step.marked.copy()),
    )


def _sink(lane: Lane) -> SinkReport:
    error = "" if lane.error is None else f"{type(lane.error).__name__}: {lane.error}"
    return SinkReport(ledger=lane.ledger.snapshot(), age=LatencySummary.of(lane.age), error=error)


def _branch_warnings(branches: Mapping[str, BranchReport]) -> list[str]:
    found = []
    for name, branch in branches.items():
        found += [f"branch {name}: {rung.name} is no rung: {rung.note}" for rung in branch.ladder if not rung.kept]
        for reason, n in branch.ledger.failed.items():
            found.append(f"branch {name}: {n} frames failed ({reason}); the first: {branch.errors.get(reason, reason)}")
        for reason, message in branch.errors.items():
            if reason not in branch.ledger.failed:
                found.append(f"branch {name}: {reason} was answered without failing the frame; the first: {message}")
        if branch.budget_ms is not None and not branch.budget_applied:
            found.append(f"branch {name}: the budget of {branch.budget_ms:g} ms is not applied to a source that waits")
        if pool := branch.ledger.dropped.get("pool"):
            found.append(f"branch {name}: {pool} frames dropped because all {branch.pool_slots} results were held")
        results = sum(branch.variants.values())
        found += [f"branch {name}: {n} of {results} results are marked: {what}" for what, n in branch.marked.items()]
    return found


def _sink_warnings(sinks: Mapping[str, SinkReport]) -> list[str]:
    disabled = (f"sink {name} was disabled after an error: {sink.error}" for name, sink in sinks.items() if sink.error)
    slow = (
        f"sink {name} was too slow for {sink.ledger.dropped['slow']} results"
        for name, sink in sinks.items()
        if "slow" in sink.ledger.dropped
    )
    return [*disabled, *slow]


def _run_warnings(run: StreamRun) -> list[str]:
    if run.failure is not None:
        return [f"the stream ended with an error: {type(run.failure).__name__}: {run.failure}"]
    return ["the stream was stopped before its source ended"] if run.stopped.is_set() else []


def _event_warnings(run: StreamRun) -> list[str]:
    """The last message of each kind of event that no other warning tells."""
    told = {"corrupt_frame", "stage_failed", "sink_failed", "source_lost", "recovered", "swapped", "told"}
    last = {event.kind: event.message for event in run.journal.events.copy() if event.kind not in told}
    found = [f"{run.journal.counts[kind]} x {kind}; the last: {message}" for kind, message in last.items()]
    untold = run.journal.untold
    return found + ([f"on_event was too slow for {untold} events"] if untold else [])
