"""A volume written in the format that the name of the file asks for."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct.mha import write_mha
from edge_runtime.reconstruct.nifti import write_nifti
from edge_runtime.reconstruct.nrrd import VolumeField, write_nrrd
from edge_runtime.reconstruct.volume import Volume

__all__ = ["VOLUME_SUFFIXES", "write_volume"]

VOLUME_SUFFIXES = (".mha", ".nii", ".nii.gz", ".nrrd")


def write_volume(path: Path | str, volume: Volume, *, field: VolumeField = "data") -> None:
    """Write one field of `volume` as `.mha`, `.nrrd` (both packed), `.nii` or `.nii.gz`, atomically.

    Raises `ConfigError` for another ending, or when the field is absent.
    """
    name = Path(path).name.lower()
    if name.endswith(".mha"):
        write_mha(path, volume, field=field, compress=True)
    elif name.endswith(".nrrd"):
        write_nrrd(path, volume, field=field, gzip=True)
    elif name.endswith((".nii", ".nii.gz")):
        write_nifti(path, volume, field=field)
    else:
        raise ConfigError(f"{Path(path).name}: a volume is written as {', '.join(VOLUME_SUFFIXES)}")
