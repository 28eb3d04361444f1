"""The order of the random changes of a training batch."""

from __future__ import annotations

from dataclasses import replace

import torch

from edge_sdk.augment.geometry import move
from edge_sdk.augment.grey import change_grey
from edge_sdk.augment.ultrasound import change_echoes
from edge_sdk.augment.view import change_view
from edge_sdk.batch import Batch
from edge_sdk.config import AugmentConfig

__all__ = ["augment"]


def augment(batch: Batch, config: AugmentConfig, scale: tuple[float, float], generator: torch.Generator) -> Batch:
    """The batch after one draw per sample from `generator` (a CPU generator): geometry first, then grey values.

    `scale` is (mean, std) of the preprocessing's `Normalize`: grey values are changed in [0, 1] and normalised
    again. Black stays black under gain and gamma, so the surround of a sector is kept.
    """
    batch = change_view(move(batch, config, generator), config.ultrasound, scale, generator)
    batch = change_echoes(batch, config.ultrasound, scale, generator)
    return replace(batch, inputs=change_grey(batch.inputs, config, scale, generator))
