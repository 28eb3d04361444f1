"""Distance across the image plane from how far speckle has decorrelated.

The correlation of two aligned patches falls with the distance between their planes, at a rate that the width of the
beam sets and that is therefore learnt once for a probe, by depth, from a tracked sweep (Chen, Fowlkes, Carson and
Rubin, 1997; Gee, Housden, Hassenpflug, Treece and Prager, Medical Image Analysis 10, 2006). Noise of the receiver
lowers it at distance 0 already, so the curve begins at a fitted rho0 below 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.reconstruct.sweep import Sweep
from edge_runtime.settings_file import read_text
from edge_runtime.slam import se3
from edge_runtime.slam.inplane import Matches, PatchGrid, match, patch_grid, spectra, static_pixels

__all__ = [
    "Elevation",
    "ElevationCurve",
    "Zones",
    "calibrate_elevation",
    "fit_curve",
    "grid_of_sweep",
    "read_curve",
    "solve_elevation",
    "write_curve",
    "zones_of",
]

F64 = npt.NDArray[np.float64]

SCHEMA = "edge-runtime.elevation-curve/1"
COLUMNS = 3  # zones side by side in a band
TABLE_STEP_MM = 0.02
MIN_PAIRS = 6
EXPONENTS = np.linspace(0.8, 2.0, 25)
WIDTHS_MM = np.geomspace(0.1, 20.0, 160)
TILT_PRIOR_RAD = np.deg2rad(0.5)  # of a hand, between frames


class ElevationCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Correlation against distance, by depth band.

    `band_edges_mm` (B + 1) rise; depths beyond them belong to the outer bands. `distance_mm` (M,) rises from 0 and
    `rho` (B, M) falls along it. `sigma_mm` (B,): where a band has fallen to exp(-1/2) of its start. `rho_error` (B,):
    deviation of the correlations from the curve in the sweep it was fitted to; `relative_error`: of distances, each
    step predicted from a curve fitted without it. A distance is measured between `min_sigma` and `max_sigma` of sigma,
    for `patch_px` patches of pixels of `pixel_mm` (row, column).
    """

    band_edges_mm: tuple[float, ...]
    distance_mm: tuple[float, ...]
    rho: tuple[tuple[float, ...], ...]
    sigma_mm: tuple[float, ...]
    rho_error: tuple[float, ...]
    relative_error: float
    pixel_mm: tuple[float, float]
    patch_px: int
    pairs: int
    min_sigma: float = 0.25
    max_sigma: float = 1.3
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        bands, points = len(self.rho), len(self.distance_mm)
        if self.schema != SCHEMA:
            raise ConfigError(f"schema is {self.schema!r}; {SCHEMA!r} is read: calibrate the probe again")
        if bands < 1 or points < 2 or len(self.band_edges_mm) != bands + 1:
            raise ConfigError(f"{bands} bands, {points} distances and {len(self.band_edges_mm)} edges do not fit")
        if {len(row) for row in self.rho} != {points} or {len(self.sigma_mm), len(self.rho_error)} != {bands}:
            raise ConfigError("rho, sigma_mm and rho_error need one entry for each band, rho with one per distance")
        numbers = [*self.band_edges_mm, *self.distance_mm, *sum(self.rho, ()), *self.sigma_mm, *self.rho_error]
        if not np.isfinite([*numbers, self.relative_error]).all():
            raise ConfigError("the curve holds numbers that are not finite; calibrate the probe again")
        if (
            self.distance_mm[0] != 0
            or np.any(np.diff(self.distance_mm) <= 0)
            or np.any(np.diff(self.band_edges_mm) <= 0)
        ):
            raise ConfigError("distance_mm must rise from 0, and band_edges_mm must rise")
        if np.any(np.diff(self.rho, axis=1) > 0) or np.min(self.rho) < 0 or np.max(self.rho) > 1:
            raise ConfigError("rho must fall with distance and lie in 0 to 1")
        if min(self.sigma_mm) <= 0 or min(self.rho_error) <= 0 or self.relative_error <= 0:
            raise ConfigError("sigma_mm, rho_error and relative_error must be above 0")
        if not 0 <= self.min_sigma < self.max_sigma:
            raise ConfigError(f"min_sigma {self.min_sigma} and max_sigma {self.max_sigma}; 0 <= min < max is needed")

    def bands(self, depth_mm: F64) -> npt.NDArray[np.int64]:
        """Band of each depth (N,)."""
        return np.asarray(np.searchsorted(self.band_edges_mm[1:-1], depth_mm, side="right"), np.int64)

    def distances(self, band: npt.NDArray[np.int64], rho: F64) -> tuple[F64, F64]:
        """Distance (N,) mm of correlations `rho` (N,) in their `band` (N,), and -d distance / d rho there.

        Above the start of the curve 0; below its end the last distance.
        """
        table = np.asarray(self.distance_mm)
        found, slope = np.empty(len(rho)), np.empty(len(rho))
        for k, (b, r) in enumerate(zip(band, rho, strict=True)):
            row = np.asarray(self.rho[b])
            found[k] = np.interp(-r, -row, table)
            low, high = (float(np.interp(found[k] + h, table, row)) for h in (-0.05, 0.05))
            width = min(found[k] + 0.05, table[-1]) - max(found[k] - 0.05, 0.0)
            slope[k] = width / max(low - high, 1e-3)
        return found, slope


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Zones:
    """The patches put together by band and by third of the width, so that a correlation is a mean before it is turned.

    `member` (N,) int64: zone of each patch. `band` (Z,) int64. `centres_mm` (Z, 2): x, y.
    """

    member: npt.NDArray[np.int64]
    band: npt.NDArray[np.int64]
    centres_mm: F64

    def mean(self, matches: Matches) -> tuple[F64, npt.NDArray[np.bool_]]:
        """Mean correlation (Z,) of the matched patches, and whether at least half of a zone's were matched (Z,)."""
        count = np.bincount(self.member, minlength=len(self.band))
        used = np.bincount(self.member, weights=matches.used, minlength=len(self.band))
        total = np.bincount(self.member, weights=matches.rho * matches.used, minlength=len(self.band))
        return np.asarray(total / np.maximum(used, 1)), np.asarray(2 * used >= count)


def zones_of(grid: PatchGrid, band_edges_mm: Sequence[float]) -> Zones:
    """The zones of `grid` in these bands."""
    band = np.searchsorted(band_edges_mm[1:-1], grid.centres_mm[:, 1], side="right")
    x = grid.centres_mm[:, 0]
    third = np.minimum(COLUMNS - 1, ((x - x.min()) / (np.ptp(x) + 1e-9) * COLUMNS).astype(np.int64))
    _, first, member = np.unique(band * COLUMNS + third, return_index=True, return_inverse=True)
    member = member.reshape(-1)
    centres = np.stack([grid.centres_mm[member == k].mean(axis=0) for k in range(len(first))])
    return Zones(member=member.astype(np.int64), band=band[first].astype(np.int64), centres_mm=centres)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Elevation:
    """Distance and tilt between two frames; the sign is not in the images.

    `distance_mm` at the grid's centre; `tilt` (2,): rad about x and y; `covariance` (3, 3): about x, about y, distance.
    `in_sigma`: median distance of the zones over their sigma.
    """

    distance_mm: float
    tilt: F64
    covariance: F64
    in_sigma: float


def solve_elevation(curve: ElevationCurve, zones: Zones, matches: Matches, centre_mm: F64) -> Elevation | None:
    """The plane d = d0 + a y - b x through the distances of the zones, tilts held by a prior.

    None with no zone matched.
    """
    rho, known = zones.mean(matches)
    if not known.any():
        return None
    band = zones.band[known]
    d, slope = curve.distances(band, rho[known])
    sigma = np.asarray(curve.sigma_mm)[band]
    error = np.maximum(slope * np.asarray(curve.rho_error)[band], 0.05 * sigma)
    p = zones.centres_mm[known] - centre_mm
    A = np.stack([p[:, 1], -p[:, 0], np.ones(len(p))], axis=1) / error[:, None]
    prior = np.diag([TILT_PRIOR_RAD**-2, TILT_PRIOR_RAD**-2, 0.0])
    covariance = np.linalg.inv(A.T @ A + prior)
    x = covariance @ (A.T @ (d / error))
    x[2] = max(0.0, x[2])
    covariance[2, 2] = max(covariance[2, 2], (curve.relative_error * x[2]) ** 2)  # which holds the zones' own error
    return Elevation(
        distance_mm=float(x[2]), tilt=x[:2], covariance=covariance,
        in_sigma=float(np.median(d / sigma)),
    )  # fmt: skip


def fit_curve(band: npt.NDArray[np.int64], distance_mm: F64, rho: F64, bands: int) -> tuple[F64, F64, F64, F64]:
    """rho0 exp(-(d / w)^p) by least squares: distances (M,), table (B, M), sigma (B,) and residual deviation (B,).

    `band`, `distance_mm` and `rho` (N,) are samples. p is one for all bands; tails heavier than a Gaussian's (p < 2)
    are what is measured in tissue. Raises `ReconstructionError` for a band with fewer than `MIN_PAIRS` samples.
    """
    shapes = (distance_mm[None, :, None] / WIDTHS_MM[:, None, None]) ** EXPONENTS  # (W, N, P)
    shapes = np.exp(-shapes)
    cost = np.zeros(len(EXPONENTS))
    best = np.zeros((bands, len(EXPONENTS), 2))
    for b in range(bands):
        rows = band == b
        if rows.sum() < MIN_PAIRS:
            raise ReconstructionError(
                f"depth band {b} has {rows.sum()} samples; {MIN_PAIRS} are needed: a longer sweep"
            )
        g, r = shapes[:, rows], rho[rows][None, :, None]
        start = np.clip((g * r).sum(axis=1) / (g * g).sum(axis=1), 0.05, 1.0)
        misfit = ((start[:, None] * g - r) ** 2).mean(axis=1)
        at = misfit.argmin(axis=0)
        cost += misfit.min(axis=0) * rows.sum()
        best[b, :, 0], best[b, :, 1] = start[at, np.arange(len(at))], WIDTHS_MM[at]
    k = int(cost.argmin())
    rho0, width, p = best[:, k, 0], best[:, k, 1], float(EXPONENTS[k])
    table = np.arange(0, max(2 * TABLE_STEP_MM, 3 * float(np.median(width))) + TABLE_STEP_MM, TABLE_STEP_MM)
    curves = rho0[:, None] * np.exp(-((table / width[:, None]) ** p))
    predicted = rho0[band] * np.exp(-((distance_mm / width[band]) ** p))
    error = np.array([np.sqrt(np.mean((predicted - rho)[band == b] ** 2)) for b in range(bands)])
    return table, curves, width * 0.5 ** (1 / p), np.maximum(error, 1e-3)


def grid_of_sweep(sweep: Sweep, *, patch_px: int = 64) -> PatchGrid:
    """Patches over the scan area of `sweep`, without what stands still in its images.

    Raises `GeometryError` without millimetres, `ConfigError` when too few patches fit.
    """
    images = [sweep.image(k) for k in range(len(sweep))]
    geometry = sweep.geometry_of(0)
    usable = ~static_pixels(images)
    if geometry.scan_area is not None:
        usable &= geometry.scan_area.mask(usable.shape)
    return patch_grid(usable, geometry.require_mm(), side=patch_px)


def calibrate_elevation(
    sweep: Sweep, *, grid: PatchGrid | None = None, bands: int = 3, lags: Sequence[int] = (1, 2)
) -> ElevationCurve:
    """The curve of the probe that took `sweep`, whose poses are tracked.

    Pairs of frames `lags` apart are matched; the truth of a zone is how far its centre moved across the plane. Raises
    `ReconstructionError` when the sweep is too short or too few patches match, `ConfigError` for settings.
    """
    if bands < 1 or not lags or min(lags) < 1:
        raise ConfigError(f"bands is {bands} and lags {tuple(lags)}; at least 1 of each, lags from 1, are needed")
    if len(sweep) < 4:
        raise ReconstructionError(f"the sweep has {len(sweep)} frames; at least 4 are needed for a curve")
    grid = grid_of_sweep(sweep) if grid is None else grid
    y = grid.centres_mm[:, 1]
    half = grid.side * grid.pixel_mm[0] / 2
    rows = np.array_split(np.unique(y), bands)
    if min(len(part) for part in rows) == 0:
        raise ConfigError(f"{len(np.unique(y))} rows of patches cannot make {bands} bands; ask for fewer")
    edges = (*(float(part[0] - half) for part in rows), float(y.max() + half))
    zones = zones_of(grid, edges)
    table = [spectra(sweep.image(k), grid) for k in range(len(sweep))]
    samples: list[tuple[int, int, int, float, float]] = []  # first frame, last, band, distance, rho
    points = np.column_stack([zones.centres_mm, np.zeros(len(zones.band)), np.ones(len(zones.band))])
    for lag in lags:
        for k in range(lag, len(sweep)):
            T = se3.inverse(sweep.T_world_image[k - lag]) @ sweep.T_world_image[k]
            rho, known = zones.mean(match(table[k - lag], table[k], grid))
            distance = np.abs((points @ T.T)[:, 2])
            samples += [
                (k - lag, k, int(zones.band[z]), float(distance[z]), float(rho[z])) for z in np.flatnonzero(known)
            ]
    return _curve_of(samples, edges, grid)


def _curve_of(
    samples: list[tuple[int, int, int, float, float]], edges: tuple[float, ...], grid: PatchGrid
) -> ElevationCurve:
    if not samples:
        raise ReconstructionError("no patch was matched; are the images black, or is nothing in them speckle?")
    rows = np.array(samples)
    first, last, band = rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int64)
    bands = len(edges) - 1
    table, rho, sigma, error = fit_curve(band, rows[:, 3], rows[:, 4], bands)
    misses, truths = [], []
    for k in np.unique(last):
        here, others = (last == k) & (first == k - 1), (last < k) | (first >= k)
        if not here.any() or min(np.bincount(band[others], minlength=bands)) < MIN_PAIRS:
            continue
        left, curves, _, _ = fit_curve(band[others], rows[others, 3], rows[others, 4], bands)
        found = [np.interp(-r, -curves[b], left) for b, r in zip(band[here], rows[here, 4], strict=True)]
        misses.append(float(np.mean(found) - rows[here, 3].mean()))
        truths.append(float(rows[here, 3].mean()))
    scale = float(np.sqrt(np.mean(np.square(truths)))) if truths else 0.0
    relative = float(np.sqrt(np.mean(np.square(misses)))) / scale if scale > 0 else 0.5
    return ElevationCurve(
        band_edges_mm=edges, distance_mm=tuple(table.tolist()), rho=tuple(tuple(r.tolist()) for r in rho),
        sigma_mm=tuple(sigma.tolist()), rho_error=tuple(error.tolist()), relative_error=max(relative, 1e-3),
        pixel_mm=grid.pixel_mm, patch_px=grid.side, pairs=len(np.unique(rows[:, :2], axis=0)),
    )  # fmt: skip


def write_curve(path: Path, curve: ElevationCurve) -> None:
    """Write `curve` as JSON, whole or not at all."""
    write_bytes(Path(path), msgspec.json.format(msgspec.json.encode(curve), indent=1))


def read_curve(path: Path) -> ElevationCurve:
    """The curve in a JSON file; `ConfigError` naming the file for anything else."""
    text = read_text(Path(path), "elevation curve")
    try:
        return msgspec.json.decode(text, type=ElevationCurve)
    except (msgspec.DecodeError, ConfigError) as error:
        raise ConfigError(f"{path} is not an elevation curve: {error}; write one with calibrate-elevation") from error
