"""Random changes of grey values: only what the network sees, never the truth."""

from __future__ import annotations

import torch
from torch import Tensor

from edge_sdk.augment.draws import uniform
from edge_sdk.config import AugmentConfig

__all__ = ["change_grey"]


def change_grey(
    inputs: Tensor, config: AugmentConfig, scale: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """(N, C, H, W) float32 after gamma, gain and noise, one draw per sample from `generator`, in [0, 1] grey values.

    `scale` is (mean, std) of the preprocessing's `Normalize`. Black stays black under gain and gamma.
    """
    n, (mean, std) = len(inputs), scale
    gamma = torch.exp(uniform(n, -config.gamma, config.gamma, generator))
    gain = uniform(n, 1 - config.gain, 1 + config.gain, generator)
    sigma = uniform(n, 0.0, config.noise, generator)
    noise = torch.randn(inputs.shape, generator=generator) if config.noise > 0 else None
    if config.gamma == config.gain == 0 and noise is None:
        return inputs
    shape, device = (n, 1, 1, 1), inputs.device
    grey = (inputs * std + mean).clamp(0, 1)
    grey = grey.pow(gamma.view(shape).to(device)) * gain.view(shape).to(device)
    if noise is not None:
        grey = grey + noise.to(device) * sigma.view(shape).to(device)
    return (grey.clamp(0, 1) - mean) / std
