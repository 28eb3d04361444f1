"""How far a volume is from the truth: grey levels, and the place of a wire."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.reconstruct.volume import Volume

__all__ = [
    "Parity",
    "VolumeError",
    "WireError",
    "check_same_lattice",
    "compare",
    "error_map",
    "locate_wire",
    "parity",
    "shared_part",
    "wire_error",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeError:
    """Difference to the truth, in grey levels, over `voxels` swept voxels.

    `mean_absolute`, `bias` (mean of volume minus truth), `rms`, `p95` (of the absolute difference), `worst`.
    `swept_share` and `filled_share`: swept and filled voxels over all voxels of the lattice. `filled_mean_absolute`:
    the mean absolute difference over the filled voxels, or None when there is none.
    """

    voxels: int
    mean_absolute: float
    bias: float
    rms: float
    p95: float
    worst: float
    swept_share: float
    filled_share: float
    filled_mean_absolute: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How alike two volumes are, over the `voxels` that are not black in either.

    `equal` and `within_2`: shares, 0 to 1, that are equal and that differ by no more than 2 grey levels; `worst`: the
    largest difference.
    """

    voxels: int
    equal: float
    within_2: float
    worst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WireError:
    """Distance of `slices` fitted centres from a true line: mean and worst, in mm and in voxels.

    A voxel is the largest side of the spacing.
    """

    slices: int
    mean_mm: float
    worst_mm: float
    mean_voxels: float
    worst_voxels: float


def compare(volume: Volume, truth: Volume) -> VolumeError:
    """Difference of `volume` to `truth` over the voxels that were swept in `volume` and are known in `truth`.

    Both must lie on the same lattice (`ConfigError` otherwise); `ReconstructionError` when nothing can be compared.
    """
    check_same_lattice(volume, truth)
    both = volume.swept & truth.known
    if not both.any():
        raise ReconstructionError("no voxel is swept in the volume and known in the truth; nothing can be compared")
    off = volume.data.astype(np.int16) - truth.data
    size, difference = np.abs(off[both]), off[both].astype(np.float64)
    filled = np.zeros(both.shape, np.bool_) if volume.filled is None else volume.filled
    guess = np.abs(off[filled & truth.known])
    return VolumeError(
        voxels=int(both.sum()),
        mean_absolute=float(size.mean()),
        bias=float(difference.mean()),
        rms=float(np.sqrt((difference**2).mean())),
        p95=float(np.percentile(size, 95)),
        worst=float(size.max()),
        swept_share=float(volume.swept.mean()),
        filled_share=float(filled.mean()),
        filled_mean_absolute=float(guess.mean()) if guess.size else None,
    )


def parity(data: npt.NDArray[np.uint8], reference: npt.NDArray[np.uint8]) -> Parity:
    """How alike two volumes (Z, Y, X) uint8 of the same lattice are, whoever made them; a black voxel counts as empty.

    Raises `ConfigError` for different shapes or other dtypes and `ReconstructionError` when both are black.
    """
    if data.shape != reference.shape or data.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ConfigError(
            f"volumes of shape {data.shape} {data.dtype} and {reference.shape} {reference.dtype}; two uint8 volumes of "
            "one shape are needed"
        )
    filled = (data > 0) | (reference > 0)
    if not filled.any():
        raise ReconstructionError("both volumes are black; nothing can be compared")
    size = np.abs(data[filled].astype(np.int16) - reference[filled])
    return Parity(
        voxels=len(size),
        equal=float((size == 0).mean()),
        within_2=float((size <= 2).mean()),
        worst=int(size.max()),
    )


def error_map(volume: Volume, truth: Volume) -> npt.NDArray[np.int16]:
    """(Z, Y, X) int16 grey levels of `volume` less `truth`; 0 where either is not known.

    Both must lie on the same lattice (`ConfigError` otherwise). `np.abs(error_map(...)).max(axis=0)` is a picture of
    where the errors are.
    """
    check_same_lattice(volume, truth)
    off = volume.data.astype(np.int16) - truth.data
    off[~(volume.known & truth.known)] = 0
    return np.asarray(off, np.int16)


def check_same_lattice(volume: Volume, truth: Volume) -> None:
    """`ConfigError` unless both volumes have the same shape, spacing and place (to 1e-6 voxel)."""
    a, b = volume.grid, truth.grid
    corners = np.array([(0, 0, 0), np.array(a.shape) - 1])
    same = a.shape == b.shape and np.abs(a.to_index(b.to_world(corners)) - corners).max() <= 1e-6
    if not (same and np.allclose(a.T_world_volume[:3, :3], b.T_world_volume[:3, :3], atol=1e-9)):
        raise ConfigError(
            f"different lattices: {a.shape} at {a.spacing_mm} mm and {b.shape} at {b.spacing_mm} mm, "
            "or placed differently; sample the truth on volume.grid"
        )


def shared_part(volume: Volume, truth: Volume) -> tuple[Volume, Volume]:
    """Both cut to the voxels that they share, for two volumes whose lattices differ in extent only.

    Raises `ConfigError` when spacing or axes differ or the voxels of one lie between those of the other (by more than
    1e-3 voxel), and `ReconstructionError` when they share none.
    """
    same = np.allclose(volume.spacing_mm, truth.spacing_mm, rtol=1e-6)
    turned = np.abs(volume.T_world_volume[:3, :3] - truth.T_world_volume[:3, :3]).max() > 1e-6
    offset = volume.grid.to_index(truth.to_world((0, 0, 0)))
    start = np.rint(offset).astype(int)
    if not same or turned or np.abs(offset - start).max() > 1e-3:
        raise ConfigError(
            f"spacing {volume.spacing_mm} and {truth.spacing_mm} mm, offset {np.round(offset, 3).tolist()} voxels: the "
            "voxels do not coincide; sample one on the grid of the other, or reconstruct with its origin"
        )
    low, high = np.maximum(start, 0), np.minimum(start + truth.data.shape, volume.data.shape)
    if (high <= low).any():
        raise ReconstructionError(f"the volumes share no voxel: {offset.tolist()} voxels lie between their origins")
    return _cropped(volume, low, high), _cropped(truth, low - start, high - start, volume.to_world(low))


def _cropped(
    volume: Volume,
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    origin: npt.NDArray[np.float64] | None = None,
) -> Volume:
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    T = volume.T_world_volume.copy()
    T[:3, 3] = volume.to_world(low) if origin is None else origin
    return replace(
        volume,
        data=volume.data[box],
        weight=None if volume.weight is None else volume.weight[box],
        filled=None if volume.filled is None else volume.filled[box],
        T_world_volume=T,
    )


def locate_wire(
    volume: Volume, start_world: npt.ArrayLike, end_world: npt.ArrayLike, *, window_mm: float = 2.0
) -> npt.NDArray[np.float64]:
    """Centres (K, 3) (x, y, z) in mm of a bright wire that runs about from `start_world` to `end_world`.

    In each slice across the axis of the lattice that the wire follows most, the centroid of what is brighter than
    the median of a disc of radius `window_mm`, the disc being moved to the centroid until it rests. Slices whose
    disc is not wholly known, or has nothing brighter, are left out. Raises `ReconstructionError` when no slice is
    left and `ConfigError` when the line has no length or the window is under one voxel.
    """
    grid = volume.grid
    ends = grid.to_index(np.stack([np.asarray(start_world, float), np.asarray(end_world, float)]))
    run = (ends[1] - ends[0]) * grid.spacing_mm
    axis = int(np.argmax(np.abs(run)))
    across = [a for a in range(3) if a != axis]
    if not np.abs(run).max() > 0 or not window_mm >= max(grid.spacing_mm):
        raise ConfigError(f"the wire must have a length, and window_mm {window_mm} exceed a voxel {grid.spacing_mm}")
    low, high = sorted(ends[:, axis])
    centres = []
    levels, known = np.moveaxis(volume.data, axis, 0), np.moveaxis(volume.known, axis, 0)
    for k in range(max(0, int(np.ceil(low))), min(grid.shape[axis] - 1, int(np.floor(high))) + 1):
        guess = ends[0] + (ends[1] - ends[0]) * (k - ends[0, axis]) / (ends[1, axis] - ends[0, axis])
        step = np.array(grid.spacing_mm)[across]
        centre = _centroid(levels[k], known[k], guess[across], step, window_mm)
        if centre is not None:
            index = np.empty(3)
            index[axis], index[across] = k, centre
            centres.append(index)
    if not centres:
        raise ReconstructionError("no slice shows the wire: no window around the line is wholly known and uneven")
    return grid.to_world(np.stack(centres))


def _centroid(
    level: npt.NDArray[np.uint8],
    known: npt.NDArray[np.bool_],
    centre: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
    window_mm: float,
) -> npt.NDArray[np.float64] | None:
    """Centroid (2,) in voxels of the levels above the median in a disc, iterated; None when there is none."""
    at = np.indices(level.shape).reshape(2, -1).T
    for _ in range(10):
        inside = (((at - centre) * step) ** 2).sum(axis=1) <= window_mm**2
        near = at[inside]
        if len(near) == 0 or not known[tuple(near.T)].all():
            return None
        value = level[tuple(near.T)].astype(np.float64)
        weight = np.maximum(value - np.median(value), 0)
        if weight.sum() == 0:
            return None
        moved = weight @ near / weight.sum()
        if np.abs(moved - centre).max() < 1e-3:
            break
        centre = moved
    return np.asarray(moved)


def wire_error(
    centres_world: npt.NDArray[np.float64],
    start_world: npt.ArrayLike,
    end_world: npt.ArrayLike,
    spacing_mm: tuple[float, float, float],
) -> WireError:
    """Distances of the centres (K, 3) mm from the true line through `start_world` and `end_world` (3,) mm."""
    start, end = np.asarray(start_world, float), np.asarray(end_world, float)
    along = (end - start) / np.linalg.norm(end - start)
    off = centres_world - start
    distance = np.linalg.norm(off - (off @ along)[:, None] * along, axis=1)
    voxel = max(spacing_mm)
    return WireError(
        slices=len(distance),
        mean_mm=float(distance.mean()),
        worst_mm=float(distance.max()),
        mean_voxels=float(distance.mean() / voxel),
        worst_voxels=float(distance.max() / voxel),
    )
