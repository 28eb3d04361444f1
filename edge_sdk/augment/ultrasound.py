"""Random changes of the echoes along the beams, in the order in which a scanner makes them; the truth stays.

Point-spread function, speckle, loss along the beam and shadows act on the echo; clutter adds to it; the gain sliders
amplify what came back. See docs/augmentation.md for a picture of each.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from edge_sdk.augment.beams import beams_of
from edge_sdk.augment.decibels import add_decibels, attenuation, haze, shadow, tgc
from edge_sdk.augment.speckle import blur, speckle
from edge_sdk.batch import Batch
from edge_sdk.config import UltrasoundAugmentConfig

__all__ = ["change_echoes"]


def change_echoes(
    batch: Batch, config: UltrasoundAugmentConfig, scale: tuple[float, float], generator: torch.Generator
) -> Batch:
    """The batch with other inputs, one draw per sample; settings at 0 draw nothing and cost nothing.

    `scale` is (mean, std) of the preprocessing's `Normalize`. Channels of one sample (the frames of a clip) change
    alike. Black outside the scan area stays black.
    """
    c, (mean, std) = config, scale
    if not any((c.blur_axial_px, c.blur_lateral_px, c.speckle, c.attenuation_db, c.shadow, c.haze, c.tgc_db)):
        return batch
    grey = (batch.inputs * std + mean).clamp(0, 1)
    beams = beams_of(batch, grey)
    if c.blur_axial_px > 0 or c.blur_lateral_px > 0:
        grey = blur(grey, beams, c.blur_axial_px, c.blur_lateral_px, generator)
    if c.speckle > 0:
        grey = add_decibels(grey, speckle(beams, c.speckle, c.speckle_px, generator), c.range_db)
    if c.attenuation_db > 0:
        grey = add_decibels(grey, attenuation(beams, c.attenuation_db, generator), c.range_db)
    if c.shadow > 0 and c.shadow_db > 0:
        grey = add_decibels(grey, shadow(beams, c.shadow, c.shadow_db, generator), c.range_db)
    if c.haze > 0:
        grey = haze(grey, beams, c.haze, c.range_db, generator)
    if c.tgc_db > 0:
        grey = add_decibels(grey, tgc(beams, c.tgc_db, generator), c.range_db)
    return replace(batch, inputs=(grey - mean) / std)
