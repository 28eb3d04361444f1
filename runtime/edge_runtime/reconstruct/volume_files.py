"""A volume read and written in the format that the name of the file asks for."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.reconstruct.grid import MAX_VOXELS
from edge_runtime.reconstruct.mha import read_mha, write_mha
from edge_runtime.reconstruct.nifti import read_nifti, write_nifti
from edge_runtime.reconstruct.nrrd import VolumeField, read_nrrd, write_nrrd
from edge_runtime.reconstruct.volume import Volume

__all__ = ["VOLUME_SUFFIXES", "read_volume", "write_volume"]

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


def read_volume(path: Path | str, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a uint8 volume from `.mha`, `.nrrd`, `.nii` or `.nii.gz`; see `read_mha`, `read_nrrd`, `read_nifti`.

    Raises what these raise, and `ConfigError` for another ending.
    """
    name = Path(path).name.lower()
    if name.endswith(".mha"):
        return read_mha(path, max_voxels=max_voxels)
    if name.endswith(".nrrd"):
        return read_nrrd(path, max_voxels=max_voxels)
    if name.endswith((".nii", ".nii.gz")):
        return read_nifti(path, max_voxels=max_voxels)
    raise ConfigError(f"{Path(path).name}: volumes are read from {', '.join(VOLUME_SUFFIXES)}")
