"""How alike two reconstructed volumes of one lattice are: correlation of grey levels, overlap of masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, ReconstructionError
from edge_runtime.frame import FrameGeometry
from edge_runtime.metrics.segmentation import dice
from edge_runtime.reconstruct import FrameStack, Sweep, Volume, compound, grid_of_sweep
from edge_runtime.reconstruct.compare import check_same_lattice

__all__ = ["mask_overlap", "paired_volumes", "swept_overlap", "volume_ncc"]


class _Twice:
    """The frames of a sweep, and once more."""

    def __init__(self, frames: FrameStack) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return 2 * len(self._frames)

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        return self._frames[index % len(self._frames)]


def paired_volumes(
    sweep: Sweep, T_estimated: npt.NDArray[np.float64], spacing_mm: float = 0.5
) -> tuple[Volume, Volume]:
    """(estimated, true) volume of a sweep with true poses and of the same frames at estimated ones (N, 4, 4) mm.

    The first frames are laid on each other; both volumes lie on the one lattice that holds both sweeps, so nothing that
    drifted is cut off. Means, trilinear. Raises `ConfigError` for other poses, what `grid_of_sweep` and `compound`
    raise, and `MissingDependencyError` without numba.
    """
    if T_estimated.shape != sweep.T_world_image.shape:
        raise ConfigError(f"estimated poses of shape {T_estimated.shape}; {sweep.T_world_image.shape} is needed")
    T = sweep.T_world_image[0] @ np.linalg.inv(T_estimated[0]) @ T_estimated
    geometry = sweep.geometry if isinstance(sweep.geometry, FrameGeometry) else [*sweep.geometry, *sweep.geometry]
    both = Sweep(frames=_Twice(sweep.frames), T_world_image=np.concatenate([sweep.T_world_image, T]), geometry=geometry)
    grid = grid_of_sweep(both, spacing_mm)
    estimated = compound(sweep.with_poses(T, "image"), grid=grid, kernel="linear")
    return estimated, compound(sweep, grid=grid, kernel="linear")


def volume_ncc(volume: Volume, truth: Volume) -> float:
    """Normalised cross-correlation (Pearson's r, -1 to 1) of the grey levels over the voxels that both have swept.

    Both must lie on the same lattice: reconstruct both with one grid (`ConfigError` otherwise). Raises
    `ReconstructionError` when they share fewer than two voxels or one of them is even there.
    """
    check_same_lattice(volume, truth)
    both = volume.swept & truth.swept
    a, b = volume.data[both].astype(np.float64), truth.data[both].astype(np.float64)
    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        raise ReconstructionError(f"the volumes share {len(a)} swept voxels, and one is even there: no correlation")
    a -= a.mean()
    b -= b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def mask_overlap(volume: Volume, truth: Volume, *, level: int = 1) -> float:
    """Dice of the voxels of at least `level` in two volumes of the same lattice, whole: 1 when both have none.

    What only one of them saw counts as a miss, for a shape that drifted out of the truth is a wrong one. Raises
    `ConfigError` for another lattice.
    """
    check_same_lattice(volume, truth)
    return dice(volume.data >= level, truth.data >= level)


def swept_overlap(volume: Volume, truth: Volume) -> float:
    """Dice of the voxels that were swept in two volumes of the same lattice (`ConfigError` otherwise)."""
    check_same_lattice(volume, truth)
    return dice(volume.swept, truth.swept)
