"""Networks that become students: a U-Net whose every operator lowers well.

The blocks are chosen for INT8 and FP16 on TensorRT as much as for accuracy:

- Plain 3 x 3 convolutions, BatchNorm (folded at export) and ReLU. Depthwise-separable ones save multiply-adds and are
  there to ask for, but strongly typed FP16 grouped convolutions have no kernel on some TensorRT 11 releases, so the
  portable variants keep them in float32, and after folding their channels' weights differ widely in size.
- The decoder enlarges by nearest neighbour and convolves afterwards. Nearest neighbour copies values, so it
  commutes with quantization and its input's scale stays valid; ConvTranspose has an error-prone per-channel axis,
  fuses badly with Q/DQ and is often slower in INT8 than in FP16.
- Skips are concatenated, so the two inputs of a Concat must share one scale; both come from a ReLU and start at 0.
- The head is one 1 x 1 convolution. With `stem_stride=2` its logits are enlarged bilinearly, once, in float.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.config import DistillConfig, NetworkConfig, TeacherConfig

__all__ = ["UNet", "build_network", "light_unet", "unet_teacher"]


Block = Literal["plain", "depthwise"]


def _activated(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]


def _conv(inputs: int, outputs: int, stride: int, block: Block) -> list[nn.Module]:
    """A 3 x 3 convolution with its normalisation; "depthwise" as in MobileNet (Howard et al. 2017, section 3.1)."""
    if block == "plain":
        return _activated(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False))
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
    return [*_activated(depthwise), *_activated(nn.Conv2d(inputs, outputs, 1, bias=False))]


def _conv_block(
    inputs: int, outputs: int, convs: int, block: Block = "plain", *, stem_stride: int = 0
) -> nn.Sequential:
    """`convs` convolutions; with `stem_stride` the first is a plain one of that stride, as it reads the frame."""
    layers: list[nn.Module] = []
    for k in range(convs):
        stem = k == 0 and stem_stride > 0
        width = inputs if k == 0 else outputs
        layers += _conv(width, outputs, stem_stride if stem else 1, "plain" if stem else block)
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger, Fischer and Brox, MICCAI 2015) from frames to logits of the same size.

    (N, in_channels, H, W) float32 -> (N, classes, H, W) float32 logits. H and W must be multiples of `divisor`.
    One class means a sigmoid, more mean a softmax with class 0 as background. For the settings see `NetworkConfig`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 1,
        *,
        width: int = 16,
        depth: int = 4,
        max_width: int = 512,
        stem_stride: int = 1,
        convs: int = 2,
        block: Block = "plain",
    ) -> None:
        super().__init__()
        if in_channels < 1 or classes < 1:
            raise ConfigError(f"in_channels is {in_channels} and classes {classes}; both must be at least 1")
        if stem_stride not in (1, 2):
            raise ConfigError(f"stem_stride is {stem_stride}; 1 or 2 is allowed")
        if block not in ("plain", "depthwise"):
            raise ConfigError(f"block is {block!r}; plain or depthwise is allowed")
        widths = [min(width << stage, max_width) for stage in range(depth)]
        self.in_channels, self.classes, self.stem_stride = in_channels, classes, stem_stride
        self.divisor = stem_stride << (depth - 1)
        self.stem = _conv_block(in_channels, widths[0], convs, block, stem_stride=stem_stride)
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList([_conv_block(a, b, convs, block) for a, b in pairwise(widths)])
        self.decoder = nn.ModuleList([_conv_block(a + b, a, convs, block) for a, b in reversed(list(pairwise(widths)))])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, frames: Tensor) -> Tensor:
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and (frames.shape[-1] % self.divisor or frames.shape[-2] % self.divisor):
            raise ConfigError(
                f"the input is {tuple(frames.shape[-2:])}; height and width must be multiples of {self.divisor}. "
                "Change the size step of the preprocessing or the depth of the network."
            )
        x = self.stem(frames)
        skips = []
        for block in self.encoder:
            skips.append(x)
            x = block(self.pool(x))
        for block in self.decoder:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()], dim=1))
        logits: Tensor = self.head(x)
        if self.stem_stride == 2:
            logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        return logits


def build_network(config: NetworkConfig, *, in_channels: int = 1, classes: int = 1, seed: int = 0) -> UNet:
    """A `UNet` with weights drawn from `seed` alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(
            in_channels,
            classes,
            width=config.width,
            depth=config.depth,
            max_width=config.max_width,
            stem_stride=config.stem_stride,
            convs=config.convs,
            block=config.block,
        )


def unet_teacher(classes: int = 1, *, seed: int = 0) -> UNet:
    """The demonstration's teacher, about half a million parameters."""
    return build_network(TeacherConfig().network, classes=classes, seed=seed)


def light_unet(classes: int = 1, *, seed: int = 0) -> UNet:
    """The demonstration's student: at most 100 k parameters, a tenth of the teacher's multiply-adds or less."""
    return build_network(DistillConfig().network, classes=classes, seed=seed)
