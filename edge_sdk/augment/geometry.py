"""One random geometric change per sample, applied alike to frames, labels, dense targets and boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_sdk.augment.draws import uniform
from edge_sdk.batch import Batch, Field
from edge_sdk.config import AugmentConfig

__all__ = ["keep_boxes", "map_fields", "move"]

_KEPT_AREA = 0.4  # a box that keeps less of its area inside the frame is dropped


def move(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> Batch:
    """The batch after one draw per sample of flip, crop or shrink, stretch and rotation from `generator`.

    A change whose setting is off draws nothing. Outside the frame the border's values are repeated.
    """
    n, (height, width) = len(batch.inputs), batch.inputs.shape[2:]
    side = uniform(n, config.min_scale, config.max_scale, generator)
    shift = (torch.rand((n, 2), generator=generator) * 2 - 1) * (1 - side).abs()[:, None]
    flipped = torch.rand(n, generator=generator) < config.flip
    if config.min_scale == config.max_scale == 1.0 and config.rotate == config.stretch == 0:
        return map_fields(batch, lambda x, _: _flip(x, flipped), lambda boxes: _flip_boxes(boxes, flipped, width))
    theta = _matrix(side, flipped, config, generator, height / width)
    theta[:, :, 2] = shift
    return map_fields(
        batch,
        lambda x, nearest: _sample(x, theta, nearest),
        lambda boxes: _move_boxes(boxes, theta, height, width),
    )


def _matrix(side: Tensor, flipped: Tensor, config: AugmentConfig, generator: torch.Generator, aspect: float) -> Tensor:
    """(N, 2, 3) float32 from output to input places in [-1, 1], the shift left at 0; `aspect` is height / width."""
    n = len(side)
    stretch = torch.ones(n)
    if config.stretch > 0:
        stretch = torch.exp(uniform(n, -config.stretch, config.stretch, generator))
    angle = torch.zeros(n)
    if config.rotate > 0:
        angle = uniform(n, -config.rotate, config.rotate, generator) * (math.pi / 180)
    along_x = torch.where(flipped, -side, side) * stretch
    along_y = side / stretch
    cosine, sine = torch.cos(angle), torch.sin(angle)
    theta = torch.zeros((n, 2, 3))
    # a rotation in pixels is sheared in [-1, 1] coordinates of a frame that is not square
    theta[:, 0, 0], theta[:, 0, 1] = cosine * along_x, -sine * along_y * aspect
    theta[:, 1, 0], theta[:, 1, 1] = sine * along_x / aspect, cosine * along_y
    return theta


def map_fields(batch: Batch, pixels: Callable[[Tensor, bool], Tensor], boxes: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with `pixels(planes, nearest)` on inputs, labels and dense fields, and `boxes` on the boxes.

    Planes are (N, C, h, w) float32; `nearest` is true for labels, which come with C = 1.
    """

    def moved(values: Field) -> Field:
        if values.kind == "fixed":
            return values
        if values.kind == "boxes":
            return replace(values, values=boxes(values.values), sha256="")
        if values.kind == "dense":
            return replace(values, values=pixels(values.values, False), sha256="")
        return replace(values, values=pixels(values.values[:, None].float(), True)[:, 0].long(), sha256="")

    return replace(
        batch,
        inputs=pixels(batch.inputs, False),
        targets={name: moved(values) for name, values in batch.targets.items()},
        soft={name: moved(values) for name, values in batch.soft.items()},
    )


def _flip(x: Tensor, flipped: Tensor) -> Tensor:
    return torch.where(flipped.to(x.device).view(-1, 1, 1, 1), x.flip(-1), x)


def _sample(x: Tensor, theta: Tensor, nearest: bool) -> Tensor:
    grid = F.affine_grid(theta, [len(x), 1, *x.shape[2:]], align_corners=False).to(x.device)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)


def _flip_boxes(boxes: Tensor, flipped: Tensor, width: int) -> Tensor:
    mirrored = boxes.clone()
    mirrored[..., 1], mirrored[..., 3] = width - boxes[..., 3], width - boxes[..., 1]
    mirrored = torch.where(boxes[..., :1] >= 0, mirrored, boxes)
    return torch.where(flipped.to(boxes.device).view(-1, 1, 1), mirrored, boxes)


def _move_boxes(boxes: Tensor, theta: Tensor, height: int, width: int) -> Tensor:
    """Boxes around the moved corners; a row that keeps less than 40 % of its area inside becomes padding."""
    n = len(boxes)
    full = torch.cat([theta, torch.tensor([0.0, 0.0, 1.0]).expand(n, 1, 3)], dim=1)
    back = torch.linalg.inv(full.double())[:, :2].float().to(boxes.device)  # from input to output places
    size = torch.tensor([width, height], dtype=torch.float32, device=boxes.device)
    x, y = boxes[..., [1, 3, 3, 1]], boxes[..., [2, 2, 4, 4]]
    corners = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    corners[..., :2] = corners[..., :2] * 2 / size - 1
    places = (torch.einsum("nij,nmkj->nmki", back, corners) + 1) / 2 * size
    low, high = places.amin(dim=2), places.amax(dim=2)
    return keep_boxes(boxes, low, high, size)


def keep_boxes(boxes: Tensor, low: Tensor, high: Tensor, size: Tensor, share: Tensor | None = None) -> Tensor:
    """`boxes` (N, M, 5) with the new corners `low` and `high` (N, M, 2), clipped to the frame's `size` (W, H).

    A row that keeps less than 40 % of its area becomes padding; `share` (N, M) says how much it keeps, where that is
    not what the clipping leaves.
    """
    whole = (high - low).prod(dim=-1)
    low, high = low.clamp_min(0).minimum(size), high.clamp_min(0).minimum(size)
    left = (high - low).prod(dim=-1) / whole.clamp_min(1e-6) if share is None else share
    there = (boxes[..., 0] >= 0) & (left >= _KEPT_AREA)
    moved = torch.cat([boxes[..., :1], low, high], dim=-1)
    padding = torch.zeros_like(moved)
    padding[..., 0] = -1
    return torch.where(there[..., None], moved, padding)
