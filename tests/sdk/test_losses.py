"""Distillation losses against torch's own KL divergence and closed forms; the task loss against hand-made Dice."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.losses import dice_ce, logit_kd, pixelwise_kd


def _pair(seed: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 4, torch.randn(shape, generator=generator) * 4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), classes=st.integers(2, 5), temperature=st.floats(0.5, 8))
def test_multi_class_kd_is_kl_div(seed: int, classes: int, temperature: float) -> None:
    student, teacher = _pair(seed, (6, classes))
    peer = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    assert logit_kd(student, teacher, temperature).item() == pytest.approx(peer.item() * temperature**2, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.floats(0.5, 8))
def test_one_plane_equals_two_planes_of_a_softmax(seed: int, temperature: float) -> None:
    student, teacher = _pair(seed, (2, 1, 3, 4))

    def two(logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(logits), logits], dim=1)

    one = pixelwise_kd(student, teacher, temperature)
    assert one.item() == pytest.approx(pixelwise_kd(two(student), two(teacher), temperature).item(), rel=1e-4)


def test_kd_of_a_known_pair() -> None:
    # teacher p = 3/4, student q = 1/2
    teacher, student = torch.tensor([[math.log(3.0)]]), torch.zeros(1, 1)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert logit_kd(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-5)


def test_kd_is_zero_for_equal_logits_and_finite_for_huge_ones() -> None:
    logits = torch.tensor([[[[-80.0, 80.0, 0.0]]]], requires_grad=True)
    assert pixelwise_kd(logits, logits.detach()).item() == pytest.approx(0.0, abs=1e-6)
    far = pixelwise_kd(logits, -logits.detach())
    far.backward()
    assert math.isfinite(far.item())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_pixelwise_kd_is_logit_kd_of_every_pixel() -> None:
    student, teacher = _pair(1, (2, 3, 4, 5))

    def rows(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).reshape(-1, 3)

    assert pixelwise_kd(student, teacher).item() == pytest.approx(logit_kd(rows(student), rows(teacher)).item())


def test_weights_choose_frames() -> None:
    student, teacher = _pair(2, (2, 1, 4, 4))
    weight = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    alone = pixelwise_kd(student[:1], teacher[:1])
    assert pixelwise_kd(student, teacher, weight=weight).item() == pytest.approx(alone.item())
    assert pixelwise_kd(student, teacher, weight=torch.zeros(2, 1, 1)).item() == 0.0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_bad_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature"):
        logit_kd(torch.zeros(1, 2), torch.zeros(1, 2), temperature)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(1, 2, 4, 4\)"):
        pixelwise_kd(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))


def test_binary_task_loss_is_cross_entropy_plus_pooled_dice() -> None:
    logits, _ = _pair(3, (2, 1, 8, 8))
    labels = (logits[:, 0] + torch.randn(2, 8, 8) > 0).long()
    p, t = torch.sigmoid(logits[:, 0]).double().numpy(), labels.numpy()
    dice = 1 - (2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5)
    ce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert dice_ce(logits, labels).item() == pytest.approx(dice + ce, rel=1e-4)


def test_multi_class_task_loss_falls_to_zero_at_the_truth() -> None:
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    logits = (F.one_hot(labels, 3).permute(0, 3, 1, 2).float() - 0.5) * 60
    assert dice_ce(logits, labels).item() == pytest.approx(0.0, abs=1e-4)
    assert dice_ce(-logits, labels).item() > 10
