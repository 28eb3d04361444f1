"""Axial motion between two frames: block matching along the columns, and a robust fit of one depth profile to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["AxialFit", "AxialMatches", "fit_profile", "match_axially"]

Floats = npt.NDArray[np.float64]

LEAST_VARIANCE = 4.0  # grey levels squared; a block below it is flat: shadow, saturation, no tissue
BANDS = 6  # of depth, and of width, left out one after another to learn how sure a fit is
TUKEY = 4.685  # 95 % efficiency on Gaussian residuals
LEAST_SCATTER_MM = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AxialMatches:
    """Blocks found again: centres `x_mm`, `y_mm` (M,) from pixel (0, 0), `shift_mm` (M,) deeper, `ncc` (M,)."""

    x_mm: Floats
    y_mm: Floats
    shift_mm: Floats
    ncc: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AxialFit:
    """`shift = offset + tilt x + slope profile(y)`.

    `sigma` is the standard error of `slope`, the largest of the formal one and of those from leaving out bands of
    depth and of width; `scatter` the robust standard deviation of the residuals, mm; `inliers` the share of blocks
    that the fit kept.
    """

    offset: float
    tilt: float
    slope: float
    sigma: float
    scatter: float
    inliers: float


def match_axially(
    before: npt.NDArray[np.float32],
    after: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    pixel_mm: tuple[float, float],
    block_mm: tuple[float, float],
    search_mm: float,
    least_ncc: float,
) -> AxialMatches:
    """Blocks of `before` (H, W) looked for in `after` (H, W), up and down by at most `search_mm`.

    A block counts when it and its search range lie in `mask`, neither image is flat there, and the peak of the
    normalised correlation lies inside the range and reaches `least_ncc`. The peak is refined by a parabola. `pixel_mm`
    and `block_mm` are (axial, lateral). Correlation search after Lubinski, Emelianov and O'Donnell (IEEE UFFC 46,
    1999).
    """
    rows, columns = (max(4, round(b / p)) for b, p in zip(block_mm, pixel_mm, strict=True))
    search = max(2, round(search_mm / pixel_mm[0]))
    ny, nx = (before.shape[0] - 2 * search) // rows, before.shape[1] // columns
    if ny < 1 or nx < 1:
        empty = np.zeros(0)
        return AxialMatches(x_mm=empty, y_mm=empty, shift_mm=empty, ncc=empty)

    def blocks(image: npt.NDArray[np.float32], shift: int = 0) -> npt.NDArray[np.float32]:
        part = image[search + shift : search + shift + ny * rows, : nx * columns]
        return part.reshape(ny, rows, nx, columns)

    n = rows * columns
    before, after = before - before.mean(), after - after.mean()
    a = blocks(before)
    a = a - a.mean(axis=(1, 3), keepdims=True)  # zero mean: the mean of the other block then drops out of the product
    variance_a = np.einsum("irjc,irjc->ij", a, a) / n
    sums = [_strip_sums(p, nx, columns) for p in (after, after * after)]
    starts = search + np.arange(ny) * rows
    ncc = np.empty((2 * search + 1, ny, nx))
    for k in range(2 * search + 1):
        first = starts + k - search
        mean, square = ((s[first + rows] - s[first]) / n for s in sums)
        variance = np.maximum(square - mean * mean, 0)
        product = np.einsum("irjc,irjc->ij", a, blocks(after, k - search)) / n
        root = np.sqrt(np.maximum(variance_a * variance, LEAST_VARIANCE**2))
        ncc[k] = np.where(variance > LEAST_VARIANCE, product / root, -1.0)
    inside = _strip_sums(mask.astype(np.float32), nx, columns)
    whole = inside[starts + rows + search] - inside[starts - search] >= (rows + 2 * search) * columns
    peak, shift = _peak(ncc)
    keep = whole & (variance_a > LEAST_VARIANCE) & (peak >= least_ncc) & np.isfinite(shift)
    y, x = np.meshgrid(starts + (rows - 1) / 2, np.arange(nx) * columns + (columns - 1) / 2, indexing="ij")
    return AxialMatches(
        x_mm=x[keep] * pixel_mm[1],
        y_mm=y[keep] * pixel_mm[0],
        shift_mm=(shift[keep] - search) * pixel_mm[0],
        ncc=peak[keep],
    )


def _strip_sums(image: npt.NDArray[np.float32], strips: int, columns: int) -> Floats:
    """(H + 1, strips): sums over the columns of each strip and all rows above."""
    strip = image[:, : strips * columns].reshape(len(image), strips, columns).sum(axis=2, dtype=np.float64)
    return np.concatenate([np.zeros((1, strips)), np.cumsum(strip, axis=0)])


def _peak(ncc: Floats) -> tuple[Floats, Floats]:
    """Highest correlation (ny, nx) and its place along axis 0 by a parabola; NaN where it lies on the edge."""
    top = np.argmax(ncc, axis=0)
    inner = np.clip(top, 1, len(ncc) - 2)
    left, middle, right = (np.take_along_axis(ncc, (inner + d)[None], axis=0)[0] for d in (-1, 0, 1))
    curvature = left - 2 * middle + right
    sharp = (curvature < -1e-6) & (top == inner)
    step = np.where(sharp, 0.5 * (left - right) / np.where(sharp, curvature, 1.0), np.nan)
    return middle, inner + step


def fit_profile(matches: AxialMatches, profile: Floats) -> AxialFit | None:
    """The fit of `profile` (M,), the value of the profile at each block, by Tukey's biweight; None if undetermined.

    Deleting bands after the jackknife of Tukey (1958), because the errors of neighbouring blocks are not independent.
    """
    x, d = matches.x_mm - matches.x_mm.mean(), matches.shift_mm
    design = np.stack([np.ones_like(x), x, profile], axis=1)
    if len(x) < BANDS or np.linalg.matrix_rank(design) < 3:
        return None
    weight = matches.ncc**2
    middle = np.median(d)
    scatter = max(1.4826 * float(np.median(np.abs(d - middle))), LEAST_SCATTER_MM)
    robust = weight * (np.abs(d - middle) < 3 * scatter)
    coefficients = _solve(design, d, robust if (robust > 0).sum() >= BANDS else weight)
    for _ in range(12):
        if coefficients is None:
            return None
        residual = d - design @ coefficients
        scatter = max(1.4826 * float(np.median(np.abs(residual))), LEAST_SCATTER_MM)
        robust = weight * np.maximum(1 - (residual / (TUKEY * scatter)) ** 2, 0) ** 2
        coefficients = _solve(design, d, robust)
    if coefficients is None:
        return None
    sigma = [scatter * float(np.sqrt(np.linalg.inv((design * (robust > 0)[:, None]).T @ design)[2, 2]))]
    for place in (matches.y_mm, matches.x_mm):
        without = _without_bands(design, d, robust, place)
        if without is None:
            return None
        g = len(without)
        sigma.append(float(np.sqrt((g - 1) / g * np.sum((without - without.mean()) ** 2))))
    return AxialFit(
        offset=float(coefficients[0]),
        tilt=float(coefficients[1]),
        slope=float(coefficients[2]),
        sigma=max(sigma),
        scatter=scatter,
        inliers=float(np.mean(robust > 0)),
    )


def _solve(design: Floats, d: Floats, weight: Floats) -> Floats | None:
    """Weighted least squares; None where it is not determined."""
    normal = (design * weight[:, None]).T @ design
    scale = np.sqrt(np.diag(normal))
    if not (scale > 0).all() or np.linalg.cond(normal / np.outer(scale, scale)) > 1e8:
        return None
    return np.asarray(np.linalg.solve(normal, (design * weight[:, None]).T @ d))


def _without_bands(design: Floats, d: Floats, weight: Floats, place: Floats) -> Floats | None:
    """The slope with each of the bands of `place` left out; None where one of them carries the whole fit."""
    low, high = float(place.min()), float(place.max())
    band = np.minimum(((place - low) / max(high - low, 1e-9) * BANDS).astype(int), BANDS - 1)
    found = [_solve(design, d, weight * (band != k)) for k in range(BANDS) if weight[band == k].any()]
    if len(found) < 3 or any(f is None for f in found):
        return None
    return np.array([f[2] for f in found if f is not None])
