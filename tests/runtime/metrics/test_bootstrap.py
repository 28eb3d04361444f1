"""Bootstrap intervals against scipy, the normal theory, and their own coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.bootstrap import bootstrap_mean, bootstrap_statistic, paired_difference
from edge_runtime.metrics.classification import auroc

VALUES = np.random.default_rng(2).exponential(size=60)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_scipy_agrees_within_the_noise_of_drawing(method: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    peer = stats.bootstrap((VALUES,), np.mean, n_resamples=10_000, method=method, rng=np.random.default_rng(1))
    found = bootstrap_mean(VALUES, resamples=10_000, method=method)
    width = peer.confidence_interval.high - peer.confidence_interval.low
    assert found.low == pytest.approx(peer.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(peer.confidence_interval.high, abs=0.05 * width)
    assert found.value == pytest.approx(VALUES.mean())


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_mean_and_statistic_are_the_same_for_a_mean(method: Any) -> None:
    groups = np.arange(60) // 4
    one = bootstrap_mean(VALUES, groups=groups, resamples=300, method=method, seed=3)
    other = bootstrap_statistic(
        lambda k: float(VALUES[k].mean()), 60, groups=groups, resamples=300, method=method, seed=3
    )
    assert (one.low, one.high, one.value) == pytest.approx((other.low, other.high, other.value))
    assert (one.groups, one.n, one.resamples) == (15, 60, 300)


def test_same_seed_same_interval_another_seed_another() -> None:
    assert bootstrap_mean(VALUES, seed=4) == bootstrap_mean(VALUES, seed=4)
    assert bootstrap_mean(VALUES, seed=4) != bootstrap_mean(VALUES, seed=5)


def test_groups_that_repeat_widen_the_interval() -> None:
    repeated = np.repeat(VALUES, 9)
    alone = bootstrap_mean(VALUES, method="percentile", resamples=20_000)
    grouped = bootstrap_mean(repeated, groups=np.repeat(np.arange(60), 9), method="percentile", resamples=20_000)
    ignored = bootstrap_mean(repeated, method="percentile", resamples=20_000)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.03)
    assert ignored.high - ignored.low == pytest.approx((alone.high - alone.low) / 3, rel=0.05)


def test_unequal_groups_weigh_by_their_items() -> None:
    found = bootstrap_mean(np.array([1.0, 1, 1, 5]), groups=list("aaab"), resamples=500, method="percentile")
    assert found.value == 2
    assert (found.low, found.high) == (1, 5)


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(6)
    draws = rng.exponential(size=(400, 40))
    for method in ("percentile", "bca"):
        hits = sum(i.low <= 1 <= i.high for i in (bootstrap_mean(d, resamples=400, method=method) for d in draws))
        assert 0.89 <= hits / 400 <= 0.97


def test_paired_difference_takes_out_what_items_share() -> None:
    rng = np.random.default_rng(8)
    hard = rng.normal(0, 10, 50)
    a, b = hard + rng.normal(0.5, 0.3, 50), hard
    found = paired_difference(a, b)
    assert found.excludes_zero
    assert found.value == pytest.approx((a - b).mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.3 / math.sqrt(50), rel=0.3)
    assert not paired_difference(b, b).excludes_zero


def test_equal_values_give_a_point_and_one_group_no_interval() -> None:
    point = bootstrap_mean(np.full(9, 2.5))
    assert (point.low, point.high) == (2.5, 2.5)
    single = bootstrap_mean(np.array([1.0, 2.0]), groups=["x", "x"])
    assert math.isnan(single.low)
    assert not single.excludes_zero


def test_resamples_without_a_statistic_are_left_out_and_counted() -> None:
    scores, positive = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    for method in ("percentile", "bca"):
        found = bootstrap_statistic(lambda k: auroc(scores[k], positive[k]), 4, resamples=200, method=method)
        assert found.value == 0.75
        assert 100 < found.resamples < 200
        assert 0 <= found.low <= found.high <= 1


def test_it_reads_well() -> None:
    assert str(bootstrap_mean(np.full(9, 2.5))) == "2.5 (95 % interval 2.5 to 2.5, n 9)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean(np.empty(0)), "at least 1"),
        (lambda: bootstrap_mean(np.ones((2, 2))), r"\(N,\)"),
        (lambda: bootstrap_mean(np.array([1.0, np.nan])), "value 1 is nan"),
        (lambda: bootstrap_mean(np.ones(3), groups=["a"]), "1 group keys for 3 items"),
        (lambda: bootstrap_mean(np.ones(3), level=95), "level 95"),
        (lambda: bootstrap_mean(np.ones(3), resamples=0), "0 resamples"),
        (lambda: bootstrap_mean(np.ones(3), method="t"), "'bca'"),  # type: ignore[arg-type]
        (lambda: paired_difference(np.ones(3), np.ones(2)), "pairs of shapes"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
