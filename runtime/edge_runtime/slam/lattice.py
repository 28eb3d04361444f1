"""A coarse cubic B-spline field between two volumes: what stays of the deformation between two sweeps.

Free-form deformation after Rueckert et al. (IEEE TMI 18, 1999), with normalised cross-correlation over the voxels known
in both volumes, a penalty on the gradient of the field, and L-BFGS from coarse to fine images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.optional import require
from edge_runtime.reconstruct.grid import VolumeGrid
from edge_runtime.reconstruct.volume import Volume

__all__ = ["LatticeAlignment", "LatticeField", "LatticeSettings", "align_lattice"]

Floats = npt.NDArray[np.float64]
MOST_VOXELS = 1 << 23  # 200 bytes each at the finest level
SCALE = 1000.0  # of the energy, so that the first step of L-BFGS, 1 / |gradient|, is about a millimetre
WHOLE = 0.9  # how well a voxel must be known to count: the smoothing must not have met much of the unknown
SMOOTH = 1.0  # standard deviation, in voxels of a level, of the smoothing of both images
ROUNDS = 2  # at each level: which voxels count is fixed within a round


class LatticeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How two volumes are aligned.

    `knot_mm`: distance of the control points. `smoothness`: factor, mm^0, of the mean square of the field's gradient.
    `shrink`: by how much the volumes are averaged down at each level, coarse to fine. `iterations` of L-BFGS in each of
    two rounds per level. `least_overlap`: share of the fixed volume's known voxels that must fall on known voxels.
    `least_gain`: increase of the correlation below which the field is refused. Raises `ConfigError` for a value out of
    range.
    """

    knot_mm: float = 10.0
    smoothness: float = 0.02
    shrink: tuple[int, ...] = (4, 2, 1)
    iterations: int = 25
    least_overlap: float = 0.2
    least_gain: float = 0.002

    def __post_init__(self) -> None:
        if not 0 < self.knot_mm < math.inf or not 0 <= self.smoothness < math.inf:
            raise ConfigError(
                f"knot_mm {self.knot_mm}, smoothness {self.smoothness}: above 0, and 0 or more, are needed"
            )
        if not self.shrink or not all(1 <= s <= 16 for s in self.shrink) or self.iterations < 1:
            raise ConfigError(f"shrink {self.shrink}, iterations {self.iterations}: 1 to 16 each, and at least 1")
        if not 0 < self.least_overlap <= 1 or not 0 <= self.least_gain < 1:
            raise ConfigError(f"least_overlap {self.least_overlap}, least_gain {self.least_gain}: shares are needed")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatticeField:
    """A displacement on the box of `grid`: cubic B-splines with control points `knot_mm` apart.

    `control` (3, Kz, Ky, Kx) float64, mm: x, y, z parts of the displacement in the volume's own frame. A point p of the
    fixed volume (mm, volume frame) is found at p + u(p) in the moving one.
    """

    control: Floats
    knot_mm: float
    grid: VolumeGrid

    def displacement(self, index: npt.ArrayLike | None = None) -> Floats:
        """(..., 3) mm (x, y, z) at voxel positions (..., 3) (z, y, x), fractions allowed; of all voxels without."""
        if index is None:
            bases = [_basis(np.arange(n), s, self.knot_mm, n)[0] for n, s in _axes(self.grid)]
            return np.asarray(np.moveaxis(_expand(self.control, bases), 0, -1))
        points = np.asarray(index, np.float64)
        flat = points.reshape(-1, 3)
        axes = zip(flat.T, _axes(self.grid), strict=True)
        bases = [_basis(column, s, self.knot_mm, n)[0] for column, (n, s) in axes]
        u = np.einsum("cijk,pi,pj,pk->pc", self.control, *bases, optimize=True)
        return np.asarray(u.reshape(points.shape))

    def jacobian(self) -> Floats:
        """(Z, Y, X) determinant of the gradient of p + u(p) at the voxels: 1 is unchanged volume, 0 or less a fold."""
        pairs = [_basis(np.arange(n), s, self.knot_mm, n) for n, s in _axes(self.grid)]
        determinant = np.empty(self.grid.shape)
        for row in range(self.grid.shape[0]):  # nine numbers a voxel: a slice at a time
            J = np.empty((*self.grid.shape[1:], 3, 3))
            for axis in range(3):  # z, y, x
                bases = [pair[1] if a == axis else pair[0] for a, pair in enumerate(pairs)]
                u = _expand(self.control, [bases[0][row : row + 1], *bases[1:]])
                J[..., 2 - axis] = np.moveaxis(u[:, 0], 0, -1)
            determinant[row] = np.linalg.det(J + np.eye(3))
        return determinant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatticeAlignment:
    """What was found. With `refused` other than "" the field is zero, and the rest says what was refused.

    `ncc_before`, `ncc_after`: correlation over the voxels known in both; `jacobian` (least, most) and `largest_mm`, the
    largest displacement, of the field that was found.
    """

    field: LatticeField
    ncc_before: float
    ncc_after: float
    jacobian: tuple[float, float]
    largest_mm: float
    refused: str = ""


def _axes(grid: VolumeGrid) -> list[tuple[int, float]]:
    return list(zip(grid.shape, grid.spacing_mm, strict=True))


def _knots(n: int, spacing: float, knot_mm: float) -> int:
    """Control points along an axis of n voxels: all whose spline reaches it."""
    return math.ceil((n - 1) * spacing / knot_mm - 1e-9) + 3


def _basis(index: npt.NDArray[np.generic], spacing: float, knot_mm: float, n: int) -> tuple[Floats, Floats]:
    """(P, K): cubic B-splines of the K control points at voxel positions `index` (P,), and their slopes per mm."""
    count = _knots(n, spacing, knot_mm)
    t = np.asarray(index, np.float64)[:, None] * spacing / knot_mm + 1 - np.arange(count)
    a = np.abs(t)
    value = np.where(a < 1, 2 / 3 - a**2 + a**3 / 2, np.where(a < 2, (2 - a) ** 3 / 6, 0))
    slope = np.sign(t) * np.where(a < 1, -2 * a + 1.5 * a**2, np.where(a < 2, -((2 - a) ** 2) / 2, 0))
    return value, slope / knot_mm


def _expand(control: Floats, bases: list[Floats]) -> Floats:
    """(3, Z, Y, X) of control points (3, Kz, Ky, Kx) and the three bases (Z, Kz), (Y, Ky), (X, Kx)."""
    z, y, x = bases
    return np.asarray(
        np.einsum("cijk,xk,yj,zi->czyx", control, x, y, z, optimize=["einsum_path", (0, 1), (0, 2), (0, 1)])
    )


def _gather(field: Floats, bases: list[Floats]) -> Floats:
    """The transpose of `_expand`: (3, Kz, Ky, Kx) of (3, Z, Y, X)."""
    z, y, x = bases
    return np.asarray(
        np.einsum("czyx,zi,yj,xk->cijk", field, z, y, x, optimize=["einsum_path", (0, 1), (0, 2), (0, 1)])
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Level:
    """One size of the images: values and known share of both, and where voxels of the fixed fall in the moving."""

    fixed: Floats
    known: Floats
    moving: Floats
    moving_known: Floats
    place: Floats  # (3, Z, Y, X): moving index (z, y, x) of the fixed voxels without displacement
    turn: Floats  # (3, 3): moving index (z, y, x) per mm (x, y, z) of displacement
    bases: list[Floats]


def _shrunk(values: Floats, factor: int) -> Floats:
    """Means over cubes of `factor` voxels; what is left over at the far ends is dropped."""
    z, y, x = (n // factor for n in values.shape)
    part = values[: z * factor, : y * factor, : x * factor]
    return np.asarray(part.reshape(z, factor, y, factor, x, factor).mean(axis=(1, 3, 5)))


def _images(volume: Volume, factor: int) -> tuple[Floats, Floats]:
    """Smoothed grey levels of cubes of known voxels, carried on into the unknown, and how well each is known (0 to 1).

    Without smoothing, interpolation averages the noise away between voxels and makes every voxel centre a minimum.
    """
    ndimage = require("scipy.ndimage", "to align volumes by a lattice")
    known = volume.known.astype(np.float64)
    share, total = _shrunk(known, factor), _shrunk(volume.data * known, factor)
    spread, sums = (ndimage.gaussian_filter(part, SMOOTH, truncate=4.0) for part in (share, total))
    mean = float(total.sum() / max(share.sum(), 1e-9))
    return np.divide(sums, spread, out=np.full_like(sums, mean), where=spread > 1e-3), np.asarray(spread)


def _level(fixed: Volume, moving: Volume, factor: int, knot_mm: float) -> _Level:
    grid_f, grid_m = fixed.grid, moving.grid
    a, known = _images(fixed, factor)
    b, moving_known = _images(moving, factor)
    centre = (factor - 1) / 2
    lines = [np.arange(n) * factor + centre for n in a.shape]
    index = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1)
    place = (grid_m.to_index(grid_f.to_world(index)) - centre) / factor
    R = grid_m.T_world_volume[:3, :3].T @ grid_f.T_world_volume[:3, :3]  # of a displacement: fixed to moving frame
    turn = (R / np.array(grid_m.spacing_mm[::-1])[:, None])[::-1] / factor
    bases = [_basis(line, s, knot_mm, n)[0] for line, (n, s) in zip(lines, _axes(grid_f), strict=True)]
    return _Level(
        fixed=_splined(a),
        known=(known > WHOLE).astype(np.float64),
        moving=np.ascontiguousarray(b),
        moving_known=moving_known,
        place=np.moveaxis(place, -1, 0),
        turn=turn,
        bases=bases,
    )


def _splined(image: Floats) -> Floats:
    """The values at the voxels of the cubic B-spline whose control points are `image`."""
    ndimage = require("scipy.ndimage", "to align volumes by a lattice")
    for axis in range(3):
        image = ndimage.convolve1d(image, [1 / 6, 4 / 6, 1 / 6], axis=axis, mode="nearest")
    return np.asarray(image)


def _where(level: _Level, control: Floats) -> Floats:
    return np.asarray(level.place + np.einsum("kc,czyx->kzyx", level.turn, _expand(control, level.bases)))


def _correlation(level: _Level, control: Floats, weight: Floats) -> tuple[float, Floats]:
    """Weighted NCC and its gradient in `control`."""
    place, total = _where(level, control), weight.sum()
    b, steps = _sampled(level.moving, place, weight)
    a0 = level.fixed - (weight * level.fixed).sum() / total
    b0 = b - (weight * b).sum() / total
    norm_a, norm_b = math.sqrt((weight * a0 * a0).sum()), math.sqrt((weight * b0 * b0).sum())
    if norm_a < 1e-9 or norm_b < 1e-9:
        return 0.0, np.zeros_like(control)
    ncc = float((weight * a0 * b0).sum() / (norm_a * norm_b))
    pull = weight * (a0 / norm_a - ncc * b0 / norm_b) / norm_b
    return ncc, _gather(np.einsum("zyx,kzyx,kc->czyx", pull, steps, level.turn, optimize=True), level.bases)


def _sampled(image: Floats, place: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """(Z, Y, X) smooth values and (3, Z, Y, X) slopes per voxel of `image` at `place`, where `weight` is above 0."""
    require("numba", "to align volumes by a lattice")
    from edge_runtime.slam._lattice_kernels import sample_smooth

    value, slope = np.empty(weight.size), np.empty((3, weight.size))
    sample_smooth(image, place.reshape(3, -1), weight.ravel(), value, slope)
    return value.reshape(weight.shape), slope.reshape(place.shape)


def _weight(level: _Level, control: Floats) -> Floats:
    """1 where the fixed voxel is known and falls among known voxels of the moving volume, else 0."""
    ndimage = require("scipy.ndimage", "to align volumes by a lattice")
    share = ndimage.map_coordinates(level.moving_known, _where(level, control), order=1, mode="constant", cval=0.0)
    return np.asarray(level.known * (share > WHOLE))


def _roughness(control: Floats, knot_mm: float) -> tuple[float, Floats]:
    """Mean square of the field's gradient, by differences of the control points, and its gradient."""
    total, gradient, count = 0.0, np.zeros_like(control), control[0].size
    for axis in (1, 2, 3):
        step = np.diff(control, axis=axis) / knot_mm
        total += float((step**2).sum()) / count
        pad = [(1, 1) if a == axis else (0, 0) for a in range(4)]
        gradient -= np.diff(np.pad(step, pad), axis=axis) * 2 / (knot_mm * count)
    return total, gradient


def align_lattice(fixed: Volume, moving: Volume, settings: LatticeSettings | None = None) -> LatticeAlignment:
    """The field that takes points of `fixed` to where `moving` shows them; both lie in one world, roughly aligned.

    E = -NCC + smoothness * mean |grad u|^2. A field that folds (Jacobian determinant 0 or less anywhere), that raises
    the correlation by less than `least_gain`, or volumes that overlap too little, are refused: zero field, with the
    reason. Raises `ReconstructionError` when either volume has no known voxel, is under two coarse voxels wide, or has
    more than `MOST_VOXELS`.
    """
    optimize = require("scipy.optimize", "to align volumes by a lattice")
    settings = settings or LatticeSettings()
    for name, volume in (("fixed", fixed), ("moving", moving)):
        if not volume.known.any() or min(volume.data.shape) < 2 * max(settings.shrink):
            raise ReconstructionError(
                f"the {name} volume of {volume.data.shape} has no known voxel, or a side under "
                f"{2 * max(settings.shrink)} voxels; compound it first, or shrink less"
            )
        if volume.grid.voxels > MOST_VOXELS:
            raise ReconstructionError(
                f"the {name} volume has {volume.grid.voxels} voxels, the cap is {MOST_VOXELS}; compound it coarser"
            )
    shape = (3, *(_knots(n, s, settings.knot_mm) for n, s in _axes(fixed.grid)))
    control = np.zeros(shape)
    level = _level(fixed, moving, settings.shrink[-1], settings.knot_mm)
    overlap = float(_weight(level, control).sum() / max(level.known.sum(), 1))
    if overlap < settings.least_overlap:
        reason = f"{overlap:.0%} of the fixed volume falls on the moving one, {settings.least_overlap:.0%} is needed"
        return _result(fixed.grid, control, level, settings, reason)
    for factor in settings.shrink:
        part = level if factor == settings.shrink[-1] else _level(fixed, moving, factor, settings.knot_mm)
        for _ in range(ROUNDS):
            weight = _weight(part, control)
            if weight.sum() < 8:
                break

            def energy(flat: Floats, part: _Level = part, weight: Floats = weight) -> tuple[float, Floats]:
                ncc, rise = _correlation(part, flat.reshape(shape), weight)
                rough, gradient = _roughness(flat.reshape(shape), settings.knot_mm)
                return SCALE * (settings.smoothness * rough - ncc), SCALE * (
                    settings.smoothness * gradient - rise
                ).ravel()

            found = optimize.minimize(
                energy,
                control.ravel(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": settings.iterations, "ftol": 1e-7, "gtol": 1e-8},
            )
            control = found.x.reshape(shape)
    return _result(fixed.grid, control, level, settings)


def _result(
    grid: VolumeGrid, control: Floats, level: _Level, settings: LatticeSettings, refused: str = ""
) -> LatticeAlignment:
    """The alignment, refused where it folds or gains nothing; both correlations are over the same voxels."""
    nothing = np.zeros_like(control)
    field = LatticeField(control=control, knot_mm=settings.knot_mm, grid=grid)
    weight = _weight(level, nothing) * _weight(level, control)
    before, after = (_correlation(level, c, weight)[0] if weight.any() else 0.0 for c in (nothing, control))
    determinant = field.jacobian()
    least, most = float(determinant.min()), float(determinant.max())
    if not refused and least <= 0:
        refused = f"the field folds: Jacobian determinant {least:.3f}; raise smoothness"
    if not refused and after - before < settings.least_gain:
        refused = f"correlation {before:.4f} becomes {after:.4f}: a gain of {settings.least_gain} is needed"
    return LatticeAlignment(
        field=LatticeField(control=nothing, knot_mm=settings.knot_mm, grid=grid) if refused else field,
        ncc_before=before,
        ncc_after=after,
        jacobian=(least, most),
        largest_mm=float(np.linalg.norm(field.displacement(), axis=-1).max()),
        refused=refused,
    )
