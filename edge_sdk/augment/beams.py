"""Where a pixel lies along and across the beams of its image: depth, lateral place, scan area.

Whatever follows the beams (attenuation, shadows, speckle, gain sliders) is written in these two coordinates and so
serves linear and sector images alike: a column of a linear image and a ray of a sector both have one lateral place.
The three planes travel with a frame as the "dense" field `BEAMS`, so that they take every flip, crop and rotation
of the frame. Without that field beams run straight down over the whole frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Rectangle, ScanArea, Sector
from edge_sdk.batch import Batch, Field

__all__ = ["BEAMS", "Beams", "beam_field", "beams_of", "scan_support"]

BEAMS = "beams"  # the name of the field among a batch's targets
_DARK = 2 / 255


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beams:
    """Planes (N, 1, H, W) of N frames, on the frames' device.

    `depth` float32 is 0 at the probe's face and 1 at the imaging depth; `lateral` float32 is -1 at the first and +1
    at the last beam; `inside` bool is true within the scan area. `given` is false for the default of straight beams.
    """

    depth: Tensor
    lateral: Tensor
    inside: Tensor
    given: bool


def beam_field(areas: Sequence[ScanArea | None], shape: tuple[int, int], *, step: int = 1) -> Field:
    """The field to put into `TrainingSet.targets[BEAMS]`: (N, 3, ceil(H / step), ceil(W / step)) float32.

    `areas` are the scan areas of N network inputs of `shape` (H, W), in their pixels (`FrameGeometry.moved` takes an
    area through a preprocessing); None means straight beams over the whole frame. `step` > 1 keeps coarser planes.
    Planes: depth, lateral place, and 1 inside the scan area. Raises `ConfigError` for a size or step below 1 and for
    an empty list.
    """
    height, width = shape
    if not areas or height < 1 or width < 1 or step < 1:
        raise ConfigError(
            f"{len(areas)} scan areas for frames of {shape} with step {step}; at least one area, a size and a step "
            "of 1 or more are needed"
        )
    rows, columns = -(-height // step), -(-width // step)
    y = ((np.arange(rows) + 0.5) * height / rows - 0.5)[:, None]
    x = ((np.arange(columns) + 0.5) * width / columns - 0.5)[None, :]
    planes = np.stack([_planes(area, x, y, height, width) for area in areas])
    return Field(values=torch.from_numpy(planes), kind="dense")


def _planes(
    area: ScanArea | None,
    x: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    y: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    height: int,
    width: int,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if isinstance(area, Sector):
        across, down = (x - area.apex_x) / area.aspect, y - area.apex_y
        depth = (np.hypot(across, down) - area.radius_min) / (area.radius_max - area.radius_min)
        span = area.angle_max - area.angle_min
        lateral = 2 * (np.arctan2(across, down) - area.angle_min) / span - 1
        inside = (depth >= 0) & (depth <= 1) & (np.abs(lateral) <= 1)
    else:
        # a pixel is half open around its centre, so the edges lie half a pixel outside the first and last centre
        box = area or Rectangle(x0=-0.5, y0=-0.5, x1=width - 0.5, y1=height - 0.5)
        depth = (y - box.y0) / (box.y1 - box.y0) + 0 * x
        lateral = 2 * (x - box.x0) / (box.x1 - box.x0) - 1 + 0 * y
        inside = (depth >= 0) & (depth < 1) & (lateral >= -1) & (lateral < 1)
    return np.stack([depth, lateral, inside]).astype(np.float32)


def beams_of(batch: Batch, grey: Tensor) -> Beams:
    """The beams of a batch whose inputs have grey values `grey` (N, C, H, W) in [0, 1].

    From the field `BEAMS` where there is one. Otherwise beams run straight down, and the scan area is found from the
    grey values by `scan_support`. Raises `ConfigError` for a field that does not have three planes.
    """
    n, _, height, width = grey.shape
    if BEAMS not in batch.targets:
        planes = beam_field([None], (height, width)).values.to(grey.device)
        depth, lateral = (planes[:, k : k + 1].expand(n, 1, height, width) for k in (0, 1))
        return Beams(depth=depth, lateral=lateral, inside=scan_support(grey), given=False)
    planes = batch.targets[BEAMS].values
    if planes.dim() != 4 or planes.shape[1] != 3:
        raise ConfigError(f"the field {BEAMS!r} is {tuple(planes.shape)}; (N, 3, h, w) from beam_field is needed")
    if planes.shape[2:] != grey.shape[2:]:
        planes = F.interpolate(planes, size=grey.shape[2:], mode="bilinear", align_corners=False)
    return Beams(depth=planes[:, :1], lateral=planes[:, 1:2], inside=planes[:, 2:] > 0.5, given=True)


def scan_support(grey: Tensor) -> Tensor:
    """(N, 1, H, W) bool: a guess at the scan area of frames (N, C, H, W) in [0, 1], from what is not black.

    A pixel belongs to it when something brighter than 2/255 lies left and right of it in its row and above and below
    it in its column. Linear and sector areas are convex, so this fills dark regions within and leaves out the
    surround; a bright overlay outside the area widens it. Exactly black frames have none.
    """
    bright = (grey.amax(dim=1, keepdim=True) > _DARK).float()

    def between(dim: int) -> Tensor:
        before = bright.cummax(dim=dim).values
        after = bright.flip(dim).cummax(dim=dim).values.flip(dim)
        return (before * after) > 0

    return between(-1) & between(-2)
