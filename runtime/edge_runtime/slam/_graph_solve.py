"""Levenberg-Marquardt on a pose graph: residuals, normal equations in 6x6 blocks, robust weights.

Scales couple to every pose of a sweep; they are kept out of the sparse matrix as a border and solved by its Schur
complement.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ReconstructionError
from edge_runtime.optional import require
from edge_runtime.slam import se3

__all__ = [
    "Estimate",
    "Factors",
    "Progress",
    "Structure",
    "Weighting",
    "check_held",
    "covariance",
    "innovations",
    "loose_poses",
    "scaled_tangents",
    "squared_norms",
    "steps",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Weighting = Callable[[Floats], tuple[Floats, float]]  # squared norms (m,) -> weights (m,) and the cost

_LARGEST_DAMPING = 1e12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factors:
    """m measured motions. Node 0 is the world, so that a prior is a motion from the world to a pose.

    `nodes` (m, 2); `tangents` (m, 6), the logarithms of what was measured; `whitening` (m, 6, 6), the inverses of the
    covariances' lower Cholesky factors; `sweeps` (m,), the scale a motion's elevation is multiplied by, or -1;
    `loops` (m,) bool.
    """

    nodes: Ints
    tangents: Floats
    whitening: Floats
    sweeps: Ints
    loops: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """`poses` (n, 4, 4), the world's own first, and `scales` (s,)."""

    poses: Floats
    scales: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Progress:
    """Where an optimisation stands; `weights` (m,) are those of the last step."""

    estimate: Estimate
    weights: Floats
    cost: float
    iterations: int
    converged: bool


class Structure:
    """Order of elimination and places of the blocks, for `nodes` (m, 2) of which `free` (n,) may move."""

    def __init__(self, nodes: Ints, free: npt.NDArray[np.bool_]) -> None:
        require("numba", "to optimise a pose graph")
        from edge_runtime.slam import _graph_kernels

        sparse = require("scipy.sparse", "to optimise a pose graph")
        size = len(free)
        between = nodes[free[nodes].all(axis=1)]
        ones = np.ones(len(between))
        graph = sparse.coo_array((ones, (between[:, 0], between[:, 1])), shape=(size, size)).tocsr()
        graph = graph + graph.T
        graph.data[:] = -1.0
        degree = sparse.diags_array(1.0 - graph.sum(axis=1))
        ordered = require("scipy.sparse.linalg", "to optimise a pose graph").splu(
            (graph + degree).tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        self.position = ordered.perm_c.astype(np.int64)
        """(n,) the column of a node."""
        self.free = free
        columns = self.position[between]
        graph = sparse.coo_array((ones, (columns[:, 0], columns[:, 1])), shape=(size, size)).tocsr()
        graph = (graph + graph.T).tocsr()
        self.pointers, self.rows = _graph_kernels.filled_pattern(
            graph.indptr.astype(np.int64), graph.indices.astype(np.int64)
        )
        self.columns = self.position[nodes]
        self.places = self._places(free[nodes])

    def _places(self, moves: npt.NDArray[np.bool_]) -> Ints:
        size = len(self.position)
        keys = np.repeat(np.arange(size), np.diff(self.pointers)) * size + self.rows
        high, low = self.columns.max(axis=1), self.columns.min(axis=1)
        between = np.where(moves.all(axis=1), np.searchsorted(keys, low * size + high), -1)
        return np.column_stack([np.where(moves, self.pointers[self.columns], -1), between])


def loose_poses(nodes: Ints, free: npt.NDArray[np.bool_]) -> Ints:
    """The free nodes that `nodes` (m, 2) do not join to the world."""
    sparse, graphs = (require(f"scipy.sparse{part}", "to optimise a pose graph") for part in ("", ".csgraph"))
    nodes = np.where(free[nodes], nodes, 0)
    joined = sparse.coo_array((np.ones(len(nodes)), (nodes[:, 0], nodes[:, 1])), shape=(len(free), len(free)))
    _, component = graphs.connected_components(joined, directed=False)
    return np.flatnonzero((component != component[0]) & free)


def check_held(nodes: Ints, free: npt.NDArray[np.bool_], advice: str) -> None:
    """`ReconstructionError`, which ends with `advice`, unless `nodes` (m, 2) join every free pose to the world."""
    loose = loose_poses(nodes, free)
    if len(loose):
        raise ReconstructionError(
            f"{len(loose)} of {len(free) - 1} poses are joined to no fixed pose and no prior, the first is pose "
            f"{loose[0] - 1}; {advice}"
        )


@dataclass(slots=True, eq=False)
class _Normal:
    """Normal equations in the order of elimination."""

    blocks: Floats
    gradient: Floats
    border: Floats
    corner: Floats
    scale_gradient: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Residuals:
    """Of m factors: motions `T_i_j` and residual motions (m, 4, 4), residual tangents and these whitened (m, 6)."""

    motions: Floats
    beyond: Floats
    tangents: Floats
    whitened: Floats


def _residuals(factors: Factors, estimate: Estimate) -> _Residuals:
    poses = estimate.poses
    T = se3.inverse(poses[factors.nodes[:, 0]]) @ poses[factors.nodes[:, 1]]
    beyond = se3.exp(-scaled_tangents(factors, estimate)) @ T
    tangents = se3.log(beyond)
    return _Residuals(T, beyond, tangents, (factors.whitening @ tangents[..., None])[..., 0])


def scaled_tangents(factors: Factors, estimate: Estimate) -> Floats:
    """The measured tangents (m, 6), their elevation multiplied by the scale of their sweep."""
    scaled = factors.tangents.copy()
    of = factors.sweeps >= 0
    scaled[of, 5] *= estimate.scales[factors.sweeps[of]]
    return scaled


def squared_norms(factors: Factors, estimate: Estimate) -> Floats:
    """Squared Mahalanobis norms (m,) of the residuals."""
    return np.asarray((_residuals(factors, estimate).whitened ** 2).sum(axis=1))


def _normal(
    structure: Structure,
    factors: Factors,
    estimate: Estimate,
    weights: Floats,
    sigma: float,
    residuals: _Residuals,
) -> _Normal:
    from edge_runtime.slam import _graph_kernels

    to_second = factors.whitening @ se3.right_jacobian_inverse(residuals.tangents)
    jacobians = np.stack([-to_second @ se3.adjoint(se3.inverse(residuals.motions)), to_second], axis=1)
    scale_jacobians = np.zeros_like(residuals.tangents)
    of = factors.sweeps >= 0
    # d Log(E) / d s, E = Z(s)^-1 T, is -right_jacobian_inverse(Log E) adjoint(E^-1) right_jacobian(Log Z(s)) (0, v_z);
    # the last product is a translation, that of Exp of the same tangent with its rotation turned round
    along = np.zeros((int(of.sum()), 6))
    along[:, :3], along[:, 5] = -factors.tangents[of, :3], factors.tangents[of, 5]
    along = np.concatenate([np.zeros((len(along), 3)), se3.exp(along)[:, :3, 3]], axis=1)
    back = to_second[of] @ se3.adjoint(se3.inverse(residuals.beyond[of]))
    scale_jacobians[of] = -(back @ along[..., None])[..., 0]
    size, scales = len(structure.free), len(estimate.scales)
    normal = _Normal(
        np.zeros((len(structure.rows), 6, 6)),
        np.zeros((size, 6)),
        np.zeros((size, 6, scales)),
        np.full(scales, sigma**-2),
        (estimate.scales - 1) / sigma**2,
    )
    normal.blocks[structure.pointers[structure.position[~structure.free]]] = np.eye(6)
    _graph_kernels.accumulate(
        structure.columns,
        structure.places,
        factors.sweeps,
        residuals.whitened,
        jacobians,
        scale_jacobians,
        weights,
        normal.blocks,
        normal.gradient,
        normal.border,
        normal.corner,
        normal.scale_gradient,
    )
    return normal


def _step(structure: Structure, normal: _Normal, damping: float) -> tuple[Floats, Floats] | None:
    """The step of poses (n, 6) and scales (s,), or None where the damped matrix is not positive."""
    from edge_runtime.slam import _graph_kernels

    blocks = normal.blocks.copy()
    diagonal = np.arange(6)
    at = structure.pointers[:-1, None]
    blocks[at, diagonal, diagonal] *= 1 + damping
    if _graph_kernels.factorise(structure.pointers, structure.rows, blocks) >= 0:
        return None
    right = np.concatenate([-normal.gradient[..., None], normal.border], axis=2)
    _graph_kernels.substitute(structure.pointers, structure.rows, blocks, right)
    step, through = right[..., 0], right[..., 1:]
    scale_step = np.zeros(0)
    if len(normal.corner):
        complement = np.diag(normal.corner * (1 + damping)) - np.einsum("nas,nat->st", normal.border, through)
        scale_step = np.linalg.solve(complement, -normal.scale_gradient - np.einsum("nas,na->s", normal.border, step))
        step = step - through @ scale_step
    return step[structure.position], scale_step


def steps(
    structure: Structure,
    factors: Factors,
    estimate: Estimate,
    weighting: Weighting,
    *,
    scale_sigma: float,
    iterations: int,
    tolerance: float,
) -> Generator[None, None, Progress]:
    """Reweighted Levenberg-Marquardt, a step at a time, until no pose moves by more than `tolerance` (rad, mm).

    Returns where it ended, converged or after `iterations` steps; raises `ReconstructionError` where no step helps.
    """

    def fit(estimate: Estimate) -> tuple[_Residuals, Floats, float]:
        residuals = _residuals(factors, estimate)
        weights, cost = weighting((residuals.whitened**2).sum(axis=1))
        return residuals, weights, cost + 0.5 * float(((estimate.scales - 1) ** 2).sum()) / scale_sigma**2

    residuals, weights, cost = fit(estimate)
    progress = Progress(estimate=estimate, weights=weights, cost=cost, iterations=0, converged=False)
    damping = 0.0
    while progress.iterations < iterations and not progress.converged:
        normal = _normal(structure, factors, progress.estimate, progress.weights, scale_sigma, residuals)
        yield
        progress, residuals, damping = yield from _descend(structure, normal, progress, fit, damping, tolerance)
        yield
    return progress


def _descend(
    structure: Structure,
    normal: _Normal,
    progress: Progress,
    fit: Callable[[Estimate], tuple[_Residuals, Floats, float]],
    damping: float,
    tolerance: float,
) -> Generator[None, None, tuple[Progress, _Residuals, float]]:
    """One step that does not raise the cost, and the damping for the next. Raises `ReconstructionError` for none."""
    while damping <= _LARGEST_DAMPING:
        step = _step(structure, normal, damping)
        yield
        if step is not None and np.isfinite(step[0]).all():
            moved, scale_step = step
            estimate = Estimate(progress.estimate.poses @ se3.exp(moved), progress.estimate.scales + scale_step)
            residuals, weights, cost = fit(estimate)
            # rounding of a sum of squares: a cost within it is not higher
            if cost <= progress.cost * (1 + 1e-12) + 1e-12:
                still = max(np.abs(moved).max(), np.abs(scale_step).max(initial=0.0)) <= tolerance and damping < 1e-3
                after = Progress(
                    estimate=estimate,
                    weights=weights,
                    cost=cost,
                    iterations=progress.iterations + 1,
                    converged=bool(still),
                )
                return after, residuals, 0.0 if damping < 1e-6 else damping / 10
        damping = max(10 * damping, 1e-6)
    raise ReconstructionError(
        f"the pose graph cannot be improved from a cost of {progress.cost:.6g}: a pose is hardly held by its motions; "
        "check the covariances, whose condition may be beyond double precision"
    )


class _Inverse:
    """Parts of the inverse of the normal equations. Raises `ReconstructionError` where they are not positive."""

    def __init__(self, structure: Structure, normal: _Normal) -> None:
        from edge_runtime.slam import _graph_kernels

        self._structure, self._blocks, self._kernels = structure, normal.blocks, _graph_kernels
        if _graph_kernels.factorise(structure.pointers, structure.rows, self._blocks) >= 0:
            raise ReconstructionError("the pose graph leaves a pose free: its covariance is not finite; add motions")
        self._through = normal.border.copy()
        _graph_kernels.substitute(structure.pointers, structure.rows, self._blocks, self._through)
        complement = np.diag(normal.corner) - np.einsum("nas,nat->st", normal.border, self._through)
        self.of_scales: Floats = np.linalg.inv(complement)

    def of(self, nodes: Ints) -> Floats:
        """Joint covariance (6k, 6k) of `nodes` (k,)."""
        structure, width = self._structure, 6 * len(nodes)
        columns = structure.position[nodes]
        right = np.zeros((len(structure.free), 6, width))
        for k, column in enumerate(columns):
            right[column, :, 6 * k : 6 * k + 6] = np.eye(6) * structure.free[nodes[k]]
        self._kernels.substitute(structure.pointers, structure.rows, self._blocks, right)
        mine = self._through[columns].reshape(width, len(self.of_scales))
        joint = right[columns].reshape(width, width) + mine @ self.of_scales @ mine.T
        return np.asarray(0.5 * (joint + joint.T))


def covariance(
    structure: Structure, factors: Factors, estimate: Estimate, weights: Floats, nodes: Ints, scale_sigma: float
) -> tuple[Floats, Floats]:
    """Joint covariance (6k, 6k) of `nodes` (k,), right perturbations, and that of the scales (s, s).

    Raises `ReconstructionError` where the normal equations are not positive.
    """
    residuals = _residuals(factors, estimate)
    inverse = _Inverse(structure, _normal(structure, factors, estimate, weights, scale_sigma, residuals))
    return inverse.of(nodes), inverse.of_scales


def innovations(
    structure: Structure, factors: Factors, progress: Progress, asked: Ints, scale_sigma: float
) -> Generator[None, None, Floats]:
    """Squared Mahalanobis norms (k,) of the factors `asked`, which have weight 0, by their own and the poses' doubt."""
    residuals = _residuals(factors, progress.estimate)
    normal = _normal(structure, factors, progress.estimate, progress.weights, scale_sigma, residuals)
    yield
    inverse = _Inverse(structure, normal)
    found = np.zeros(len(asked))
    for k, factor in enumerate(asked):
        yield
        beyond = factors.whitening[factor] @ se3.right_jacobian_inverse(residuals.tangents[factor])
        back = -beyond @ se3.adjoint(se3.inverse(residuals.motions[factor]))
        J = np.hstack([back, beyond])
        doubt = np.eye(6) + J @ inverse.of(factors.nodes[factor]) @ J.T
        found[k] = residuals.whitened[factor] @ np.linalg.solve(doubt, residuals.whitened[factor])
    return found
