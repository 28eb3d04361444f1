"""What the probe looks at: a shallower depth setting, fewer beams, tissue pressed out of shape.

These change the geometry, so labels, dense targets, boxes and beams follow. The zoom about the probe's face and its
reason (an affine change elsewhere breaks the beams' shape) follow Singla et al., "Speckle and Shadows", MIDL 2022; the
smooth displacement is the elastic deformation of Simard, Steinkraus and Platt (ICDAR 2003), for ultrasound argued by
Tirindelli et al., "Rethinking ultrasound augmentation" (MICCAI 2021), there from the probe's pressure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_sdk.augment.beams import BEAMS, beams_of
from edge_sdk.augment.decibels import column
from edge_sdk.augment.draws import uniform
from edge_sdk.augment.geometry import keep_boxes, map_fields
from edge_sdk.batch import Batch, Field
from edge_sdk.config import UltrasoundAugmentConfig

__all__ = ["change_view"]

_NODES = 5
_ROUNDS = 12


def change_view(
    batch: Batch, config: UltrasoundAugmentConfig, scale: tuple[float, float], generator: torch.Generator
) -> Batch:
    """The batch after one draw per sample of depth setting, displacement and width of the sector.

    `scale` is (mean, std) of the preprocessing's `Normalize`: what is cut off becomes black, label 0 and, in a dense
    field, its background (the lowest value of a single channel; of several, the values where channel 0 is highest).
    Off settings draw nothing.
    """
    if config.depth > 0 or config.elastic > 0:
        batch = _warped(batch, _draw_warp(batch, config, scale, generator))
    if config.depth > 0 or config.narrow > 0:
        batch = _cut(batch, config, scale, generator)
    return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Warp:
    """Output place p (x, y) in [-1, 1] shows input place `face + (p - face) * side + bend(p)`.

    `face` (N, 2), `side` (N,) up to 1, `bend` (N, 2, H, W) in the same units.
    """

    face: Tensor
    side: Tensor
    bend: Tensor

    def grid(self) -> Tensor:
        """(N, H, W, 2): the input place of every output pixel, as `grid_sample` takes it."""
        n, _, height, width = self.bend.shape
        theta = torch.tensor([[1.0, 0, 0], [0, 1, 0]], device=self.bend.device).expand(n, 2, 3)
        here = F.affine_grid(theta, [n, 1, height, width], align_corners=False)
        face = self.face[:, None, None]
        return face + (here - face) * self.side.view(-1, 1, 1, 1) + self.bend.permute(0, 2, 3, 1)

    def back(self, points: Tensor) -> Tensor:
        """Output places of the input places `points` (N, K, 2), by fixed-point iteration (a contraction)."""
        face, side = self.face[:, None], self.side[:, None, None]
        place = points
        for _ in range(_ROUNDS):
            bend = F.grid_sample(self.bend, place[:, None], padding_mode="border", align_corners=False)
            place = face + (points - face - bend[:, :, 0].transpose(1, 2)) / side
        return place


def _draw_warp(
    batch: Batch, config: UltrasoundAugmentConfig, scale: tuple[float, float], generator: torch.Generator
) -> _Warp:
    n, _, height, width = batch.inputs.shape
    device = batch.inputs.device
    side = torch.ones(n, device=device)
    face = torch.tensor([0.0, -1.0], device=device).expand(n, 2)
    if config.depth > 0:
        side = 1 - uniform(n, 0.0, config.depth, generator).to(device)
        if BEAMS in batch.targets:
            face = _face(batch, scale)
    bend = torch.zeros((n, 2, height, width), device=device)
    if config.elastic > 0:
        amount = uniform(n, 0.0, config.elastic, generator)
        nodes = torch.rand((n, 2, _NODES, _NODES), generator=generator) * 2 - 1
        nodes = (nodes * column(amount, nodes)).to(device)
        smooth = F.interpolate(nodes, size=(height, width), mode="bicubic", align_corners=True)
        pixels = min(height, width)
        bend = smooth * torch.tensor([2 * pixels / width, 2 * pixels / height], device=device).view(1, 2, 1, 1)
    return _Warp(face=face, side=side, bend=bend)


def _face(batch: Batch, scale: tuple[float, float]) -> Tensor:
    """(N, 2): where the middle beam leaves the probe, x and y in [-1, 1]."""
    height, width = batch.inputs.shape[2:]
    beams = beams_of(batch, batch.inputs * scale[1] + scale[0])
    away = beams.depth.abs() + 0.1 * beams.lateral.abs()
    index = torch.where(beams.inside, away, away + 1e3).flatten(1).argmin(dim=1)
    x, y = index % width, index // width
    return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=1)


def _warped(batch: Batch, warp: _Warp) -> Batch:
    grid = warp.grid()
    height, width = batch.inputs.shape[2:]

    def pixels(x: Tensor, nearest: bool) -> Tensor:
        places = grid
        if x.shape[2:] != grid.shape[1:3]:
            places = F.interpolate(grid.permute(0, 3, 1, 2), size=x.shape[2:], mode="bilinear", align_corners=False)
            places = places.permute(0, 2, 3, 1)
        mode = "nearest" if nearest else "bilinear"
        return F.grid_sample(x, places, mode=mode, padding_mode="border", align_corners=False)

    moved = map_fields(batch, pixels, lambda boxes: _move_boxes(boxes, warp, height, width))
    if BEAMS in moved.targets:
        planes = moved.targets[BEAMS].values.clone()
        planes[:, 0] = planes[:, 0] / warp.side.view(-1, 1, 1)
        planes[:, 2] = planes[:, 2] * (planes[:, 0] <= 1)
        moved = _with_beams(moved, planes)
    return moved


def _with_beams(batch: Batch, planes: Tensor) -> Batch:
    return replace(batch, targets={**batch.targets, BEAMS: Field(values=planes, kind="dense")})


def _move_boxes(boxes: Tensor, warp: _Warp, height: int, width: int) -> Tensor:
    """Boxes whose sides lie at the mean place of their moved middle halves, where a round object touches them."""
    n, m = boxes.shape[:2]
    size = torch.tensor([width, height], dtype=torch.float32, device=boxes.device)
    low, high = boxes[..., 1:3], boxes[..., 3:5]
    shares = torch.linspace(0.25, 0.75, 5, device=boxes.device)
    middle = low[..., None, :] + (high - low)[..., None, :] * shares[:, None]  # (N, M, 5, 2)
    sides = []
    for axis, edge in ((0, low), (0, high), (1, low), (1, high)):
        points = middle.clone()
        points[..., axis] = edge[..., axis : axis + 1]
        back = warp.back((points * 2 / size - 1).view(n, -1, 2)).view(n, m, -1, 2)
        sides.append(((back[..., axis] + 1) / 2 * size[axis]).mean(dim=-1))
    moved = torch.stack([sides[0], sides[2], sides[1], sides[3]], dim=-1)
    return keep_boxes(boxes, moved[..., :2], moved[..., 2:], size)


def _cut(
    batch: Batch, config: UltrasoundAugmentConfig, scale: tuple[float, float], generator: torch.Generator
) -> Batch:
    """Beams at the sides go dark; with given beams, so does what lies below the new depth."""
    n, (mean, std) = len(batch.inputs), scale
    beams = beams_of(batch, (batch.inputs * std + mean).clamp(0, 1))
    seen = beams.inside if beams.given else torch.ones_like(beams.inside)
    if config.narrow > 0:
        half = 1 - uniform(n, 0.0, config.narrow, generator)
        centre = (torch.rand(n, generator=generator) * 2 - 1) * (1 - half)
        seen = seen & ((beams.lateral - column(centre, beams.lateral)).abs() <= column(half, beams.lateral))

    def pixels(x: Tensor, nearest: bool) -> Tensor:
        shown = F.interpolate(seen.float(), size=x.shape[2:], mode="nearest") > 0.5
        return torch.where(shown, x, torch.zeros_like(x) if nearest else _background(x))

    cut = map_fields(batch, pixels, lambda boxes: _cut_boxes(boxes, seen[:, 0]))
    if beams.given:
        planes = batch.targets[BEAMS].values.clone()
        shown = F.interpolate(seen.float(), size=planes.shape[2:], mode="nearest")
        planes[:, 2:] = planes[:, 2:] * shown
        cut = _with_beams(cut, planes)
    black = torch.full_like(batch.inputs, -mean / std)
    return replace(cut, inputs=torch.where(seen, batch.inputs, black))


def _background(x: Tensor) -> Tensor:
    """(N, C, 1, 1): what a dense field (N, C, h, w) holds where there is nothing."""
    flat = x.flatten(2)
    if x.shape[1] == 1:
        return flat.amin(dim=2)[..., None, None]
    index = flat[:, 0].argmax(dim=1).view(-1, 1, 1).expand(-1, x.shape[1], 1)
    return flat.gather(2, index)[..., None]


def _cut_boxes(boxes: Tensor, seen: Tensor) -> Tensor:
    """Boxes around the pixels of theirs that are seen (N, H, W)."""
    _, height, width = seen.shape
    y = torch.arange(height, device=boxes.device) + 0.5
    x = torch.arange(width, device=boxes.device) + 0.5
    rows = (y >= boxes[..., 2:3]) & (y < boxes[..., 4:5])  # (N, M, H)
    columns = (x >= boxes[..., 1:2]) & (x < boxes[..., 3:4])
    visible = seen[:, None] & rows[..., None] & columns[:, :, None]
    whole = rows.sum(-1) * columns.sum(-1)
    kept = visible.sum((-1, -2)) >= 0.999 * whole
    some_columns, some_rows = visible.any(dim=-2), visible.any(dim=-1)
    low = torch.stack([some_columns.float().argmax(-1), some_rows.float().argmax(-1)], dim=-1).float()
    high = torch.stack(
        [width - some_columns.flip(-1).float().argmax(-1), height - some_rows.flip(-1).float().argmax(-1)], dim=-1
    ).float()
    low, high = boxes[..., 1:3].maximum(low), boxes[..., 3:5].minimum(high)
    share = visible.sum((-1, -2)) / whole.clamp_min(1)
    size = torch.tensor([width, height], dtype=torch.float32, device=boxes.device)
    return torch.where(kept[..., None], boxes, keep_boxes(boxes, low, high, size, share))
