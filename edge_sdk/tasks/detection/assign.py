"""Which point of a detector learns which box."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Assignment", "assign"]

_RADIUS = 1.5  # of the centre region, in strides
_REACH = 4.0  # a level takes the boxes whose farthest side is at most this many strides away
_NEAREST = 0.01  # a side is at least this many strides away, so that its logarithm is finite


class Assignment(NamedTuple):
    """What each point learns.

    `label` (N, P) int64, -1 for background; `distances` (N, P, 4) float32 to the left, top, right and bottom side in
    strides, of no meaning for background; `centre` (N, P) float32, the centreness sqrt(min(l, r) / max(l, r) *
    min(t, b) / max(t, b)) of the point in its box (FCOS, equation 3).
    """

    label: Tensor
    distances: Tensor
    centre: Tensor


def assign(boxes: Tensor, points: Tensor, strides: Tensor) -> Assignment:
    """Targets of `points` (P, 2) with `strides` (P,) for `boxes` (N, M, 5) rows (label, x0, y0, x1, y1), -1 padding.

    A point learns a box when it lies in it and within 1.5 strides of its centre, and the farthest side fits its
    level: at most 4 strides away, except on the last level, and more than the level before takes, except on the
    first. Of several boxes it learns the smallest (FCOS, section 3.2, with the authors' later centre sampling). A box
    that wins no point this way, such as one that lies between the points, gets the nearest point of its level.
    """
    n, m = boxes.shape[:2]
    label, low, high = boxes[:, None, :, 0], boxes[:, None, :, 1:3], boxes[:, None, :, 3:5]
    place = points[None, :, None]
    sides = torch.cat([place - low, high - place], -1)  # (N, P, M, 4)
    step = strides[None, :, None]
    away = (place - (low + high) / 2).abs().amax(-1)
    farthest = sides.amax(-1)
    least = torch.where(strides == strides.min(), 0.0, _REACH * strides / 2)[None, :, None]
    most = torch.where(strides == strides.max(), torch.inf, _REACH * strides)[None, :, None]
    there = label >= 0
    inside = (sides.amin(-1) > 0) & (away < _RADIUS * step) & there
    fits = inside & (farthest > least) & (farthest <= most)
    area = (high - low).prod(-1).expand(n, len(points), m)
    # the size alone decides the level of a box that has no point
    half = (high - low).amax(-1) / 2
    near = torch.where((half > least) & (half <= most) & there, away, torch.inf)
    lonely = there[:, 0] & ~fits.any(1)
    fallback = torch.zeros_like(fits).scatter_(1, near.argmin(1, keepdim=True), lonely[:, None])
    fits = fits | (fallback & there)
    best, chosen = torch.where(fits, area, torch.inf).min(-1)
    positive = torch.isfinite(best)
    picked = sides.gather(2, chosen[..., None, None].expand(-1, -1, 1, 4))[:, :, 0] / strides[None, :, None]
    picked = picked.clamp(min=_NEAREST)
    labels = label.expand(-1, len(points), -1).gather(2, chosen[..., None])[..., 0].long()
    return Assignment(
        label=torch.where(positive, labels, -1), distances=picked, centre=torch.where(positive, centreness(picked), 0.0)
    )


def centreness(distances: Tensor) -> Tensor:
    """(..., 4) distances to left, top, right, bottom -> (...) in (0, 1]; FCOS, equation 3."""
    across, down = distances[..., 0::2], distances[..., 1::2]
    ratio = (across.amin(-1) / across.amax(-1)) * (down.amin(-1) / down.amax(-1))
    return ratio.clamp(0, 1).sqrt()
