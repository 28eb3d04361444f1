"""Truncated least squares over the loops of a pose graph: which are false, and the poses that fit the others.

Graduated non-convexity (Yang, Antonante, Tzoumas and Carlone, RA-L 2020) from two starts, since a scale near 0 suits
false loops: Huber's optimum, and that with the scales held. The start that ends at the lower truncated cost is kept,
and loops it gave up are taken back where that lowers the cost further.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.slam._graph_solve import (
    Estimate,
    Factors,
    Progress,
    Structure,
    Weighting,
    check_held,
    innovations,
    loose_poses,
    scaled_tangents,
    squared_norms,
    steps,
)

__all__ = ["graduated"]

Floats = npt.NDArray[np.float64]
Solving = Generator[None, None, Progress]

_GATE = 16.811893829770927  # 99 % of chi-squared with 6 degrees of freedom: a loop beyond is false
_RATE = 1.4  # growth of mu (Yang et al., remark 5)
_STAGE_TOLERANCE = 1e-2  # rad, mm: of a stage that the next goes on from
_ROUNDS = 20  # of taking loops back


class _Minimise(Protocol):
    def __call__(self, factors: Factors, estimate: Estimate, weighting: Weighting, *, tolerance: float) -> Solving: ...


def graduated(
    structure: Structure,
    factors: Factors,
    estimate: Estimate,
    huber: Weighting,
    *,
    scale_sigma: float,
    iterations: int,
    tolerance: float,
) -> Solving:
    """The optimum, a step at a time; a loop that was found false has weight 0, all others 1.

    Raises `ReconstructionError` where a pose is joined by false loops alone, or no step helps.
    """
    minimise: _Minimise = partial(steps, structure, scale_sigma=scale_sigma, iterations=iterations)
    best: Progress | None = None
    taken, given_up = 0, np.ones(len(factors.nodes))
    for held in (False, True) if len(estimate.scales) else (False,):
        start = _without_scales(factors, estimate) if held else (factors, estimate)
        begun = yield from minimise(*start, huber, tolerance=_STAGE_TOLERANCE)
        scales = estimate.scales if held else begun.estimate.scales
        found = yield from _graduate(minimise, factors, Estimate(begun.estimate.poses, scales), structure)
        taken += begun.iterations + found.iterations
        if len(loose_poses(factors.nodes[found.weights > 0], structure.free)):
            given_up = found.weights
        elif best is None or _cost(found) < _cost(best):
            best = found
    if best is None:
        check_held(factors.nodes[given_up > 0], structure.free, "the loops that join it were found false: add others")
        raise AssertionError("unreachable: poses were found loose")
    best = yield from _taken_back(minimise, structure, factors, best, scale_sigma)
    last = yield from minimise(factors, best.estimate, _fixed(best.weights), tolerance=tolerance)
    return replace(last, iterations=taken + last.iterations)


def _without_scales(factors: Factors, estimate: Estimate) -> tuple[Factors, Estimate]:
    held = replace(
        factors, tangents=scaled_tangents(factors, estimate), sweeps=np.full(len(factors.nodes), -1, np.int64)
    )
    return held, Estimate(estimate.poses, np.zeros(0))


def _graduate(minimise: _Minimise, factors: Factors, estimate: Estimate, structure: Structure) -> Solving:
    squared = squared_norms(factors, estimate)
    worst = squared[factors.loops].max()
    mu = _GATE / (2 * worst - _GATE) if 2 * worst > _GATE else np.inf
    taken = 0
    while True:
        weights = np.ones(len(factors.nodes))
        weights[factors.loops] = _truncated(squared[factors.loops], mu)
        binary = bool(np.all((weights == 0) | (weights == 1)))
        if binary and len(loose_poses(factors.nodes[weights > 0], structure.free)):
            return Progress(estimate=estimate, weights=weights, cost=np.inf, iterations=taken, converged=False)
        progress = yield from minimise(factors, estimate, _fixed(weights), tolerance=_STAGE_TOLERANCE)
        taken += progress.iterations
        if binary:
            return replace(progress, iterations=taken)
        estimate = progress.estimate
        squared = squared_norms(factors, estimate)
        mu *= _RATE


def _taken_back(
    minimise: _Minimise, structure: Structure, factors: Factors, best: Progress, scale_sigma: float
) -> Solving:
    """`best` with loops taken back that the doubt about their poses explains, as long as the truncated cost falls."""
    share = 1.0
    for _ in range(_ROUNDS):
        rejected = np.flatnonzero(best.weights == 0)
        near = yield from innovations(structure, factors, best, rejected, scale_sigma)
        order = np.argsort(near)
        candidates = rejected[order[: int((near < _GATE).sum() * share)]]
        if len(candidates) == 0:
            break
        weights = best.weights.copy()
        weights[candidates] = 1
        tried = yield from minimise(factors, best.estimate, _fixed(weights), tolerance=_STAGE_TOLERANCE)
        squared = squared_norms(factors, tried.estimate)
        weights[factors.loops] = squared[factors.loops] <= _GATE
        if not len(loose_poses(factors.nodes[weights > 0], structure.free)):
            tried = yield from minimise(factors, tried.estimate, _fixed(weights), tolerance=_STAGE_TOLERANCE)
            if _cost(tried) < _cost(best) - 1e-6:
                best, share = tried, 1.0
                continue
        share /= 2
    return best


def _cost(progress: Progress) -> float:
    return progress.cost + 0.5 * _GATE * int((progress.weights == 0).sum())


def _fixed(weights: Floats) -> Weighting:
    return lambda squared: (weights, 0.5 * float(weights @ squared))


def _truncated(squared: Floats, mu: float) -> Floats:
    """Weights of truncated least squares under `mu` (Yang et al., equation 14)."""
    if np.isinf(mu):
        return (squared <= _GATE).astype(np.float64)
    between = np.sqrt(_GATE * mu * (mu + 1) / np.maximum(squared, 1e-300)) - mu
    low, high = mu / (mu + 1) * _GATE, (mu + 1) / mu * _GATE
    return np.where(squared >= high, 0.0, np.where(squared <= low, 1.0, np.clip(between, 0, 1)))
