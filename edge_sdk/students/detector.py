"""A single-stage, anchor-free detector with a feature pyramid, made of operators that lower well.

FCOS (Tian et al., ICCV 2019): every point of three or more pyramid levels says which class of object it lies in, how
far the four sides of that object are, and how central the point is. What differs from the paper, and why:

- The pyramid (Lin et al., CVPR 2017) enlarges by nearest neighbour and adds; every convolution is a plain one.
- The head's convolutions are shared by the levels, their BatchNorms are not: levels differ in statistics, and a
  BatchNorm of its own folds into a copy of the weights at export, where GroupNorm would stay a graph of its own.
- Distances are exp(x) strides with x held in [-5, 5], so an error of x is a share of the box, in FP16 and INT8 too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError

__all__ = ["DenseBoxes", "Detector", "ExportedDetector", "joint_logit"]

_LOG_REACH = 5.0  # a side is at most exp(5) = 148 strides away
_SURE = 10.0  # logits beyond are as good as certain; exp(10) is still finite in FP16


class DenseBoxes(NamedTuple):
    """What a `Detector` says at each of its P points, finest level first, row by row.

    `classes` (N, P, K) logits, `distances` (N, P, 4) logarithms of the distances to the left, top, right and bottom
    side in strides, `centre` (N, P) logits of the centreness.
    """

    classes: Tensor
    distances: Tensor
    centre: Tensor


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Tower(nn.Module):
    """`depth` 3 x 3 convolutions shared by `levels` levels, each level with BatchNorms of its own."""

    def __init__(self, width: int, depth: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth)])
        self.norms = nn.ModuleList(
            [nn.ModuleList([nn.BatchNorm2d(width) for _ in range(depth)]) for _ in range(levels)]
        )

    def forward(self, x: Tensor, level: int) -> Tensor:
        norms = self.norms[level]
        assert isinstance(norms, nn.ModuleList)
        for conv, norm in zip(self.convs, norms, strict=True):
            x = F.relu(norm(conv(x)))
        return x


class Detector(nn.Module):
    """(N, in_channels, H, W) float32 -> `DenseBoxes`. H and W must be multiples of `divisor`, 2**stages.

    Stage s has stride 2**s and `width` * 2**(s-1) channels up to `max_width`; each stage is one convolution of stride
    2 and `convs` more. The last `levels` stages feed the pyramid of `pyramid` channels; the head has two towers
    (classes; distances and centreness) of `head_convs` convolutions. `prior` is the probability that every class has
    before training (Lin et al., ICCV 2017, section 4.1). Raises `ConfigError` for settings out of range.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 1,
        *,
        width: int = 12,
        stages: int = 5,
        max_width: int = 96,
        convs: int = 1,
        levels: int = 3,
        pyramid: int = 48,
        head_convs: int = 1,
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        if in_channels < 1 or classes < 1:
            raise ConfigError(f"in_channels is {in_channels} and classes {classes}; both must be at least 1")
        if not 1 <= levels < stages <= 7:
            raise ConfigError(f"levels is {levels} and stages {stages}; 1 <= levels < stages <= 7 is needed")
        if min(width, pyramid) < 1 or max_width < width or convs < 0 or head_convs < 0:
            raise ConfigError(
                f"width {width}, max_width {max_width}, pyramid {pyramid}, convs {convs}, head_convs {head_convs}; "
                "channels of 1 or more, max_width of at least width and counts of 0 or more are needed"
            )
        widths = [min(width << stage, max_width) for stage in range(stages)]
        self.in_channels, self.classes, self.divisor = in_channels, classes, 1 << stages
        self.strides = tuple(1 << stage for stage in range(stages - levels + 1, stages + 1))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_block(a, b, 2), *[_block(b, b) for _ in range(convs)])
                for a, b in pairwise([in_channels, *widths])
            ]
        )
        self.lateral = nn.ModuleList([nn.Conv2d(c, pyramid, 1) for c in widths[-levels:]])
        self.smooth = nn.ModuleList([_block(pyramid, pyramid) for _ in range(levels)])
        self.class_tower = _Tower(pyramid, head_convs, levels)
        self.box_tower = _Tower(pyramid, head_convs, levels)
        self.class_head = nn.Conv2d(pyramid, classes, 1)
        self.box_head = nn.Conv2d(pyramid, 5, 1)
        for head in (self.class_head, self.box_head):
            nn.init.normal_(head.weight, std=0.01)
        nn.init.constant_(self.class_head.bias, -torch.log(torch.tensor(1 / prior - 1)).item())  # type: ignore[arg-type]
        with torch.no_grad():
            self.box_head.bias.copy_(torch.tensor([0.7, 0.7, 0.7, 0.7, 0.0]))  # type: ignore[union-attr]

    def forward(self, frames: Tensor) -> DenseBoxes:
        maps = self.maps(frames)
        classes = torch.cat([c.flatten(2) for c, _ in maps], 2).transpose(1, 2)
        boxes = torch.cat([b.flatten(2) for _, b in maps], 2).transpose(1, 2)
        return DenseBoxes(classes=classes, distances=boxes[..., :4], centre=boxes[..., 4])

    def maps(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of every level, finest first: class logits (N, K, h, w), and distances and centreness (N, 5, h, w)."""
        height, width = frames.shape[-2:]
        exporting = torch.compiler.is_exporting()
        if not exporting and (height % self.divisor or width % self.divisor):
            raise ConfigError(
                f"the input is {(height, width)}; height and width must be multiples of {self.divisor}. "
                "Change the size step of the preprocessing or the stages of the network."
            )
        features, x = [], frames
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        found: list[tuple[Tensor, Tensor]] = []
        above: Tensor | None = None
        for level in reversed(range(len(self.strides))):
            lateral: Tensor = self.lateral[level](features[len(features) - len(self.strides) + level])
            above = lateral if above is None else lateral + F.interpolate(above, scale_factor=2.0, mode="nearest")
            y = self.smooth[level](above)
            found.append((self.class_head(self.class_tower(y, level)), self.box_head(self.box_tower(y, level))))
        return found[::-1]

    def points(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Centres (P, 2) x, y in input pixels, pixel edges at integers, and strides (P,), in the order of `forward`."""
        centres, strides = [], []
        for stride in self.strides:
            y = (torch.arange(height // stride) + 0.5) * stride
            x = (torch.arange(width // stride) + 0.5) * stride
            grid = torch.meshgrid(y, x, indexing="ij")
            centres.append(torch.stack([grid[1], grid[0]], -1).reshape(-1, 2))
            strides.append(torch.full((len(centres[-1]),), float(stride)))
        return torch.cat(centres), torch.cat(strides)

    def exportable(self, height: int, width: int) -> ExportedDetector:
        """This detector, sharing its weights, as a module of one tensor for frames of `height` x `width`."""
        return ExportedDetector(self, height, width)


class ExportedDetector(nn.Module):
    """(1, in_channels, height, width) -> (1, P, 4 + K): boxes decoded in the graph, one row a point, no NMS.

    Columns 0 to 3 are x0, y0, x1, y1 in input pixels (pixel edges at integers, half open, inside the frame); the
    others are logits whose sigmoid is class probability times centreness (see `joint_logit`).
    """

    def __init__(self, detector: Detector, height: int, width: int) -> None:
        super().__init__()
        if height < 1 or width < 1 or height % detector.divisor or width % detector.divisor:
            raise ConfigError(
                f"a frame of {height} x {width}; height and width must be multiples of {detector.divisor}"
            )
        centres, strides = detector.points(height, width)
        self.detector, self.classes = detector, detector.classes
        self.points: Tensor
        self.strides: Tensor
        self.size: Tensor
        self.register_buffer("points", centres.T[None].contiguous(), persistent=False)
        self.register_buffer("strides", strides[None, None].contiguous(), persistent=False)
        self.register_buffer("size", torch.tensor([[[float(width)], [float(height)]]]), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        maps = self.detector.maps(frames)
        classes = torch.cat([c.flatten(2) for c, _ in maps], 2)
        boxes = torch.cat([b.flatten(2) for _, b in maps], 2)
        reach = boxes[:, :4].clamp(-_LOG_REACH, _LOG_REACH).exp() * self.strides
        low = (self.points - reach[:, :2]).clamp(min=0)
        high = torch.minimum(self.points + reach[:, 2:], self.size)
        return torch.cat([low, high, joint_logit(classes, boxes[:, 4:])], 1).transpose(1, 2)


def joint_logit(first: Tensor, second: Tensor) -> Tensor:
    """Logit of sigmoid(first) * sigmoid(second), broadcast; both are held in [-10, 10], where FP16 does not overflow.

    With m and M the smaller and larger of the two: 1/p = (1 + exp(-m)) (1 + exp(-M)), so the logit -log(1/p - 1) is
    m - log(1 + exp(-M) + exp(m - M)).
    """
    first, second = first.clamp(-_SURE, _SURE), second.clamp(-_SURE, _SURE)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return low - torch.log(1 + torch.exp(-high) + torch.exp(low - high))
