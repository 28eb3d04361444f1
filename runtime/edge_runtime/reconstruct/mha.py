"""Volumes as MetaImage files (https://itk.org/Wiki/ITK/MetaIO/Documentation), written only."""

from __future__ import annotations

import zlib
from pathlib import Path

from edge_runtime.atomic import write_bytes
from edge_runtime.reconstruct.nrrd import VolumeField, volume_field
from edge_runtime.reconstruct.volume import Volume

__all__ = ["write_mha"]


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
