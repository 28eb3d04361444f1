"""What lies under the probe: echo strength, labels and bone on a grid in the tissue's own millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from edge_sdk.simulate._checks import generator, require

__all__ = ["BONE", "TISSUE", "VESSEL", "Anatomy", "homogeneous", "random_anatomy"]

TISSUE, VESSEL, BONE = 0, 1, 2
_LUMEN_DB, _WALL_DB, _BONE_DB = -38.0, 8.0, 14.0
_WALL_MM, _BONE_SHELL_MM = 0.5, 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """`strength_db` (Z, Y, X) float32 of the scatterers (0 is tissue), `label` (Z, Y, X) uint8: the truth.

    Voxel (0, 0, 0) is centred at `origin_mm` (x, y, z), neighbours are `voxel_mm` apart; beyond the grid its border
    goes on. `bone_mm` (Z, X) float32: the y of the bone's surface, infinite where there is none. `seed` draws the
    scatterers; `strands` in [0, 1] is the share of them that lie in line along z, in strands of `strand_mm`, as in
    muscle: their echo changes with the strand, not with the slice, so the image decorrelates slower than speckle.
    Raises `ConfigError` for shapes, types and numbers that do not fit.
    """

    strength_db: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    bone_mm: npt.NDArray[np.float32]
    origin_mm: npt.NDArray[np.float64]
    voxel_mm: float
    seed: int
    strands: float = 0.0
    strand_mm: float = 8.0

    def __post_init__(self) -> None:
        shape, floats = self.strength_db.shape, np.dtype(np.float32)
        ok = len(shape) == 3 and min(shape) >= 2 and self.strength_db.dtype == floats
        require(ok, "strength_db", (shape, str(self.strength_db.dtype)), "give (Z, Y, X) float32 of at least 2 each")
        require(bool(np.isfinite(self.strength_db).all()), "strength_db", "not finite", "give finite dB")
        ok = self.label.shape == shape and self.label.dtype == np.uint8
        require(ok, "label", (self.label.shape, str(self.label.dtype)), f"give {shape} uint8, as strength_db has")
        ok = self.bone_mm.shape == shape[::2] and self.bone_mm.dtype == floats and not np.isnan(self.bone_mm).any()
        require(ok, "bone_mm", (self.bone_mm.shape, str(self.bone_mm.dtype)), f"give {shape[::2]} float32, no NaN")
        ok = self.origin_mm.shape == (3,) and bool(np.isfinite(self.origin_mm).all())
        require(ok, "origin_mm", self.origin_mm, "give x, y, z in mm")
        require(0.01 <= self.voxel_mm <= 10, "voxel_mm", self.voxel_mm, "give 0.01 to 10 mm")
        require(0 <= self.strands <= 1, "strands", self.strands, "give a share of 0 to 1")
        require(0.5 <= self.strand_mm <= 100, "strand_mm", self.strand_mm, "give 0.5 to 100 mm")
        require(self.seed >= 0, "seed", self.seed, "give a whole number >= 0")


def homogeneous(seed: int = 0) -> Anatomy:
    """Tissue of strength 0 dB everywhere: fully developed speckle, for comparison with theory."""
    return Anatomy(
        strength_db=np.zeros((2, 2, 2), np.float32),
        label=np.zeros((2, 2, 2), np.uint8),
        bone_mm=np.full((2, 2), np.inf, np.float32),
        origin_mm=np.zeros(3),
        voxel_mm=1.0,
        seed=seed,
    )


def random_anatomy(
    seed: int,
    size_mm: tuple[float, float, float] = (70.0, 50.0, 150.0),
    *,
    voxel_mm: float = 0.4,
    vessels: int | None = None,
    bone: bool | None = None,
    texture_db: float = 4.0,
    strands: float = 0.0,
    strand_mm: float = 8.0,
) -> Anatomy:
    """Layered tissue with vessels and bone in a box of `size_mm` (x, y, z): x about 20 mm, y from 0, z from -20 mm.

    Layers with wavy borders, texture of two scales with standard deviation `texture_db` that runs along z as fibres
    do, `vessels` winding tubes (None: one to three) with bright walls, and with `bone` (None: two times in three)
    ribs or one long bone across the deeper half. All of it is drawn from `seed`. `strands` and `strand_mm` as in
    `Anatomy`: 0 is ideal speckle. Raises `ConfigError`.
    """
    require(0.2 <= voxel_mm <= 2, "voxel_mm", voxel_mm, "give 0.2 to 2 mm")
    require(all(10 <= s <= 1000 for s in size_mm), "size_mm", size_mm, "give three lengths of 10 to 1000 mm")
    require(vessels is None or 0 <= vessels <= 10, "vessels", vessels, "give 0 to 10, or None")
    require(0 <= texture_db <= 12, "texture_db", texture_db, "give 0 to 12 dB")
    shape = tuple(round(s / voxel_mm) for s in reversed(size_mm))
    require(bool(np.prod(shape) <= 2e8), "size_mm", size_mm, "give a smaller box or larger voxels: 2e8 voxels at most")
    rng = generator(seed)
    origin = np.array([20.0 - size_mm[0] / 2, 0.0, -20.0])
    z, y, x = (origin[2 - k] + voxel_mm * np.arange(shape[k], dtype=np.float32) for k in range(3))
    strength = _texture(rng, shape, voxel_mm, texture_db)
    _add_layers(rng, strength, x, y, z)
    label = np.zeros(shape, np.uint8)
    for _ in range(int(rng.integers(1, 4)) if vessels is None else vessels):
        _add_vessel(rng, strength, label, x, y, z)
    with_bone = bool(rng.random() < 2 / 3) if bone is None else bone
    surface = _bone(rng, x, z) if with_bone else np.full((len(z), len(x)), np.inf, np.float32)
    below = y[None, :, None] - surface[:, None, :]
    strength[(below > -0.2) & (below < _BONE_SHELL_MM)] = _BONE_DB
    label[below >= 0] = BONE
    return Anatomy(
        strength_db=strength,
        label=label,
        bone_mm=surface,
        origin_mm=origin,
        voxel_mm=voxel_mm,
        seed=int(rng.integers(1 << 62)),
        strands=strands,
        strand_mm=strand_mm,
    )


def _texture(
    rng: np.random.Generator, shape: tuple[int, ...], voxel_mm: float, texture_db: float
) -> npt.NDArray[np.float32]:
    """Smooth noise in dB: fine strands along z and coarse clouds, of equal variance."""
    total = np.zeros(shape, np.float32)
    for scale in ((3.0, 0.5, 1.0), (6.0, 2.0, 3.0)):
        noise = gaussian_filter(rng.standard_normal(shape, np.float32), np.array(scale) / voxel_mm, mode="wrap")
        total += noise / noise.std()
    return np.asarray(total * (texture_db / np.sqrt(2)), np.float32)


def _waves(
    rng: np.random.Generator,
    x: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
    height_mm: float,
    shortest_mm: float,
) -> npt.NDArray[np.float32]:
    """A wavy sheet over (z, x) in mm: four plane waves of `shortest_mm` to four times that, about `height_mm` high."""
    total = np.zeros((len(z), len(x)), np.float32)
    for _ in range(4):
        rate = 2 * np.pi / (shortest_mm * 4 ** rng.random())
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        total += np.sin(rate * (np.cos(angle) * x[None] + np.sin(angle) * z[:, None]) + phase)
    return np.asarray(total * (height_mm / 2), np.float32)


def _add_layers(
    rng: np.random.Generator,
    strength: npt.NDArray[np.float32],
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
) -> None:
    """Skin, fat and muscles: each from a wavy border down, with its own level and a bright sheet at the border."""
    depth = above = 0.0
    for k in range(4):
        level = 5.0 if k == 0 else float(rng.uniform(-8, 3))
        border = depth + _waves(rng, x, z, 0.02 + 0.1 * depth, 25.0)
        below = y[None, :, None] - border[:, None, :]
        inside = below >= 0
        strength += inside * np.float32(level - above)
        if k > 0:
            strength[np.abs(below) < 0.35] += 9.0
        above, depth = level, depth + (1.8 if k == 0 else float(rng.uniform(5, 11)))


def _add_vessel(
    rng: np.random.Generator,
    strength: npt.NDArray[np.float32],
    label: npt.NDArray[np.uint8],
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    z: npt.NDArray[np.float32],
) -> None:
    """A winding tube along z, its radius changing along it."""
    middle, swing = rng.uniform((6, 7), (34, 26)), rng.uniform(1.0, 4.0, 2)
    radius = float(rng.uniform(1.2, 3.5))
    for k, height in enumerate(z):
        bend = np.sin(height * np.array([0.09, 0.07]) + middle)
        cx, cy = middle + swing * bend
        here = radius * (1 + 0.2 * np.sin(0.13 * height + middle[0]))
        distance = np.hypot(x[None] - cx, (y[:, None] - cy) * 1.15) - here
        strength[k][(distance >= 0) & (distance < _WALL_MM)] = _WALL_DB
        strength[k][distance < 0] = _LUMEN_DB
        label[k][distance < 0] = VESSEL


def _bone(rng: np.random.Generator, x: npt.NDArray[np.float32], z: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The surface of ribs across z, or of one long bone along z: the y in mm over (z, x), infinite between."""
    top = float(rng.uniform(22, 32)) + _waves(rng, x, z, 0.8, 30.0)
    if rng.random() < 0.5:
        pitch, width = float(rng.uniform(16, 24)), float(rng.uniform(4, 6))
        across = (z[:, None] + 0.15 * x[None] + rng.uniform(0, pitch)) % pitch - pitch / 2
    else:
        width = float(rng.uniform(5, 9))
        across = x[None] - float(rng.uniform(10, 30)) - 2 * np.sin(0.05 * z[:, None])
    dome = np.clip(1 - (across / width) ** 2, 0, None)
    surface = top + 0.6 * width * (1 - np.sqrt(dome))
    return np.asarray(np.where(np.abs(across) < width, surface, np.inf), np.float32)
