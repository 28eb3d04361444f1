"""Numbers on the lattice of a volume, written as float32 in the formats of volumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.reconstruct.volume_files import write_volume

__all__ = ["write_values"]


def write_values(path: Path | str, values: npt.NDArray[np.floating], volume: Volume) -> None:
    """Write `values` (Z, Y, X) on the lattice of `volume` as float32: a confidence, a variance, an error in mm.

    Raises `ConfigError` for another shape, and as `write_volume`.
    """
    if values.shape != volume.data.shape:
        raise ConfigError(f"values have shape {values.shape}; {volume.data.shape}, that of the volume, is needed")
    write_volume(path, replace(volume, weight=np.asarray(values, np.float32)), field="weight")
