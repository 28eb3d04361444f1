"""A U-Net that also draws the borders of objects, so that touching ones come apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.config import NetworkConfig
from edge_sdk.students.unet import UNet

__all__ = ["InstanceMaps", "InstanceUNet", "build_instance_network"]


class InstanceMaps(NamedTuple):
    """`mask` (N, C, H, W) class logits as a `UNet` gives them; `border` (N, 1, H, W) logits of an object's border."""

    mask: Tensor
    border: Tensor


class InstanceUNet(nn.Module):
    """(N, in_channels, H, W) float32 -> `InstanceMaps`: a `UNet` with two heads on one encoder and decoder.

    Class and contour from one trunk, as in DCAN (Chen et al., CVPR 2016). `classes` counts the planes of the mask: one
    means a sigmoid, more a softmax with class 0 as background. It exports as it is, with the outputs "mask" and
    "border". Settings and size rule are the `UNet`'s.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 1,
        *,
        width: int = 8,
        depth: int = 4,
        max_width: int = 48,
        stem_stride: int = 1,
        convs: int = 2,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(f"classes is {classes}; at least 1 is needed")
        self.in_channels, self.classes = in_channels, classes
        self.net = UNet(
            in_channels,
            classes + 1,
            width=width,
            depth=depth,
            max_width=max_width,
            stem_stride=stem_stride,
            convs=convs,
        )
        self.divisor = self.net.divisor

    def forward(self, frames: Tensor) -> InstanceMaps:
        logits = self.net(frames)
        return InstanceMaps(mask=logits[:, : self.classes], border=logits[:, self.classes :])


def build_instance_network(
    config: NetworkConfig, *, in_channels: int = 1, classes: int = 1, seed: int = 0
) -> InstanceUNet:
    """An `InstanceUNet` with weights drawn from `seed` alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InstanceUNet(
            in_channels,
            classes,
            width=config.width,
            depth=config.depth,
            max_width=config.max_width,
            stem_stride=config.stem_stride,
            convs=config.convs,
        )
