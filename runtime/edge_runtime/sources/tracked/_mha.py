"""Sequences as MetaImage files with fields for each frame, the format of PLUS (`.igs.mha`).

https://itk.org/Wiki/ITK/MetaIO/Documentation and the sequence file format of the PLUS toolkit: `DimSize` W H N (or
W H 1 N), `Kinds` domain domain list, `Seq_FrameNNNN_<name>Transform` with 16 numbers row by row, `...TransformStatus`,
`Seq_FrameNNNN_Timestamp` in seconds, `Seq_FrameNNNN_ImageStatus`. A recording of transforms alone has `DimSize` 0 0 N.
"""

from __future__ import annotations

import math
import zlib
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SourceFormatError
from edge_runtime.sources.tracked._body import ZLIB, read_body, read_until
from edge_runtime.sources.tracked._records import Records, orientation_of, record_lines
from edge_runtime.sources.tracked._sequence import TrackedSequence
from edge_runtime.sources.tracked._text import check_fields, checked_lines, counts_of, flag, text_of

__all__ = ["decode", "encode"]

MAX_HEADER = 1 << 26
LAST = "ElementDataFile"
MARK = b"ElementDataFile"
ORIENTATION = "UltrasoundImageOrientation"
IMAGE_STATUS = "ImageStatus"
# fields that the pixels and the layout answer for; all others are kept as they are
STRUCTURE = (
    "BinaryData",
    "BinaryDataByteOrderMSB",
    "CompressedData",
    "CompressedDataSize",
    "DimSize",
    "ElementByteOrderMSB",
    "ElementNumberOfChannels",
    "ElementType",
    "Kinds",
    "NDims",
    "ObjectType",
    ORIENTATION,
)
PLACEMENT = {
    "AnatomicalOrientation": "RAI",
    "CenterOfRotation": "0 0 0",
    "ElementSpacing": "1 1 1",
    "Offset": "0 0 0",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
}


def decode(file: BinaryIO, name: str, orientation: str | None, max_bytes: int) -> TrackedSequence:
    """The recording in an open file; raises `SourceFormatError`."""
    fields, records = _header(file, name)
    shape = _shape(fields, name)
    wbits = ZLIB if flag(fields.get("CompressedData", "False"), f"{name}: CompressedData") else None
    frames = None
    if 0 not in shape:
        _check_pixels(fields, shape, max_bytes, name)
        frames = np.frombuffer(read_body(file, math.prod(shape), wbits, name), np.uint8).reshape(shape)
    side = orientation_of(fields.get(ORIENTATION), orientation, name)
    kept = {key: value for key, value in fields.items() if key not in STRUCTURE and PLACEMENT.get(key) != value}
    if "Kinds" not in fields and not records.texts:
        raise SourceFormatError(f"{name}: neither Kinds nor fields of frames; a volume, not a sequence")
    if shape[0] == 0 or (frames is None and not records.texts):
        raise SourceFormatError(f"{name}: DimSize {fields['DimSize'][:40]} holds neither pixels nor transforms")
    return records.sequence(frames, shape[0], side, kept, name)


def _header(file: BinaryIO, name: str) -> tuple[dict[str, str], Records]:
    head = read_until(file, (b"\n" + MARK,), MAX_HEADER)
    rest = None if head is None else read_until_line(file)
    if head is None or rest is None:
        raise SourceFormatError(f"{name}: no {LAST} line within {MAX_HEADER} bytes; not a whole MetaImage header")
    fields: dict[str, str] = {}
    records = Records(image_status=IMAGE_STATUS, size=len(head))
    for line in text_of(head[: -len(MARK)]).split("\n"):
        key, equals, value = line.rstrip("\r").partition("=")
        if not equals:
            if line.strip():
                raise SourceFormatError(f"{name}: header line {line[:60]!r} is not 'field = value'")
            continue
        key, value = key.strip(), value.strip()
        if not records.take(key, value, name):
            fields[key] = value
    where = text_of(rest).partition("=")[2].strip()
    if where != "LOCAL":
        raise SourceFormatError(f"{name}: {LAST} is {where[:60]!r}; header and pixels in one file (LOCAL) are read")
    return fields, records


def read_until_line(file: BinaryIO) -> bytes | None:
    """The rest of the line, without its end."""
    line = file.readline(1024)
    return line if line.endswith(b"\n") else None


def _shape(fields: dict[str, str], name: str) -> tuple[int, ...]:
    """(N, H, W) or (N, H, W, 3) as declared; zeros where there are no pixels."""
    if "DimSize" not in fields:
        raise SourceFormatError(f"{name}: the header lacks DimSize")
    sizes = counts_of(fields["DimSize"], f"{name}: DimSize")
    kinds = fields.get("Kinds", " ".join([*["domain"] * (len(sizes) - 1), "list"])).lower().split()
    flat = len(sizes) == 4 and sizes[2] in (0, 1)
    if len(kinds) != len(sizes) or kinds[-1] not in ("list", "time") or not (len(sizes) == 3 or flat):
        raise SourceFormatError(
            f"{name}: DimSize {fields['DimSize'][:40]}, Kinds {fields.get('Kinds', 'none')[:60]}; a sequence of flat "
            "images, 'domain domain list', is read"
        )
    shape = (sizes[-1], sizes[1], sizes[0])
    if 0 in shape[1:]:
        return (sizes[-1], 0, 0)
    channels = counts_of(fields.get("ElementNumberOfChannels", "1"), f"{name}: ElementNumberOfChannels")
    if channels not in ([1], [3]):
        raise SourceFormatError(f"{name}: {channels} channels; 1 (grey) and 3 (RGB) are read")
    return shape if channels == [1] else (*shape, 3)


def _check_pixels(fields: dict[str, str], shape: tuple[int, ...], max_bytes: int, name: str) -> None:
    kind = fields.get("ElementType")
    binary = flag(fields.get("BinaryData", "True"), f"{name}: BinaryData")
    if kind not in ("MET_UCHAR", "MET_UCHAR_ARRAY") or not binary:
        raise SourceFormatError(
            f"{name}: ElementType {kind}, BinaryData {fields.get('BinaryData')}; MET_UCHAR is read. Scale 16 bits, or "
            "turn RF into its log-compressed envelope, in 8 bits first"
        )
    if math.prod(shape) > max_bytes:
        raise SourceFormatError(
            f"{name}: {math.prod(shape)} bytes of pixels, the limit is {max_bytes}; raise max_bytes"
        )


def encode(sequence: TrackedSequence, compress: bool) -> bytes:
    """The bytes of the file."""
    frames: npt.NDArray[np.uint8] | None = sequence.frames
    check_fields(sequence, "=")
    pixels = b"" if frames is None else frames.tobytes()
    body = zlib.compress(pixels, 6) if compress and frames is not None else pixels
    height, width = (0, 0) if frames is None else frames.shape[1:3]
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {compress and frames is not None}",
        *([f"CompressedDataSize = {len(body)}"] if compress and frames is not None else []),
        f"DimSize = {width} {height} {len(sequence)}",
        "Kinds = domain domain list",
        *(["ElementNumberOfChannels = 3"] if frames is not None and frames.ndim == 4 else []),
        f"ElementType = {'MET_OTHER' if frames is None else 'MET_UCHAR'}",
        f"{ORIENTATION} = {sequence.orientation}",
        *(f"{key} = {value}" for key, value in {**PLACEMENT, **sequence.fields}.items() if key not in STRUCTURE),
        *record_lines(sequence, IMAGE_STATUS, " = "),
        f"{LAST} = LOCAL",
    ]
    return checked_lines(lines) + body
