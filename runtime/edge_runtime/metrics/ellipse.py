"""An ellipse fitted to a mask or probability map, and its circumference: how a fetal head is measured.

Positions are in mm, x to the right and y down, with the centre of the first pixel at (0, 0). The contour runs
where the probability crosses the level between two neighbouring pixels, by linear interpolation, so a mask
gives the middle between the two. No contour is taken along the edge of the image: what the image cuts off is
extrapolated by the fit, not flattened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

__all__ = ["Ellipse", "Method", "contour_points", "fit_ellipse", "fit_points", "head_circumference", "largest_region"]

Method = Literal["contour", "moments"]
Spacing = Sequence[float]
Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipse:
    """Centre (x, y), semi-axes a >= b, all in the unit of the points fitted (mm); `angle` of a from x towards y, rad,
    0 <= angle < pi.
    """

    x: float
    y: float
    a: float
    b: float
    angle: float

    @property
    def circumference(self) -> float:
        """Perimeter by Ramanujan's second formula (1914); relative error below 1e-9 for b/a above 0.4.

        pi (a + b) (1 + 3h / (10 + sqrt(4 - 3h))), h = ((a - b) / (a + b))^2.
        """
        h = ((self.a - self.b) / (self.a + self.b)) ** 2
        return math.pi * (self.a + self.b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))

    @property
    def area(self) -> float:
        """pi a b."""
        return math.pi * self.a * self.b

    def points(self, n: int = 360) -> Points:
        """(n, 2) positions (x, y) on the ellipse, for drawing."""
        t = np.linspace(0, 2 * math.pi, n, endpoint=False)
        c, s = math.cos(self.angle), math.sin(self.angle)
        u, v = self.a * np.cos(t), self.b * np.sin(t)
        return np.stack([self.x + c * u - s * v, self.y + s * u + c * v], axis=1)


def head_circumference(
    mask_or_probability: npt.NDArray[Any],
    spacing: Spacing,
    *,
    method: Method = "contour",
    level: float = 0.5,
    contour_offset_mm: float = 0.0,
) -> float:
    """Circumference in mm of the ellipse fitted to the largest region; NaN when none can be fitted.

    As `fit_ellipse`. `contour_offset_mm` moves both semi-axes outwards (inwards when negative), for masks that were
    filled on another line than the reference was measured on. On the 161 HC18 training masks of the project the
    masks' ellipses lie 1.356 pixels of the original image outside the published circumference (sd 0.029 pixels, the
    same for every head size): without a correction the error is +0.70 % (sd 0.19 %), with
    `contour_offset_mm = -1.356 * pixel_size_mm` it is 0.02 mm in the mean (sd 0.02 mm). A constant factor instead
    leaves 0.20 mm.
    """
    if not math.isfinite(contour_offset_mm):
        raise ConfigError(f"contour_offset_mm {contour_offset_mm}; a finite number of mm is needed, 0 for none")
    ellipse = fit_ellipse(mask_or_probability, spacing, method=method, level=level)
    if ellipse is None or ellipse.b + contour_offset_mm <= 0:
        return math.nan
    return replace(ellipse, a=ellipse.a + contour_offset_mm, b=ellipse.b + contour_offset_mm).circumference


def fit_ellipse(
    mask_or_probability: npt.NDArray[Any], spacing: Spacing, *, method: Method = "contour", level: float = 0.5
) -> Ellipse | None:
    """The ellipse of the largest region above `level`, holes filled; `mask_or_probability` is (H, W), spacing
    (row, column) in mm, which may differ.

    Args:
        mask_or_probability: boolean or integer mask (non-zero is inside), or float probabilities 0 to 1.
        spacing: mm of one row and one column.
        method: "contour" is the direct least-squares fit to the sub-pixel contour (`fit_points`); "moments" the ellipse
            with the region's centre and second moments (semi-axes 2 sqrt(eigenvalue)), which uses the whole area but is
            wrong where the image cuts the object off.
        level: the probability at the contour; a mask ignores it.

    Returns:
        None when the region is empty or too small or thin for an ellipse (fewer than 6 contour points, no extent).

    Raises:
        ConfigError: not (H, W), spacing that is not positive, values that are not finite, an unknown method.
    """
    plane = _plane(mask_or_probability, spacing)
    level = level if mask_or_probability.dtype.kind == "f" else 0.5
    if method == "moments":
        return _moments(largest_region(plane > level), spacing)
    if method != "contour":
        raise ConfigError(f"ellipse method {method!r}; 'contour' or 'moments'")
    return fit_points(contour_points(plane, spacing, level=level))


def largest_region(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest 8-connected region of (H, W), holes filled; all False when the mask is empty.

    A hole is background that no 4-connected path joins to the outside of the image.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.bool_)
    cv2 = require("cv2", "to find connected regions")
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    outside = np.pad(labels != best, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    return np.asarray(outside[1:-1, 1:-1] != 2)


def contour_points(plane: npt.NDArray[Any], spacing: Spacing, *, level: float = 0.5) -> Points:
    """(n, 2) positions (x, y) in mm where the outer border of the largest region crosses `level`, in no order.

    The edge points of marching squares (Lorensen and Cline 1987, in the plane): one for every horizontally or
    vertically neighbouring pair of pixels with one inside and one outside.
    """
    values = _plane(plane, spacing)
    inside = largest_region(values > level)
    found = []
    for axis in (0, 1):
        first, second = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
        low, high, p, q = inside[first], inside[second], values[first], values[second]
        at = np.argwhere(low != high)
        before, after = p[at[:, 0], at[:, 1]], q[at[:, 0], at[:, 1]]
        position = at.astype(np.float64)
        position[:, axis] += (level - before) / (after - before)
        found.append(position[:, ::-1])
    return np.concatenate(found) * np.array([spacing[1], spacing[0]], np.float64)


def fit_points(points: Points) -> Ellipse | None:
    """The direct least-squares ellipse of (n, 2) positions (x, y): Fitzgibbon, Pilu and Fisher, PAMI 21 (1999), in the
    numerically stable form of Halir and Flusser (WSCG 1998).

    None for fewer than 6 points or points that no ellipse fits (a line, one pixel). Raises `ConfigError` for another
    shape.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise ConfigError(f"points have shape {points.shape}; (n, 2) is needed")
    if len(points) < 6:
        return None
    centre = points.mean(axis=0)
    size = float(np.sqrt(((points - centre) ** 2).sum(axis=1).mean()))
    if not size > 0:
        return None
    x, y = ((points - centre) / size).T
    quadratic, linear = np.stack([x * x, x * y, y * y], axis=1), np.stack([x, y, np.ones_like(x)], axis=1)
    s1, s2, s3 = quadratic.T @ quadratic, quadratic.T @ linear, linear.T @ linear
    if np.linalg.cond(s3) > 1e10:
        return None
    t = -np.linalg.solve(s3, s2.T)
    m = s1 + s2 @ t
    # the inverse of the constraint matrix 4AC - B^2 = 1 applied from the left
    _, vectors = np.linalg.eig(np.stack([m[2] / 2, -m[1], m[0] / 2]))
    vectors = vectors.real
    condition = 4 * vectors[0] * vectors[2] - vectors[1] ** 2
    if not (condition > 1e-12).any():
        return None
    conic = vectors[:, int(np.argmax(condition))]
    return _from_conic(np.concatenate([conic, t @ conic]), centre, size)


def _from_conic(conic: Points, centre: Points, size: float) -> Ellipse | None:
    """The ellipse A x^2 + B xy + C y^2 + D x + E y + F = 0, scaled back by `size` about `centre`."""
    a, b, c, d, e, f = conic
    quadratic = np.array([[a, b / 2], [b / 2, c]])
    middle = np.linalg.solve(quadratic, [-d / 2, -e / 2])
    rest = f + (d * middle[0] + e * middle[1]) / 2
    values, vectors = np.linalg.eigh(quadratic)
    squares = -rest / values
    if not (np.isfinite(squares).all() and (squares > 0).all()):
        return None
    major = int(np.argmax(squares))
    return _ellipse(middle * size + centre, np.sqrt(squares) * size, vectors[:, major], major)


def _moments(region: npt.NDArray[np.bool_], spacing: Spacing) -> Ellipse | None:
    """Teague, J. Opt. Soc. Am. 70 (1980): the uniform ellipse of equal centre and second moments."""
    at = np.argwhere(region)[:, ::-1] * np.array([spacing[1], spacing[0]], np.float64)
    if len(at) < 6:
        return None
    middle = at.mean(axis=0)
    values, vectors = np.linalg.eigh((at - middle).T @ (at - middle) / len(at))
    if not values[0] > 0:
        return None
    return _ellipse(middle, 2 * np.sqrt(values), vectors[:, 1], 1)


def _ellipse(middle: Points, axes: Points, direction: Points, major: int) -> Ellipse:
    angle = math.atan2(direction[1], direction[0]) % math.pi
    return Ellipse(x=float(middle[0]), y=float(middle[1]), a=float(axes[major]), b=float(axes[1 - major]), angle=angle)


def _plane(plane: npt.NDArray[Any], spacing: Spacing) -> npt.NDArray[np.float64]:
    """(H, W) as float64; masks become 0 and 1."""
    if plane.ndim != 2:
        raise ConfigError(f"a mask of shape {plane.shape} for an ellipse; (H, W) is needed, one image at a time")
    if len(spacing) != 2 or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ConfigError(f"spacing {tuple(spacing)}; two positive numbers are needed, mm of a row and of a column")
    if plane.dtype.kind in "biu":
        return np.asarray(plane != 0, np.float64)
    values: Points = plane.astype(np.float64)
    if not np.isfinite(values).all():
        raise ConfigError(f"{int((~np.isfinite(values)).sum())} of {values.size} probabilities are not finite")
    return values
