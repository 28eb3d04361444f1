"""Ensembles against closed forms: means of probabilities, weights by entropy, flips, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.teachers import Ensemble, OutputForm, Teacher, ensemble, teacher_from_module, with_flips

FRAMES = torch.zeros((2, 1, 4, 6))


def constant(logits: Any, classes: int, name: str = "t", sha256: str = "") -> Teacher:
    plane = torch.tensor(logits, dtype=torch.float32).view(1, classes, 1, 1)
    return Teacher(name=name, forward=lambda x: plane.expand(len(x), -1, *x.shape[2:]), classes=classes, sha256=sha256)


def drawn(seed: int, classes: int) -> Teacher:
    logits = torch.randn((2, classes, 4, 6), generator=torch.Generator().manual_seed(seed)) * 4
    return Teacher(name=f"t{seed}", forward=lambda x: logits, classes=classes)


def probabilities(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits) if logits.shape[1] == 1 else logits.softmax(dim=1)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_mean_is_the_mean_of_probabilities(classes: int) -> None:
    members = [drawn(seed, classes) for seed in range(3)]
    expected = torch.stack([probabilities(member(FRAMES)) for member in members]).mean(dim=0)
    assert torch.allclose(probabilities(ensemble(members)(FRAMES)), expected, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_weights_of_the_caller(classes: int) -> None:
    members = [drawn(seed, classes) for seed in range(3)]
    parts = torch.stack([probabilities(member(FRAMES)) for member in members])
    joined = ensemble(members, weighting=[2, 0, 6])(FRAMES)
    assert torch.allclose(probabilities(joined), 0.25 * parts[0] + 0.75 * parts[2], atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_confidence_is_one_minus_the_normalised_entropy(classes: int) -> None:
    members = [drawn(seed, classes) for seed in range(2)]
    p = np.stack([probabilities(member(FRAMES)).double().numpy() for member in members])
    full = np.concatenate([1 - p, p], axis=2) if classes == 1 else p
    weights = 1 + (full * np.log(full)).sum(axis=2, keepdims=True) / np.log(full.shape[2])
    expected = (weights * p).sum(axis=0) / weights.sum(axis=0)
    assert np.allclose(probabilities(ensemble(members, weighting="confidence")(FRAMES)), expected, atol=1e-4)


def test_max_probability_weights() -> None:
    sure, unsure = constant(math.log(9), 1), constant(0.0, 1)  # 0.9 and 0.5
    joined = ensemble([sure, unsure], weighting="max-probability")(FRAMES)
    assert torch.allclose(torch.sigmoid(joined), torch.tensor((0.9 * 0.9 + 0.5 * 0.5) / 1.4), atol=1e-6)


def test_an_undecided_member_has_no_say_beside_a_sure_one() -> None:
    joined = ensemble([constant(6.0, 1), constant(0.0, 1)], weighting="confidence")(FRAMES)
    assert torch.allclose(joined, torch.tensor(6.0), atol=0.01)


def test_undecided_members_count_alike() -> None:
    joined = ensemble([constant(0.0, 1), constant(0.0, 1)], weighting="confidence")(FRAMES)
    assert torch.equal(joined, torch.zeros_like(joined))


@given(st.sampled_from([1, 3]), st.sampled_from(["mean", "confidence", "max-probability"]), st.floats(0, 300))
def test_equal_members_answer_as_one(classes: int, weighting: Any, size: float) -> None:
    one = Teacher(name="t", forward=lambda x: drawn(5, classes)(x) * size, classes=classes)
    joined = ensemble([one, one, one], weighting=weighting)(FRAMES)
    expected = one(FRAMES) if classes == 1 else one(FRAMES).log_softmax(dim=1)
    assert torch.allclose(joined, expected, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 20), st.sampled_from(["mean", "confidence", "max-probability"]))
def test_a_joined_probability_lies_between_its_members(seed: int, weighting: Any) -> None:
    members = [drawn(seed + k, 1) for k in range(3)]
    parts = torch.stack([torch.sigmoid(member(FRAMES)) for member in members])
    joined = torch.sigmoid(ensemble(members, weighting=weighting)(FRAMES))
    assert bool((joined >= parts.amin(0) - 1e-5).all() & (joined <= parts.amax(0) + 1e-5).all())


def test_vectors_are_weighted_per_frame_and_values_are_averaged() -> None:
    form = OutputForm(channels=2, layout="vector")
    a = Teacher(name="a", forward=lambda x: torch.tensor([[9.0, 0.0], [0.0, 0.0]]), form=form)
    b = Teacher(name="b", forward=lambda x: torch.tensor([[0.0, 0.0], [0.0, 9.0]]), form=form)
    p = ensemble([a, b], weighting="confidence")(FRAMES).softmax(dim=1)
    assert p[0, 0] > 0.99
    assert p[1, 1] > 0.99
    grey = OutputForm(channels=1, values="values")
    clean = [Teacher(name="d", forward=k.__add__, form=grey) for k in (torch.tensor(1.0), torch.tensor(4.0))]
    assert torch.allclose(ensemble(clean, weighting=[2, 1])(FRAMES), torch.tensor(2.0))


def test_members_and_their_spread() -> None:
    joined = ensemble([constant(math.log(9), 1), constant(0.0, 1)])
    assert isinstance(joined, Ensemble)
    assert [member.name for member in joined.members] == ["t", "t"]
    assert joined.member_answers(FRAMES).shape == (2, 2, 1, 4, 6)
    assert torch.allclose(joined.spread(FRAMES), torch.full((2, 4, 6), 0.2))


def test_flips_are_turned_back() -> None:
    ramp = torch.arange(6.0).expand(1, 1, 4, 6)
    frames = torch.rand((2, 1, 4, 6), generator=torch.Generator().manual_seed(0))
    both = with_flips(Teacher(name="t", forward=lambda x: x, classes=1), ("left-right", "up-down"))
    assert torch.allclose(both(frames), frames, atol=1e-5)
    biased = with_flips(Teacher(name="t", forward=lambda x: ramp.expand(len(x), -1, -1, -1), classes=1))
    assert torch.allclose(biased(frames), biased(frames).flip(-1), atol=1e-5)
    form = OutputForm(channels=3, layout="vector")
    plain = Teacher(name="v", forward=lambda x: x.mean((2, 3)).expand(-1, 3), form=form)
    assert torch.allclose(with_flips(plain)(frames).softmax(1), plain(frames).softmax(1), atol=1e-6)


def test_the_identity_follows_members_and_weighting() -> None:
    torch.manual_seed(0)
    a, b = (teacher_from_module(nn.Conv2d(1, 1, 1), classes=1) for _ in range(2))
    found = [ensemble([a, b]), ensemble([b, a]), ensemble([a, b], weighting="confidence"), ensemble([a]), with_flips(a)]
    assert len({member.sha256 for member in found}) == 5
    assert ensemble([a, b]).sha256 == found[0].sha256
    assert ensemble([a, constant(0.0, 1)]).sha256 == ""


def test_what_does_not_fit_is_refused() -> None:
    one, three = constant(0.0, 1, "one"), constant([0.0] * 3, 3, "three")
    cases: list[tuple[Any, Any, str]] = [
        ([], "mean", "no teachers"),
        ([one, three], "mean", "three answers.*one form"),
        ([one], "median", "median"),
        ([one, one], [1.0], "2 members"),
        ([one, one], [0.0, 0.0], "not all zero"),
        ([one, one], [1.0, float("nan")], "2 members"),
        ([Teacher(name="v", forward=abs, form=OutputForm(channels=1, values="values"))], "confidence", "plain values"),
        ([Teacher(name="d", forward=abs, form={"a": OutputForm(channels=1)})], "mean", "single outputs"),
        ([Teacher(name="r", forward=abs, form=OutputForm(channels=4, layout="rows"))], "mean", "rows"),
    ]
    for members, weighting, message in cases:
        with pytest.raises(ConfigError, match=message):
            ensemble(members, weighting=weighting)
    with pytest.raises(ConfigError, match="flips are"):
        with_flips(one, ())
    with pytest.raises(ConfigError, match="cannot be flipped back"):
        with_flips(Teacher(name="v", forward=abs, form=OutputForm(channels=2, layout="vector", values="values")))
