"""Volumes as NRRD files (https://teem.sourceforge.net/nrrd/format.html), the subset a `Volume` needs.

Written: NRRD0004, three axes, `space: left-posterior-superior`, one file. Read: the same, and
right-anterior-superior; at most `MAX_HEADER` bytes of header and `max_voxels` voxels; no detached data, skips,
or axes that are not orthogonal.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.geometry import PoseOrigin
from edge_runtime.reconstruct.grid import MAX_SIDE, MAX_VOXELS
from edge_runtime.reconstruct.volume import Volume
from edge_runtime.sources.tracked._body import GZIP, inflate
from edge_runtime.sources.tracked._nrrd_text import BYTES, SPACES, parse_header, vector, vectors

__all__ = ["VolumeField", "lattice_of", "pose_origin_of", "read_nrrd", "volume_field", "write_nrrd"]

VolumeField = Literal["data", "weight", "filled"]

MAX_HEADER = 65536
ORTHOGONAL = 1e-4


def volume_field(volume: Volume, field: VolumeField) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """The array of `field`, as uint8 (data, filled) or little-endian float32 (weight); `ConfigError` when absent."""
    if field not in get_args(VolumeField):
        raise ConfigError(f"field {field!r}: {', '.join(get_args(VolumeField))} are allowed")
    array = getattr(volume, field)
    if array is None:
        raise ConfigError(f"the volume has no {field}; write field 'data'")
    return np.ascontiguousarray(array, "<f4" if field == "weight" else np.uint8)


def write_nrrd(path: Path | str, volume: Volume, *, field: VolumeField = "data", gzip: bool = False) -> None:
    """Write one field of `volume` to `path`, atomically: LPS, mm, numbers with full precision.

    `data` and `filled` are uint8, `weight` is float32. Raises `ConfigError` when the field is absent.
    """
    array = volume_field(volume, field)
    z, y, x = volume.data.shape
    axes = volume.T_world_volume[:3, :3] * volume.spacing_mm[::-1]  # columns: steps along x, y, z
    lines = [
        "NRRD0004",
        f"type: {'float' if field == 'weight' else 'uint8'}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {x} {y} {z}",
        f"space directions: {' '.join(vector(axes[:, k]) for k in range(3))}",
        "kinds: domain domain domain",
        *(["endian: little"] if field == "weight" else []),
        f"encoding: {'gzip' if gzip else 'raw'}",
        'space units: "mm" "mm" "mm"',
        f"space origin: {vector(volume.T_world_volume[:3, 3])}",
        f"pose_origin:={volume.pose_origin}",
    ]
    body = array.tobytes()
    if gzip:
        packer = zlib.compressobj(6, zlib.DEFLATED, GZIP)
        body = packer.compress(body) + packer.flush()
    write_bytes(Path(path), "\n".join(lines).encode("ascii") + b"\n\n" + body)


def read_nrrd(path: Path | str, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a uint8 volume from `path`.

    `weight` and `filled` are None: the file does not tell what was swept. Without a `pose_origin` the least trusted,
    `image`, is assumed. Raises `SourceError` when the file cannot be opened and `SourceFormatError` when it is not
    of the subset above.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER)
            end = re.search(rb"\r?\n\r?\n", head)
            if not head.startswith(b"NRRD000") or end is None:
                raise SourceFormatError(f"{path.name} is not an NRRD file with a header of up to {MAX_HEADER} bytes")
            fields = _parse(head[: end.start()], path.name)
            shape = _shape(fields, path.name, max_voxels)
            file.seek(end.end())
            data = _decode(file.read(_body_cap(shape)), fields["encoding"], shape, path.name)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    spacing, T = _placement(fields, path.name)
    pose_origin = pose_origin_of(fields.get("pose_origin"), path.name)
    return Volume(data=data, spacing_mm=spacing, T_world_volume=T, pose_origin=pose_origin)


def _body_cap(shape: tuple[int, int, int]) -> int:
    """Bytes worth reading: what the voxels can take when stored or, at worst, deflated, plus a little."""
    voxels = shape[0] * shape[1] * shape[2]
    return voxels + voxels // 1000 + 4096


def _parse(head: bytes, name: str) -> dict[str, str]:
    """Fields and key/value pairs of the header, names in lower case."""
    fields, pairs = parse_header(head.decode("ascii", "replace"), name)
    fields |= {key.lower(): value for key, value in pairs.items()}
    wanted = {"type", "dimension", "sizes", "encoding", "space", "space directions", "space origin"}
    if missing := sorted(wanted - fields.keys()):
        raise SourceFormatError(f"{name}: the header lacks {', '.join(missing)}; a volume placed in space needs them")
    return fields


def _shape(fields: dict[str, str], name: str, max_voxels: int) -> tuple[int, int, int]:
    sizes = fields["sizes"].split()
    plain = all(n.isascii() and n.isdigit() and 0 < int(n[:9]) <= MAX_SIDE for n in sizes)
    if fields["type"].lower() not in BYTES or fields["dimension"] != "3" or len(sizes) != 3 or not plain:
        raise SourceFormatError(
            f"{name}: type {fields['type']}, dimension {fields['dimension']}, sizes {fields['sizes'][:60]}; "
            f"uint8 with three sides of 1 to {MAX_SIDE} is read"
        )
    x, y, z = (int(n) for n in sizes)
    if x * y * z > max_voxels:
        raise SourceFormatError(f"{name}: {x * y * z} voxels, the cap is {max_voxels}; raise max_voxels to read it")
    return z, y, x


def _decode(body: bytes, encoding: str, shape: tuple[int, int, int], name: str) -> npt.NDArray[np.uint8]:
    voxels = shape[0] * shape[1] * shape[2]
    if encoding.lower() in ("gzip", "gz"):
        body = inflate(body, voxels, GZIP, name)
    elif encoding.lower() != "raw":
        raise SourceFormatError(f"{name}: encoding {encoding!r}; raw and gzip are read")
    if len(body) != voxels:
        raise SourceFormatError(f"{name}: {len(body)} bytes of data where {voxels} voxels are declared")
    return np.frombuffer(body, np.uint8).reshape(shape).copy()


def _placement(fields: dict[str, str], name: str) -> tuple[tuple[float, float, float], npt.NDArray[np.float64]]:
    """Spacing (z, y, x) in mm and `T_world_volume` in LPS."""
    space = fields["space"].lower()
    if space not in SPACES:
        raise SourceFormatError(f"{name}: space {space[:40]!r}; {', '.join(SPACES)} are read")
    numbers = vectors(f"{fields['space directions']} {fields['space origin']}")
    if numbers.shape != (4, 3):
        raise SourceFormatError(f"{name}: space directions and origin must be three and one vector of three numbers")
    return lattice_of(
        numbers[:3].T * np.array(SPACES[space])[:, None], numbers[3] * SPACES[space], f"{name}: the space directions"
    )


def lattice_of(
    axes: npt.NDArray[np.float64], origin: npt.NDArray[np.float64], name: str
) -> tuple[tuple[float, float, float], npt.NDArray[np.float64]]:
    """Spacing (z, y, x) in mm and `T_world_volume`, from the steps along x, y, z (columns of `axes`, LPS mm).

    Raises `SourceFormatError` unless the axes are right-handed and at right angles within 1e-4, which makes them exact.
    """
    length = np.linalg.norm(axes, axis=0)
    R = axes / np.where(length > 0, length, 1)
    off = np.abs(R.T @ R - np.eye(3)).max()
    if not (np.isfinite(origin).all() and (length > 0).all() and off <= ORTHOGONAL and np.linalg.det(R) > 0):
        raise SourceFormatError(f"{name} are not right-handed, orthogonal axes; resample the volume")
    u, _, vt = np.linalg.svd(R)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = (R if off < 1e-9 else u @ vt), origin
    return (float(length[2]), float(length[1]), float(length[0])), T


def pose_origin_of(text: str | None, name: str) -> PoseOrigin:
    """What a file says of its poses; without a word `image`, the least trusted."""
    if text is None:
        return "image"
    if text not in get_args(PoseOrigin):
        raise SourceFormatError(f"{name}: pose_origin is {text!r}; {', '.join(get_args(PoseOrigin))} are known")
    return cast(PoseOrigin, text)
