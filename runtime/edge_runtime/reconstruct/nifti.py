"""Volumes as single-file NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1), uint8 when read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.geometry import quaternion_wxyz_to_rotation, rotation_to_quaternion_wxyz
from edge_runtime.reconstruct.grid import MAX_SIDE, MAX_VOXELS
from edge_runtime.reconstruct.nrrd import VolumeField, lattice_of, pose_origin_of, volume_field
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.sources.tracked._body import GZIP, inflate

__all__ = ["read_nifti", "write_nifti"]

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


def read_nifti(path: Path | str, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a uint8 volume of three axes from a single-file NIfTI-1, `.nii` or `.nii.gz`, into LPS.

    The placement is that of sform where its code is set, else of qform, as the standard prefers it. `weight` and
    `filled` are None. Raises `SourceError` when the file cannot be opened and `SourceFormatError` when it is another
    kind of file, big-endian, scaled, without a placement, mirrored, damaged or larger than `max_voxels`.
    """
    path = Path(path)
    cap = max_voxels + HEADER
    try:
        with path.open("rb") as file:
            raw = file.read(cap + cap // 1000 + 4096)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    packed = raw.startswith(b"\x1f\x8b")
    head = _start(raw, path.name) if packed else raw[:HEADER]
    if len(head) < HEADER or head[:4] != struct.pack("<i", 348) or head[344:348] != b"n+1\0":
        raise SourceFormatError(f"{path.name} is not a little-endian NIfTI-1 file with header and voxels in one")
    shape, start = _shape(head, path.name, max_voxels)
    size = start + shape[0] * shape[1] * shape[2]
    body = inflate(raw, size, GZIP, path.name) if packed else raw
    if len(body) != size:
        raise SourceFormatError(f"{path.name}: {len(body)} bytes where {size} are declared; it was cut short")
    spacing, T = _placement(head, path.name)
    note = head[148:228].split(b"\0")[0].decode("ascii", "replace")
    return Volume(
        data=np.frombuffer(body, np.uint8, offset=start).reshape(shape).copy(),
        spacing_mm=spacing,
        T_world_volume=T,
        pose_origin=pose_origin_of(note.split()[1] if note.startswith("pose_origin ") else None, path.name),
    )


def _start(raw: bytes, name: str) -> bytes:
    """The header of a packed file."""
    try:
        return zlib.decompressobj(GZIP).decompress(raw, HEADER)
    except zlib.error as error:
        raise SourceFormatError(f"{name}: the packed data are damaged ({error})") from error


def _shape(head: bytes, name: str, max_voxels: int) -> tuple[tuple[int, int, int], int]:
    """Shape (z, y, x) and where the voxels begin."""
    count, *sides = struct.unpack_from("<8h", head, 40)
    code, bits = struct.unpack_from("<2h", head, 70)
    start, slope, shift = struct.unpack_from("<3f", head, 108)
    sides = sides[: max(count, 0)]
    if count not in (3, 4) or sides[3:] not in ([], [1]) or not 1 <= min(sides) <= max(sides) <= MAX_SIDE:
        raise SourceFormatError(f"{name}: sides {sides}; one volume of three sides is read")
    if (code, bits) != UINT8 or (slope, shift) not in ((0, 0), (1, 0)) or not HEADER <= start <= 1 << 20:
        raise SourceFormatError(
            f"{name}: datatype {code}, slope {slope:g}, intercept {shift:g}, offset {start:g}; unscaled uint8 is read"
        )
    if sides[0] * sides[1] * sides[2] > max_voxels:
        raise SourceFormatError(f"{name}: sides {sides}, the cap is {max_voxels} voxels; raise max_voxels to read it")
    return (sides[2], sides[1], sides[0]), int(start)


def _placement(head: bytes, name: str) -> tuple[tuple[float, float, float], npt.NDArray[np.float64]]:
    """Spacing (z, y, x) in mm and `T_world_volume`, LPS."""
    qform, sform = struct.unpack_from("<2h", head, 252)
    qfac, *spacing = struct.unpack_from("<4f", head, 76)
    if sform > 0:
        rows = np.array(struct.unpack_from("<12f", head, 280)).reshape(3, 4)
    elif qform > 0:
        b, c, d, *shift = struct.unpack_from("<6f", head, 256)
        a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
        R = quaternion_wxyz_to_rotation(np.array([a, b, c, d])) * (1, 1, -1 if qfac < 0 else 1)
        rows = np.column_stack([R * spacing, shift])
    else:
        raise SourceFormatError(f"{name}: neither sform nor qform is set; a volume placed in space needs one")
    if not np.isfinite(rows).all():
        raise SourceFormatError(f"{name}: the placement holds numbers that are not finite")
    unit = head[123] & 7
    if unit not in (0, MM):
        raise SourceFormatError(f"{name}: the unit of length is code {unit}; mm (2) is read")
    rows = RAS_FROM_LPS[:3, :3] @ rows
    return lattice_of(rows[:, :3], rows[:, 3], f"{name}: its axes")
