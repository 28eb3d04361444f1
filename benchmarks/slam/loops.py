"""`false_loops`: simulated pose graphs with false loops, beside gtsam on the same graph; `graph_step`: live steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure, judged
from edge_runtime.metrics.trajectory import absolute_error
from edge_runtime.optional import is_available
from edge_runtime.slam import se3
from edge_runtime.slam.graph import PoseGraph, warm_up

__all__ = ["Case", "case_of", "measure_false_loops", "measure_graph_step"]

POSES, LOOPS, BIAS, RUNS = 400, 30, 0.9, 20
SEEDS = range(1000, 1000 + RUNS)  # none of them was looked at while the solver was made
ODOMETRY = np.diag(np.array([2e-3, 2e-3, 2e-3, 0.03, 0.03, 0.1]) ** 2)  # rad, mm: 0.1 degree, in plane, elevation
LOOP = np.diag(np.array([5e-3, 5e-3, 5e-3, 0.1, 0.1, 0.1]) ** 2)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """True poses (n, 4, 4), the motion measured from each to the next, and loops: (first, second, motion, false)."""

    truth: Floats
    motions: Floats
    loops: list[tuple[int, int, Floats, bool]]

    def graph(self, *, loops: str = "all", scaled: bool = True) -> PoseGraph:
        """The graph with "all" loops, the "true" ones or "none"; with the scale state or without it."""
        graph = PoseGraph()
        graph.add_pose(self.truth[0], fixed=True)
        for k, motion in enumerate(self.motions):
            graph.extend(k, motion, ODOMETRY, sweep="a" if scaled else None)
        for first, second, motion, false in self.loops:
            if loops == "all" or (loops == "true" and not false):
                graph.add_between(first, second, motion, LOOP, loop=True)
        return graph


def _truth(poses: int, rng: np.random.Generator) -> Floats:
    """A hand that goes up and down over 100 mm in passes 5 mm apart, one pose a mm, and wavers slowly."""
    length = 100
    k = np.arange(poses)
    along = np.abs((k + length) % (2 * length) - length)
    across = 5.0 * np.floor(k / length) % 40
    time_ = k / poses * 2 * np.pi * poses / 400
    T = np.broadcast_to(np.eye(4), (poses, 4, 4)).copy()
    T[:, 0, 3], T[:, 2, 3] = across, along
    waver = np.zeros((poses, 6))
    for turns in (2, 5, 9):
        size = np.array([0.08, 0.08, 0.08, 1.0, 1.0, 0.5]) / turns * 2
        waver += size * rng.normal(size=6) * np.sin(turns * time_[:, None] + rng.uniform(0, 2 * np.pi, 6))
    return np.asarray(T @ se3.exp(waver))


def case_of(seed: int, false_share: float, *, poses: int = POSES, loops: int = LOOPS) -> Case:
    """A simulated graph: elevation measured 10 % short, `false_share` of the loops between places that look alike.

    Half of the false ones come in threes that agree with each other, as repetitive anatomy makes them.
    """
    rng = np.random.default_rng(seed)
    truth = _truth(poses, rng)
    tangents = se3.log(se3.inverse(truth[:-1]) @ truth[1:])
    tangents[:, 5] *= BIAS
    noise = se3.exp(rng.normal(size=tangents.shape) * np.sqrt(np.diag(ODOMETRY)))
    first, second = np.triu_indices(poses, 60)
    apart = np.linalg.norm(truth[first, :3, 3] - truth[second, :3, 3], axis=1)
    wrong = round(loops * false_share)
    found: list[tuple[int, int, Floats, bool]] = []
    for k in rng.choice(np.flatnonzero(apart < 8), loops - wrong, replace=False):
        found.append((int(first[k]), int(second[k]), se3.inverse(truth[first[k]]) @ truth[second[k]], False))
    while len(found) < loops:
        k = rng.choice(np.flatnonzero((apart > 15) & (second < poses - 3)))
        for step in range(3 if len(found) - (loops - wrong) < wrong // 2 else 1):
            found.append((int(first[k]) + step, int(second[k]) + step, np.eye(4), True))
    noisy = [
        (i, j, motion @ se3.exp(rng.normal(size=6) * np.sqrt(np.diag(LOOP))), false)
        for i, j, motion, false in found[:loops]
    ]
    return Case(truth=truth, motions=se3.exp(tangents) @ noise, loops=noisy)


def _errors(case: Case) -> dict[str, float]:
    """ATE in mm of every way to treat the loops, and seconds of the last."""
    clean, graph = case.graph(loops="true"), case.graph()
    found = {"odometry": absolute_error(case.truth, graph.poses)}
    clean.optimise("gnc")
    found["clean"] = absolute_error(case.truth, clean.poses)
    for kernel in ("squares", "huber", "gnc"):
        graph = case.graph()
        began = time.perf_counter()
        reached = graph.optimise(kernel)
        found[f"{kernel} s"] = time.perf_counter() - began
        found[kernel] = absolute_error(case.truth, graph.poses)
    false = {len(case.motions) + k for k, loop in enumerate(case.loops) if loop[3]}
    found["missed"] = len(false - set(reached.rejected))
    found["lost"] = len(set(reached.rejected) - false)
    graph = case.graph(scaled=False)
    graph.optimise("gnc")
    found["gnc without scale"] = absolute_error(case.truth, graph.poses)
    return found


def _gtsam(case: Case) -> dict[str, float]:
    """The graph without scales in gtsam: time, ATE and the largest difference from the own optimum, per kernel."""
    import gtsam

    own = case.graph(scaled=False)
    exact = gtsam.noiseModel.Gaussian.Covariance
    huber = gtsam.noiseModel.Robust.Create(gtsam.noiseModel.mEstimator.Huber.Create(1.345), exact(LOOP))
    robust, plain = gtsam.NonlinearFactorGraph(), gtsam.NonlinearFactorGraph()
    values = gtsam.Values()
    for k, T in enumerate(own.poses):
        values.insert(k, gtsam.Pose3(T))
    for graph, loop in ((robust, huber), (plain, exact(LOOP))):
        graph.add(gtsam.NonlinearEqualityPose3(0, gtsam.Pose3(case.truth[0])))
        for k, motion in enumerate(case.motions):
            graph.add(gtsam.BetweenFactorPose3(k, k + 1, gtsam.Pose3(motion), exact(ODOMETRY)))
        for i, j, motion, _ in case.loops:
            graph.add(gtsam.BetweenFactorPose3(i, j, gtsam.Pose3(motion), loop))
    settings = gtsam.LevenbergMarquardtParams()
    settings.setMaxIterations(2000)
    settings.setRelativeErrorTol(1e-15)
    settings.setAbsoluteErrorTol(1e-15)
    found: dict[str, float] = {}
    began = time.perf_counter()
    values = gtsam.LevenbergMarquardtOptimizer(robust, values, settings).optimize()
    _beside(found, "huber", case, own, values, began)
    graduated = gtsam.GncLMParams(settings)
    graduated.setLossType(gtsam.GncLossType.TLS)
    graduated.setKnownInliers(list(range(len(case.motions) + 1)))
    optimizer = gtsam.GncLMOptimizer(plain, values, graduated)
    began = time.perf_counter()
    values = optimizer.optimize()
    _beside(found, "gnc", case, own, values, began)
    mine = gtsam.Values()
    for k, T in enumerate(own.poses):
        mine.insert(k, gtsam.Pose3(T))
    costs = []
    for at in (mine, values):
        errors = np.array([plain.at(k).error(at) for k in range(plain.size())])
        loops = len(case.motions) + 1  # what precedes the loops: the fixed pose and the odometry
        costs.append(errors[:loops].sum() + np.minimum(errors[loops:], 0.5 * 16.811893829770927).sum())
    found["difference gnc"] = costs[0] - costs[1]  # the inliers may differ: the lower truncated cost is the better
    return found


def _beside(found: dict[str, float], kernel: str, case: Case, own: PoseGraph, values: object, began: float) -> None:
    found[f"gtsam {kernel} s"] = time.perf_counter() - began
    began = time.perf_counter()
    own.optimise(kernel, iterations=2000, tolerance=1e-8)  # type: ignore[arg-type]
    found[f"own {kernel} s"] = time.perf_counter() - began
    poses = np.array([values.atPose3(k).matrix() for k in range(len(own))])  # type: ignore[attr-defined]
    found[f"gtsam {kernel}"] = absolute_error(case.truth, poses)
    found[f"own {kernel}"] = absolute_error(case.truth, own.poses)
    found[f"difference {kernel}"] = float(np.abs(poses - own.poses).max())


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, object]:
    return {name: round(float(np.median([row[name] for row in rows])), 7) for name in rows[0]}


def measure_false_loops() -> list[Figure]:
    """ATE with false loops over that of the clean graph, simulated; gtsam's optimum beside the own."""
    figures = []
    warm_up()
    for share in (0.2, 0.4):
        rows = [_errors(case_of(seed, share)) for seed in SEEDS]
        ratio = np.array([row["gnc"] / row["clean"] for row in rows])
        figures.append(
            judged(
                name=f"simulated, {share:.0%} of {LOOPS} loops false: largest ATE over that of the clean loops",
                value=float(ratio.max()),
                goal="<= 1.3 times",
                unit="times",
                n=RUNS,
                spread=f"median {np.median(ratio):.3f}, " + _told(rows),
                detail={**_medians(rows), "ratios": ratio.round(4).tolist()},
            )
        )
    if not is_available("gtsam"):
        reason = "gtsam is not installed: pip install gtsam==4.3.0"
        name, goal = "largest difference from gtsam's optimum", "<= 1e-5 mm"
        return [*figures, Figure(name=name, value=None, goal=goal, unit="mm", n=0, met=None, reason=reason)]
    peers = [_gtsam(case_of(seed, 0.2)) for seed in SEEDS[:5]]
    for kernel, what, unit in (
        ("huber", "largest difference from gtsam's optimum", "mm"),
        ("gnc", "largest truncated cost above gtsam's", "cost"),
    ):
        own, theirs = (np.median([peer[f"{who} {kernel} s"] for peer in peers]) * 1e3 for who in ("own", "gtsam"))
        figures.append(
            judged(
                name=f"{kernel}: {what}, no scale state",
                value=max(peer[f"difference {kernel}"] for peer in peers),
                goal=f"<= 1e-5 {unit}",
                unit=unit,
                n=len(peers),
                spread=f"own {own:.0f} ms, gtsam {theirs:.0f} ms (medians)",
                detail=_medians(peers),
            )
        )
    return figures


def _told(rows: Sequence[dict[str, float]]) -> str:
    names = {"odometry": "odometry", "squares": "least squares", "huber": "Huber", "gnc": "GNC", "clean": "clean"}
    told = ", ".join(f"{text} {np.median([row[name] for row in rows]):.2f}" for name, text in names.items())
    without = np.median([row["gnc without scale"] for row in rows])
    return f"ATE mm: {told}, GNC without scale {without:.2f}"


def measure_graph_step() -> list[Figure]:
    """Milliseconds of each live call (new pose, its motion, loops as they are seen, `update`) of a long sweep."""
    figures = []
    warm_up()
    for poses, loops in ((400, 30), (3000, 225)):
        case = case_of(0, 0.2, poses=poses, loops=loops)
        seen: dict[int, list[tuple[int, int, Floats, bool]]] = {}
        for loop in case.loops:
            seen.setdefault(max(loop[:2]), []).append(loop)
        graph = PoseGraph()
        graph.add_pose(case.truth[0], fixed=True)
        spent = []
        for k, motion in enumerate(case.motions):
            began = time.perf_counter()
            graph.extend(k, motion, ODOMETRY, sweep="a")
            for i, j, measured, _ in seen.get(k + 1, ()):
                graph.add_between(i, j, measured, LOOP, loop=True)
            graph.update(max_ms=5.0)
            spent.append((time.perf_counter() - began) * 1e3)
        times = np.array(spent[1:])
        figures.append(
            judged(
                name=f"simulated, {poses} poses, {loops} loops: p99 of a live step",
                value=float(np.percentile(times, 99)),
                goal="<= 33 ms",
                unit="ms",
                n=len(times),
                spread=f"median {np.median(times):.3f}, largest {times.max():.1f}",
                detail={"ate_mm": absolute_error(case.truth, graph.poses)},
            )
        )
    return figures
