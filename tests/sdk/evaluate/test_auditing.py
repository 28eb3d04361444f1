"""The audit against closed forms, exhaustive permutation and a peer library; what is planted is found, what is not is
not."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_runtime.errors import ConfigError
from edge_sdk.evaluate import AuditConfig, audit, holm, levels_of

RNG = np.random.default_rng(5)


def settings_of(**more: Any) -> AuditConfig:
    return AuditConfig(**{"permutations": 2000, "columns": ("group",), "margin": 0.0, **more})


def groups(n: int, inside: int) -> list[str]:
    return ["g"] * inside + ["r"] * (n - inside)


def one(losses: npt.ArrayLike, inside: int, **more: Any) -> Any:
    values = np.asarray(losses, float)
    scores = {"teacher": np.full(len(values), 0.9), "student": 0.9 - values}
    found = audit(scores, {"group": groups(len(values), inside)}, reference="teacher", config=settings_of(**more))
    return next(f for f in found.findings if f.level == "g"), found


def test_means_excess_and_worst_are_the_plain_ones() -> None:
    losses = np.array([0.03, 0.01, 0.02, 0.0, 0.01, -0.01, 0.0])
    finding, found = one(losses, 3, min_group=3)
    assert (finding.images, finding.units, finding.rest_units) == (3, 3, 4)
    assert finding.reference == pytest.approx(0.9)
    assert finding.score == pytest.approx(0.88)
    assert finding.loss == pytest.approx(0.02)
    assert finding.rest_loss == pytest.approx(0.0)
    assert finding.excess == pytest.approx(0.02)
    assert finding.worst == pytest.approx(0.03)
    assert found.tests == 2


def test_the_p_value_is_that_of_every_relabelling() -> None:
    losses = np.array([0.5, 0.9, 0.7, 0.2, 0.35, 0.4, 0.1, 0.85])
    t = [welch(losses, chosen) for chosen in combinations(range(8), 3)]
    exact = np.mean(np.array(t) >= welch(losses, (0, 1, 2)) - 1e-9)
    finding, _ = one(losses, 3, min_group=3, permutations=40_000)
    assert finding.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


def welch(values: npt.NDArray[np.float64], chosen: tuple[int, ...]) -> float:
    inside = np.isin(np.arange(len(values)), chosen)
    return float(stats.ttest_ind(values[inside], values[~inside], equal_var=False).statistic)


def test_with_many_normal_losses_p_and_interval_are_welchs() -> None:
    losses = np.concatenate([RNG.normal(0.012, 0.03, 150), RNG.normal(0.008, 0.02, 250)])
    finding, _ = one(losses, 150, permutations=20_000)
    peer = stats.ttest_ind(losses[:150], losses[150:], equal_var=False, alternative="greater")
    assert finding.p == pytest.approx(peer.pvalue, abs=0.01)
    two_sided = stats.ttest_ind(losses[:150], losses[150:], equal_var=False).confidence_interval(0.95)
    assert finding.low == pytest.approx(two_sided.low, abs=5e-4)
    assert finding.high == pytest.approx(two_sided.high, abs=5e-4)


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_published_procedure(p: list[float]) -> None:
    adjusted = holm(p)
    order = np.argsort(p, kind="stable")
    running = 0.0
    for rank, k in enumerate(order):
        running = max(running, min(1, (len(p) - rank) * p[k]))
        assert adjusted[k] == pytest.approx(running)
    for alpha in (0.01, 0.05, 0.2):  # step down by hand: reject until the first that fails
        rejected = 0
        for rank, k in enumerate(order):
            if (len(p) - rank) * p[k] > alpha:
                break
            rejected += 1
        assert sum(value <= alpha for value in adjusted) == rejected


def test_a_worked_example_of_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_planted_harm_is_flagged_in_its_group_alone() -> None:
    n = 55
    scores = {"teacher": RNG.beta(60, 2, n)}
    for name in ("fp16", "int8"):
        scores[name] = np.clip(scores["teacher"] - 0.004 * RNG.standard_t(4, n), 0, 1)
    columns = {"size": RNG.normal(size=n).tolist(), "device": RNG.choice(["A", "B"], n).tolist()}
    small = np.argsort(columns["size"])[:19]
    scores["int8"][small] -= 0.05
    found = audit(scores, columns, reference="teacher", config=AuditConfig(permutations=2000))
    lowest = levels_of(columns["size"], 3)[small[0]]
    assert [(f.system, f.column, f.level) for f in found.flagged] == [("int8", "size", lowest)]
    clean = audit({k: scores[k] for k in ("teacher", "fp16")}, columns, reference="teacher")
    assert clean.flagged == ()


def test_losing_less_than_the_rest_and_losing_evenly_are_not_flagged() -> None:
    even = 0.05 + RNG.normal(0, 0.002, 60)
    finding, _ = one(even, 20)
    assert not finding.flagged
    gain = np.concatenate([np.full(20, -0.05), np.zeros(40)]) + RNG.normal(0, 0.002, 60)
    finding, found = one(gain, 20)
    assert not finding.flagged
    assert finding.p > 0.99
    assert [f.level for f in found.flagged] == ["r"]


def test_below_the_margin_is_not_flagged_and_lower_is_better_metrics_turn_round() -> None:
    losses = np.concatenate([np.full(20, 0.0008), np.zeros(40)]) + RNG.normal(0, 0.0001, 60)
    assert one(losses, 20)[0].flagged
    assert not one(losses, 20, margin=0.001)[0].flagged
    scores = {"teacher": np.ones(60), "student": 1 + np.concatenate([np.full(20, 2.0), np.zeros(40)])}
    scores["student"] += RNG.normal(0, 0.1, 60)
    config = settings_of(metric="hd95")
    found = audit(scores, {"group": groups(60, 20)}, reference="teacher", config=config)
    assert [f.level for f in found.flagged] == ["g"]
    assert found.flagged[0].excess == pytest.approx(2, abs=0.2)


def test_images_of_one_exam_are_one_unit() -> None:
    losses = np.concatenate([np.repeat(RNG.normal(0, 0.01, 6), 10), np.repeat(RNG.normal(0, 0.01, 6), 10)])
    scores = {"teacher": np.full(120, 0.9), "student": 0.9 - losses}
    exams = [str(k // 10) for k in range(120)]
    found = audit(scores, {"group": groups(120, 60)}, reference="teacher", clusters=exams, config=settings_of())
    finding = found.findings[0]
    assert (finding.images, finding.units, finding.rest_units) == (60, 6, 6)
    assert found.unit == "exam within the group"
    naive = stats.ttest_ind(losses[:60], losses[60:], equal_var=False, alternative="greater").pvalue
    by_exam = stats.ttest_ind(losses[:60:10], losses[60::10], equal_var=False, alternative="greater").pvalue
    assert finding.p == pytest.approx(by_exam, abs=0.05)
    assert abs(0.5 - naive) > abs(0.5 - finding.p)


def test_small_groups_are_told_and_not_tested() -> None:
    finding, found = one(RNG.normal(size=30), 4)
    assert finding.p is None
    assert "4 units; 5 are needed" in finding.reason
    assert found.tests == 0
    finding, _ = one(RNG.normal(size=12), 5, alpha=0.0001)
    assert finding.p is not None
    assert finding.detectable is None, "no relabelling of 5 in 12 is as rare as 0.00005"


def test_equal_losses_have_no_finding() -> None:
    finding, _ = one(np.zeros(30), 10)
    assert (finding.excess, finding.p, finding.flagged) == (0.0, 1.0, False)
    finding, _ = one(np.where(np.arange(30) < 10, 0.05, 0.0), 10)
    assert finding.flagged
    assert (finding.low, finding.high) == pytest.approx((0.05, 0.05))


@pytest.mark.slow
def test_the_stated_detectable_harm_is_found_with_the_stated_power() -> None:
    hits, told = 0, []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        losses = 0.004 * rng.standard_t(5, 55)
        told.append(one(losses, 18, permutations=1000)[0].detectable)
        planted = losses + np.where(np.arange(55) < 18, np.median(told), 0)
        hits += one(planted, 18, permutations=1000)[0].flagged
    assert 0.7 < hits / 300 < 0.92


def test_what_does_not_fit_is_refused() -> None:
    good = {"teacher": [0.9] * 6, "student": [0.8] * 6}
    column = {"c": ["a"] * 3 + ["b"] * 3}
    with pytest.raises(ConfigError, match="reference 'none'"):
        audit(good, column, reference="none")
    with pytest.raises(ConfigError, match="equal"):
        audit({**good, "x": [0.5]}, column, reference="teacher")
    with pytest.raises(ConfigError, match="score 2 is nan"):
        audit({**good, "x": [0.5, 0.5, math.nan, 0.5, 0.5, 0.5]}, column, reference="teacher")
    with pytest.raises(ConfigError, match="c has 2 values for 6 images"):
        audit(good, {"c": ["a", "b"]}, reference="teacher")
    with pytest.raises(ConfigError, match="clusters has 1"):
        audit(good, column, reference="teacher", clusters=["e"])
    with pytest.raises(ConfigError, match="no image has a value"):
        audit(good, {"c": [None] * 6}, reference="teacher")


@settings(max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=8, max_size=60, unique=True), st.integers(2, 5))
def test_bands_are_ordered_and_about_equally_large(values: list[float], bands: int) -> None:
    levels = levels_of(values, bands)
    order = [levels[k] for k in np.argsort(values)]
    assert order == [level for level in dict.fromkeys(order) for _ in range(order.count(level))]
    sizes = [order.count(level) for level in dict.fromkeys(order)]
    assert max(sizes) - min(sizes) <= 2 or len(set(levels)) < bands


def test_categories_missing_values_and_few_numbers_stay_as_they_are() -> None:
    assert levels_of(["GE", None, " ", "TE7"]) == ["GE", "(missing)", "(missing)", "TE7"]
    assert levels_of([1, 2, 1, 2]) == ["1", "2", "1", "2"]
    levels = levels_of(["1", "2", "3", "", "4", "5", "6"], 2)
    assert levels == ["1 to 3"] * 3 + ["(missing)"] + ["4 to 6"] * 3
    assert levels_of(["1", "2", "nan", "4"])[2] == "nan"
