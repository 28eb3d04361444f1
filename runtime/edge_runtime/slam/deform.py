"""Axial compression of tissue by the probe: one number for each frame, estimated from the images and undone.

The pressure of a hand changes along a sweep, and tissue is shorter where it is pressed: the same structure lies at
other depths in neighbouring frames and compounds to bands. Each frame k has a scalar a_k that maps rest depth Y (mm
below the probe's face) to the depth y at which it is seen:

    linear      y = (1 - a_k) Y            a_k is a share, 0.05 is 5 % shorter
    near-field  y = Y - a_k exp(-Y / L)    a_k in mm; pressing by D mm against still deep tissue reads a_k = -D

Between frames the scalar is measured by axial block matching and a robust fit together with a common offset and a
tilt, which are motion of the probe and left to the poses. What the images cannot tell: structures that grow deeper
along the sweep, each in proportion to its depth, look the same as a change of pressure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.optional import require
from edge_runtime.reconstruct.sweep import FrameStack, Sweep
from edge_runtime.slam.at_rest import CompressionSettings, face_row, row_map, undo_compression
from edge_runtime.slam.axial_matching import AxialMatches, fit_profile, match_axially

__all__ = [
    "Compression",
    "CompressionSettings",
    "CompressionStep",
    "estimate_compression",
    "measure_compression",
    "row_map",
    "undo_compression",
    "without_compression",
]

Floats = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]

MOST_COLUMNS = 320  # of an image for matching; wider ones are thinned
PASSES = 2  # of matching: the second on frames that the first has aligned
PRIOR_STRAIN = 0.1  # standard deviation of the strain of a frame before anything is measured
ERROR_SCALE = 2.5  # true over formal error of a step, from simulated sweeps: anatomy errs alike in neighbouring frames
CHUNK = 512  # columns of an inverse at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionStep:
    """From one frame to another: `change` of the additive state (-log(1 - a) or a / L) and its standard error `sigma`.

    `offset_mm` common axial shift (deeper is positive), `tilt` mm of shift per mm to the right, `scatter_mm` of the
    blocks about the fit, `blocks` matched. With `refused` other than "" the change is not known and reads 0.
    """

    change: float = 0.0
    sigma: float = math.inf
    offset_mm: float = 0.0
    tilt: float = 0.0
    scatter_mm: float = math.inf
    blocks: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compression:
    """The compression of N frames against the reference.

    `amounts` (N,) is what to undo: a share or mm, by `settings.model`, and 0 for each frame that is left alone, whose
    reason is in `refused` (N); "" elsewhere. `measured` (N,) and `sigma` (N,), standard error, in the same unit, hold
    the estimates before that decision; `sigma` is infinite where no accepted pair leads to the reference.
    """

    amounts: Floats
    measured: Floats
    sigma: Floats
    refused: tuple[str, ...]
    steps: dict[tuple[int, int], CompressionStep]
    settings: CompressionSettings


def measure_compression(
    before: Grey, after: Grey, geometry: FrameGeometry, settings: CompressionSettings
) -> CompressionStep:
    """How much more `after` (H, W) is compressed than `before` (H, W), both uint8 of one geometry.

    Raises `ConfigError` when the images differ in shape or are not grey, `GeometryError` without trusted millimetres.
    """
    if before.shape != after.shape or before.ndim != 2 or before.dtype != np.uint8 or after.dtype != np.uint8:
        raise ConfigError(
            f"frames of shape {before.shape} {before.dtype} and {after.shape} {after.dtype}; two (H, W) uint8 of one "
            "size are needed"
        )
    row_mm, column_mm = geometry.require_mm()
    thin = max(1, -(-before.shape[1] // MOST_COLUMNS))
    shape = (before.shape[0], before.shape[1])
    mask = np.ones(shape, np.bool_) if geometry.scan_area is None else geometry.scan_area.mask(shape)
    a, b = (np.ascontiguousarray(image[:, ::thin], np.float32) for image in (before, after))
    face, span = face_row(geometry) * row_mm, float(np.ptp(np.flatnonzero(mask.any(axis=1)))) if mask.any() else 0.0
    pixel = (row_mm, column_mm * thin)
    moved = np.zeros(len(a))  # mm by which the content of each row of `before` lies deeper in `after`
    step, search = CompressionStep(refused="nothing matched"), settings.search_mm
    for _ in range(PASSES):
        found = match_axially(
            a, _shifted(b, moved / row_mm), mask[:, ::thin], pixel, settings.block_mm, search, settings.least_ncc
        )
        moved_there = np.interp(found.y_mm + found.shift_mm, np.arange(len(a)) * row_mm, moved)
        found = replace(found, shift_mm=found.shift_mm + moved_there)
        step = _fitted(found, face, span * row_mm, settings)
        if step.refused:
            break
        depth = np.maximum(np.arange(len(a)) * row_mm - face, 0)
        moved = step.offset_mm + _slope(step.change, settings) * _profile(depth, settings)
    return step


def _profile(depth: Floats, settings: CompressionSettings) -> Floats:
    return depth if settings.model == "linear" else np.asarray(-np.exp(-depth / settings.decay_mm))


def _slope(change: float, settings: CompressionSettings) -> float:
    """The factor of `_profile` for a change of state."""
    return math.expm1(-change) if settings.model == "linear" else change * settings.decay_mm


def _shifted(image: npt.NDArray[np.float32], rows: Floats) -> npt.NDArray[np.float32]:
    """Row r of the result is row `r + rows[r]` of `image`, linearly interpolated, the end rows repeated."""
    if not rows.any():
        return image
    place = np.clip(np.arange(len(image)) + rows, 0, len(image) - 1)
    low = np.minimum(place.astype(np.int64), len(image) - 2)
    part = (place - low)[:, None].astype(np.float32)
    return np.asarray(image[low] + part * (image[low + 1] - image[low]))


def _fitted(found: AxialMatches, face: float, span: float, settings: CompressionSettings) -> CompressionStep:
    """The step that the matched blocks tell, or why none."""
    n = len(found.y_mm)
    if n < settings.least_blocks:
        return CompressionStep(blocks=n, refused=f"{n} blocks matched, {settings.least_blocks} are needed")
    spanned = float(np.ptp(found.y_mm)) / max(span, 1e-9)
    if spanned < settings.least_depth:
        return CompressionStep(
            blocks=n, refused=f"blocks span {spanned:.0%} of the depth, {settings.least_depth:.0%} is needed"
        )
    fit = fit_profile(found, _profile(np.maximum(found.y_mm - face, 0), settings))
    if fit is None or (settings.model == "linear" and fit.slope <= -1):
        return CompressionStep(blocks=n, refused="the blocks do not determine a compression")
    scale = 1 / (1 + fit.slope) if settings.model == "linear" else 1 / settings.decay_mm
    change = -math.log1p(fit.slope) if settings.model == "linear" else fit.slope * scale
    refused = ""
    if fit.scatter > settings.most_scatter_mm or fit.inliers < settings.least_inliers:
        refused = f"poor fit: scatter {fit.scatter:.2f} mm, {fit.inliers:.0%} of {n} blocks agree"
    elif abs(change) > settings.most_strain:
        refused = f"strain {change:.2f} between two frames, {settings.most_strain} is allowed"
    return CompressionStep(
        change=0.0 if refused else change,
        sigma=math.inf if refused else ERROR_SCALE * fit.sigma * scale,
        offset_mm=fit.offset,
        tilt=fit.tilt,
        scatter_mm=fit.scatter,
        blocks=n,
        refused=refused,
    )


def estimate_compression(
    frames: FrameStack, geometry: FrameGeometry, settings: CompressionSettings | None = None
) -> Compression:
    """The compression of each of N frames, (H, W) uint8 of one geometry, in the order they were taken.

    Each pair is weighted by its own standard error, the state is smooth in time (`rate`), and a frame whose amount is
    not known well enough, or is too small to tell, is left alone: amount 0 and the reason. Raises `ReconstructionError`
    without frames and as `measure_compression`.
    """
    settings = settings or CompressionSettings()
    n = len(frames)
    if n == 0:
        raise ReconstructionError("there is no frame; at least one is needed")
    steps: dict[tuple[int, int], CompressionStep] = {}
    held: dict[int, Grey] = {}
    for k in range(n):
        held[k] = np.asarray(frames[k])
        held.pop(k - max(settings.lags) - 1, None)
        for lag in settings.lags:
            if k >= lag:
                steps[k - lag, k] = measure_compression(held[k - lag], held[k], geometry, settings)
    state, sigma = _solved(n, steps, settings)
    linked = _linked(n, steps, settings)
    sigma = np.where(linked, sigma, np.inf)
    if settings.model == "linear":
        measured, sigma = -np.expm1(-state), sigma * np.exp(-state)
    else:
        measured, sigma = state * settings.decay_mm, sigma * settings.decay_mm
    refused = tuple(_refusal(k, measured, sigma, steps, settings) for k in range(n))
    amounts = np.where([r == "" for r in refused], measured, 0.0)
    peak = max(abs(settings.strain_of(float(a))) for a in amounts)
    if 0 < peak < settings.least_peak:  # of many frames at rest, some exceed their standard error by chance
        whole = f"no strain of the sweep reaches {settings.least_peak}, the largest is {peak:.4f}"
        refused, amounts = tuple(r or whole for r in refused), np.zeros(n)
    return Compression(amounts=amounts, measured=measured, sigma=sigma, refused=refused, steps=steps, settings=settings)


def _refusal(
    k: int,
    measured: Floats,
    sigma: Floats,
    steps: dict[tuple[int, int], CompressionStep],
    settings: CompressionSettings,
) -> str:
    """Why frame `k` is left alone, or ""."""
    if not np.isfinite(sigma[k]):
        reasons = [s.refused for pair, s in steps.items() if k in pair and s.refused]
        return "no accepted pair leads to the reference" + (f": {reasons[0]}" if reasons else "")
    strain, error = settings.strain_of(float(measured[k])), settings.strain_of(float(sigma[k]))
    if abs(strain) > settings.most_strain:
        return f"strain {strain:.2f} is beyond {settings.most_strain}"
    if abs(strain) < max(settings.significance * error, settings.least_strain):
        return f"strain {strain:.4f} with standard error {error:.4f} is too small to tell from none"
    return ""


def _linked(
    n: int, steps: dict[tuple[int, int], CompressionStep], settings: CompressionSettings
) -> npt.NDArray[np.bool_]:
    """(n,) bool: frames joined by accepted pairs to the first, or to the largest group for the median."""
    group = list(range(n))

    def root(k: int) -> int:
        while group[k] != k:
            group[k] = group[group[k]]
            k = group[k]
        return k

    for (i, j), step in steps.items():
        if not step.refused:
            group[root(j)] = root(i)
    roots = np.array([root(k) for k in range(n)])
    wanted = roots[0] if settings.reference == "first" else np.bincount(roots).argmax()
    return np.asarray(roots == wanted)


def _solved(
    n: int, steps: dict[tuple[int, int], CompressionStep], settings: CompressionSettings
) -> tuple[Floats, Floats]:
    """State (n,) and its standard error (n,), both less the reference, by banded weighted least squares."""
    linalg = require("scipy.linalg", "to solve for the compression of a sweep")
    width = max(2, *settings.lags)
    band, right = np.zeros((width + 1, n)), np.zeros(n)  # row d: element (k, k + d) at column k, lower form
    band[0] += PRIOR_STRAIN**-2
    for (i, j), step in steps.items():
        if not step.refused:
            w = 1 / (step.sigma**2 + 1e-10)
            band[0, [i, j]] += w
            band[j - i, i] -= w
            right[j] += w * step.change
            right[i] -= w * step.change
    w = settings.rate**-2
    for k in range(n - 2):  # (x_k - 2 x_k+1 + x_k+2) has standard deviation `rate`
        band[0, k : k + 3] += w * np.array([1, 4, 1])
        band[1, k : k + 2] -= 2 * w
        band[2, k] += w
    factor = linalg.cholesky_banded(band, lower=True)
    state = linalg.cho_solve_banded((factor, True), right)
    anchor = np.full(n, 1 / n) if settings.reference == "median" else np.eye(1, n)[0]
    against = linalg.cho_solve_banded((factor, True), anchor)
    variance = np.empty(n)
    for start in range(0, n, CHUNK):
        columns = np.arange(start, min(start + CHUNK, n))
        unit = np.zeros((n, len(columns)))
        unit[columns, columns - start] = 1
        variance[columns] = linalg.cho_solve_banded((factor, True), unit)[columns, columns - start]
    variance = np.maximum(variance - 2 * against + anchor @ against, 0)
    origin = float(np.median(state)) if settings.reference == "median" else state[0]
    return np.asarray(state - origin), np.sqrt(variance)


@dataclass(frozen=True, slots=True, eq=False)
class _AtRest:
    """The frames of a sweep, each undone when it is read."""

    sweep: Sweep
    compression: Compression

    def __len__(self) -> int:
        return len(self.sweep)

    def __getitem__(self, index: int, /) -> Grey:
        amount = float(self.compression.amounts[index])
        image = self.sweep.image(index)
        return undo_compression(image, self.sweep.geometry_of(index), amount, self.compression.settings)[0]


def without_compression(sweep: Sweep, compression: Compression) -> Sweep:
    """`sweep` with its frames at rest, undone as they are read, and a geometry for each; poses are unchanged.

    Raises `ConfigError` when the numbers of frames differ.
    """
    if len(compression.amounts) != len(sweep):
        raise ConfigError(f"{len(compression.amounts)} amounts for {len(sweep)} frames; they must belong together")
    geometries: Sequence[FrameGeometry] = [
        undo_compression(sweep.image(k), sweep.geometry_of(k), float(a), compression.settings)[1]
        for k, a in enumerate(compression.amounts)
    ]
    return replace(sweep, frames=_AtRest(sweep, compression), geometry=geometries)
