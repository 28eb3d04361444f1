"""Lengths and areas of a region from its sub-pixel outline, each with a standard uncertainty.

Two sources of doubt, taken as independent (JCGM 100:2008, equation 10): the size of a pixel, known to a share `rel`,
which scales every length; and the place of the boundary, which a calibrated probability describes: read as P(inside)
across a boundary that is blurred by a Gaussian, its slope at the crossing is 1 / (sigma sqrt(2 pi)), so that
sigma = 1 / (sqrt(2 pi) |grad p|). How the errors of neighbouring points hang together is not known; the boundary is
taken to move in or out as a whole, which no other correlation exceeds to first order (the standard deviation of a sum
is at most the sum of the standard deviations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.ellipse import Ellipse, fit_points, largest_region

__all__ = ["Outline", "Uncertain", "distance_mm", "outline"]

_FLATTEST = 0.02  # slope a pixel; where a saddle of the map is flatter than that its width says nothing
# corners top left 8, top right 4, bottom right 2, bottom left 1; edges top 0, right 1, bottom 2, left 3. Inside lies
# to the right of each segment in an image whose y points down, and diagonal neighbours inside are joined
_SEGMENTS = {
    1: ((3, 2),), 2: ((2, 1),), 3: ((3, 1),), 4: ((1, 0),), 5: ((3, 0), (1, 2)), 6: ((2, 0),), 7: ((3, 0),),
    8: ((0, 3),), 9: ((0, 2),), 10: ((0, 1), (2, 3)), 11: ((0, 1),), 12: ((1, 3),), 13: ((1, 2),), 14: ((2, 3),),
}  # fmt: skip
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertain:
    """A value and its standard uncertainty (1 sigma), in the same unit."""

    value: float
    sigma: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outline:
    """Straight segments `starts` to `ends`, (n, 2) positions (x, y) in mm, each with `sigma` (n,), the standard
    uncertainty of the boundary across it in mm. `cut` when the image ends before the region does.

    `rel` is the standard uncertainty of the pixel size over the pixel size.
    """

    starts: Floats
    ends: Floats
    sigma: Floats
    cut: bool

    def area(self, rel: float) -> Uncertain:
        """mm^2 inside; Var = (2 rel A)^2 + (integral of sigma along the outline)^2."""
        (x0, y0), (x1, y1) = self.starts.T, self.ends.T
        value = abs(float((x0 * y1 - x1 * y0).sum())) / 2
        return Uncertain(value=value, sigma=math.hypot(2 * rel * value, float((self._lengths * self.sigma).sum())))

    def perimeter(self, rel: float) -> Uncertain:
        """mm around; Var = (rel P)^2 + (2 pi sigma)^2, as a parallel curve at distance d is 2 pi d longer (Steiner)."""
        value = float(self._lengths.sum())
        return Uncertain(value=value, sigma=math.hypot(rel * value, 2 * math.pi * self.mean_sigma))

    def diameter(self, rel: float) -> Uncertain:
        """Largest distance in mm of two points of the outline; Var = (rel D)^2 + (2 sigma)^2, sigma at each end.

        Of the outermost points in every direction, 1 degree apart: at most 1 - cos(0.5 degrees) = 4e-5 too short.
        """
        turn = np.deg2rad(np.arange(180))
        along = self.starts @ np.stack([np.cos(turn), np.sin(turn)])
        apart = self.starts[along.argmax(axis=0)] - self.starts[along.argmin(axis=0)]
        value = float(np.hypot(*apart.T).max())
        return Uncertain(value=value, sigma=math.hypot(rel * value, 2 * self.mean_sigma))

    def ellipse(self) -> Ellipse | None:
        """The least-squares ellipse of the outline in mm (`fit_points`), or None where none fits."""
        return fit_points(self.starts)

    def axis(self, axis: float, rel: float) -> Uncertain:
        """A whole axis of an ellipse from its half, both in mm: as a diameter."""
        return Uncertain(value=2 * axis, sigma=math.hypot(2 * rel * axis, 2 * self.mean_sigma))

    def circumference(self, ellipse: Ellipse, rel: float) -> Uncertain:
        """mm around an ellipse: as a perimeter."""
        value = ellipse.circumference
        return Uncertain(value=value, sigma=math.hypot(rel * value, 2 * math.pi * self.mean_sigma))

    @property
    def mean_sigma(self) -> float:
        """Mean of `sigma` along the outline, mm."""
        return float((self._lengths * self.sigma).sum() / self._lengths.sum())

    @property
    def _lengths(self) -> Floats:
        return np.asarray(np.hypot(*(self.ends - self.starts).T))


def distance_mm(a: Uncertain, b: Uncertain, rel: float) -> Uncertain:
    """Distance of two positions on one line, each in mm with its own doubt; Var = (rel d)^2 + sigma_a^2 + sigma_b^2."""
    value = abs(a.value - b.value)
    return Uncertain(value=value, sigma=math.hypot(rel * value, a.sigma, b.sigma))


def outline(
    probability: npt.NDArray[Any], spacing: tuple[float, float], *, shear: float = 0.0, level: float = 0.5
) -> Outline | None:
    """The outer outline of the largest 8-connected region above `level`, holes filled; None when there is none.

    `probability` (H, W) float, `spacing` (row, column) in mm, `shear` the x shift in mm per mm of y. Marching squares
    with linear interpolation (Lorensen and Cline 1987, in the plane). A mask of 0 and 1 is measured too, with the
    staircase of its pixels: up to 8 % too long around. Raises `ConfigError` for another shape, values that are not
    finite, or spacing that is not positive.
    """
    if probability.ndim != 2 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ConfigError(
            f"map of {probability.shape}, spacing {tuple(spacing)}; (H, W) and two positive mm are needed"
        )
    above = probability > level
    if not above.any():
        return None
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    box = slice(top, rows[-1] + 2), slice(left, columns[-1] + 2)
    values = probability[box].astype(np.float64)
    if not np.isfinite(values).all():
        raise ConfigError(f"{int((~np.isfinite(values)).sum())} of {values.size} probabilities are not finite")
    inside = largest_region(above[box])
    # the box has a ring of background on every side but those where the image ends
    cut = bool(inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any())
    starts, ends, slope = _segments(values, inside, level, spacing, shear)
    if not len(starts):
        return None
    flattest = _FLATTEST / max(spacing)
    sigma = 1 / (math.sqrt(2 * math.pi) * np.maximum(slope, flattest))
    to_mm = np.array([[spacing[1], 0.0], [shear * spacing[0], spacing[0]]])
    offset = np.array([left, top], np.float64)
    return Outline(starts=(starts + offset) @ to_mm, ends=(ends + offset) @ to_mm, sigma=sigma, cut=cut)


def _segments(
    values: Floats, inside: npt.NDArray[np.bool_], level: float, spacing: tuple[float, float], shear: float
) -> tuple[Floats, Floats, Floats]:
    """Starts and ends in pixels (x, y), and the slope of the map in 1 / mm at each, cell by cell."""
    bit = inside.astype(np.uint8)
    code = bit[:-1, :-1] << 3 | bit[:-1, 1:] << 2 | bit[1:, 1:] << 1 | bit[1:, :-1]
    rows, columns = np.nonzero((code != 0) & (code != 15))
    crossed = code[rows, columns]
    starts, ends, slopes = [np.empty((0, 2))], [np.empty((0, 2))], [np.empty(0)]
    for number, segments in _SEGMENTS.items():
        chosen = crossed == number
        y, x = rows[chosen], columns[chosen]
        a, b, c, d = values[y, x], values[y, x + 1], values[y + 1, x + 1], values[y + 1, x]
        gx, gy = ((b + c) - (a + d)) / (2 * spacing[1]), ((c + d) - (a + b)) / (2 * spacing[0])
        slope = np.hypot(gx, gy - shear * gx)
        zero, one = np.zeros(len(y)), np.ones(len(y))
        with np.errstate(divide="ignore", invalid="ignore"):  # edges that are not crossed are not asked for
            ways = [(level - p) / (q - p) for p, q in ((a, b), (b, c), (d, c), (a, d))]
        edges = [(ways[0], zero), (one, ways[1]), (ways[2], one), (zero, ways[3])]
        for begin, end in segments:
            starts.append(np.stack([x + edges[begin][0], y + edges[begin][1]], axis=1))
            ends.append(np.stack([x + edges[end][0], y + edges[end][1]], axis=1))
            slopes.append(slope)
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(slopes)
