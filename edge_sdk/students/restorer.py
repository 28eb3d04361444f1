"""A frame-to-frame student: it adds a correction to the frame it sees, at the same or twice the size.

Learning the residual (Zhang et al., DnCNN, IEEE TIP 2017) starts from the identity, so an untrained network does no
harm. Enlarging is nearest neighbour followed by a convolution, for the reasons given in `edge_sdk.students.unet`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.students.unet import UNet

__all__ = ["Restorer"]


class Restorer(nn.Module):
    """(N, C, H, W) float32 normalised frames -> (N, C, s H, s W) float32, s = `scale`: denoised or enlarged frames.

    `width`, `depth`, `max_width` and `convs` are those of the `UNet` inside; H and W must be multiples of `divisor`.
    The last layer starts at zero: the untrained network gives its input (enlarged bilinearly).
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        width: int = 8,
        depth: int = 3,
        max_width: int = 64,
        convs: int = 2,
        scale: Literal[1, 2] = 1,
    ) -> None:
        super().__init__()
        if scale not in (1, 2):
            raise ConfigError(f"scale is {scale}; 1 (denoising) or 2 (twice the size) is allowed")
        self.channels, self.scale = channels, scale
        planes = channels if scale == 1 else width
        self.body = UNet(channels, planes, width=width, depth=depth, max_width=max_width, convs=convs)
        self.divisor = self.body.divisor
        last = self.body.head
        if scale == 2:
            self.refine = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
            )
            self.head = last = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, frames: Tensor) -> Tensor:
        correction: Tensor = self.body(frames)
        if self.scale == 1:
            return frames + correction
        large = F.interpolate(frames, scale_factor=2.0, mode="bilinear", align_corners=False)
        fine = self.refine(F.interpolate(correction, scale_factor=2.0, mode="nearest"))
        return torch.add(large, self.head(fine))
