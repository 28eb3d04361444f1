"""Sequences as NRRD files: those of PLUS (`Seq_Frame0000_...:=`) and of 3D Slicer (`.seq.nrrd`).

https://slicer.readthedocs.io/en/latest/developer_guide/modules/sequences.html (list axis last; until 5.8 it was first).
Written is one layout that both read: four axes, one of them `list`, the keys of both.
"""

from __future__ import annotations

import math
import re
import zlib
from typing import BinaryIO, Literal
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError, SourceFormatError
from edge_runtime.sources.tracked._body import GZIP, read_body, read_until
from edge_runtime.sources.tracked._nrrd_text import BYTES, ENDS, SPACES, parse_header, vector, vectors
from edge_runtime.sources.tracked._records import Records, nanoseconds, orientation_of, record_lines, seconds
from edge_runtime.sources.tracked._sequence import TrackedSequence
from edge_runtime.sources.tracked._text import check_fields, checked_lines, counts_of, text_of

__all__ = ["decode", "encode"]

MAX_HEADER = 1 << 26
ORIENTATION = "ultrasound image orientation"
IMAGE_STATUS = "Status"
COLOUR = ("vector", "rgb-color", "3-color", "3-vector")
DIRECTIONS, ORIGIN, SPACE = "space directions", "space origin", "space"
UNPLACED = {DIRECTIONS: np.eye(3), ORIGIN: np.zeros((1, 3))}
PACKED = {"raw": None, "gzip": GZIP, "gz": GZIP}
UNITS_PER_S = {"": 1, "s": 1, "ms": 1000, "us": 10**6}


def decode(file: BinaryIO, name: str, orientation: str | None, max_bytes: int) -> TrackedSequence:
    """The recording in an open file; raises `SourceFormatError`."""
    head = read_until(file, ENDS, MAX_HEADER)
    if head is None:
        raise SourceFormatError(f"{name}: no empty line within {MAX_HEADER} bytes; not a whole NRRD header")
    fields, pairs = parse_header(text_of(head), name)
    records = Records(image_status=IMAGE_STATUS, size=len(head))
    pairs = {key: value for key, value in pairs.items() if not records.take(key, value, name)}
    sizes, kinds = _axes(fields, name)
    pixels = math.prod(sizes)
    if pixels > max_bytes:
        raise SourceFormatError(f"{name}: {pixels} bytes of pixels, the limit is {max_bytes}; raise max_bytes")
    body = read_body(file, pixels, PACKED[fields["encoding"].lower()], name)
    frames = _frames(np.frombuffer(body, np.uint8), sizes, kinds)
    axis = kinds.index("list") if "list" in kinds else len(kinds)
    values = pairs.pop(f"axis {axis} index values", None)
    pairs.pop(f"axis {axis} index type", None)
    label, unit = _index_name(fields, axis)
    if values is not None and label == "time" and "Timestamp" not in records.texts:
        records.texts["Timestamp"] = _index_times(values, unit, len(frames), name)
    elif values is not None and label != "time" and values.split() != [str(k) for k in range(len(frames))]:
        pairs["index values"] = values
    side = orientation_of(pairs.pop(ORIENTATION, None), orientation, name)
    return records.sequence(frames, len(frames), side, {**pairs, **_placement(fields, name)}, name)


def _axes(fields: dict[str, str], name: str) -> tuple[list[int], list[str]]:
    """Sizes and kinds of the axes, fastest first; the list axis is called `list`, colour `vector`."""
    if missing := sorted({"type", "sizes", "kinds", "encoding"} - fields.keys()):
        raise SourceFormatError(f"{name}: the header lacks {', '.join(missing)}")
    sizes = counts_of(fields["sizes"], f"{name}: sizes")
    kinds = [{"time": "list", "space": "domain"}.get(kind, kind) for kind in fields["kinds"].lower().split()]
    kinds = ["vector" if kind in COLOUR else kind for kind in kinds]
    flat = [size for size, kind in zip(sizes, kinds, strict=False) if kind == "domain"]
    plain = [kind for kind in kinds if kind != "domain"]
    listed = plain in (["list"], ["vector", "list"], ["list", "vector"])
    one = plain in ([], ["vector"])  # PLUS leaves the list axis out of a single frame, and still images have none
    if (
        len(kinds) != len(sizes)
        or 0 in sizes
        or not (listed or one)
        or not (len(flat) == 2 or (len(flat) == 3 and flat[2] == 1))
        or ("vector" in kinds and sizes[kinds.index("vector")] != 3)
    ):
        raise SourceFormatError(
            f"{name}: sizes {fields['sizes'][:60]}, kinds {fields['kinds'][:60]}; a list of flat images, grey or RGB, "
            "is read"
        )
    if fields["type"].lower() not in BYTES or fields["encoding"].lower() not in PACKED:
        raise SourceFormatError(
            f"{name}: type {fields['type'][:20]}, encoding {fields['encoding'][:20]}; uint8, raw and gzip are read. "
            "Scale 16 bits, or turn RF into its log-compressed envelope, in 8 bits first"
        )
    return sizes, kinds


def _frames(data: npt.NDArray[np.uint8], sizes: list[int], kinds: list[str]) -> npt.NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, 3)."""
    array = data.reshape(sizes[::-1])
    kinds = kinds[::-1]
    if "list" not in kinds:
        array, kinds = array[None], ["list", *kinds]
    across = [k for k, kind in enumerate(kinds) if kind == "domain"][-2:]
    depth = [k for k, kind in enumerate(kinds) if kind == "domain"][:-2]
    colour = [k for k, kind in enumerate(kinds) if kind == "vector"]
    array = array.transpose([kinds.index("list"), *across, *colour, *depth])
    return np.ascontiguousarray(array.reshape(array.shape[: 3 + len(colour)]))


def _index_name(fields: dict[str, str], axis: int) -> tuple[str, str]:
    """Label and unit of the list axis."""
    found = []
    for key in ("labels", "units"):
        words = re.findall(r'"([^"]*)"', fields.get(key, ""))
        found.append(words[axis].strip().lower() if axis < len(words) else "")
    return found[0], found[1]


def _index_times(values: str, unit: str, count: int, name: str) -> dict[int, str]:
    """Times in seconds as text, from the values of the list axis."""
    words = [unquote(word) for word in values.split()]
    if len(words) != count or unit not in UNITS_PER_S:
        raise SourceFormatError(
            f"{name}: {len(words)} index values in {unit or 'no unit'!r} for {count} frames; one each in s, ms or us"
        )
    scale = UNITS_PER_S[unit]
    if scale == 1:
        return dict(enumerate(words))
    times = (nanoseconds(word, f"{name}: frame {k}") for k, word in enumerate(words))
    return {k: seconds((ns + scale // 2) // scale) for k, ns in enumerate(times)}


def _placement(fields: dict[str, str], name: str) -> dict[str, str]:
    """Where the image plane lies in space, where the file says more than unit pixels at the origin."""
    found = {}
    space = fields.get(SPACE, "left-posterior-superior")
    if space.lower() not in SPACES:
        raise SourceFormatError(f"{name}: space {space[:40]!r}; {', '.join(SPACES)} are read")
    if SPACE in fields:
        found[SPACE] = space
    for key, default in UNPLACED.items():
        if key not in fields or "nan" in fields[key].lower():
            continue
        given = vectors(fields[key])
        if not 0 < given.shape[0] <= default.shape[0] or given.shape[1] not in (2, 3):
            raise SourceFormatError(f"{name}: {key} {fields[key][:60]!r} does not fit an image plane in space")
        full = default.copy()
        full[: given.shape[0], : given.shape[1]] = given
        if not np.array_equal(full, default):
            found[key] = " ".join(map(vector, full))
    return found


def encode(sequence: TrackedSequence, compress: bool, list_axis: Literal["last", "first"]) -> bytes:
    """The bytes of the file."""
    if sequence.frames is None:
        raise ConfigError("an NRRD file cannot be without pixels; write a recording of transforms alone as .igs.mha")
    frames = sequence.frames
    check_fields(sequence, ":")
    n, height, width = frames.shape[:3]
    colour = frames.ndim == 4
    sizes, kinds, axis = [width, height, 1], ["domain"] * 3, 0
    if list_axis == "last":
        axis = 3 + colour
        sizes, kinds = [*sizes, n], [*kinds, "list"]
        sizes, kinds = ([3, *sizes], ["vector", *kinds]) if colour else (sizes, kinds)
        pixels = frames.tobytes()
    else:
        sizes, kinds = ([n, 3, *sizes], ["list", "vector", *kinds]) if colour else ([n, *sizes], ["list", *kinds])
        pixels = np.moveaxis(frames, 0, -1).tobytes()
    if compress:
        packer = zlib.compressobj(6, zlib.DEFLATED, GZIP)
        pixels = packer.compress(pixels) + packer.flush()
    own = {**{key: " ".join(map(vector, rows)) for key, rows in UNPLACED.items()}, **sequence.fields}
    directions = iter(re.findall(r"\([^()]*\)", own[DIRECTIONS]))
    times = sequence.times_ns
    lines = [
        "NRRD0005",
        "type: uint8",
        f"dimension: {len(sizes)}",
        *([f"space: {own[SPACE]}"] if SPACE in own else ["space dimension: 3"]),
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(next(directions) if kind == 'domain' else 'none' for kind in kinds)}",
        f"kinds: {' '.join(kinds)}",
        f"labels: {' '.join(_quoted('time' if times is not None else 'frame', kind) for kind in kinds)}",
        *([f"units: {' '.join(_quoted('s', kind) for kind in kinds)}"] if times is not None else []),
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: {own[ORIGIN]}",
        f"axis {axis} index type:=numeric",
        f"axis {axis} index values:={_index_values(sequence)}",
        f"{ORIENTATION}:={sequence.orientation}",
        *(f"{k}:={v}" for k, v in own.items() if k not in (SPACE, DIRECTIONS, ORIGIN, "index values")),
        *record_lines(sequence, IMAGE_STATUS, ":="),
    ]
    if broken := [line for line in lines if not line or line.startswith("#")]:
        raise ConfigError(f"{broken[0][:60]!r} cannot stand in an NRRD header")
    return checked_lines([*lines, ""]) + pixels


def _quoted(text: str, kind: str) -> str:
    return f'"{text}"' if kind == "list" else '""'


def _index_values(sequence: TrackedSequence) -> str:
    if sequence.times_ns is not None:
        return " ".join(seconds(int(t)) for t in sequence.times_ns)
    return sequence.fields.get("index values") or " ".join(map(str, range(len(sequence))))
