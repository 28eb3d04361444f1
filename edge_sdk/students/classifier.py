"""Classifiers of frames and of clips: one plain encoder, pooling over space and time, one linear head.

- Plain 3 x 3 convolutions, as in the U-Net. The depthwise-separable twin of the default encoder has 20 k parameters
  instead of 146 k and 3.5 million multiply-adds on 96 x 96 instead of 24.2, and takes a quarter of the time in ONNX
  Runtime on one core; but its FP16 grouped convolutions have no kernel on some TensorRT 11 releases and would stay in
  FP32. A plain encoder of width 8 (74 k, 7.5 million, half the time) lowers everywhere, so width is the lever here.
- Stages shrink by strided convolutions instead of pooling: the first convolution of a stage then costs a quarter.
- A clip is its frames as channels. They pass one shared encoder as a batch; every shape is a constant in the exported
  graph, because the batch is 1 there.
- Time is pooled by mean and maximum, so a sign that shows in a few frames counts. With `difference`, the mean
  absolute change of the last feature maps between neighbouring frames is a third summary: it costs no
  convolution and sees motion (lung sliding) that averages do not.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError

__all__ = ["ClipClassifier", "Encoder", "FrameClassifier", "TimePool"]

TimePool = Literal["mean_max", "mean", "attention"]


def _block(inputs: int, outputs: int, convs: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(convs):
        first = k == 0
        layers += [
            nn.Conv2d(inputs if first else outputs, outputs, 3, stride if first else 1, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Frames (N, C, H, W) float32 -> features (N, `features`, h, w) after `depth` stages, each at half the size before.

    `width` channels at the first stage, doubled at each up to `max_width`; `convs` convolutions a stage. Sizes that
    are no multiples are rounded up. Raises `ConfigError` for numbers below 1.
    """

    def __init__(
        self, in_channels: int = 1, *, width: int = 16, depth: int = 4, max_width: int = 64, convs: int = 2
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("width", width), ("depth", depth), ("convs", convs)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; at least 1 is needed")
        if max_width < width:
            raise ConfigError(f"max_width is {max_width}; at least width ({width}) is needed")
        widths = [in_channels, *(min(width << stage, max_width) for stage in range(depth))]
        self.stages = nn.Sequential(*(_block(a, b, convs, stride=2) for a, b in pairwise(widths)))
        self.in_channels, self.features = in_channels, widths[-1]

    def forward(self, frames: Tensor) -> Tensor:
        maps: Tensor = self.stages(frames)
        return maps


class FrameClassifier(nn.Module):
    """(N, in_channels, H, W) float32 -> (N, classes) float32 logits of a softmax: encoder, global mean, linear head.

    For the encoder's settings see `Encoder`; `dropout` acts on the pooled features while training. Raises
    `ConfigError` for fewer than two classes, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        *,
        width: int = 16,
        depth: int = 4,
        max_width: int = 64,
        convs: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_head(classes, dropout)
        self.encoder = Encoder(in_channels, width=width, depth=depth, max_width=max_width, convs=convs)
        self.classes = classes
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.features, classes)

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.encoder(frames).mean(dim=(2, 3))))
        return logits


class ClipClassifier(nn.Module):
    """(N, frames, H, W) float32, oldest frame first -> (N, classes) float32 logits of a softmax.

    `pool` "mean_max" joins the mean and the maximum over time; "mean" takes the mean alone; "attention" a mean weighted
    by a learned score of each frame (Ilse, Tomczak and Welling, ICML 2018, without the gate). `difference` adds the
    mean absolute change between neighbouring frames' feature maps. Raises `ConfigError` for fewer than two frames or
    classes, a clip of another length, or a dropout outside [0, 1).
    """

    def __init__(
        self,
        frames: int,
        classes: int = 2,
        *,
        width: int = 16,
        depth: int = 4,
        max_width: int = 64,
        convs: int = 2,
        pool: TimePool = "mean_max",
        difference: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_head(classes, dropout)
        if frames < 2:
            raise ConfigError(f"a clip has {frames} frames; at least 2 are needed, or use FrameClassifier")
        if pool not in ("mean_max", "mean", "attention"):
            raise ConfigError(f"pool is {pool!r}; 'mean_max', 'mean' and 'attention' are allowed")
        self.encoder = Encoder(1, width=width, depth=depth, max_width=max_width, convs=convs)
        self.frames, self.classes, self.pool, self.difference = frames, classes, pool, difference
        self.score = nn.Linear(self.encoder.features, 1) if pool == "attention" else None
        self.dropout = nn.Dropout(dropout)
        parts = (2 if pool == "mean_max" else 1) + int(difference)
        self.head = nn.Linear(parts * self.encoder.features, classes)

    def forward(self, clips: Tensor) -> Tensor:
        tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and clips.shape[1] != self.frames:
            raise ConfigError(f"the clip has {clips.shape[1]} frames; this network takes {self.frames}")
        n, height, width = clips.shape[0], clips.shape[2], clips.shape[3]
        maps = self.encoder(clips.reshape(n * self.frames, 1, height, width))
        pooled = maps.mean(dim=(2, 3)).reshape(n, self.frames, self.encoder.features)
        summaries = self._over_time(pooled)
        if self.difference:
            summaries.append(self._change(maps, n))
        logits: Tensor = self.head(self.dropout(torch.cat(summaries, dim=1)))
        return logits

    def _over_time(self, pooled: Tensor) -> list[Tensor]:
        """Summaries (N, F) each of features (N, T, F)."""
        if self.score is not None:
            weight = self.score(pooled).softmax(dim=1)
            return [(pooled * weight).sum(dim=1)]
        mean = pooled.mean(dim=1)
        return [mean, pooled.amax(dim=1)] if self.pool == "mean_max" else [mean]

    def _change(self, maps: Tensor, n: int) -> Tensor:
        """(N, F): mean over places and steps of |feature(t + 1) - feature(t)|, four dimensions throughout."""
        features = self.encoder.features
        joined = maps.reshape(n, self.frames * features, maps.shape[2], maps.shape[3])
        change = (joined[:, features:] - joined[:, :-features]).abs().mean(dim=(2, 3))
        return change.reshape(n, self.frames - 1, features).mean(dim=1)


def _check_head(classes: int, dropout: float) -> None:
    if classes < 2:
        raise ConfigError(f"classes is {classes}; a softmax needs at least 2")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout}; a share in [0, 1) is allowed")
