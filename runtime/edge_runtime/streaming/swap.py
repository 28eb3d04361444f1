"""Exchange a branch under a running stream: prepared off the live path, on trial between frames, or undone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from edge_runtime.clock import Clock
from edge_runtime.errors import PipelineError
from edge_runtime.frame import Frame
from edge_runtime.streaming.branch import Branch
from edge_runtime.streaming.run import StreamRun
from edge_runtime.streaming.step import BranchStep
from edge_runtime.streaming.warmup import Ladder, warm_up

__all__ = ["Exchanged", "exchange"]

_GAP_NS = 100_000_000
_LOOK_NS = 500_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exchanged:
    """The branch that is in place now, its ladder, and what keeps its runners active."""

    branch: Branch
    ladder: Ladder
    active: ExitStack


def exchange(
    name: str,
    make: Callable[[], Branch],
    run: StreamRun | None,
    *,
    before: Branch,
    frame: Frame,
    warm_up_runs: int,
    trial_frames: int,
    timeout_s: float,
    clock: Clock,
) -> Exchanged:
    """Put what `make` returns in the place of branch `name` (`before`) of `run`; blocks until the trial is over.

    1. In the calling thread: `make`; then the runners are activated and warmed up on `frame` one by one, each begun
       when a frame of the stream has just been finished. Whatever raises here leaves the stream as it was.
    2. Between two frames the new branch takes over. Cadence and budget stay; the ledger goes on.
    3. A frame that fails among the next `trial_frames` puts the old branch back at once, and `PipelineError` is raised.
       After `timeout_s`, or when the stream ends, the trial is over whatever is missing.

    What `make` does in this process competes with the stream for the interpreter: `edge_runtime.rehearsal` does the
    long part in another.
    """
    step = None if run is None else run.steps[name]
    with ExitStack() as stack:
        try:
            branch = replace(make(), cadence=before.cadence, budget_ms=before.budget_ms)
            pause = partial(_await_gap, step, clock)
            for rung in branch.rungs:
                pause()
                stack.enter_context(rung.runner)
            ladder = warm_up(branch, frame, runs=warm_up_runs, clock=clock, pause=pause)
        except Exception as error:
            if run is not None:
                run.journal.tell("swap_failed", f"nothing was changed: {type(error).__name__}: {error}", branch=name)
            raise
        if run is not None and step is not None:
            run.journal.tell("swapped", f"{_named(before)} gives way to {_named(branch)}", branch=name)
            step.exchange(branch, ladder, trial_frames=trial_frames)
            failure = step.verdict(
                until_ns=clock.now_ns() + round(timeout_s * 1e9), over=lambda: run.ended_ns is not None
            )
            if failure:
                raise PipelineError(f"branch {name!r}: the new one was taken out again, the old one is back: {failure}")
        return Exchanged(branch=branch, ladder=ladder, active=stack.pop_all())


def _await_gap(step: BranchStep | None, clock: Clock) -> None:
    """Wait until a frame has just been finished, so that what follows falls between two; 0.1 s at most."""
    if step is None:
        return
    newest, until_ns, changed = step.newest, clock.now_ns() + _GAP_NS, threading.Condition()
    while step.newest is newest and clock.now_ns() < until_ns:
        with changed:
            clock.wait(changed, _LOOK_NS)


def _named(branch: Branch) -> str:
    names = ", ".join(rung.name for rung in branch.rungs)
    return f"bundle {branch.bundle_sha256[:12] or 'unnamed'} ({names})"
