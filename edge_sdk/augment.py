"""Random changes of a training batch: one geometric change for frame, labels and soft targets alike.

Grey-value changes touch only what the network sees, so a student learns the teacher's answer to the clean frame
from a changed one (noisy student, Xie et al., CVPR 2020).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_sdk.config import AugmentConfig

__all__ = ["Batch", "augment"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What one training step sees.

    `inputs` (N, C_in, H, W) float32; `labels` (N, H, W) int64; `labelled` (N,) bool, false where `labels` mean
    nothing; `soft` (N, C, H, W) float32 teacher logits, or None.
    """

    inputs: Tensor
    labels: Tensor
    labelled: Tensor
    soft: Tensor | None = None


def augment(batch: Batch, config: AugmentConfig, scale: tuple[float, float], generator: torch.Generator) -> Batch:
    """The batch after one draw per frame from `generator` (a CPU generator).

    `scale` is (mean, std) of the preprocessing's `Normalize`: grey values are changed in [0, 1] and normalised
    again. Black stays black under gain and gamma, so the surround of a sector is kept.
    """
    batch = _crop_and_flip(batch, config, generator)
    return replace(batch, inputs=_grey(batch.inputs, config, scale, generator))


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * (high - low) + low


def _crop_and_flip(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Batch:
    n = len(batch.inputs)
    side = _uniform(n, config.min_scale, 1.0, generator)
    shift = (torch.rand((n, 2), generator=generator) * 2 - 1) * (1 - side)[:, None]
    flipped = torch.rand(n, generator=generator) < config.flip
    if config.min_scale == 1.0:
        return _flip(batch, flipped)
    theta = torch.zeros((n, 2, 3))
    theta[:, 0, 0] = torch.where(flipped, -side, side)
    theta[:, 1, 1] = side
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [n, 1, *batch.inputs.shape[2:]], align_corners=False).to(batch.inputs.device)
    inputs = F.grid_sample(batch.inputs, grid, mode="bilinear", padding_mode="border", align_corners=False)
    labels = F.grid_sample(
        batch.labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    soft = batch.soft
    if soft is not None:
        soft = F.grid_sample(soft, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return replace(batch, inputs=inputs, labels=labels[:, 0].long(), soft=soft)


def _flip(batch: Batch, flipped: Tensor) -> Batch:
    which = flipped.to(batch.inputs.device)

    def mirror(x: Tensor) -> Tensor:
        return torch.where(which.view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)

    soft = None if batch.soft is None else mirror(batch.soft)
    return replace(batch, inputs=mirror(batch.inputs), labels=mirror(batch.labels), soft=soft)


def _grey(inputs: Tensor, config: AugmentConfig, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    n, (mean, std) = len(inputs), scale
    gamma = torch.exp(_uniform(n, -config.gamma, config.gamma, generator))
    gain = _uniform(n, 1 - config.gain, 1 + config.gain, generator)
    sigma = _uniform(n, 0.0, config.noise, generator)
    noise = torch.randn(inputs.shape, generator=generator) if config.noise > 0 else None
    if config.gamma == config.gain == 0 and noise is None:
        return inputs
    shape, device = (n, 1, 1, 1), inputs.device
    grey = (inputs * std + mean).clamp(0, 1)
    grey = grey.pow(gamma.view(shape).to(device)) * gain.view(shape).to(device)
    if noise is not None:
        grey = grey + noise.to(device) * sigma.view(shape).to(device)
    return (grey.clamp(0, 1) - mean) / std
