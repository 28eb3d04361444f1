"""Two sweeps of one anatomy: how one lies to the other, by rigid registration of their volumes.

Coarse to fine over means of blocks; on the coarsest level many starts. Each level is the Gauss-Newton fit of the NCC in
`_fit`. Sweeps are compounded from images freed of shadow and shading (`contrast`), which turn with the probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.geometry import is_rigid
from edge_runtime.reconstruct.compound import compound
from edge_runtime.reconstruct.sweep import Sweep
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.slam import se3
from edge_runtime.slam._fit import MIN_POINTS, Field, Fit, Points, coarser, field_of, fit_rigid, smooth
from edge_runtime.slam.contrast import axial_contrast_sweep

__all__ = ["JoinSettings", "Joined", "register_sweeps", "register_volumes"]

F64 = npt.NDArray[np.float64]

MIN_SLOPE = 0.02  # of a direction that is held, over that of the steepest
SEED = 0  # of the draw of voxels that take part
APART_MM = 1.0  # two ends farther apart than this, at the corners, are different answers


class JoinSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How two volumes are registered.

    `levels_mm`: voxel of each level, coarse to fine (not finer than the volumes are). Starts: all shifts of 0 and
    +-`start_mm` along the axes, and turns of +-`start_deg` about them; `kept` of them go on to the next level.
    `points` voxels take part at most. `contrast_mm`: blur of
    `axial_contrast` where sweeps are registered, 0 for the images as they are. Refused: NCC under
    `min_ncc`, shared part under `min_share`, or another answer whose NCC is nearer than `min_lead`. `block_mm`: voxels
    nearer than this count as one for the covariance. Smooth volumes of different anatomy reach an NCC of 0.8 where they
    overlap little: raise `min_ncc` and `min_share` where a false answer costs more than none. Raises `ConfigError` for
    a value out of range.
    """

    levels_mm: tuple[float, ...] = (4.0, 2.0, 1.0)
    start_mm: float = 8.0
    start_deg: float = 5.0
    kept: int = 6
    points: int = 20_000
    contrast_mm: float = 4.0
    min_share: float = 0.3
    min_ncc: float = 0.6
    min_lead: float = 0.02
    block_mm: float = 8.0

    def __post_init__(self) -> None:
        levels = self.levels_mm
        if not levels or not all(0 < b <= a < np.inf for a, b in zip(levels, (*levels[1:], levels[-1]), strict=True)):
            raise ConfigError(f"levels_mm {levels}: positive numbers, coarse to fine, are needed")
        if not (self.points >= MIN_POINTS and self.kept >= 1):
            raise ConfigError(f"points {self.points}, kept {self.kept}: at least {MIN_POINTS} and 1 are needed")
        for name in ("min_share", "min_ncc", "min_lead"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; 0 <= {name} < 1 is needed")
        for name in ("start_mm", "start_deg", "contrast_mm"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; a number from 0 on is needed")
        if not 0 < self.block_mm < np.inf:
            raise ConfigError(f"block_mm is {self.block_mm}; a positive number is needed")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Joined:
    """`T_fixed_moving` (4, 4), rigid, mm: world of the moving sweep to that of the fixed one.

    `covariance` (6, 6): rotation in rad, translation in mm, right perturbation; on simulated noise the
    error is about twice what it says. `ncc` on the finest level over `share` of the moving volume's voxels. `lead`: by
    how much the NCC is above that of the next other answer.
    """

    T_fixed_moving: F64
    covariance: F64
    ncc: float
    share: float
    lead: float


def register_sweeps(
    fixed: Sweep, moving: Sweep, T_fixed_moving: F64 | None = None, settings: JoinSettings | None = None
) -> Joined:
    """As `register_volumes`, of the volumes of two sweeps, whose voxels are those of the finest level.

    Needs scipy, too; raises in addition what `compound` and `axial_contrast` raise.
    """
    settings = settings or JoinSettings()
    volumes = []
    for sweep in (fixed, moving):
        seen = axial_contrast_sweep(sweep, settings.contrast_mm) if settings.contrast_mm else sweep
        volumes.append(compound(seen, settings.levels_mm[-1], kernel="linear"))
    return register_volumes(volumes[0], volumes[1], T_fixed_moving, settings)


def register_volumes(
    fixed: Volume, moving: Volume, T_fixed_moving: F64 | None = None, settings: JoinSettings | None = None
) -> Joined:
    """The rigid motion that lays `moving` on `fixed`, from `T_fixed_moving` (4, 4), default the identity, on.

    Raises `ReconstructionError` when the volumes share too little, do not correlate, agree in two ways equally well, or
    a direction is not held by what they show; `ConfigError` for a start that is not rigid; `MissingDependencyError`
    without numba.
    """
    settings = settings or JoinSettings()
    start = np.eye(4) if T_fixed_moving is None else np.asarray(T_fixed_moving, np.float64)
    if not is_rigid(start, 1e-6):
        raise ConfigError("T_fixed_moving is not a rigid 4x4 matrix in mm (rotation and translation only)")
    fine_fixed, fine_moving = field_of(fixed), field_of(moving)
    for name, field in (("fixed", fine_fixed), ("moving", fine_moving)):
        if np.isfinite(field.levels).sum() < MIN_POINTS:
            raise ReconstructionError(
                f"the {name} volume has fewer than {MIN_POINTS} known voxels; nothing to register"
            )
    centre = _middle(fine_moving)
    ends: list[Fit] = []
    starts = [start @ motion for motion in _starts(settings, centre)]
    for k, size in enumerate(settings.levels_mm):
        target, source = (_level(field, size) for field in (fine_fixed, fine_moving))
        points = _points(source, settings)
        found = [
            fit_rigid(points, target, T, steps=30, min_slope=MIN_SLOPE, min_share=settings.min_share) for T in starts
        ]
        ends = _distinct([fit for fit in found if fit is not None], centre, fine_moving)
        if not ends:
            raise ReconstructionError(
                f"on the level of {size:g} mm no start shares {settings.min_share:.0%} of the moving volume with the "
                "fixed one and correlates; give a start T_fixed_moving that is nearer"
            )
        starts = [fit.T for fit in ends[: max(1, settings.kept >> k)]]
    return _judged(ends, len(points.at), settings)


def _judged(ends: list[Fit], points: int, settings: JoinSettings) -> Joined:
    best = ends[0]
    lead = best.ncc - ends[1].ncc if len(ends) > 1 else best.ncc
    if best.ncc < settings.min_ncc:
        raise ReconstructionError(
            f"the volumes do not agree anywhere: NCC {best.ncc:.2f}, min_ncc is {settings.min_ncc:g}; are they of one "
            "anatomy, and the start within reach?"
        )
    if lead < settings.min_lead:
        raise ReconstructionError(
            f"the volumes agree in two ways: NCC {best.ncc:.3f} and {ends[1].ncc:.3f}, min_lead is "
            f"{settings.min_lead:g}; the anatomy repeats itself, give a start T_fixed_moving and start_mm 0"
        )
    if best.free < 6:
        raise ReconstructionError(
            f"only {best.free} of 6 directions are held by what the volumes show; the others cannot be registered"
        )
    return Joined(T_fixed_moving=best.T, covariance=best.covariance, ncc=best.ncc, share=best.used / points, lead=lead)


def _starts(settings: JoinSettings, centre: F64) -> list[F64]:
    """Motions about `centre`: every combination of shifts, and single turns without shift."""
    turns = [np.zeros(6)]
    if settings.start_mm:
        turns = [np.array([0, 0, 0, *s]) for s in product((0.0, settings.start_mm, -settings.start_mm), repeat=3)]
    if settings.start_deg:
        turns += [sign * np.radians(settings.start_deg) * np.eye(6)[k] for k in range(3) for sign in (1, -1)]
    about = np.eye(4)
    about[:3, 3] = centre
    return [about @ se3.exp(xi) @ se3.inverse(about) for xi in turns]


def _level(field: Field, size_mm: float) -> Field:
    """`field` on voxels of about `size_mm`, smoothed: noise fits best half a voxel off, where it is blurred."""
    s = field.grid.spacing_mm
    made = coarser(field, (max(1, round(size_mm / s[0])), max(1, round(size_mm / s[1])), max(1, round(size_mm / s[2]))))
    return Field(levels=smooth(made.levels), grid=made.grid)


def _points(field: Field, settings: JoinSettings) -> Points:
    """Known voxels of `field`, at most `settings.points` of them, drawn with a fixed seed."""
    index = np.argwhere(np.isfinite(field.levels))
    if len(index) > settings.points:
        index = index[np.random.default_rng(SEED).choice(len(index), settings.points, replace=False)]
    at = field.grid.to_world(index)
    cell = np.floor(at / settings.block_mm).astype(np.int64) & 0xFFFFF
    block = cell[:, 0] | cell[:, 1] << 20 | cell[:, 2] << 40
    return Points(at=at, levels=field.levels[tuple(index.T)].astype(np.float64), block=block)


def _middle(field: Field) -> F64:
    """Mean world position (3,) of the known voxels."""
    return np.asarray(field.grid.to_world(np.argwhere(np.isfinite(field.levels)).mean(axis=0)))


def _distinct(fits: list[Fit], centre: F64, field: Field) -> list[Fit]:
    """Best first, without those that end where a better one does."""
    reach = 0.5 * max(n * s for n, s in zip(field.levels.shape, field.grid.spacing_mm, strict=True))
    corners = centre + reach * np.concatenate([np.eye(3), -np.eye(3)])
    kept: list[Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.ncc):
        at = corners @ fit.T[:3, :3].T + fit.T[:3, 3]
        others = [corners @ other.T[:3, :3].T + other.T[:3, 3] for other in kept]
        if all(np.linalg.norm(at - other, axis=1).max() > APART_MM for other in others):
            kept.append(fit)
    return kept
