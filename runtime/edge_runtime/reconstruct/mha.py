"""Volumes as MetaImage files (https://itk.org/Wiki/ITK/MetaIO/Documentation), in one file, uint8 when read."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import SourceError, SourceFormatError
from edge_runtime.reconstruct.grid import MAX_SIDE, MAX_VOXELS
from edge_runtime.reconstruct.nrrd import VolumeField, lattice_of, pose_origin_of, volume_field
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.sources.tracked._body import ZLIB, read_body, read_until
from edge_runtime.sources.tracked._text import counts_of, flag, text_of

__all__ = ["read_mha", "write_mha"]

MAX_HEADER = 65536
LAST = b"ElementDataFile"
WANTED = ("DimSize", "ElementType", "ElementSpacing")
ORIGINS = ("Offset", "Position", "Origin")  # older names of the same
AXES = ("TransformMatrix", "Rotation", "Orientation")


def write_mha(path: Path | str, volume: Volume, *, field: VolumeField = "data", compress: bool = False) -> None:
    """Write one field of `volume` to `path` as a single-file MetaImage, atomically: LPS, mm, full precision.

    `data` and `filled` are uint8, `weight` is float32. Raises `ConfigError` when the field is absent.
    """
    body = volume_field(volume, field).tobytes()
    if compress:
        body = zlib.compress(body)
    z, y, x = volume.data.shape
    T = volume.T_world_volume
    axes = (float(n) for n in T[:3, :3].T.ravel())  # one axis of the volume after the other
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {compress}",
        *([f"CompressedDataSize = {len(body)}"] if compress else []),
        f"TransformMatrix = {' '.join(map(repr, axes))}",
        f"Offset = {' '.join(repr(float(n)) for n in T[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {' '.join(repr(float(s)) for s in volume.spacing_mm[::-1])}",
        f"DimSize = {x} {y} {z}",
        "AnatomicalOrientation = RAI",
        f"PoseOrigin = {volume.pose_origin}",
        f"ElementType = {'MET_FLOAT' if field == 'weight' else 'MET_UCHAR'}",
        "ElementDataFile = LOCAL",
    ]
    write_bytes(Path(path), "\n".join(lines).encode("ascii") + b"\n" + body)


def read_mha(path: Path | str, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a uint8 volume of three axes from a single-file MetaImage, stored or packed, as PLUS and ITK write it.

    `weight` and `filled` are None: the file does not tell what was swept. Raises `SourceError` when the file cannot be
    opened and `SourceFormatError` when it is another kind of file, damaged, cut short or larger than `max_voxels`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = read_until(file, (b"\n" + LAST,), MAX_HEADER)
            where = b"" if head is None else file.readline(1024)
            if head is None or where.split(b"=")[-1].strip() != b"LOCAL":
                raise SourceFormatError(f"{path.name} is no MetaImage with header and voxels in one file (LOCAL)")
            fields = _fields(text_of(head[: -len(LAST)]), path.name)
            shape = _shape(fields, path.name, max_voxels)
            wbits = ZLIB if flag(fields.get("CompressedData", "False"), f"{path.name}: CompressedData") else None
            body = read_body(file, math.prod(shape), wbits, path.name)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    step = _numbers(fields["ElementSpacing"], 3, f"{path.name}: ElementSpacing")
    axes = _numbers(_first(fields, AXES, "1 0 0 0 1 0 0 0 1"), 9, f"{path.name}: TransformMatrix").reshape(3, 3).T
    origin = _numbers(_first(fields, ORIGINS, "0 0 0"), 3, f"{path.name}: Offset")
    spacing, T = lattice_of(axes * step, origin, f"{path.name}: the TransformMatrix")
    return Volume(
        data=np.frombuffer(body, np.uint8).reshape(shape).copy(),
        spacing_mm=spacing,
        T_world_volume=T,
        pose_origin=pose_origin_of(fields.get("PoseOrigin"), path.name),
    )


def _fields(head: str, name: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in head.splitlines() if line.strip())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    if missing := [key for key in WANTED if key not in fields]:
        raise SourceFormatError(f"{name}: the header lacks {', '.join(missing)}; a volume placed in space needs them")
    if any(key.startswith("Seq_Frame0001_") for key in fields):  # PLUS writes a record 0 into volumes too
        raise SourceFormatError(
            f"{name} is a tracked sequence, not a volume; `edge-runtime reconstruct` makes one of it"
        )
    return fields


def _shape(fields: dict[str, str], name: str, max_voxels: int) -> tuple[int, int, int]:
    sizes = counts_of(fields["DimSize"], f"{name}: DimSize")
    channels = fields.get("ElementNumberOfChannels", "1")
    if fields["ElementType"] != "MET_UCHAR" or channels != "1" or len(sizes) != 3 or not min(sizes) >= 1:
        raise SourceFormatError(
            f"{name}: ElementType {fields['ElementType']}, {channels} channels, DimSize {fields['DimSize'][:40]}; "
            "MET_UCHAR with one channel and three sides is read"
        )
    if math.prod(sizes) > max_voxels or max(sizes) > MAX_SIDE:
        raise SourceFormatError(f"{name}: {math.prod(sizes)} voxels, the cap is {max_voxels}; raise max_voxels to read")
    return sizes[2], sizes[1], sizes[0]


def _first(fields: dict[str, str], names: tuple[str, ...], default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)


def _numbers(text: str, count: int, name: str) -> npt.NDArray[np.float64]:
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise SourceFormatError(f"{name}: {error}; {count} numbers are needed") from error
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise SourceFormatError(f"{name} is {text[:60]!r}; {count} finite numbers are needed")
    return numbers
