"""`PoseGraph`: poses held together by measured motions, some of them false loops, and the poses that fit them best.

The cost is half the sum of |Log(Z(s)^-1 T_i^-1 T_j)|^2 in the norm of each covariance, where Z(s) is the measured
motion whose tangent has its elevation multiplied by the scale s of its sweep, and s is held to 1 +- `scale_sigma`:
drift of speckle decorrelation is mostly such a scale. Loops may be false, so that they count through Huber's kernel
(Huber, 1964), or through truncated least squares by graduated non-convexity with odometry as known inliers (Yang,
Antonante, Tzoumas and Carlone, RA-L 2020), which begins where Huber ended. Steps are Levenberg-Marquardt on the
manifold (Grisetti, Kuemmerle, Stachniss and Burgard, 2010), own Cholesky of 6x6 blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.slam import se3
from edge_runtime.slam._graph_gnc import graduated
from edge_runtime.slam._graph_input import Rows, rigid, whitening_of
from edge_runtime.slam._graph_solve import (
    Estimate,
    Factors,
    Progress,
    Structure,
    Weighting,
    check_held,
    covariance,
    squared_norms,
    steps,
)

__all__ = ["GraphKernel", "Optimised", "PoseGraph", "warm_up"]

Floats = npt.NDArray[np.float64]
GraphKernel = Literal["squares", "huber", "gnc"]

_LIVE_TOLERANCE = 1e-4  # rad, mm: a live map need not be finer, nor a start
_AT_REST = 1e-12  # squared norm of a residual that pulls at nothing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Optimised:
    """What an optimisation reached.

    `cost` is half the weighted sum of squares (Huber's function where that is the kernel); `weights` (m,) what each
    factor counted in the last step, in the order they were added; `rejected` the numbers of the loops that "gnc"
    found false. `converged` is False only after `PoseGraph.update`, which is then to be called again; all else is
    then of the solving before.
    """

    cost: float
    iterations: int
    converged: bool
    weights: Floats
    rejected: tuple[int, ...] = ()


class _Solved(NamedTuple):
    progress: Progress
    rejected: tuple[int, ...]


class PoseGraph:
    """Poses `T_world_image` (mm), numbered from 0 as they are added, and the motions measured between them.

    The world is fixed explicitly: by a pose added with `fixed=True`, or by a prior. Covariances are (6, 6), rotation
    in rad then translation in mm, right perturbation. `huber` is the threshold of its kernel in standard deviations;
    with `robust_odometry` motions that are no loops count through it too. Not to be used from two threads at once;
    the compiled parts hold no lock of the interpreter. Needs numba and scipy.
    """

    def __init__(self, *, scale_sigma: float = 0.15, huber: float = 1.345, robust_odometry: bool = False) -> None:
        for name, value in (("scale_sigma", scale_sigma), ("huber", huber)):
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; a positive finite number is needed")
        self._scale_sigma, self._huber, self._robust_odometry = scale_sigma, huber, robust_odometry
        self._poses = Rows((4, 4), np.float64)
        self._free = Rows((), np.bool_)
        self._leads = Rows((), np.int64)  # the factor by which `extend` added a pose, or -1
        self._poses.append(np.eye(4))
        self._free.append(False)
        self._leads.append(-1)
        self._nodes = Rows((2,), np.int64)
        self._tangents = Rows((6,), np.float64)
        self._whitening = Rows((6, 6), np.float64)
        self._sweep_of = Rows((), np.int64)
        self._loops = Rows((), np.bool_)
        self._weights = np.ones(0)
        self._sweeps: dict[str, int] = {}
        self._scales = np.ones(0)
        self._structure: Structure | None = None
        self._solving: Generator[None, None, _Solved] | None = None
        self._settled = True
        self._last = Optimised(cost=0.0, iterations=0, converged=True, weights=self._weights)

    def __len__(self) -> int:
        return len(self._poses.view) - 1

    @property
    def poses(self) -> Floats:
        """The poses (n, 4, 4) as they are estimated now; a copy."""
        return self._estimate().poses[1:].copy()

    @property
    def sweeps(self) -> tuple[str, ...]:
        """Names of the sweeps that have a scale, in the order they were met."""
        return tuple(self._sweeps)

    def scale(self, sweep: str) -> float:
        """What elevation measured in `sweep` is multiplied by. Raises `ConfigError` for a sweep without motions."""
        if sweep not in self._sweeps:
            raise ConfigError(f"sweep {sweep!r} has no motions; there are {sorted(self._sweeps)}")
        return float(self._scales[self._sweeps[sweep]])

    def add_pose(self, T_world_image: Floats, *, fixed: bool = False) -> int:
        """Add a pose with a first guess, or one that is known and stays (`fixed`); its number."""
        self._poses.append(rigid("T_world_image", T_world_image))
        self._free.append(not fixed)
        self._leads.append(-1)
        self._structure = None
        return len(self) - 1

    def add_between(
        self,
        first: int,
        second: int,
        T_first_second: Floats,
        covariance: Floats,
        *,
        loop: bool = False,
        sweep: str | None = None,
    ) -> int:
        """Add a measured motion (4, 4); its number. `loop`: it may be false. `sweep`: the one whose scale it shares.

        Raises `ConfigError` for poses that are not there, a matrix that is not rigid, or a covariance that is not
        finite, symmetric and positive definite; nothing is added then.
        """
        for pose in (first, second):
            self._check_pose(pose)
        if first == second:
            raise ConfigError(f"a motion from pose {first} to itself; two poses are needed")
        name = f"motion {first}-{second}"
        T = rigid(name, T_first_second)
        return self._add_factor(first + 1, second + 1, T, whitening_of(name, covariance), loop, sweep)

    def add_prior(self, pose: int, T_world_image: Floats, covariance: Floats) -> int:
        """Add a measured pose (4, 4), of a tracker say; its number. Raises as `add_between`."""
        self._check_pose(pose)
        name = f"prior of pose {pose}"
        return self._add_factor(0, pose + 1, rigid(name, T_world_image), whitening_of(name, covariance), False, None)

    def extend(self, pose: int, T_pose_new: Floats, covariance: Floats, *, sweep: str | None = None) -> int:
        """Add the pose that a motion leads to from `pose`, and that motion; the new pose's number.

        It lies where the motion, scaled as its sweep is, puts it, which keeps an optimum: nothing needs solving, and
        the cost of a call does not grow with the graph.
        """
        self._check_pose(pose)
        name = f"motion {pose}-{len(self)}"
        T, whitening = rigid(name, T_pose_new), whitening_of(name, covariance)
        tangent = self._scaled(se3.log(T), self._sweeps.get(sweep, -1) if sweep is not None else -1)
        new = self.add_pose(self._estimate().poses[pose + 1] @ se3.exp(tangent))
        self._leads.view[new + 1] = self._add_factor(pose + 1, new + 1, T, whitening, False, sweep)
        return new

    def update(self, *, kernel: GraphKernel = "gnc", max_ms: float = 10.0) -> Optimised:
        """Go on with the solving for about `max_ms`, one step at least; at once where nothing pulls. For live use.

        Call it after each frame. No step is begun that would, by the longest so far, end too late. Poses move when a
        solving ends, all at once; `converged` is False until then, and what was added meanwhile by `extend` follows.
        Loops added meanwhile are met by the next solving. Raises as `optimise`.
        """
        if not (np.isfinite(max_ms) and max_ms > 0):
            raise ConfigError(f"max_ms is {max_ms}; a positive finite number is needed")
        if self._settled:
            return self._last
        began = time.perf_counter()
        deadline = began + max_ms / 1000
        solving = self._solving or self._solve(kernel, 200, _LIVE_TOLERANCE)
        self._solving, longest = None, 0.0
        while True:
            try:
                next(solving)
            except StopIteration as end:
                return self._keep(end.value)
            now = time.perf_counter()
            longest, began = max(longest, now - began), now
            if now + longest > deadline:
                self._solving = solving
                return replace(self._last, converged=False)

    def optimise(self, kernel: GraphKernel = "gnc", *, iterations: int = 200, tolerance: float = 1e-7) -> Optimised:
        """Find the poses and scales of least cost, until none moves by more than `tolerance` (rad, mm).

        Where loops may be false, "gnc" alone is safe for a graph with scales: a scale near 0 lets all places be one,
        which suits false loops, and neither "squares" nor "huber" keeps them from it. Raises `ReconstructionError`,
        and leaves the graph as it was, where a pose is joined to no fixed pose or prior (or, under "gnc", by false
        loops alone), or where `iterations` do not suffice; `ConfigError` for a kernel that is not known or a number
        out of range.
        """
        if iterations < 1 or not (np.isfinite(tolerance) and tolerance > 0):
            raise ConfigError(f"iterations {iterations}, tolerance {tolerance}; both must be positive")
        solving = self._solve(kernel, iterations, tolerance)
        self._solving = None
        while True:
            try:
                next(solving)
            except StopIteration as end:
                return self._keep(end.value)

    def covariances(self, poses: Iterable[int]) -> Floats:
        """Marginal covariances (k, 6, 6) of `poses` at the present estimate, with the weights of the last step."""
        asked = [self._check_pose(pose) for pose in poses]
        joint = self._joint(asked).reshape(len(asked), 6, len(asked), 6)
        return np.asarray(joint[np.arange(len(asked)), :, np.arange(len(asked))])

    def relative_covariance(self, first: int, second: int) -> Floats:
        """Covariance (6, 6) of the motion between two poses as they are estimated: for the gate of a loop."""
        asked = [self._check_pose(first), self._check_pose(second)]
        a, b = self._estimate().poses[[first + 1, second + 1]]
        J = np.hstack([-se3.adjoint(se3.inverse(b) @ a), np.eye(6)])
        return np.asarray(J @ self._joint(asked) @ J.T)

    def scale_sigmas(self) -> dict[str, float]:
        """Standard deviation of each sweep's scale at the present estimate."""
        _, of_scales = self._covariance([])
        return {name: float(np.sqrt(of_scales[k, k])) for name, k in self._sweeps.items()}

    def _check_pose(self, pose: int) -> int:
        if not 0 <= pose < len(self):
            raise ConfigError(f"there is no pose {pose}; there are {len(self)}, numbered from 0")
        return pose

    def _add_factor(self, first: int, second: int, T: Floats, whitening: Floats, loop: bool, sweep: str | None) -> int:
        if sweep is not None and sweep not in self._sweeps:
            self._sweeps[sweep] = len(self._sweeps)
            self._scales = np.append(self._scales, 1.0)
        self._nodes.append((first, second))
        self._tangents.append(se3.log(T))
        self._whitening.append(whitening)
        self._sweep_of.append(-1 if sweep is None else self._sweeps[sweep])
        self._loops.append(loop)
        self._structure = None
        added = len(self._nodes.view) - 1
        self._settled = self._settled and squared_norms(_last(self._factors()), self._estimate())[0] < _AT_REST
        return added

    def _factors(self) -> Factors:
        return Factors(
            nodes=np.asarray(self._nodes.view, np.int64),
            tangents=np.asarray(self._tangents.view, np.float64),
            whitening=np.asarray(self._whitening.view, np.float64),
            sweeps=np.asarray(self._sweep_of.view, np.int64),
            loops=np.asarray(self._loops.view, np.bool_),
        )

    def _estimate(self) -> Estimate:
        return Estimate(np.asarray(self._poses.view, np.float64), self._scales)

    def _anchored(self) -> Structure:
        """The structure, once every pose is found to be held by the world."""
        if len(self) == 0:
            raise ReconstructionError("the pose graph has no poses; add some, one of them fixed")
        if self._structure is None:
            factors = self._factors()
            free = np.asarray(self._free.view, np.bool_).copy()
            check_held(factors.nodes, free, "add the motion that joins it, or fix it")
            self._structure = Structure(factors.nodes, free)
        return self._structure

    def _weighting(self, factors: Factors, kernel: Literal["squares", "huber"]) -> Weighting:
        odometry = (factors.nodes[:, 0] > 0) & self._robust_odometry
        robust = (factors.loops | odometry) & (kernel == "huber")

        def weigh(squared: Floats) -> tuple[Floats, float]:
            norm = np.sqrt(squared)
            far = robust & (norm > self._huber)
            safe = np.where(far, norm, 1.0)
            cost = np.where(far, self._huber * (norm - 0.5 * self._huber), 0.5 * squared).sum()
            return np.where(far, self._huber / safe, 1.0), float(cost)

        return weigh

    def _solve(self, kernel: GraphKernel, iterations: int, tolerance: float) -> Generator[None, None, _Solved]:
        """The solving of the graph as it is when it begins, a step at a time."""
        if kernel not in get_args(GraphKernel):
            raise ConfigError(f"kernel is {kernel!r}; one of {', '.join(get_args(GraphKernel))}")
        structure, factors, estimate = self._anchored(), self._factors(), self._estimate()
        yield
        doubted = kernel == "gnc" and bool(factors.loops.any())
        weighting = self._weighting(factors, "squares" if kernel == "squares" else "huber")
        solve: Callable[..., Generator[None, None, Progress]] = graduated if doubted else steps
        progress = yield from solve(
            structure,
            factors,
            estimate,
            weighting,
            scale_sigma=self._scale_sigma,
            iterations=iterations,
            tolerance=tolerance,
        )
        if not progress.converged:
            raise ReconstructionError(
                f"the pose graph still moves after {progress.iterations} steps, cost {progress.cost:.6g}; "
                f"give it more than {iterations} iterations, or a tolerance above {tolerance:g}"
            )
        rejected = np.flatnonzero(progress.weights == 0) if doubted else ()
        return _Solved(progress, tuple(int(k) for k in rejected))

    def _keep(self, solved: _Solved) -> Optimised:
        """Take over what was solved; poses that `extend` added since follow the one they were added to."""
        progress, poses = solved.progress, self._estimate().poses
        known = len(progress.estimate.poses)
        self._scales[: len(progress.estimate.scales)] = progress.estimate.scales
        poses[:known] = progress.estimate.poses
        factors, leads = self._factors(), self._leads.view
        for new in range(known, len(poses)):
            if leads[new] >= 0:
                tangent = self._scaled(factors.tangents[leads[new]], int(factors.sweeps[leads[new]]))
                poses[new] = poses[factors.nodes[leads[new], 0]] @ se3.exp(tangent)
        self._weights = np.append(progress.weights, np.ones(len(factors.nodes) - len(progress.weights)))
        added = squared_norms(factors, self._estimate())[len(progress.weights) :]
        self._settled = bool((added < _AT_REST).all())
        self._last = Optimised(
            cost=progress.cost,
            iterations=progress.iterations,
            converged=True,
            weights=self._weights,
            rejected=solved.rejected,
        )
        return self._last

    def _scaled(self, tangent: Floats, sweep: int) -> Floats:
        scale = self._scales[sweep] if sweep >= 0 else 1.0
        return np.asarray(tangent * np.array([1, 1, 1, 1, 1, scale]))

    def _joint(self, poses: list[int]) -> Floats:
        return self._covariance(poses)[0]

    def _covariance(self, poses: list[int]) -> tuple[Floats, Floats]:
        structure, factors = self._anchored(), self._factors()
        weights = np.append(self._weights, np.ones(len(factors.nodes) - len(self._weights)))
        nodes = np.asarray(poses, np.int64) + 1
        return covariance(structure, factors, self._estimate(), weights, nodes, self._scale_sigma)


def warm_up() -> None:
    """Compile and load what a solving needs, for the first loop of a live sweep not to wait for it."""
    graph = PoseGraph()
    graph.add_pose(np.eye(4), fixed=True)
    for k in range(3):
        graph.extend(k, np.eye(4), np.eye(6), sweep="warm")
    graph.add_between(0, 3, se3.exp(np.full(6, 0.1)), np.eye(6), loop=True)
    graph.add_between(0, 2, se3.exp(np.full(6, -0.5)), 1e-4 * np.eye(6), loop=True)
    graph.optimise("gnc")
    graph.covariances([2])


def _last(factors: Factors) -> Factors:
    return Factors(
        nodes=factors.nodes[-1:],
        tangents=factors.tangents[-1:],
        whitening=factors.whitening[-1:],
        sweeps=factors.sweeps[-1:],
        loops=factors.loops[-1:],
    )
