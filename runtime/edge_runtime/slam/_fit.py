"""The one intensity fit: points with grey levels moved rigidly until they agree with a field in space.

The residual is I(p) - (a V(T p) + b); gain a and offset b are eliminated in each step (variable projection: Golub and
Pereyra, 1973, in Kaufman's form), so that the minimum is that of 1 - NCC^2. Directions that the data do not hold are
left alone by solution remapping (Zhang, Kaess and Singh, On degeneracy of optimization-based state estimation
problems, ICRA 2016). The covariance sums the gradients of blocks of points before it squares them (the sandwich
estimator for clusters: Liang and Zeger, Biometrika 73, 1986), because residuals of speckle are not independent.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.geometry import invert_rigid
from edge_runtime.optional import require
from edge_runtime.reconstruct.grid import VolumeGrid
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.slam import se3

__all__ = ["MIN_POINTS", "Field", "Fit", "Points", "around", "coarser", "field_of", "fit_rigid", "smooth"]

F64 = npt.NDArray[np.float64]

HALVINGS = 4
MIN_POINTS = 30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Field:
    """Levels (Z, Y, X) float32 on a lattice, NaN where nothing is known."""

    levels: npt.NDArray[np.float32]
    grid: VolumeGrid


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """`at` (N, 3) mm in the frame that is moved, their `levels` (N,), and the block (N,) int64 each lies in."""

    at: F64
    levels: F64
    block: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """Where the points came to lie.

    `T` (4, 4): from the points' frame to the world of the field. `ncc` there, over `used` points. `covariance` (6, 6),
    right perturbation, of the directions that were free, zero in the others. `eigenvalues` (6,): root mean square
    change of grey level per mm of displacement, rotations taken as displacement at the points' mean distance from
    their centre. `frozen` (6, 6) projects a tangent vector on the directions that were left alone.
    """

    T: F64
    ncc: float
    used: int
    covariance: F64
    eigenvalues: F64
    frozen: F64
    steps: int

    @property
    def free(self) -> int:
        """How many of the six directions were fitted."""
        return 6 - round(float(np.trace(self.frozen)))


def field_of(volume: Volume) -> Field:
    """The grey levels of `volume`, NaN where it is neither swept nor filled."""
    return Field(levels=np.where(volume.known, volume.data, np.nan).astype(np.float32), grid=volume.grid)


def around(volume: Volume, points_world: F64, margin_mm: float) -> Field:
    """The part of `volume` that holds `points_world` (N, 3) and `margin_mm` about them; at least two voxels a side."""
    grid = volume.grid
    index = grid.to_index(points_world)
    reach = margin_mm / np.array(grid.spacing_mm)
    top = np.array(grid.shape)
    low = np.clip(np.floor(index.min(axis=0) - reach), 0, np.maximum(top - 2, 0)).astype(np.int64)
    high = np.clip(np.ceil(index.max(axis=0) + reach) + 1, np.minimum(low + 2, top), top).astype(np.int64)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    T = grid.T_world_volume.copy()
    T[:3, 3] = grid.to_world(low)
    weight, filled = volume.weight, volume.filled
    part = replace(
        volume,
        data=volume.data[box],
        weight=None if weight is None else weight[box],
        filled=None if filled is None else filled[box],
        T_world_volume=T,
    )
    return field_of(part)


def smooth(levels: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Weights 1, 2, 1 along every axis over what is known; NaN stays NaN."""
    known = np.isfinite(levels)
    total, weight = np.where(known, levels, 0).astype(np.float32), known.astype(np.float32)
    for axis in range(levels.ndim):
        total, weight = _binomial(total, axis), _binomial(weight, axis)
    return np.where(known, total / np.maximum(weight, 1e-6), np.nan).astype(np.float32)


def _binomial(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    out = 2 * values
    here, there = [slice(None)] * values.ndim, [slice(None)] * values.ndim
    here[axis], there[axis] = slice(1, None), slice(None, -1)
    out[tuple(here)] += values[tuple(there)]
    out[tuple(there)] += values[tuple(here)]
    return out


def coarser(field: Field, factors: tuple[int, int, int]) -> Field:
    """Means of blocks of `factors` (z, y, x) voxels; known where at least half of a block is."""
    if factors == (1, 1, 1):
        return field
    sides = [-(-n // f) for n, f in zip(field.levels.shape, factors, strict=True)]
    padded = np.full([n * f for n, f in zip(sides, factors, strict=True)], np.nan, np.float32)
    z, y, x = field.levels.shape
    padded[:z, :y, :x] = field.levels
    blocks = padded.reshape(sides[0], factors[0], sides[1], factors[1], sides[2], factors[2])
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3, 5))
    total = np.where(known, blocks, 0).sum(axis=(1, 3, 5), dtype=np.float64)
    enough = 2 * count >= np.prod(factors)
    levels = np.where(enough, total / np.maximum(count, 1), np.nan).astype(np.float32)
    T = field.grid.T_world_volume.copy()
    T[:3, 3] = field.grid.to_world([(f - 1) / 2 for f in factors])
    s = field.grid.spacing_mm
    spacing = (s[0] * factors[0], s[1] * factors[1], s[2] * factors[2])
    return Field(
        levels=levels, grid=VolumeGrid(shape=(sides[0], sides[1], sides[2]), spacing_mm=spacing, T_world_volume=T)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Match:
    """The points against the field at one pose: residual and the part of the Jacobian that gain and offset leave."""

    ncc: float
    used: int
    rows: npt.NDArray[np.bool_]
    residual: F64
    J: F64


def _match(points: F64, levels: F64, field: Field, T: F64, *, jacobian: bool) -> _Match | None:
    """None where fewer than `MIN_POINTS` lie in the field, or one of the two is flat or goes against the other."""
    kernels = importlib.import_module("edge_runtime.slam._sample_kernels")
    per_mm = 1 / np.array(field.grid.spacing_mm[::-1])
    A = (invert_rigid(field.grid.T_world_volume) @ T)[:3] * per_mm[:, None]
    value, gradient = np.empty(len(points)), np.empty((len(points), 3))
    used = kernels.sample_gradient(field.levels, np.ascontiguousarray(A), points, value, gradient)
    if used < MIN_POINTS:
        return None
    rows = np.isfinite(value)
    V, wanted = value[rows], levels[rows]
    V, wanted = V - V.mean(), wanted - wanted.mean()
    energy, own = float(V @ V), float(wanted @ wanted)
    product = float(V @ wanted)
    if energy <= 1e-9 * used or own <= 1e-9 * used or product <= 0:
        return None
    gain = product / energy
    J = np.empty((0, 6))
    if jacobian:
        g = gradient[rows] @ A[:, :3]
        J = gain * np.concatenate([np.cross(points[rows], g), g], axis=1)
        J -= J.mean(axis=0)
        J -= np.outer(V, V @ J) / energy
    return _Match(product / math.sqrt(energy * own), used, rows, wanted - gain * V, J)


def fit_rigid(
    points: Points,
    field: Field,
    T: F64,
    *,
    steps: int = 20,
    min_slope: float = 0.0,
    min_share: float = 0.25,
    tolerance_mm: float = 1e-3,
) -> Fit | None:
    """Move `points` from `T` (4, 4), the start, until the NCC with `field` no longer grows.

    Directions whose eigenvalue (see `Fit`) is under `min_slope` times the largest are frozen. None when fewer than
    `min_share` of the points lie in the field at the start, or nothing correlates. Raises `MissingDependencyError`
    without numba.
    """
    require("numba", "to register images with a volume")
    centre = points.at.mean(axis=0)
    at = np.ascontiguousarray(points.at - centre)
    radius = max(1e-3, float(np.sqrt((at**2).sum(axis=1).mean())))
    scale = np.array([1 / radius] * 3 + [1.0] * 3)  # tangent vector of a displacement in mm
    shift = np.eye(4)
    shift[:3, 3] = centre
    here = T @ shift
    need = max(MIN_POINTS, int(min_share * len(at)))
    match = _match(at, points.levels, field, here, jacobian=True)
    if match is None or match.used < need:
        return None
    done = 0
    for _ in range(steps):
        step, _, _ = _solve(match, scale, min_slope)
        moved = _shorten(at, points.levels, field, here, scale * step, match.ncc, need)
        if moved is None:
            break
        done += 1
        here, size = moved
        match = _match(at, points.levels, field, here, jacobian=True)
        assert match is not None
        if size * np.linalg.norm(step) < tolerance_mm:
            break
    _, values, frozen = _solve(match, scale, min_slope)
    S, A = np.diag(scale), se3.adjoint(shift)
    covariance = S @ _sandwich(match, points.block, scale, frozen) @ S
    return Fit(
        T=here @ invert_rigid(shift),
        ncc=match.ncc,
        used=match.used,
        covariance=A @ covariance @ A.T,
        eigenvalues=values,
        frozen=A @ S @ frozen @ np.linalg.inv(S) @ np.linalg.inv(A),
        steps=done,
    )


def _shorten(at: F64, levels: F64, field: Field, T: F64, xi: F64, ncc: float, need: int) -> tuple[F64, float] | None:
    """`T Exp(s xi)` with the first s of 1, 1/2, 1/4 ... that betters `ncc`, and s; None without any."""
    for k in range(HALVINGS + 1):
        size = 0.5**k
        moved = T @ se3.exp(size * xi)
        match = _match(at, levels, field, moved, jacobian=False)
        if match is not None and match.used >= need and match.ncc > ncc:
            return moved, size
    return None


def _solve(match: _Match, scale: F64, min_slope: float) -> tuple[F64, F64, F64]:
    """Gauss-Newton step in mm with degenerate directions left out, eigenvalues, projector on what was left out."""
    J = match.J * scale
    H = J.T @ J
    values, vectors = np.linalg.eigh(H)
    slope = np.sqrt(np.maximum(values, 0) / match.used)
    free = (slope > min_slope * slope[-1]) & (slope > 1e-9)
    kept = vectors[:, free]
    step = kept @ ((kept.T @ (J.T @ match.residual)) / values[free])
    return step, slope, np.eye(6) - kept @ kept.T


def _sandwich(match: _Match, block: npt.NDArray[np.int64], scale: F64, frozen: F64) -> F64:
    """Covariance of the free directions, in mm, from residuals summed by block."""
    J = match.J * scale
    _, which = np.unique(block[match.rows], return_inverse=True)
    blocks = int(which.max()) + 1
    sums = np.zeros((blocks, 6))
    np.add.at(sums, which.reshape(-1), J * match.residual[:, None])
    free = np.eye(6) - frozen
    bread = np.linalg.pinv(free @ (J.T @ J) @ free, rcond=1e-12, hermitian=True)
    return np.asarray(bread @ (sums.T @ sums) @ bread * (blocks / max(1, blocks - 6)))
