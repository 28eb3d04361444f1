"""Losses against a teacher's logits: torch's own KL divergence, closed forms, and distances by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.losses import (
    boundary_kd,
    boundary_weights,
    channelwise_kd,
    confidence,
    hard_labels,
    label_free_kd,
    logit_kd,
    multi_teacher_kd,
    pixelwise_kd,
)


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
    far.backward()  # type: ignore[no-untyped-call]
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


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.floats(0.5, 8))
def test_channelwise_kd_is_kl_div_over_pixels(seed: int, temperature: float) -> None:
    student, teacher = _pair(seed, (2, 3, 4, 5))
    s, t = (x.reshape(6, 20) / temperature for x in (student, teacher))
    peer = F.kl_div(F.log_softmax(s, 1), F.log_softmax(t, 1), reduction="batchmean", log_target=True)
    assert channelwise_kd(student, teacher, temperature).item() == pytest.approx(peer.item() * temperature**2, rel=1e-4)


def test_channelwise_kd_does_not_see_a_channels_level() -> None:
    student, teacher = _pair(4, (2, 3, 4, 5))
    shifted = student + torch.arange(3.0).view(1, 3, 1, 1)
    assert channelwise_kd(shifted, teacher).item() == pytest.approx(channelwise_kd(student, teacher).item(), rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_boundary_weights_by_brute_force(classes: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(classes).integers(0, classes, (2, 7, 9)))
    labels[:, 2:6, 1:7] = 1
    rows, columns = np.mgrid[:7, :9]
    for plane, found in zip(labels.numpy(), boundary_weights(labels, 2.0, 3.0).numpy(), strict=True):
        for y in range(7):
            for x in range(9):
                other = plane != plane[y, x]
                d = np.hypot(rows[other] - y, columns[other] - x).min() - 0.5
                assert found[y, x] == pytest.approx(1 + 3 * math.exp(-(d**2) / 8), rel=1e-5)


def test_a_frame_of_one_class_has_no_boundary() -> None:
    assert torch.equal(boundary_weights(torch.ones(2, 4, 4, dtype=torch.int64)), torch.ones(2, 4, 4))


def test_boundary_kd_weighs_errors_at_the_boundary_more() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, :, 16:] = 1
    teacher = torch.where(labels.bool(), 4.0, -4.0).unsqueeze(1)
    near, far = teacher.clone(), teacher.clone()
    near[..., 15], far[..., 1] = 0.0, 0.0
    assert torch.equal(hard_labels(teacher), labels)
    ratio = boundary_kd(near, teacher, width=2.0, gain=4.0) / boundary_kd(far, teacher, width=2.0, gain=4.0)
    # the wrong column is half a pixel or 14.5 pixels from the boundary
    assert ratio.item() == pytest.approx(1 + 4 * math.exp(-(0.5**2) / 8), rel=1e-3)
    assert boundary_kd(near, teacher, labels).item() == boundary_kd(near, teacher).item()
    assert boundary_kd(near, teacher, gain=0.0).item() == pytest.approx(pixelwise_kd(near, teacher).item(), rel=1e-5)


def test_confidence_of_known_distributions() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [200.0, 0.0, 0.0, 0.0]])
    assert confidence(logits).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    binary = confidence(torch.tensor([[0.0], [-200.0], [math.log(3.0)]]))
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert binary.tolist() == pytest.approx([0.0, 1.0, 1 - entropy], abs=1e-6)


def test_multi_teacher_kd_differs_from_kd_of_the_mean_by_a_constant() -> None:
    # sum_k w_k KL(p_k || q) = KL(mean || q) + a term without q
    (one, first), (two, second) = _pair(5, (3, 4, 2, 2)), _pair(6, (3, 4, 2, 2))
    mean = ((first.softmax(1) + second.softmax(1)) / 2).log()
    even = torch.ones(2, 3)
    gaps = [
        multi_teacher_kd(student, [first, second], 1.0, even) - pixelwise_kd(student, mean, 1.0)
        for student in (one, two)
    ]
    assert gaps[0].item() == pytest.approx(gaps[1].item(), rel=1e-3)


def test_a_weight_of_one_teacher_leaves_that_teacher() -> None:
    student, first = _pair(7, (3, 1, 4, 4))
    second, _ = _pair(8, (3, 1, 4, 4))
    pixels = torch.zeros(2, 3, 4, 4)
    pixels[1] = 0.3
    assert multi_teacher_kd(student, [first, second], weights=pixels).item() == pytest.approx(
        pixelwise_kd(student, second).item(), rel=1e-5
    )
    # a teacher that knows nothing weighs nothing beside one that is sure
    sure = multi_teacher_kd(student, [torch.zeros_like(first), first * 50])
    assert sure.item() == pytest.approx(pixelwise_kd(student, first * 50).item(), rel=1e-2)
    assert multi_teacher_kd(student, [first]).item() == pytest.approx(pixelwise_kd(student, first).item(), rel=1e-5)


@pytest.mark.parametrize(("weights", "teachers"), [(torch.ones(3, 2), 2), (torch.ones(2, 2, 4), 2), (None, 0)])
def test_wrong_teachers_are_refused(weights: torch.Tensor | None, teachers: int) -> None:
    with pytest.raises(ConfigError, match="teacher"):
        multi_teacher_kd(torch.zeros(2, 1, 4, 4), [torch.zeros(2, 1, 4, 4)] * teachers, weights=weights)


@pytest.mark.parametrize("planes", [1, 3])
def test_label_free_kd_counts_sure_places_alone(planes: int) -> None:
    student, _ = _pair(9, (1, planes, 1, 4))
    teacher = torch.zeros(1, planes, 1, 4)
    teacher[0, 0, 0] = torch.tensor([0.0, 0.5, 30.0, -30.0 if planes == 1 else 30.0])
    divergence = pixelwise_kd(student[..., 2:], teacher[..., 2:], 1.0) * 0.5
    found = label_free_kd(student, teacher, threshold=0.9)
    assert found.item() == pytest.approx(divergence.item(), rel=1e-4)
    assert label_free_kd(student, teacher * 0, threshold=0.9).item() == 0.0
    everything = label_free_kd(student, teacher, threshold=0.0, entropy_weight=False)
    assert everything.item() == pytest.approx(pixelwise_kd(student, teacher, 1.0).item(), rel=1e-5)


def test_settings_that_mean_nothing_are_refused() -> None:
    maps = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ConfigError, match="width"):
        boundary_weights(torch.zeros(1, 4, 4, dtype=torch.int64), 0.0)
    with pytest.raises(ConfigError, match="threshold"):
        label_free_kd(maps, maps, threshold=1.0)
    with pytest.raises(ConfigError, match=r"\(N, C, H, W\)"):
        channelwise_kd(maps[0], maps[0])
