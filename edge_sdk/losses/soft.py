"""Losses against a teacher's logits. One class means a Bernoulli, several a softmax with class 0 as background.

Every function takes logits in any float type, computes in float32 and returns a scalar. A teacher's logits carry no
gradient here: detach them, or read them from a cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError

__all__ = [
    "boundary_kd",
    "boundary_weights",
    "channelwise_kd",
    "confidence",
    "hard_labels",
    "label_free_kd",
    "logit_kd",
    "multi_teacher_kd",
    "pixelwise_kd",
]


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
    s, t = student.float() / temperature, teacher.float() / temperature
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


def channelwise_kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Scalar distillation loss of maps (N, C, H, W) float, logits or features of equal shape.

    Every channel becomes a distribution over its pixels (softmax over H * W at temperature T); the loss is
    T^2 KL(teacher || student), mean over channels and samples: Shu et al., ICCV 2021, equation 4. It attends to where
    a channel is strong, so the background's many pixels do not swamp a small target. Raises `ConfigError` for shapes
    that differ, maps that are not (N, C, H, W), or T <= 0.
    """
    _check_pair(student, teacher, temperature)
    if student.dim() != 4:
        raise ConfigError(f"channel-wise distillation needs maps (N, C, H, W), not {tuple(student.shape)}")
    log_t = F.log_softmax(teacher.float().flatten(2) / temperature, dim=2)
    log_s = F.log_softmax(student.float().flatten(2) / temperature, dim=2)
    return (log_t.exp() * (log_t - log_s)).sum(dim=2).mean() * temperature**2


def hard_labels(logits: Tensor) -> Tensor:
    """The most probable class of every pixel: (N, C, ...) float logits -> (N, ...) int64."""
    return logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()


def boundary_weights(labels: Tensor, width: float = 5.0, gain: float = 4.0) -> Tensor:
    """Pixel weights 1 + gain exp(-d^2 / (2 width^2)) from labels (N, H, W) integer -> (N, H, W) float32.

    d is the distance in pixels from a pixel's centre to the boundary of its class: the Euclidean distance to the
    nearest pixel of another class less half a pixel. A frame of one class has weight 1 everywhere. The form is the
    border term of the U-Net's weight map (Ronneberger, Fischer and Brox, MICCAI 2015, equation 2) with one border.
    Raises `ConfigError` for a width that is not positive or a negative gain.
    """
    from scipy.ndimage import distance_transform_edt

    if not (width > 0 and gain >= 0):
        raise ConfigError(f"boundary width is {width} and gain {gain}; a positive width and a gain >= 0 are needed")
    planes = labels.cpu().numpy()
    weights = np.ones(planes.shape, dtype=np.float32)
    for plane, out in zip(planes, weights, strict=True):
        classes = np.unique(plane)
        for label in classes if len(classes) > 1 else ():
            own = plane == label
            distance = distance_transform_edt(own)[own] - 0.5
            out[own] += gain * np.exp(-(distance**2) / (2 * width**2))
    return torch.from_numpy(weights).to(labels.device)


def boundary_kd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 2.0,
    width: float = 5.0,
    gain: float = 4.0,
) -> Tensor:
    """Scalar distillation loss of dense logits (N, C, H, W), weighed towards boundaries.

    `pixelwise_kd` with `boundary_weights` of `labels` (N, H, W) integer, or of the teacher's own classes without
    them. Raises `ConfigError` as both do.
    """
    _check_pair(student, teacher, temperature)
    if labels is None:
        labels = hard_labels(teacher)
    return pixelwise_kd(student, teacher, temperature, boundary_weights(labels, width, gain))


def confidence(logits: Tensor) -> Tensor:
    """1 - H(p) / ln(max(C, 2)) of every pixel's or sample's class distribution: (N, C, ...) -> (N, ...) in [0, 1]."""
    values = logits.float()
    if values.shape[1] > 1:
        log_p = F.log_softmax(values, dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1)
    else:
        t = values.squeeze(1)
        entropy = -(torch.sigmoid(t) * F.logsigmoid(t) + torch.sigmoid(-t) * F.logsigmoid(-t))
    return (1 - entropy / math.log(max(values.shape[1], 2))).clamp(0.0, 1.0)


def multi_teacher_kd(
    student: Tensor,
    teachers: Sequence[Tensor],
    temperature: float = 2.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Scalar distillation loss against K teachers: sum_k w_k T^2 KL(teacher_k || student), averaged.

    `student` and each teacher (N, C, ...) float. `weights` (K, N) or (K, N, ...) float, zero or more, per sample or
    per pixel; they are normalised over K, and a place where all are zero counts nothing. Without them a teacher
    weighs what it is sure of there (`confidence`), as in Kwon et al. (2020, entropy-adaptive multi-teacher
    distillation); give ones for the plain mean of You et al. (KDD 2017). Raises `ConfigError` for no teacher, shapes
    that differ, or T <= 0.
    """
    if not teachers:
        raise ConfigError("multi-teacher distillation got no teacher; at least 1 is needed")
    for teacher in teachers:
        _check_pair(student, teacher, temperature)
    divergence = torch.stack([_divergence(student, teacher, temperature) for teacher in teachers])
    if weights is None:
        # never all zero: where no teacher is sure, all weigh the same
        weights = torch.stack([confidence(teacher) for teacher in teachers]) + 1e-6
    elif weights.shape not in (divergence.shape, divergence.shape[:2]):
        allowed = " or ".join(str(tuple(s)) for s in (divergence.shape[:2], divergence.shape))
        raise ConfigError(f"teacher weights are {tuple(weights.shape)}; {allowed} is needed")
    weights = weights.reshape(weights.shape + (1,) * (divergence.dim() - weights.dim())).float()
    share = weights / weights.sum(dim=0, keepdim=True).clamp_min(1e-12)
    return (share * divergence).sum(dim=0).mean() * temperature**2


def label_free_kd(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, threshold: float = 0.8, entropy_weight: bool = True
) -> Tensor:
    """Scalar distillation loss where there is no truth to correct the teacher: only what it is sure of counts.

    Logits (N, C, ...) float. Places where the teacher's largest probability is below `threshold` are left out; the
    others weigh `confidence` (1 - normalised entropy), or 1 with `entropy_weight` False. The mean is over all places,
    kept or not, so that a frame on which the teacher is lost moves the student little (the unlabelled loss of
    FixMatch, Sohn et al., NeurIPS 2020, equation 4, with soft targets). Raises `ConfigError` for shapes that differ,
    T <= 0 or a threshold outside [0, 1).
    """
    _check_pair(student, teacher, temperature)
    if not 0 <= threshold < 1:
        raise ConfigError(f"confidence threshold is {threshold}; a probability in [0, 1) is allowed")
    values = teacher.float()
    several = values.shape[1] > 1
    largest = F.softmax(values, dim=1).amax(dim=1) if several else torch.sigmoid(values.squeeze(1).abs())
    weight = (largest >= threshold).float()
    if entropy_weight:
        weight = weight * confidence(values)
    return (_divergence(student, values, temperature) * weight).mean() * temperature**2
