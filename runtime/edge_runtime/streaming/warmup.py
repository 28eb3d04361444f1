"""Warm-up: first calls out of the way, each rung measured, and rungs that are not cheaper taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_runtime.clock import Clock
from edge_runtime.frame import Frame
from edge_runtime.streaming.branch import Branch, Rung, RungReport

__all__ = ["Ladder", "synthetic_frame", "warm_up"]

_MARGIN = 0.95  # a rung must cost at most this share of the one above, or noise would decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The rungs that are left, first choice first, and their measured costs as (stage, rung, ns)."""

    rungs: tuple[Rung, ...]
    reports: tuple[RungReport, ...]
    costs: tuple[tuple[str, int, int], ...] = ()


def synthetic_frame(clock: Clock, shape: tuple[int, int] = (480, 640)) -> Frame:
    """A grey frame of even noise, (H, W) uint8, for a warm-up before any real frame is there."""
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Frame(image=image, index=0, arrival_ns=clock.now_ns())


def warm_up(
    branch: Branch, frame: Frame, *, runs: int, clock: Clock, pause: Callable[[], None] = lambda: None
) -> Ladder:
    """Run every rung `runs` times on `frame` after one call that is not counted, and keep those worth keeping.

    The rungs take turns (A, B, C, A, B, C ...), so that a change of the processor's clock meets all of them. The
    declared order is the order of preference; rungs of equal rank are tried from the cheapest on. The first rung
    always stays, each further one only when its median is at least 5 % below that of the last one kept. So the ladder
    is ordered by latency as well. With `runs` 0 nothing is measured and all stay; a branch that was `measured`
    elsewhere has each rung called once and keeps what was found. Runners must be active. Raises what preprocessing,
    runner or postprocessing raise.
    """
    if branch.measured is not None:
        _take_turns(branch, frame, 1, clock, pause)
        return Ladder(rungs=branch.rungs, reports=branch.measured.reports, costs=branch.measured.costs)
    if runs == 0:
        reports = tuple(_report(rung, None, 0, "not measured", kept=True) for rung in branch.rungs)
        return Ladder(rungs=branch.rungs, reports=(*reports, *branch.left_out))
    measured = []
    taken = _take_turns(branch, frame, runs + 1, clock, pause)
    for place, (rung, (_, *samples)) in enumerate(zip(branch.rungs, taken, strict=True)):
        median = int(np.median([infer + post for _, infer, post in samples]))
        measured.append((place if rung.rank is None else rung.rank, median, rung, samples))
    kept: list[Rung] = []
    found: list[RungReport] = []
    costs: list[tuple[str, int, int]] = []
    above = None
    for _, median, rung, samples in sorted(measured, key=lambda item: item[:2]):
        if above is not None and median > _MARGIN * above:
            over = f"the rung above, {kept[-1].name} ({above / 1e6:.2f} ms)"
            found.append(_report(rung, median, runs, f"{median / 1e6:.2f} ms is not cheaper than {over}", kept=False))
            continue
        above = median
        costs += [cost for sample in samples for cost in _costs(sample, len(kept))]
        kept.append(rung)
        found.append(_report(rung, median, runs, "", kept=True))
    return Ladder(rungs=tuple(kept), reports=(*found, *branch.left_out), costs=tuple(costs))


def _take_turns(
    branch: Branch, frame: Frame, rounds: int, clock: Clock, pause: Callable[[], None]
) -> list[list[tuple[int, int, int]]]:
    """The durations of each rung in each round; nothing is remembered of the frame afterwards."""
    taken: list[list[tuple[int, int, int]]] = [[] for _ in branch.rungs]
    for _ in range(rounds):
        for rung, durations in zip(branch.rungs, taken, strict=True):
            pause()
            durations.append(_measure(branch, rung, frame, clock))
    branch.reset()
    return taken


def _report(rung: Rung, median_ns: int | None, runs: int, note: str, *, kept: bool) -> RungReport:
    runner = rung.runner
    return RungReport(variant=runner.variant, runner=runner.name, median_ns=median_ns, runs=runs, kept=kept, note=note)


def _measure(branch: Branch, rung: Rung, frame: Frame, clock: Clock) -> tuple[int, int, int]:
    """Durations in ns of preprocessing, inference and postprocessing of one call."""
    start = clock.now_ns()
    prepared = branch.preprocess(frame)
    ready = clock.now_ns()
    outputs = rung.runner.infer({rung.runner.input.name: prepared.tensor})
    inferred = clock.now_ns()
    mask, probability = np.empty(frame.shape, np.uint8), np.empty(rung.probability_shape, np.float32)
    rung.postprocess(outputs, prepared, frame, mask_out=mask, probability_out=probability)
    return ready - start, inferred - ready, clock.now_ns() - inferred


def _costs(sample: tuple[int, int, int], rung: int) -> list[tuple[str, int, int]]:
    stages = ("preprocess", "infer", "postprocess")
    return [(stage, rung, cost) for stage, cost in zip(stages, sample, strict=True)]
