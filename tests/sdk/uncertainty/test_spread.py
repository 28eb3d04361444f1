"""Spread against ensembles whose entropies and variances are known, and Monte-Carlo dropout against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from torch import nn

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.students import light_unet
from edge_sdk.teachers import teacher_from_module
from edge_sdk.uncertainty import (
    add_dropout,
    dropout_probabilities,
    ensemble_spread,
    monte_carlo_dropout,
    spread_of,
)

LOG2 = math.log(2)


def dense(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_members_that_are_sure_of_opposites_and_members_that_are_all_in_doubt() -> None:
    # pixel 0: yes and no; pixel 1: both one half; pixel 2: both sure
    spread = spread_of([dense(0.0, 0.5, 1.0), dense(1.0, 0.5, 1.0)])
    np.testing.assert_allclose(spread.total.ravel(), [LOG2, LOG2, 0], atol=1e-7)
    np.testing.assert_allclose(spread.aleatoric.ravel(), [0, LOG2, 0], atol=1e-7)
    np.testing.assert_allclose(spread.epistemic.ravel(), [LOG2, 0, 0], atol=1e-7)
    np.testing.assert_allclose(spread.variance.ravel(), [0.25, 0, 0], atol=1e-7)
    np.testing.assert_allclose(spread.deviation.ravel(), [0.5, 0, 0], atol=1e-7)
    np.testing.assert_allclose(spread.mean.ravel(), [0.5, 0.5, 1])
    assert (spread.members, spread.mean.shape, spread.total.shape) == (2, (1, 1, 1, 3), (1, 1, 3))


@settings(max_examples=25)
@given(seed=st.integers(0, 999), members=st.integers(2, 6), classes=st.integers(2, 4))
def test_parts_against_scipy(seed: int, members: int, classes: int) -> None:
    p = np.random.default_rng(seed).dirichlet([0.5] * classes, (members, 5))
    spread = spread_of(torch.from_numpy(one) for one in p)
    total, each = scipy_entropy(p.mean(axis=0), axis=1), scipy_entropy(p, axis=2)
    # the mutual information is also the mean divergence of a member from the mean
    divergence = scipy_entropy(p, np.broadcast_to(p.mean(axis=0), p.shape), axis=2).mean(axis=0)
    np.testing.assert_allclose(spread.total, total, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(spread.aleatoric, each.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(spread.epistemic, divergence, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(spread.variance, p.var(axis=0).sum(axis=1) / 2, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(spread.aleatoric + spread.epistemic, spread.total, atol=1e-6)


@settings(max_examples=15)
@given(seed=st.integers(0, 999))
def test_one_plane_equals_two_planes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one = [torch.rand((2, 1, 3, 3), generator=generator) for _ in range(4)]
    a, b = spread_of(one), spread_of(torch.cat([1 - p, p], 1) for p in one)
    for name in ("total", "aleatoric", "epistemic", "variance"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.mean, b.mean[:, 1:])


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(6, 2, 1)
    )  # fmt: skip


def test_dropout_is_a_plain_loop() -> None:
    module, frames = with_dropout().eval(), torch.randn(2, 1, 8, 8)
    found = monte_carlo_dropout(module, frames, samples=7, seed=5)
    module[3].train()
    passes = []
    for k in range(7):
        torch.manual_seed(5 + k)
        with torch.no_grad():
            passes.append(torch.softmax(module(frames), 1).double())
    stacked = torch.stack(passes)
    torch.testing.assert_close(found.mean, stacked.mean(0).float())
    torch.testing.assert_close(found.variance, stacked.var(0, correction=0).sum(1).float() / 2)
    assert found.variance.max() > 1e-4
    assert found.members == 7


def test_dropout_leaves_everything_as_it_was() -> None:
    module, frames = with_dropout().train(), torch.randn(2, 1, 8, 8)
    module[2].eval()
    flags = [layer.training for layer in module.modules()]
    statistics = module[1].running_mean.clone()
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    monte_carlo_dropout(module, frames, samples=3)
    assert [layer.training for layer in module.modules()] == flags
    assert torch.equal(module[1].running_mean, statistics)
    assert torch.equal(torch.random.get_rng_state(), before)
    passes = dropout_probabilities(module, frames, samples=3)
    next(passes)  # between passes too
    assert [layer.training for layer in module.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), before)


def test_flags_are_put_back_after_an_error() -> None:
    module = with_dropout().train()
    with pytest.raises(RuntimeError):
        monte_carlo_dropout(module, torch.zeros(1, 3, 8, 8))
    assert all(layer.training for layer in module.modules())


def test_seeds_repeat_and_differ() -> None:
    module, frames = with_dropout(), torch.randn(1, 1, 8, 8)
    one, same, other = (monte_carlo_dropout(module, frames, samples=4, seed=s) for s in (1, 1, 50))
    assert torch.equal(one.variance, same.variance)
    assert not torch.equal(one.variance, other.variance)


def test_an_ensemble_is_the_spread_of_its_members() -> None:
    networks = [light_unet(seed=seed).eval() for seed in (0, 1, 2)]
    frames = torch.randn(1, 1, 32, 32)
    found = ensemble_spread([teacher_from_module(network, classes=1) for network in networks], frames)
    with torch.no_grad():
        p = torch.stack([torch.sigmoid(network(frames)) for network in networks])
    torch.testing.assert_close(found.mean, p.mean(0))
    torch.testing.assert_close(found.variance, p.var(0, correction=0)[:, 0])


def test_dropout_is_added_where_asked_and_weights_keep_their_names() -> None:
    plain = light_unet()
    names = list(plain.state_dict())
    network = add_dropout(light_unet(), 0.5, ["encoder.2", "decoder.0"])
    assert list(network.state_dict()) == names
    network.load_state_dict(plain.state_dict())
    frames = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(frames), plain.eval()(frames))
    assert monte_carlo_dropout(network, frames, samples=4).variance.max() > 0


@pytest.mark.parametrize(("rate", "blocks"), [(0.0, ["stem"]), (1.0, ["stem"]), (0.5, []), (0.5, ["head"])])
def test_bad_dropout_is_refused(rate: float, blocks: list[str]) -> None:
    with pytest.raises(ConfigError):
        add_dropout(light_unet(), rate, blocks)


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(ConfigError, match="no dropout"):
        monte_carlo_dropout(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.0)), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ConfigError, match="samples is 1"):
        monte_carlo_dropout(with_dropout(), torch.zeros(1, 1, 2, 2), samples=1)


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ([], ConfigError),
        ([dense(0.5)], ConfigError),
        ([dense(0.5), dense(0.5, 0.5)], ConfigError),
        ([torch.tensor(0.5)] * 2, ConfigError),
        ([dense(0.5), dense(math.nan)], InferenceError),
        ([dense(0.5), dense(1.5)], InferenceError),
        ([torch.tensor([[0.5, 0.2]])] * 2, InferenceError),
    ],
)
def test_what_is_no_spread_is_refused(members: list[torch.Tensor], error: type[Exception]) -> None:
    with pytest.raises(error):
        spread_of(members)
