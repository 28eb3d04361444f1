"""Losses as plain functions of logits. One class means a sigmoid, several a softmax with class 0 as background."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError

__all__ = ["dice_ce", "logit_kd", "pixelwise_kd"]


def _check_pair(student: Tensor, teacher: Tensor, temperature: float) -> None:
    if student.shape != teacher.shape:
        raise ConfigError(
            f"student logits are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; "
            "both need the same classes and size"
        )
    if not temperature > 0:
        raise ConfigError(f"temperature is {temperature}; it must be positive")


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) over dimension 1 at `temperature`; dimension 1 is summed away. (N, C, ...) -> (N, ...)."""
    s, t = student / temperature, teacher / temperature
    if student.shape[1] > 1:
        log_t = F.log_softmax(t, dim=1)
        return (log_t.exp() * (log_t - F.log_softmax(s, dim=1))).sum(dim=1)
    p = torch.sigmoid(t)
    # log p - log q of both outcomes of a Bernoulli variable, in logits
    ones = p * (F.logsigmoid(t) - F.logsigmoid(s))
    zeros = (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return (ones + zeros).squeeze(1)


def logit_kd(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Scalar distillation loss of class logits (N, C) float: T^2 KL(teacher || student) at temperature T, mean over N.

    C = 1 compares Bernoulli distributions. The factor T^2 keeps the gradients' size (Hinton, Vinyals and Dean 2015,
    section 2). Raises `ConfigError` for shapes that differ or T <= 0.
    """
    _check_pair(student, teacher, temperature)
    return _divergence(student, teacher, temperature).mean() * temperature**2


def pixelwise_kd(student: Tensor, teacher: Tensor, temperature: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Scalar distillation loss of dense logits (N, C, H, W) float: `logit_kd` of every pixel, averaged.

    Pixel-wise distillation of Liu et al. (CVPR 2019), equation 1, with Hinton's temperature. `weight` (N, H, W) or
    (N, 1, 1) float, zero or more, weighs pixels or frames; the mean is over the weights. Raises `ConfigError` for
    shapes that differ or T <= 0.
    """
    _check_pair(student, teacher, temperature)
    divergence = _divergence(student, teacher, temperature)
    if weight is None:
        return divergence.mean() * temperature**2
    weight = weight.expand_as(divergence)
    return (divergence * weight).sum() / weight.sum().clamp_min(1e-12) * temperature**2


@lru_cache(maxsize=2)
def _monai_dice_ce(sigmoid: bool) -> Any:
    from monai.losses import DiceCELoss

    return DiceCELoss(sigmoid=sigmoid, softmax=not sigmoid, to_onehot_y=not sigmoid, batch=True)


def dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar task loss: soft Dice plus cross-entropy, MONAI's `DiceCELoss`, Dice pooled over the batch.

    `logits` (N, C, H, W) float; `labels` (N, H, W) integer in 0..C-1, or 0..1 for C = 1 (binary cross-entropy).
    Pooling keeps frames without any target from dominating. (Milletari, Navab and Ahmadi, 3DV 2016, for soft Dice.)
    """
    target = labels.unsqueeze(1)
    sigmoid = logits.shape[1] == 1
    return cast(Tensor, _monai_dice_ce(sigmoid)(logits, target.float() if sigmoid else target.long()))
