"""Volumes as single-file NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1), written only."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError
from edge_runtime.geometry import rotation_to_quaternion_wxyz
from edge_runtime.reconstruct.nrrd import VolumeField, volume_field
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.sources.tracked._body import GZIP

__all__ = ["write_nifti"]

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_DIM = 32767  # sides are int16
SCANNER = 1  # code of qform and sform: a coordinate system of the device
MM = 2
UINT8, FLOAT32 = (2, 8), (16, 32)  # code, bits
HEADER = 352  # 348 bytes and four that say that no extension follows


def write_nifti(path: Path | str, volume: Volume, *, field: VolumeField = "data") -> None:
    """Write one field of `volume` to `path`, atomically: `.nii`, or `.nii.gz` packed; mm, RAS from LPS.

    The same placement stands in qform (quaternion, qfac 1: the axes are right-handed) and sform; the format holds it
    in single precision. `data` and `filled` are uint8, `weight` is float32. Where both `a.nii` and `a.nii.gz` stand,
    readers on niftilib (SimpleITK, 3D Slicer) open the first, whichever is asked for. Raises `ConfigError` when the
    field is absent, a side exceeds 32767 voxels or the name ends otherwise.
    """
    path = Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ConfigError(f"{path.name} does not end in .nii or .nii.gz; name a NIfTI file so")
    if max(volume.data.shape) > MAX_DIM:
        raise ConfigError(f"volume {volume.data.shape}: NIfTI-1 holds {MAX_DIM} voxels a side; write an NRRD file")
    body = _header(volume, field) + volume_field(volume, field).tobytes()
    if path.suffix.lower() == ".gz":
        packer = zlib.compressobj(6, zlib.DEFLATED, GZIP)
        body = packer.compress(body) + packer.flush()
    write_bytes(path, body)


def _header(volume: Volume, field: VolumeField) -> bytes:
    """The 352 bytes before the voxels, little-endian, in the order of nifti1.h."""
    z, y, x = volume.data.shape
    spacing = volume.spacing_mm[::-1]
    T_ras_volume = RAS_FROM_LPS @ volume.T_world_volume
    w, *bcd = rotation_to_quaternion_wxyz(T_ras_volume[:3, :3])
    bcd = [float(q if w >= 0 else -q) for q in bcd]  # w is not stored and is taken as positive
    rows = T_ras_volume[:3].copy()
    rows[:, :3] *= spacing
    code, bits = FLOAT32 if field == "weight" else UINT8
    return b"".join(
        (
            struct.pack("<i10s18sihcB", 348, b"", b"", 0, 0, b"r", 0),
            struct.pack("<8h", 3, x, y, z, 1, 1, 1, 1),
            struct.pack("<3f4h", 0, 0, 0, 0, code, bits, 0),
            struct.pack("<8f", 1, *spacing, 0, 0, 0, 0),
            struct.pack("<3fhBB", HEADER, 1, 0, 0, 0, MM),
            struct.pack("<4f2i", 0, 0, 0, 0, 0, 0),
            struct.pack("<80s24s", f"pose_origin {volume.pose_origin}".encode("ascii"), b""),
            struct.pack("<2h", SCANNER, SCANNER),
            struct.pack("<6f", *bcd, *(float(t) for t in T_ras_volume[:3, 3])),
            struct.pack("<12f", *(float(n) for n in rows.ravel())),
            struct.pack("<16s4s4x", field.encode("ascii"), b"n+1"),
        )
    )
