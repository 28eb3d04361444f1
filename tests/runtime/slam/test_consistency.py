"""Chains against composing step by step, gates against chi-square, cliques against trying all sets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.slam import se3
from edge_runtime.slam.consistency import (
    CHI2_99_OF_6,
    LoopFactor,
    OdometryChain,
    _largest_clique,
    circle_errors,
    consistent,
    gate_error,
)

SIGMA = np.diag([0.002, 0.002, 0.002, 0.03, 0.03, 0.1]) ** 2
LOOP = np.diag([0.02, 0.02, 0.004, 0.1, 0.1, 0.4]) ** 2


def noisy(rng, T, covariance):
    return T @ se3.exp(rng.multivariate_normal(np.zeros(6), covariance))


def walk(rng, n=40, scale_sigma=0.0, steps=None):
    """Truth (n, 4, 4) and the chain of its noisy motions."""
    if steps is None:
        steps = rng.normal((0, 0, 0, 0, 0, 2), (0.02, 0.02, 0.02, 0.3, 0.3, 0.1), (n - 1, 6))
    truth, chain = [np.eye(4)], OdometryChain(scale_sigma)
    for step in se3.exp(steps):
        truth.append(truth[-1] @ step)
        chain.append(noisy(rng, step, SIGMA), SIGMA)
    return np.stack(truth), chain


def loop(rng, truth, i, j, score=0.8):
    T = se3.inverse(truth[i]) @ truth[j]
    return LoopFactor(i=i, j=j, T_i_j=noisy(rng, T, LOOP), covariance=LOOP, score=score)


def test_the_threshold_is_the_quantile():
    stats = pytest.importorskip("scipy.stats")
    assert stats.chi2.ppf(0.99, 6) == pytest.approx(CHI2_99_OF_6, abs=1e-4)


def test_motions_between_are_those_composed_step_by_step():
    rng = np.random.default_rng(0)
    motions = se3.exp(rng.normal(0, 0.3, (9, 6)))
    parts = [np.diag(rng.uniform(0.5, 2, 6)) * 1e-3 for _ in motions]
    chain = OdometryChain(0.0)
    for T, covariance in zip(motions, parts, strict=True):
        chain.append(T, covariance)
    T, covariance = np.eye(4), np.zeros((6, 6))
    for k in range(2, 8):
        covariance = se3.compose_covariance(covariance, motions[k], parts[k])
        T = T @ motions[k]
    got, spread = chain.between(2, 8)
    assert np.allclose(got, T, atol=1e-12)
    assert np.allclose(spread, covariance, atol=1e-12)
    back, spread = chain.between(8, 2)
    assert np.allclose(back, se3.inverse(T), atol=1e-12)
    assert np.allclose(spread, se3.inverse_covariance(T, covariance), atol=1e-12)
    assert np.allclose(chain.between(4, 4)[1], 0)
    many = chain.between(np.array([2, 8]), np.array([8, 2]))
    assert np.allclose(many[0], [got, se3.inverse(T)], atol=1e-12)
    assert np.allclose(many[1][1], spread, atol=1e-12)


def test_a_long_chain_is_as_exact_as_a_short_one():
    chain = OdometryChain(0.0)
    step = se3.exp([0, 0, 0.01, 0.1, 0, 1.0])
    for _ in range(300):
        chain.append(step, SIGMA)
    T, covariance = chain.between(290, 300)
    again = OdometryChain(0.0)
    for _ in range(10):
        again.append(step, SIGMA)
    assert np.allclose(T, again.between(0, 10)[0], atol=1e-9)
    assert np.allclose(covariance, again.between(0, 10)[1], rtol=1e-6, atol=1e-12)


def test_a_common_scale_error_makes_a_straight_way_as_uncertain_as_it_is_long():
    chain = OdometryChain(0.1)
    for _ in range(10):
        chain.append(se3.exp([0, 0, 0, 0, 0, 2.0]), np.zeros((6, 6)))
    assert np.sqrt(chain.between(0, 10)[1][5, 5]) == pytest.approx(2.0)
    assert np.sqrt(chain.between(3, 8)[1][5, 5]) == pytest.approx(1.0)
    there_and_back = OdometryChain(0.1)
    for z in (2.0, -2.0):
        there_and_back.append(se3.exp([0, 0, 0, 0, 0, z]), np.zeros((6, 6)))
    assert np.allclose(there_and_back.between(0, 2)[1], 0)


def test_right_loops_pass_the_gate_as_often_as_it_says():
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(150):
        truth, chain = walk(rng, 12)
        errors.append(gate_error(loop(rng, truth, 1, 10), chain))
    assert np.mean(np.array(errors) < CHI2_99_OF_6) > 0.96
    assert np.mean(errors) == pytest.approx(6, rel=0.2)


def test_circles_of_right_loops_close_and_their_error_is_chi_square():
    rng = np.random.default_rng(2)
    errors = []
    for _ in range(150):
        truth, chain = walk(rng, 20)
        errors += circle_errors(loop(rng, truth, 1, 15), [loop(rng, truth, 4, 18)], chain).tolist()
    assert np.mean(errors) == pytest.approx(6, rel=0.2)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_false_loops_of_repetitive_anatomy_are_left_out(share):
    """Each false loop says that the probe is back at a place, one period of the anatomy away from where it is."""
    rng = np.random.default_rng(3)
    steps = np.zeros((59, 6))
    steps[:29, 5], steps[30:, 5] = 2.0, -2.0
    steps[29, 3] = 1.0
    truth, chain = walk(rng, 60, steps=steps)
    loops, right = [], []
    for n, j in enumerate(range(35, 55)):
        false = n < share * 20
        i = 59 - j
        made = loop(rng, truth, i, j, score=0.95 if false else 0.8)
        if false:
            wrong = se3.exp([0, 0, 0, rng.choice([-3, 3]) * (1 + rng.random()), rng.uniform(-3, 3), 0])
            made = LoopFactor(i=i, j=j, T_i_j=made.T_i_j @ wrong, covariance=LOOP, score=0.95)
        loops.append(made)
        right.append(not false)
    kept = consistent(loops, chain)
    assert all(right[k] for k in kept)
    assert len(kept) >= 0.8 * sum(right)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8), st.randoms(use_true_random=False))
def test_the_largest_set_is_found(n, random):
    friends = [0] * n
    for p, q in combinations(range(n), 2):
        if random.random() < 0.5:
            friends[p] |= 1 << q
            friends[q] |= 1 << p
    scores = [random.random() for _ in range(n)]
    sets = [
        chosen
        for size in range(n + 1)
        for chosen in combinations(range(n), size)
        if all(friends[p] >> q & 1 for p, q in combinations(chosen, 2))
    ]
    best = max(sets, key=lambda chosen: (len(chosen), sum(scores[p] for p in chosen)))
    assert _largest_clique(friends, scores) == best


@pytest.mark.parametrize(
    ("T", "covariance", "said"),
    [
        (np.eye(3), SIGMA, "are needed"),
        (np.eye(4), np.eye(3), "are needed"),
        (np.full((4, 4), np.nan), SIGMA, "not finite"),
        (np.eye(4), np.full((6, 6), np.inf), "not finite"),
    ],
)
def test_a_motion_that_is_none_is_refused(T, covariance, said):
    chain = OdometryChain()
    with pytest.raises(ConfigError, match=said):
        chain.append(T, covariance)
    assert len(chain) == 1
    with pytest.raises(ConfigError, match="there are 1"):
        chain.between(0, 1)
    with pytest.raises(ConfigError, match="scale_sigma"):
        OdometryChain(-0.1)
