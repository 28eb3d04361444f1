"""Losses against the truth: MONAI's own modules, torch's cross-entropy and closed forms."""

from __future__ import annotations

from collections.abc import Callable

import monai.losses
import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.losses import (
    boundary_distance,
    cross_entropy,
    deep_supervision,
    dice,
    dice_ce,
    dice_focal,
    focal,
    generalised_dice,
)

DENSE = (boundary_distance, cross_entropy, dice, dice_ce, dice_focal, focal, generalised_dice)


def _case(planes: int, seed: int = 0, shape: tuple[int, int] = (8, 10)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((3, planes, *shape), generator=generator) * 3
    labels = torch.randint(0, max(planes, 2), (3, *shape), generator=generator)
    return logits, labels


def _one_hot(labels: Tensor, planes: int) -> Tensor:
    return labels.unsqueeze(1).float() if planes == 1 else F.one_hot(labels, planes).movedim(-1, 1).float()


def _activated(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits) if logits.shape[1] == 1 else logits.softmax(1)


@pytest.mark.parametrize("planes", [1, 2, 4])
def test_equal_to_monai_on_one_hot_targets(planes: int) -> None:
    logits, labels = _case(planes)
    target, sigmoid = _one_hot(labels, planes), planes == 1
    act = {"sigmoid": sigmoid, "softmax": not sigmoid}
    assert torch.allclose(dice(logits, labels), monai.losses.DiceLoss(batch=True)(_activated(logits), target))
    assert torch.allclose(dice_ce(logits, labels), monai.losses.DiceCELoss(batch=True, **act)(logits, target))
    assert torch.allclose(
        dice_focal(logits, labels, 1.5), monai.losses.DiceFocalLoss(batch=True, gamma=1.5, **act)(logits, target)
    )
    assert torch.allclose(
        focal(logits, labels, 3.0), monai.losses.FocalLoss(gamma=3.0, use_softmax=not sigmoid)(logits, target)
    )
    if planes > 1:
        assert torch.allclose(
            generalised_dice(logits, labels),
            monai.losses.GeneralizedDiceLoss(batch=True, smooth_nr=0, smooth_dr=0)(_activated(logits), target),
        )
        peer = monai.losses.BoundaryLoss(include_background=False)
        assert torch.allclose(boundary_distance(logits, labels), peer(_activated(logits), target))


def test_generalised_dice_of_one_plane_by_hand() -> None:
    logits, labels = _case(1)
    p, t = torch.sigmoid(logits[:, 0]).double(), labels.double()
    areas = [(1 - t).sum(), t.sum()]
    top = (1 - p).mul(1 - t).sum() / areas[0] ** 2 + p.mul(t).sum() / areas[1] ** 2
    bottom = ((1 - p).sum() + (1 - t).sum()) / areas[0] ** 2 + (p.sum() + t.sum()) / areas[1] ** 2
    assert generalised_dice(logits, labels).item() == pytest.approx((1 - 2 * top / bottom).item(), rel=1e-5)


@pytest.mark.parametrize("planes", [1, 3])
def test_generalised_dice_without_target_is_finite(planes: int) -> None:
    logits, labels = _case(planes)
    logits.requires_grad_()
    value = generalised_dice(logits, torch.zeros_like(labels))
    value.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("planes", [1, 2, 4])
def test_cross_entropy_by_hand(planes: int, smoothing: float) -> None:
    logits, labels = _case(planes)
    both = torch.cat([torch.zeros_like(logits), logits], 1) if planes == 1 else logits
    classes = both.shape[1]
    target = F.one_hot(labels, classes).movedim(-1, 1) * (1 - smoothing) + smoothing / classes
    expected = -(target * both.log_softmax(1)).sum(1).mean()
    assert cross_entropy(logits, labels, smoothing).item() == pytest.approx(expected.item(), rel=1e-5)
    assert cross_entropy(logits[:, :, 0, 0], labels[:, 0, 0]).item() > 0


def test_focal_at_gamma_0_is_cross_entropy() -> None:
    for planes in (1, 4):
        logits, labels = _case(planes)
        expected = cross_entropy(logits, labels).item() / planes
        assert focal(logits, labels, 0.0).item() == pytest.approx(expected, rel=1e-5)
    logits, labels = torch.zeros(2, 1), torch.tensor([0, 1])
    # p = 1/2: alpha (1/2)^2 ln 2 and (1 - alpha) (1/2)^2 ln 2
    assert focal(logits, labels, 2.0, 0.25).item() == pytest.approx(0.25 * np.log(2) / 2, rel=1e-5)


def test_boundary_distance_by_hand() -> None:
    logits, _ = _case(1, shape=(12, 12))
    labels = torch.zeros(3, 12, 12, dtype=torch.int64)
    labels[0, 3:8, 4:9] = 1
    mask = labels[0].numpy() == 1
    signed = np.where(mask, -(distance_transform_edt(mask) - 1), distance_transform_edt(~mask))
    expected = (torch.sigmoid(logits[0, 0]).numpy() * signed).mean() / 3  # the other two frames have no boundary
    assert boundary_distance(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_deep_supervision_weighs_the_levels() -> None:
    logits, labels = _case(1, shape=(8, 8))
    coarse = F.avg_pool2d(logits, 2)
    picked = F.interpolate(labels.unsqueeze(1).float(), size=(4, 4), mode="nearest-exact")[:, 0].long()
    own, half = dice_ce(logits, labels), dice_ce(coarse, picked)
    assert torch.allclose(deep_supervision([logits, coarse], labels), own + 0.5 * half)
    assert torch.allclose(deep_supervision([logits, coarse], labels, weights=[0.2, 3.0]), 0.2 * own + 3.0 * half)
    assert torch.allclose(deep_supervision([coarse], labels, loss=cross_entropy), cross_entropy(coarse, picked))
    with pytest.raises(ConfigError, match="1 weights for 2 outputs"):
        deep_supervision([logits, coarse], labels, weights=[1.0])
    with pytest.raises(ConfigError, match="no output"):
        deep_supervision([], labels)


@pytest.mark.parametrize("loss", DENSE)
@pytest.mark.parametrize("planes", [1, 3])
def test_bad_labels_are_refused(loss: Callable[..., Tensor], planes: int) -> None:
    logits, labels = _case(planes)
    with pytest.raises(ConfigError, match="labels run from 0 to 7"):
        loss(logits, torch.full_like(labels, 7) * (labels > 0))
    with pytest.raises(ConfigError, match="labels run from -1"):
        loss(logits, labels - 1)
    with pytest.raises(ConfigError, match=r"labels are \(3, 8, 9\)"):
        loss(logits, labels[..., :9])
    with pytest.raises(ConfigError, match="integers"):
        loss(logits, labels.float())


def test_settings_out_of_range_are_refused() -> None:
    logits, labels = _case(1)
    for gamma in (0.5, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="gamma"):
            focal(logits, labels, gamma)
        with pytest.raises(ConfigError, match="gamma"):
            dice_focal(logits, labels, gamma)
    with pytest.raises(ConfigError, match="alpha"):
        focal(logits, labels, 2.0, 1.5)
    with pytest.raises(ConfigError, match="smoothing"):
        cross_entropy(logits, labels, 1.0)


def test_binary_task_loss_is_cross_entropy_plus_pooled_dice() -> None:
    logits, _ = _case(1)
    logits = logits[:2, ..., :8]
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
