"""Losses against the truth, MONAI's where it has them. One class means a sigmoid, several a softmax with class 0 as
background. Every function takes logits in any float type, computes in float32 and returns a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError

__all__ = [
    "boundary_distance",
    "cross_entropy",
    "deep_supervision",
    "dice",
    "dice_ce",
    "dice_focal",
    "focal",
    "generalised_dice",
]


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected:
        raise ConfigError(f"labels are {tuple(labels.shape)}; logits {tuple(logits.shape)} need {expected}")
    if labels.is_floating_point():
        raise ConfigError(f"labels are {labels.dtype}; integers are needed")
    classes = max(logits.shape[1], 2)
    if labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ConfigError(f"labels run from {low} to {high}; {classes} classes allow 0 to {classes - 1}")


@lru_cache(maxsize=32)
def _monai(name: str, sigmoid: bool, **settings: Any) -> Any:
    import monai.losses

    return getattr(monai.losses, name)(sigmoid=sigmoid, softmax=not sigmoid, to_onehot_y=not sigmoid, **settings)


def _dense(name: str, logits: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    """MONAI's dense loss `name` of (N, C, H, W) logits and (N, H, W) labels."""
    _check_labels(logits, labels)
    target = labels.unsqueeze(1)
    sigmoid = logits.shape[1] == 1
    loss = _monai(name, sigmoid, **settings)
    return cast(Tensor, loss(logits.float(), target.float() if sigmoid else target.long()))


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar soft Dice loss, MONAI's `DiceLoss`, pooled over the batch and averaged over planes.

    `logits` (N, C, H, W) float; `labels` (N, H, W) integer in 0..C-1, or 0..1 for C = 1. Pooling keeps frames without
    any target from dominating. Milletari, Navab and Ahmadi, 3DV 2016, without the squares in the denominator. Raises
    `ConfigError` for shapes that do not fit and labels outside the classes.
    """
    return _dense("DiceLoss", logits, labels, batch=True)


def generalised_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar generalised Dice loss, MONAI's `GeneralizedDiceLoss`: planes weighed by 1 / area^2, pooled over the batch.

    Shapes and errors as `dice`. One plane of logits counts as background and foreground, without which the weights
    would cancel. Sudre et al., DLMIA 2017.
    """
    _check_labels(logits, labels)
    if logits.shape[1] == 1:
        p, t = torch.sigmoid(logits.float()), labels.unsqueeze(1).float()
        predicted, truth = torch.cat([1 - p, p], dim=1), torch.cat([1 - t, t], dim=1)
    else:
        predicted = F.softmax(logits.float(), dim=1)
        truth = F.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1).float()
    return cast(Tensor, _generalised_dice()(predicted, truth))


@lru_cache(maxsize=1)
def _generalised_dice() -> Any:
    from monai.losses import GeneralizedDiceLoss

    # the weights are 1 / area^2, about 1e-9: MONAI's usual 1e-5 would smooth everything away
    return GeneralizedDiceLoss(batch=True, smooth_nr=1e-12, smooth_dr=1e-12)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Scalar cross-entropy with label smoothing, mean over samples and pixels.

    `logits` (N, C, ...) float; `labels` (N, ...) integer in 0..C-1, or 0..1 for C = 1. The target is
    (1 - smoothing) on the true class plus smoothing / max(C, 2) on every class (Szegedy et al., CVPR 2016, section 7).
    Raises `ConfigError` for shapes that do not fit, labels outside the classes and smoothing outside [0, 1).
    """
    _check_labels(logits, labels)
    if not 0 <= smoothing < 1:
        raise ConfigError(f"label smoothing is {smoothing}; a share in [0, 1) is allowed")
    if logits.shape[1] > 1:
        return F.cross_entropy(logits.float(), labels.long(), label_smoothing=smoothing)
    target = labels.float() * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits[:, 0].float(), target)


def _check_gamma(gamma: float) -> None:
    # between 0 and 1 the slope at a certain and right answer is infinite
    if not (gamma == 0 or gamma >= 1):
        raise ConfigError(f"focal gamma is {gamma}; 0, or 1 and more, is allowed")


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0, alpha: float | None = None) -> Tensor:
    """Scalar focal loss (1 - p)^gamma * cross-entropy, MONAI's `FocalLoss`, mean over samples, planes and pixels.

    `logits` (N, C, ...) float; `labels` (N, ...) integer. `alpha` in [0, 1] weighs the foreground, 1 - alpha the
    background. The mean runs over the C planes too: at gamma 0 it is cross-entropy / C. Lin et al., ICCV 2017,
    equations 4 and 5. Raises `ConfigError` for shapes that do not fit, labels outside the classes, gamma in (0, 1)
    or below 0, alpha outside [0, 1].
    """
    _check_labels(logits, labels)
    _check_gamma(gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ConfigError(f"focal alpha is {alpha}; a weight in [0, 1] is allowed")
    several = logits.shape[1] > 1
    loss = _monai_focal(several, gamma, alpha)
    target = labels.unsqueeze(1)
    return cast(Tensor, loss(logits.float(), target.long() if several else target.float()))


@lru_cache(maxsize=8)
def _monai_focal(several: bool, gamma: float, alpha: float | None) -> Any:
    from monai.losses import FocalLoss

    return FocalLoss(to_onehot_y=several, use_softmax=several, gamma=gamma, alpha=alpha)


def dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar task loss: soft Dice plus cross-entropy, MONAI's `DiceCELoss`, Dice pooled over the batch.

    `logits` (N, C, H, W) float; `labels` (N, H, W) integer in 0..C-1, or 0..1 for C = 1 (binary cross-entropy).
    Pooling keeps frames without any target from dominating. (Milletari, Navab and Ahmadi, 3DV 2016, for soft Dice.)
    Raises `ConfigError` for shapes that do not fit and labels outside the classes.
    """
    return _dense("DiceCELoss", logits, labels, batch=True)


def dice_focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Scalar task loss: soft Dice plus focal loss, MONAI's `DiceFocalLoss`, Dice pooled over the batch.

    Shapes and errors as `dice` and `focal`. Zhu et al., Medical Physics 2019 (AnatomyNet).
    """
    _check_gamma(gamma)
    return _dense("DiceFocalLoss", logits, labels, batch=True, gamma=gamma)


def boundary_distance(logits: Tensor, labels: Tensor) -> Tensor:
    """Scalar boundary loss, MONAI's `BoundaryLoss`: predicted probability times signed distance to the true boundary.

    Shapes and errors as `dice`. Distances are in pixels, negative inside; several planes leave out the background.
    The value may be negative. Use it beside a region loss, with a small weight: a frame of one class has no boundary
    and gives 0. Kervadec et al., MIDL 2019, equation 5.
    """
    return _dense("BoundaryLoss", logits, labels, include_background=logits.shape[1] == 1)


def deep_supervision(
    outputs: Sequence[Tensor],
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = dice_ce,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Scalar sum of `loss` over outputs of several resolutions, MONAI's `DeepSupervisionLoss`.

    `outputs` are logits (N, C, h, w), finest first; `labels` (N, H, W) integer are brought to each size by nearest
    neighbour. `weights` has one weight per output; without them 1, 1/2, 1/4, ... down to 1/16. Lee et al., AISTATS
    2015. Raises `ConfigError` for no output, or weights of another number.
    """
    from monai.losses import DeepSupervisionLoss

    if not outputs:
        raise ConfigError("deep supervision got no output; the network must return its logits at one or more sizes")
    if weights is not None and len(weights) != len(outputs):
        raise ConfigError(f"deep supervision has {len(weights)} weights for {len(outputs)} outputs; one each is needed")
    deep = DeepSupervisionLoss(
        lambda logits, target: loss(logits, target[:, 0].long()), weights=None if weights is None else list(weights)
    )
    return cast(Tensor, deep(list(outputs), labels.unsqueeze(1).float()))
