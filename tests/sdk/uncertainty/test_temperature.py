"""Temperature scaling against temperatures that are known, SciPy's minimiser, and torch's cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.uncertainty import fit_temperature, negative_log_likelihood, scaled_probabilities


def drawn(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) and labels drawn from exactly their probabilities: temperature 1 is right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.5, (n, classes))
    p = scaled_probabilities(logits).astype(np.float64)
    if classes == 1:
        return logits, (rng.random(n) < p[:, 0]).astype(np.int64)
    return logits, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_a_known_factor_is_recovered(classes: int, factor: float) -> None:
    logits, labels = drawn(1, 40_000, classes)
    fit = fit_temperature(logits * factor, labels)
    assert fit.temperature == pytest.approx(factor, rel=0.03)
    assert fit.nll_after <= fit.nll_before
    assert fit.n == 40_000


@settings(max_examples=20)
@given(seed=st.integers(0, 999), classes=st.integers(1, 4), factor=st.floats(0.2, 5))
def test_scaling_the_logits_scales_the_temperature(seed: int, classes: int, factor: float) -> None:
    logits, labels = drawn(seed, 300, classes)
    one, other = fit_temperature(logits, labels), fit_temperature(logits * factor, labels)
    assert other.temperature == pytest.approx(one.temperature * factor, rel=1e-9)
    assert other.nll_after == pytest.approx(one.nll_after, rel=1e-9)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), classes=st.integers(1, 4))
def test_it_is_the_minimum_that_scipy_finds(seed: int, classes: int) -> None:
    logits, labels = drawn(seed, 200, classes)
    fit = fit_temperature(logits, labels)
    found = minimize_scalar(
        lambda b: negative_log_likelihood(logits * b, labels), bounds=(0.01, 100), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    assert fit.temperature == pytest.approx(1 / found.x, rel=1e-4)
    assert fit.nll_after <= found.fun + 1e-12


def test_two_coins_have_a_closed_form() -> None:
    # three of four come true at logit 2: the best probability is 3/4, at logit log 3
    logits = np.full((4, 1), 2.0)
    fit = fit_temperature(logits, np.array([1, 1, 1, 0]))
    assert fit.temperature == pytest.approx(2 / math.log(3), rel=1e-12)
    assert fit.nll_after == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-12)


@settings(max_examples=10)
@given(seed=st.integers(0, 999), temperature=st.floats(0.2, 5))
def test_dense_logits_agree_with_torch(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, 3, 4, 5), generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 3, (2, 4, 5), generator=generator)
    own = negative_log_likelihood(logits.numpy(), labels.numpy(), temperature=temperature)
    assert own == pytest.approx(F.cross_entropy(logits / temperature, labels).item(), rel=1e-9)
    plane, inside = logits[:, :1], labels > 0
    own = negative_log_likelihood(plane.numpy(), inside.numpy(), temperature=temperature)
    peer = F.binary_cross_entropy_with_logits(plane[:, 0] / temperature, inside.double())
    assert own == pytest.approx(peer.item(), rel=1e-9)
    np.testing.assert_allclose(
        scaled_probabilities(logits.numpy(), temperature), torch.softmax(logits / temperature, 1), rtol=1e-4, atol=1e-7
    )


def test_one_plane_equals_two_planes() -> None:
    logits, labels = drawn(3, 500, 1)
    two = np.concatenate([np.zeros_like(logits), logits], axis=1)
    assert fit_temperature(two, labels).temperature == pytest.approx(fit_temperature(logits, labels).temperature)


def test_only_the_chosen_pixels_count() -> None:
    logits, labels = drawn(4, 2 * 8 * 8, 1)
    dense, truth = logits.reshape(2, 1, 8, 8), labels.reshape(2, 8, 8)
    where = np.zeros((2, 8, 8), bool)
    where[0] = True
    chosen = fit_temperature(dense, truth, where=where)
    assert chosen == fit_temperature(dense[:1], truth[:1])
    assert chosen.n == 64


def test_huge_logits_do_not_overflow() -> None:
    logits = np.float32([[1e4], [-1e4], [1e4], [1e4]])
    with pytest.raises(ConfigError, match="no temperature up to 100"):
        fit_temperature(logits, np.array([0, 1, 1, 0]))
    np.testing.assert_array_equal(scaled_probabilities(logits)[:, 0], [1, 0, 1, 1])
    assert math.isfinite(negative_log_likelihood(logits, np.array([1, 0, 1, 0])))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 1, 2, 2)), np.zeros((3, 2), int), r"labels \(3, 2\)"),
        (np.zeros(3), np.zeros(3, int), r"shape \(3,\)"),
        (np.zeros((3, 1)), np.zeros(3), "float64"),
        (np.zeros((3, 2)), np.array([0, 1, 2]), "0 to 2"),
        (np.zeros((3, 2)), np.array([0, 1, -1]), "-1 to 1"),
        (np.array([[np.nan], [1.0]]), np.array([0, 1]), "1 of 2 logits"),
        (np.array([[-1.0], [1.0]]), np.array([0, 1]), "without an error"),
        (np.array([[1.0], [-1.0]]), np.array([0, 1]), "less about these labels"),
        (np.zeros((0, 2)), np.zeros(0, int), "no items"),
    ],
)
def test_what_does_not_fit_is_refused(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_temperature(logits, labels)


def test_a_choice_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"where is int64 \(2,\)"):
        fit_temperature(np.zeros((2, 1)), np.zeros(2, int), where=np.ones(2, int))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_bad_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature is"):
        scaled_probabilities(np.zeros((1, 1)), temperature)
