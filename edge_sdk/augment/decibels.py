"""Changes of echo strength in decibels, on log-compressed grey values.

A B-mode grey value g in [0, 1] is 1 + 20 log10(amplitude) / range, so that losses and gains in decibels add to it.
Black (the surround, overlays) stays black: losses end there, and gains fade out towards it, because an echo below the
dynamic range is unknown and must not become a flat grey.

Sources: depth attenuation after Ostvik et al., IEEE Trans. Med. Imaging 40(5), 2021 ("Myocardial function imaging in
echocardiography using deep learning"), there a factor on grey values and here a loss in dB; time-gain compensation
and shadows along the beams after Singla et al., "Speckle and Shadows", MIDL 2022; the earlier Gaussian shadow is
Smistad et al., IEEE Trans. UFFC 65(9), 2018. Every draw is one per frame.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_sdk.augment.beams import Beams
from edge_sdk.augment.draws import uniform

__all__ = ["add_decibels", "attenuation", "column", "haze", "shadow", "tgc"]

_FADE = 0.15  # grey value below which a gain fades towards none at black
_SLIDERS = 8


def column(values: Tensor, like: Tensor) -> Tensor:
    """(N,) values as (N, 1, 1, 1) on the device of `like`."""
    return values.view(-1, 1, 1, 1).to(like.device)


def add_decibels(grey: Tensor, decibels: Tensor, range_db: float) -> Tensor:
    """Grey values (N, C, H, W) in [0, 1] after a change of `decibels` (N, 1, H, W) of echo strength, in [0, 1].

    Losses apply in full; gains in full above grey 0.15 and in proportion to the grey value below. The order of grey
    values is kept where the change is the same.
    """
    change = decibels / range_db
    gain = change.clamp_min(0) * (grey / _FADE).clamp(0, 1)
    return (grey + gain + change.clamp_max(0)).clamp(0, 1)


def attenuation(beams: Beams, largest_db: float, generator: torch.Generator) -> Tensor:
    """(N, 1, H, W) dB, zero or less: a loss that grows in proportion to depth, up to `largest_db` at full depth.

    The amplitude so falls exponentially along the beam: 2 a f z dB for a one-way coefficient a in dB/(cm MHz), a
    frequency f in MHz and a depth z in cm. 0.2 dB/(cm MHz) more than the gain expects are 14 dB at 3.5 MHz and 10 cm.
    """
    loss = uniform(len(beams.depth), 0.0, largest_db, generator)
    return -column(loss, beams.depth) * beams.depth.clamp_min(0)


def tgc(beams: Beams, largest_db: float, generator: torch.Generator) -> Tensor:
    """(N, 1, H, W) dB: eight gain sliders, each off by up to `largest_db` either way, smooth between them.

    The curve through the sliders is piecewise cubic with zero slope at each of them, so it never overshoots them.
    """
    n = len(beams.depth)
    sliders = ((torch.rand((n, _SLIDERS), generator=generator) * 2 - 1) * largest_db).to(beams.depth.device)
    place = beams.depth.clamp(0, 1) * (_SLIDERS - 1)
    lower = place.floor().clamp_max(_SLIDERS - 2)
    share = place - lower
    share = share * share * (3 - 2 * share)
    index = lower.long().flatten(1)
    low, high = (sliders.gather(1, index + k).view_as(place) for k in (0, 1))
    return low + (high - low) * share


def shadow(beams: Beams, probability: float, largest_db: float, generator: torch.Generator) -> Tensor:
    """(N, 1, H, W) dB, zero or less: with `probability`, one acoustic shadow per frame.

    It covers a tenth to half of the beams from a random depth (10 to 70 %) to the bottom, along the beams: a wedge in
    a sector, a strip in a linear image. Its edges are soft; `largest_db` / 3 to `largest_db` are lost in it, so a
    residual of bright echoes shows through.
    """
    n = len(beams.depth)
    present = (torch.rand(n, generator=generator) < probability).float()
    centre = uniform(n, -0.9, 0.9, generator)
    half = uniform(n, 0.1, 0.5, generator)
    start = uniform(n, 0.1, 0.7, generator)
    loss = uniform(n, largest_db / 3, largest_db, generator) * present
    centre, half, start, loss = (column(v, beams.depth) for v in (centre, half, start, loss))
    across = torch.sigmoid((half - (beams.lateral - centre).abs()) / (0.15 * half))
    along = torch.sigmoid((beams.depth - start) / 0.02)
    return -loss * across * along


def haze(grey: Tensor, beams: Beams, largest: float, range_db: float, generator: torch.Generator) -> Tensor:
    """Grey values (N, C, H, W) in [0, 1] under a smooth band of clutter of up to grey value `largest`.

    After the haze of Ostvik et al. 2021: a Gaussian profile around a random depth, here uneven by a smooth random
    field, and with powers added rather than grey values, as incoherent echoes add: haze lifts what is darker than
    itself and hardly changes what is brighter. Outside the scan area black stays black.
    """
    n, _, height, width = grey.shape
    level = uniform(n, 0.0, largest, generator)
    centre = uniform(n, 0.0, 0.6, generator)
    spread = uniform(n, 0.1, 0.35, generator)
    uneven = torch.rand((n, 1, 4, 4), generator=generator).to(grey.device)
    uneven = F.interpolate(uneven, size=(height, width), mode="bilinear", align_corners=True)
    level, centre, spread = (column(v, grey) for v in (level, centre, spread))
    profile = torch.exp(-0.5 * ((beams.depth - centre) / spread) ** 2)
    clutter = level * profile * (0.5 + 0.5 * uneven)
    power = range_db / 10 * torch.log(torch.tensor(10.0)).item()  # grey value to the logarithm of power
    # relative to black, so that no clutter changes nothing
    lifted = torch.log(torch.exp(grey * power) + torch.exp(clutter * power) - 1) / power
    return torch.where(beams.inside, lifted.clamp(0, 1), grey)
