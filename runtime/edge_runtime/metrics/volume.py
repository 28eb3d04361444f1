"""How alike two reconstructed volumes of one lattice are: correlation of grey levels, overlap of masks."""

from __future__ import annotations

import numpy as np

from edge_runtime.errors import ReconstructionError
from edge_runtime.metrics.segmentation import dice
from edge_runtime.reconstruct import Volume
from edge_runtime.reconstruct.compare import check_same_lattice

__all__ = ["mask_overlap", "volume_ncc"]


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
