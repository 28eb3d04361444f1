"""Degrade clean frames with the statistics of ultrasound, reproducibly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_sdk.augment.decibels import add_decibels
from edge_sdk.augment.speckle import speckle_decibels
from edge_sdk.tasks.restoration.recipe import DegradeConfig

__all__ = ["degrade"]


def degrade(grey: Tensor, config: DegradeConfig, generator: torch.Generator) -> Tensor:
    """(N, 1, H, W) float32 grey values in [0, 1] -> (N, 1, H / s, W / s) in [0, 1], s = `config.scale`.

    One draw from `generator` (a CPU generator). Pixels that are black stay black: nothing is heard outside the sector.
    """
    heard = grey > 0
    found = grey
    if config.speckle > 0:
        shape = (grey.shape[2], grey.shape[3])
        grain = speckle_decibels(len(grey), shape, config.grain_px, 2 * config.grain_px, generator)
        found = add_decibels(found, config.speckle * grain, config.range_db)
    if config.noise > 0:
        found = found + config.noise * torch.randn(grey.shape, generator=generator)
    found = torch.where(heard, found.clamp(0, 1), grey)
    return found if config.scale == 1 else F.avg_pool2d(found, 2)
