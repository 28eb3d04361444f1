"""The pose graph against closed forms, a dense solver, gtsam, and what it must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.slam import se3
from edge_runtime.slam.graph import GraphKernel, PoseGraph, warm_up

pytest.importorskip("numba", reason="the pose graph is compiled by numba")
least_squares = pytest.importorskip("scipy.optimize", reason="the dense truth is SciPy's").least_squares

Floats = npt.NDArray[np.float64]
COVARIANCE = np.diag([2e-3, 2e-3, 2e-3, 0.03, 0.03, 0.2]) ** 2


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Floats:
    return se3.exp([0, 0, 0, x, y, z])


def truth(poses: int, seed: int = 0) -> Floats:
    """A round of `poses` that comes back to where it began, a little uneven."""
    rng = np.random.default_rng(seed)
    T = [np.eye(4)]
    for _ in range(poses - 1):
        T.append(T[-1] @ se3.exp(np.array([0.02, 2 * np.pi / poses, 0.01, 0.1, 0, 1]) + 0.02 * rng.normal(size=6)))
    return np.array(T)


def motion(T: Floats, i: int, j: int) -> Floats:
    return np.asarray(se3.inverse(T[i]) @ T[j])


def full_covariance(seed: int = 0) -> Floats:
    mixing = np.eye(6) + 0.2 * np.random.default_rng(seed).normal(size=(6, 6))
    sigmas = np.sqrt(np.diag(COVARIANCE))
    return np.asarray(sigmas[:, None] * (mixing @ mixing.T) * sigmas)


def chain(T: Floats, covariance: Floats, seed: int = 1, bias: float = 1.0, sweep: str | None = None) -> PoseGraph:
    """The poses `T` chained by noisy motions, whose elevation is measured `bias` times as long."""
    rng, graph = np.random.default_rng(seed), PoseGraph()
    factor = np.linalg.cholesky(covariance)
    graph.add_pose(T[0], fixed=True)
    for k in range(len(T) - 1):
        tangent = se3.log(motion(T, k, k + 1))
        tangent[5] *= bias
        graph.extend(k, se3.exp(tangent) @ se3.exp(factor @ rng.normal(size=6)), covariance, sweep=sweep)
    return graph


def test_a_loop_s_error_is_shared_by_its_motions_as_their_variances_say() -> None:
    graph, tau = PoseGraph(), 0.01
    variances = [0.01, 0.04, 0.02, 0.05]
    graph.add_pose(np.eye(4), fixed=True)
    for k, variance in enumerate(variances):
        graph.extend(k, moved(x=1), np.diag([1e-6, 1e-6, 1e-6, variance, 1, 1]))
    graph.add_between(0, 4, moved(x=5), np.diag([1e-6, 1e-6, 1e-6, tau, 1, 1]))
    graph.optimise("squares")
    shares = np.cumsum([0, *variances]) / (sum(variances) + tau)
    np.testing.assert_allclose(graph.poses[:, 0, 3], np.arange(5) + shares, atol=1e-9)
    np.testing.assert_allclose(graph.poses[:, :3, :3], np.broadcast_to(np.eye(3), (5, 3, 3)), atol=1e-12)


def test_huber_pulls_with_a_bounded_force() -> None:
    graph, k = PoseGraph(huber=2.0), 1e6
    graph.add_pose(np.eye(4), fixed=True)
    graph.extend(0, moved(x=1), np.diag([1, 1, 1, 0.04, 1, 1]))
    graph.add_between(0, 1, moved(x=1 + k), np.diag([1, 1, 1, 0.01, 1, 1]), loop=True)
    graph.optimise("huber")
    # (x - 1) / 0.04 = 2 / 0.1
    np.testing.assert_allclose(graph.poses[1, 0, 3], 1.8, atol=1e-6)


def test_the_scale_of_a_sweep_has_its_closed_form() -> None:
    steps, variance, tau, sigma = 20, 0.01, 0.02, 0.15
    graph = PoseGraph(scale_sigma=sigma)
    graph.add_pose(np.eye(4), fixed=True)
    for k in range(steps):
        graph.extend(k, moved(z=0.9), np.diag([1e-6, 1e-6, 1e-6, 1, 1, variance]), sweep="a")
    graph.add_between(0, steps, moved(z=20), np.diag([1e-6, 1e-6, 1e-6, 1, 1, tau]), loop=True)
    graph.optimise("squares")
    v, M = steps * variance + tau, 0.9 * steps
    scale = (20 * M / v + sigma**-2) / (M**2 / v + sigma**-2)
    assert graph.scale("a") == pytest.approx(scale, abs=1e-9)
    assert graph.scale_sigmas()["a"] == pytest.approx((M**2 / v + sigma**-2) ** -0.5, rel=1e-9)
    expected = scale * M + steps * variance / v * (20 - scale * M)
    assert graph.poses[-1, 2, 3] == pytest.approx(expected, abs=1e-8)


def test_each_sweep_has_its_own_scale() -> None:
    graph = PoseGraph()
    graph.add_pose(np.eye(4), fixed=True)
    for name, bias in (("a", 0.9), ("b", 1.1)):
        first = len(graph) - 1
        for k in range(10):
            graph.extend(first + k, moved(z=bias), COVARIANCE, sweep=name)
        graph.add_between(first, first + 10, moved(z=10), COVARIANCE * 1e-2, loop=True)
    graph.optimise("gnc")
    assert graph.sweeps == ("a", "b")
    assert graph.scale("a") == pytest.approx(1 / 0.9, abs=0.1)
    assert graph.scale("b") == pytest.approx(1 / 1.1, abs=0.1)


def test_the_same_optimum_as_a_dense_solver() -> None:
    T, covariance = truth(7), full_covariance()
    graph = chain(T, covariance, bias=0.9, sweep="a")
    graph.add_prior(2, T[2] @ se3.exp(np.full(6, 0.02)), covariance * 4)
    graph.add_between(5, 0, motion(T, 5, 0), covariance, loop=True)
    graph.add_between(1, 6, motion(T, 1, 6), covariance, sweep="a")
    factors, guess = graph._factors(), graph.poses

    def residuals(parameters: Floats) -> Floats:
        poses = np.concatenate([np.eye(4)[None], guess @ se3.exp(np.r_[np.zeros(6), parameters[:-1]].reshape(7, 6))])
        parts = [(parameters[-1:] - 1) / 0.15]
        for (i, j), tangent, whitening, sweep in zip(
            factors.nodes, factors.tangents, factors.whitening, factors.sweeps, strict=True
        ):
            scaled = tangent * np.array([1, 1, 1, 1, 1, parameters[-1] if sweep == 0 else 1])
            parts.append(whitening @ se3.log(se3.inverse(se3.exp(scaled)) @ se3.inverse(poses[i]) @ poses[j]))
        return np.concatenate(parts)

    dense = least_squares(residuals, np.r_[np.zeros(36), 1.0], xtol=1e-15, ftol=1e-15, gtol=1e-12)
    reached = graph.optimise("squares")
    assert reached.cost == pytest.approx(dense.cost, rel=1e-9)
    assert graph.scale("a") == pytest.approx(dense.x[-1], abs=1e-6)
    expected = guess @ se3.exp(np.r_[np.zeros(6), dense.x[:-1]].reshape(7, 6))
    np.testing.assert_allclose(graph.poses, expected, atol=1e-6)
    inverse = np.linalg.inv(dense.jac.T @ dense.jac)
    assert graph.scale_sigmas()["a"] == pytest.approx(inverse[-1, -1] ** 0.5, rel=1e-4)


def test_a_chain_s_covariance_is_its_motions_composed() -> None:
    T, covariance = truth(12), full_covariance()
    graph = chain(T, covariance)
    expected = [np.zeros((6, 6))]
    for k in range(11):
        expected.append(se3.compose_covariance(expected[-1], motion(graph.poses, k, k + 1), covariance))
    np.testing.assert_allclose(graph.covariances(range(12)), expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(graph.relative_covariance(0, 11), expected[-1], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(graph.relative_covariance(7, 8), covariance, rtol=1e-6, atol=1e-12)


def test_a_loop_makes_poses_surer() -> None:
    graph = chain(truth(12), COVARIANCE, sweep="a")
    before = graph.covariances([11])[0]
    graph.add_between(0, 11, motion(truth(12), 0, 11), COVARIANCE, loop=True)
    graph.optimise("squares")
    assert np.linalg.eigvalsh(graph.covariances([11])[0])[-1] < 0.5 * np.linalg.eigvalsh(before)[-1]


def with_loops(T: Floats, false: int, covariance: Floats = COVARIANCE) -> tuple[PoseGraph, list[int]]:
    """A chain, 10 loops, and `false` ones that say of two distant poses that they are one."""
    graph, rng = chain(T, covariance, bias=0.9, sweep="a"), np.random.default_rng(5)
    factor = np.linalg.cholesky(covariance)
    half = len(T) // 2
    for k in range(10):
        graph.add_between(
            k, half + k, motion(T, k, half + k) @ se3.exp(factor @ rng.normal(size=6)), covariance, loop=True
        )
    wrong = [graph.add_between(k, half + 2 * k, np.eye(4), covariance, loop=True) for k in range(1, 1 + false)]
    return graph, wrong


def test_false_loops_are_found_and_do_no_harm() -> None:
    T = truth(60)
    clean, _ = with_loops(T, 0)
    assert clean.optimise("gnc").rejected == ()
    graph, wrong = with_loops(T, 5)
    reached = graph.optimise("gnc")
    assert list(reached.rejected) == wrong
    np.testing.assert_allclose(graph.poses, clean.poses, atol=1e-6)
    assert np.abs(graph.poses[:, :3, 3] - T[:, :3, 3]).max() < 2.0
    graph.optimise("squares")
    assert np.abs(graph.poses[:, :3, 3] - T[:, :3, 3]).max() > 5.0


@settings(max_examples=10, deadline=None)
@given(tangent=st.lists(st.floats(-2, 2), min_size=6, max_size=6), seed=st.integers(0, 99))
def test_moving_the_world_moves_the_poses(tangent: list[float], seed: int) -> None:
    T, away = truth(30, seed), se3.exp(tangent)
    here, there = with_loops(T, 1)[0], with_loops(away @ T, 1)[0]
    assert here.optimise("huber").cost == pytest.approx(there.optimise("huber").cost, rel=1e-7)
    np.testing.assert_allclose(away @ here.poses, there.poses, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 14), st.integers(0, 30), st.integers(0, 999))
def test_any_pattern_is_factorised_and_solved(size: int, edges: int, seed: int) -> None:
    from edge_runtime.slam import _graph_kernels
    from edge_runtime.slam._graph_solve import Structure

    rng = np.random.default_rng(seed)
    pairs = np.array([p for p in rng.integers(0, size, (edges, 2)) if p[0] != p[1]], np.int64).reshape(-1, 2)
    structure = Structure(pairs, np.ones(size, np.bool_))
    dense, blocks = np.zeros((size, 6, size, 6)), np.zeros((len(structure.rows), 6, 6))
    for k in range(size):
        dense[k, :, k] = blocks[structure.pointers[k]] = np.eye(6) * 200
    for (a, b), place in zip(structure.columns, structure.places[:, 2], strict=True):
        value = rng.normal(size=(6, 6))
        blocks[place] += value
        dense[max(a, b), :, min(a, b)] += value
        dense[min(a, b), :, max(a, b)] += value.T
    right = rng.normal(size=(size, 6, 3))
    expected = np.linalg.solve(dense.reshape(6 * size, -1), right.reshape(6 * size, 3))
    assert _graph_kernels.factorise(structure.pointers, structure.rows, blocks) == -1
    _graph_kernels.substitute(structure.pointers, structure.rows, blocks, right)
    np.testing.assert_allclose(right.reshape(-1, 3), expected, atol=1e-12)


@pytest.mark.parametrize("kernel", ["huber", "gnc"])
def test_live_steps_reach_what_a_full_solve_reaches(kernel: GraphKernel) -> None:
    T = truth(60)
    graph, whole = with_loops(T, 3)[0], with_loops(T, 3)[0]
    before, calls = graph.poses, 0
    while not graph.update(kernel=kernel, max_ms=1e-3).converged:
        np.testing.assert_array_equal(graph.poses, before)
        calls += 1
    assert calls > 1  # one step a call, as there is no time for two
    whole.optimise(kernel)
    np.testing.assert_allclose(graph.poses, whole.poses, atol=1e-2)


def test_what_comes_while_a_solving_goes_on_is_met() -> None:
    T = truth(60)
    graph, whole = (with_loops(T, 3)[0] for _ in range(2))
    assert not graph.update(max_ms=1e-3).converged
    later = motion(T, 0, 1)
    for each in (graph, whole):
        new = each.extend(59, moved(z=1), COVARIANCE, sweep="a")
        each.extend(new, moved(z=1), COVARIANCE, sweep="b")
        each.add_pose(moved(x=3))
        each.add_between(new, 62, later, COVARIANCE)
        each.add_between(0, 61, motion(T, 0, 59) @ moved(z=2.2), COVARIANCE, loop=True)
    while not graph.update(max_ms=1e-3).converged or not graph.update(max_ms=1e-3).converged:
        pass
    whole.optimise()
    np.testing.assert_allclose(graph.poses, whole.poses, atol=1e-2)
    assert graph.scale("b") == pytest.approx(whole.scale("b"), abs=1e-3)


def test_poses_added_while_a_solving_goes_on_follow_it() -> None:
    graph = with_loops(truth(60), 3)[0]
    assert not graph.update(max_ms=1e-3).converged
    new = graph.extend(59, moved(z=1), COVARIANCE, sweep="a")
    while not (last := graph.update(max_ms=1e-3)).converged:
        pass
    assert motion(graph.poses, 59, new)[2, 3] == pytest.approx(graph.scale("a"))
    assert graph.update() is last


def test_a_chain_needs_no_solving() -> None:
    graph = chain(truth(20), COVARIANCE, sweep="a")
    before = graph.poses
    assert graph.update(max_ms=1e-3).iterations == 0
    np.testing.assert_array_equal(graph.poses, before)
    assert graph.optimise("huber").cost == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(graph.poses, before, atol=1e-9)


def test_new_poses_follow_a_scale_that_was_found() -> None:
    graph, _ = with_loops(truth(60), 0)
    graph.optimise("gnc")
    new = graph.extend(59, moved(z=1), COVARIANCE, sweep="a")
    np.testing.assert_allclose(motion(graph.poses, 59, new)[2, 3], graph.scale("a"))
    cost = graph.update().cost
    assert graph.optimise("gnc").cost == pytest.approx(cost, rel=1e-6)


def bad_covariance(kind: str) -> Any:
    C = COVARIANCE.copy()
    if kind == "nan":
        C[0, 0] = np.nan
    elif kind == "zero":
        C[5, 5] = 0
    elif kind == "negative":
        C[2, 2] = -1e-6
    elif kind == "lopsided":
        C[0, 3] = 1e-4
    else:
        C = C[:5, :5]
    return C


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nan", "finite"),
        ("zero", "not positive definite"),
        ("negative", "not positive definite"),
        ("lopsided", "not symmetric"),
        ("small", r"\(5, 5\)"),
    ],
)
def test_a_bad_covariance_is_refused_and_nothing_added(kind: str, says: str) -> None:
    graph = chain(truth(3), COVARIANCE)
    adding: list[Callable[[Floats], int]] = [
        lambda C: graph.add_between(0, 2, np.eye(4), C),
        lambda C: graph.add_prior(1, np.eye(4), C),
        lambda C: graph.extend(2, np.eye(4), C),
    ]
    for add in adding:
        with pytest.raises(ConfigError, match=says):
            add(bad_covariance(kind))
    assert len(graph) == 3
    assert len(graph.optimise().weights) == 2


def test_bad_arguments_are_refused() -> None:
    graph = chain(truth(3), COVARIANCE)
    nan = np.full((4, 4), np.nan)
    for T in (nan, 2 * np.eye(4), np.diag([1.0, 1, -1, 1]), np.eye(3)):
        with pytest.raises(ConfigError, match="not a rigid"):
            graph.add_pose(T)
        with pytest.raises(ConfigError, match="motion 0-1 is not a rigid"):
            graph.add_between(0, 1, T, COVARIANCE)
    for call in (
        lambda: graph.add_between(0, 3, np.eye(4), COVARIANCE),
        lambda: graph.add_prior(-1, np.eye(4), COVARIANCE),
        lambda: graph.covariances([3]),
    ):
        with pytest.raises(ConfigError, match="there are 3"):
            call()
    with pytest.raises(ConfigError, match="to itself"):
        graph.add_between(1, 1, np.eye(4), COVARIANCE)
    with pytest.raises(ConfigError, match="sweep 'b' has no motions"):
        graph.scale("b")
    with pytest.raises(ConfigError, match="one of squares, huber, gnc"):
        graph.optimise("cauchy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_ms"):
        graph.update(max_ms=float("nan"))
    with pytest.raises(ConfigError, match="iterations 0"):
        graph.optimise(iterations=0)
    with pytest.raises(ConfigError, match="scale_sigma"):
        PoseGraph(scale_sigma=0)


def test_a_graph_that_is_not_held_is_refused() -> None:
    with pytest.raises(ReconstructionError, match="no poses"):
        PoseGraph().optimise()
    graph = PoseGraph()
    graph.add_pose(np.eye(4))
    graph.extend(0, moved(z=1), COVARIANCE)
    with pytest.raises(ReconstructionError, match="2 of 2 poses are joined to no fixed pose and no prior"):
        graph.optimise()
    graph.add_prior(0, np.eye(4), COVARIANCE)
    graph.optimise()
    graph.add_pose(moved(z=5))
    with pytest.raises(ReconstructionError, match=r"1 of 3 .* the first is pose 2"):
        graph.covariances([0])
    graph.add_between(1, 2, moved(z=4), COVARIANCE)
    graph.optimise()


def test_a_pose_joined_by_false_loops_alone_is_refused_and_the_graph_kept() -> None:
    graph = chain(truth(5), COVARIANCE)
    graph.add_pose(np.eye(4))
    for x in (50, -50):  # neither is nearer the truth than the other
        graph.add_between(0, 5, moved(x=x), COVARIANCE, loop=True)
    before = graph.poses
    with pytest.raises(ReconstructionError, match=r"1 of 6 .* pose 5; the loops that join it were found false"):
        graph.optimise("gnc")
    np.testing.assert_array_equal(graph.poses, before)


def test_what_does_not_settle_is_an_error_and_the_graph_kept() -> None:
    graph, _ = with_loops(truth(60), 5)
    before = graph.poses
    with pytest.raises(ReconstructionError, match="still moves after 2 steps"):
        graph.optimise("huber", iterations=2)
    np.testing.assert_array_equal(graph.poses, before)


@pytest.mark.parametrize("kernel", ["squares", "huber", "gnc"])
def test_the_same_optimum_and_covariances_as_gtsam(kernel: GraphKernel) -> None:
    gtsam = pytest.importorskip("gtsam", reason="the independent truth is gtsam 4.3.0")
    T, covariance = truth(40), full_covariance()
    own, peer, values = chain(T, covariance), gtsam.NonlinearFactorGraph(), gtsam.Values()
    exact = gtsam.noiseModel.Gaussian.Covariance(covariance)
    robust = gtsam.noiseModel.Robust.Create(gtsam.noiseModel.mEstimator.Huber.Create(1.345), exact)
    peer.add(gtsam.NonlinearEqualityPose3(0, gtsam.Pose3(T[0])))
    for k, measured in enumerate(own._factors().tangents):
        peer.add(gtsam.BetweenFactorPose3(k, k + 1, gtsam.Pose3(se3.exp(measured)), exact))
    own.add_prior(17, T[17] @ se3.exp(np.full(6, 0.01)), covariance)
    peer.add(gtsam.PriorFactorPose3(17, gtsam.Pose3(T[17] @ se3.exp(np.full(6, 0.01))), exact))
    rng, factor = np.random.default_rng(3), np.linalg.cholesky(covariance)
    for k in range(10):
        i, j = 2 * k, 20 + (7 * k) % 20
        measured = np.eye(4) if k % 4 == 3 else motion(T, i, j) @ se3.exp(factor @ rng.normal(size=6))
        own.add_between(i, j, measured, covariance, loop=True)
        peer.add(gtsam.BetweenFactorPose3(i, j, gtsam.Pose3(measured), robust if kernel == "huber" else exact))
    for k, pose in enumerate(own.poses):
        values.insert(k, gtsam.Pose3(pose))
    precise = gtsam.LevenbergMarquardtParams()
    precise.setMaxIterations(1000)
    precise.setRelativeErrorTol(1e-15)
    precise.setAbsoluteErrorTol(1e-15)
    reached = own.optimise(kernel, iterations=1000)
    if kernel == "gnc":
        graduated = gtsam.GncLMParams(precise)
        graduated.setLossType(gtsam.GncLossType.TLS)
        graduated.setKnownInliers(list(range(len(T) + 1)))
        optimizer = gtsam.GncLMOptimizer(peer, values, graduated)
        values = optimizer.optimize()
        assert list(reached.rejected) == list(np.flatnonzero(optimizer.getWeights() < 0.5) - 1)
    else:
        values = gtsam.LevenbergMarquardtOptimizer(peer, values, precise).optimize()
        assert reached.cost == pytest.approx(peer.error(values), rel=1e-9)
        marginals = gtsam.Marginals(peer, values)
        expected = [marginals.marginalCovariance(k) for k in (1, 17, 39)]
        np.testing.assert_allclose(own.covariances([1, 17, 39]), expected, rtol=1e-3, atol=1e-7)
    theirs = np.array([values.atPose3(k).matrix() for k in range(len(T))])
    np.testing.assert_allclose(own.poses, theirs, atol=1e-5)


def test_a_scale_s_collapse_is_not_taken_for_the_optimum() -> None:
    """Sideways passes joined by loops, and loops that call all places one: a scale of 0 would suit them all."""
    graph = PoseGraph()
    graph.add_pose(np.eye(4), fixed=True)
    for step in [*[1.0] * 20, *[-1.0] * 20]:
        graph.extend(len(graph) - 1, moved(x=0.1, z=0.9 * step), COVARIANCE, sweep="a")
    for k in range(0, 20, 3):
        graph.add_between(k, 40 - k, moved(x=0.1 * (40 - 2 * k)), COVARIANCE * 1e-2, loop=True)
    for i, j in ((0, 20), (1, 19), (21, 39)):
        there = moved(x=0.1 * (j - i), z=(j - i) * (1 if j <= 20 else -1))
        graph.add_between(i, j, there, COVARIANCE * 1e-2, loop=True)
    wrong = [graph.add_between(k, k + 12, moved(x=1.2), COVARIANCE * 1e-2, loop=True) for k in range(3)]
    assert list(graph.optimise("gnc").rejected) == wrong
    assert graph.scale("a") == pytest.approx(1 / 0.9, abs=0.03)


def test_warming_up_goes_through_everything() -> None:
    warm_up()
