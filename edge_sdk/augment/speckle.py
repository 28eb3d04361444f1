"""Speckle and resolution: interference noise with the statistics of theory, and a wider point-spread function.

Fully developed speckle is a circular complex Gaussian field, white noise seen through the point-spread function; its
intensity is exponential and its amplitude Rayleigh (Burckhardt, IEEE Trans. Sonics Ultrason. SU-25:1-6, 1978; Wagner,
Smith, Sandrik and Lopez, ibid. SU-30:156-163, 1983). In decibels the intensity I has mean -(10 / ln 10) 0.5772 =
-2.51 dB and standard deviation (10 / ln 10) pi / sqrt(6) = 5.57 dB, whatever the brightness, which is why speckle is
multiplicative in echoes and additive in a B-mode image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_sdk.augment.beams import Beams
from edge_sdk.augment.decibels import column
from edge_sdk.augment.draws import uniform

__all__ = ["blur", "speckle", "speckle_decibels"]

_MEAN_DB = -10 / math.log(10) * 0.5772156649015329
_TAPS = 4


def _kernels(sigma: Tensor, radius: int) -> Tensor:
    """(N, 2 radius + 1): Gaussian kernels of sum 1; a sigma of 0 is the unit pulse."""
    k = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (k / sigma.clamp_min(1e-3)[:, None]) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def _convolve(planes: Tensor, kernels: Tensor, dim: int) -> Tensor:
    """(N, C, H, W) along H (`dim` 2) or W (3) with a kernel per frame, the border repeated."""
    n, channels, height, width = planes.shape
    radius = kernels.shape[1] // 2
    weight = kernels.to(planes.device).repeat_interleave(channels, dim=0)[:, None]
    weight = weight[..., None] if dim == 2 else weight[:, :, None]
    padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
    flat = F.pad(planes.reshape(1, n * channels, height, width), padding, mode="replicate")
    return F.conv2d(flat, weight, groups=n * channels).view(n, channels, height, width)


def speckle_decibels(
    n: int, shape: tuple[int, int], axial_px: float, lateral_px: float, generator: torch.Generator
) -> Tensor:
    """(N, 1, H, W) dB: fully developed speckle of mean intensity 1, less its mean in dB.

    The point-spread function is Gaussian with standard deviations `axial_px` (rows) and `lateral_px` (columns), so
    the intensity's autocovariance is exp(-x^2 / 2 s^2) along each.
    """
    reach_y, reach_x = math.ceil(4 * axial_px), math.ceil(4 * lateral_px)
    field = torch.randn((n, 2, shape[0] + 2 * reach_y, shape[1] + 2 * reach_x), generator=generator)
    for dim, sigma, reach in ((2, axial_px, reach_y), (3, lateral_px, reach_x)):
        kernel = _kernels(torch.full((1,), sigma), reach)
        # unit energy instead of unit sum keeps the variance of white noise
        field = _convolve(field, (kernel / kernel.square().sum().sqrt()).expand(n, -1), dim)
    field = field[:, :, reach_y : reach_y + shape[0], reach_x : reach_x + shape[1]]
    intensity = field.square().sum(dim=1, keepdim=True) / 2
    return 10 * torch.log10(intensity.clamp_min(1e-6)) - _MEAN_DB


def speckle(beams: Beams, share: float, grain_px: float, generator: torch.Generator) -> Tensor:
    """(N, 1, H, W) dB with mean zero: up to `share` of the decibels of fully developed speckle, a share per frame.

    The grain is `grain_px` along the beam and twice that across. Given beams draw it on a (depth, lateral) grid and
    convert it to the image, so the grain of a sector widens with depth.
    """
    n, _, height, width = beams.depth.shape
    amount = uniform(n, 0.0, share, generator)
    grain = speckle_decibels(n, (height, width), grain_px, 2 * grain_px, generator).to(beams.depth.device)
    if beams.given:
        place = torch.cat([beams.lateral, beams.depth * 2 - 1], dim=1).permute(0, 2, 3, 1)
        grain = F.grid_sample(grain, place, mode="bilinear", padding_mode="border", align_corners=False)
    return grain * column(amount, grain)


def blur(grey: Tensor, beams: Beams, axial_px: float, lateral_px: float, generator: torch.Generator) -> Tensor:
    """Grey values (N, C, H, W) in [0, 1] seen through a wider Gaussian point-spread function.

    Its standard deviations are drawn up to `axial_px` along and `lateral_px` across the beam, in pixels. Straight
    beams are convolved; given beams are averaged over nine bilinear samples along and across the local beam, which
    blurs by up to half a pixel more. Outside the scan area black stays black.
    """
    n = len(grey)
    axial, lateral = uniform(n, 0.0, axial_px, generator), uniform(n, 0.0, lateral_px, generator)
    if beams.given:
        across, along = _directions(beams)
        blurred = _average_along(_average_along(grey, along, axial), across, lateral)
    else:
        blurred = _convolve(grey, _kernels(axial, math.ceil(3 * axial_px)), 2)
        blurred = _convolve(blurred, _kernels(lateral, math.ceil(3 * lateral_px)), 3)
    return torch.where(beams.inside, blurred.clamp(0, 1), grey)


def _directions(beams: Beams) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, H, W, 2) in pixels (x, y), across and along the beam, from the slope of the depth plane."""
    depth = beams.depth[:, 0]
    slope_y, slope_x = torch.gradient(depth, dim=(1, 2))
    along = F.normalize(torch.stack([slope_x, slope_y], dim=-1), dim=-1, eps=1e-9)
    return torch.stack([along[..., 1], -along[..., 0]], dim=-1), along


def _average_along(grey: Tensor, direction: Tensor, sigma: Tensor) -> Tensor:
    n, _, height, width = grey.shape
    theta = torch.tensor([[1.0, 0, 0], [0, 1, 0]], device=grey.device).expand(n, 2, 3)
    here = F.affine_grid(theta, [n, 1, height, width], align_corners=False)
    step = direction * torch.tensor([2 / width, 2 / height], device=grey.device) * column(sigma, grey)
    total, weights = torch.zeros_like(grey), 0.0
    for k in range(-_TAPS, _TAPS + 1):
        offset = 2.5 * k / _TAPS
        weight = math.exp(-0.5 * offset**2)
        sample = F.grid_sample(grey, here + offset * step, mode="bilinear", padding_mode="border", align_corners=False)
        total, weights = total + weight * sample, weights + weight
    return total / weights
