"""The part of a DICOM file before its pixels: what is read, and what is refused (PS3.3, PS3.5, PS3.10)."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edge_runtime.errors import SourceFormatError
from edge_runtime.optional import require

__all__ = [
    "EXPLICIT_BE",
    "JPEG_HUFFMAN",
    "JPEG_LOSSLESS",
    "DicomHeader",
    "number_of",
    "numbers_of",
    "read_header",
    "text_of",
    "value_of",
]

EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
IMPLICIT_LE = "1.2.840.10008.1.2"
NATIVE = {IMPLICIT_LE: "Implicit VR LE", EXPLICIT_LE: "Explicit VR LE", EXPLICIT_BE: "Explicit VR BE"}
JPEG_HUFFMAN = {"1.2.840.10008.1.2.4.50": "JPEG baseline", "1.2.840.10008.1.2.4.51": "JPEG extended, 8 bit"}
JPEG_LOSSLESS = {"1.2.840.10008.1.2.4.57": "JPEG lossless", "1.2.840.10008.1.2.4.70": "JPEG lossless SV1"}
ENCAPSULATED = {
    **JPEG_HUFFMAN,
    **JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
    "1.2.840.10008.1.2.5": "RLE",
}
DEFLATED = b"1.2.840.10008.1.2.1.99"
META_BYTES = 2048  # the file meta information lies within
DICOMDIR = "1.2.840.10008.1.3.10"
GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
# only these are read: nothing that names a patient reaches memory, let alone a log
KEYWORDS = [
    "SOPClassUID",
    "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelSpacing", "PixelAspectRatio",
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "ModalityLUTSequence", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "FrameIncrementPointer", "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate",
    "SequenceOfUltrasoundRegions",
]  # fmt: skip
MAX_FRAME_SAMPLES = 2**27  # 134 million: a 4 GB file may be real, a frame of this size is not


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DicomHeader:
    """Image attributes, and where the pixel data lies in the file.

    `pixel_start` is the offset of the first byte of the value of Pixel Data, `pixel_length` its length in bytes
    or None when it is encapsulated with undefined length. `dataset` holds `KEYWORDS` and nothing else.
    """

    dataset: Any
    syntax: str
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    pixel_vr: str
    pixel_start: int
    pixel_length: int | None
    file_size: int

    @property
    def encapsulated(self) -> bool:
        """Whether the pixel data is a sequence of fragments."""
        return self.syntax in ENCAPSULATED


def read_header(file: BinaryIO, path: Path, max_samples: int) -> DicomHeader:
    """Read and check everything before the pixels of the open DICOM `file`.

    Raises `SourceFormatError` for what is not a DICOM image that is read here, for a file cut short, and for more
    than `max_samples` samples in all.
    """
    pydicom = require("pydicom", f"to read the DICOM file {path.name}")
    if DEFLATED in file.read(META_BYTES):  # pydicom would inflate the whole of it first
        raise _unread_syntax(path, f"{DEFLATED.decode()} (deflated)")
    file.seek(0)
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=KEYWORDS)
    except Exception as error:  # a parser's errors on hostile bytes are of any kind
        raise SourceFormatError(f"{path}: not a readable DICOM file ({type(error).__name__} in its header)") from error
    _refuse_other_objects(dataset, path)
    syntax = _transfer_syntax(dataset, path)
    vr, start, length = _pixel_element(file, path, syntax)
    header = DicomHeader(
        dataset=dataset,
        syntax=syntax,
        rows=_count(dataset, "Rows", path),
        columns=_count(dataset, "Columns", path),
        frames=_count(dataset, "NumberOfFrames", path, default=1),
        samples=_count(dataset, "SamplesPerPixel", path),
        photometric=text_of(dataset, "PhotometricInterpretation"),
        bits_allocated=_count(dataset, "BitsAllocated", path),
        bits_stored=_count(dataset, "BitsStored", path, default=_count(dataset, "BitsAllocated", path)),
        signed=number_of(dataset, "PixelRepresentation") == 1,
        pixel_vr=vr,
        pixel_start=start,
        pixel_length=length,
        file_size=os.fstat(file.fileno()).st_size,
    )
    _check_format(header, path)
    _check_size(header, path, max_samples)
    return header


def value_of(dataset: Any, keyword: str) -> Any:
    """The value of an element; None when it is absent, empty, or cannot be converted.

    Values are converted when they are asked for, and damaged ones raise any kind of error in pydicom.
    """
    try:
        value = dataset.get(keyword)
    except Exception:  # as good as absent: whoever needs it refuses its absence
        return None
    return None if value == "" else value


def numbers_of(dataset: Any, keyword: str) -> list[float]:
    """All values of a numeric element as floats; empty when it is absent, empty or not finite numbers."""
    value = value_of(dataset, keyword)
    if value is None:
        return []
    try:
        numbers = [float(v) for v in ([value] if isinstance(value, (int, float, str)) else value)]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def number_of(dataset: Any, keyword: str) -> float | None:
    """The first value of a numeric element as float; None when it is absent, empty or no number."""
    values = numbers_of(dataset, keyword)
    return values[0] if values else None


def text_of(dataset: Any, keyword: str) -> str:
    """The value of a short text element; "" when it is absent. At most 16 characters, as a code string has."""
    value = value_of(dataset, keyword)
    return value[:16] if isinstance(value, str) else ""


def _count(dataset: Any, keyword: str, path: Path, default: int | None = None) -> int:
    value = number_of(dataset, keyword)
    if value is None and default is not None and value_of(dataset, keyword) is None:
        return default
    if value is None or not 1 <= value < 2**32 or value != int(value):
        raise SourceFormatError(
            f"{path}: {keyword} is {'missing or unreadable' if value is None else f'{value:g}'}; a whole number of "
            "at least 1 is needed (the file is damaged, or is no image)"
        )
    return int(value)


def _refuse_other_objects(dataset: Any, path: Path) -> None:
    meta = getattr(dataset, "file_meta", {})
    if str(value_of(meta, "MediaStorageSOPClassUID")) == DICOMDIR:
        raise SourceFormatError(f"{path}: a DICOMDIR is an index without images; open one of the files it lists")
    if "Rows" not in dataset and "Columns" not in dataset:
        uid = value_of(dataset, "SOPClassUID")
        kind = f"SOP class {getattr(uid, 'name', uid)}" if uid else "no SOP class"
        raise SourceFormatError(f"{path}: holds no image ({kind}, no Rows and Columns); an image object is needed")


def _transfer_syntax(dataset: Any, path: Path) -> str:
    meta = getattr(dataset, "file_meta", {})
    declared = value_of(meta, "TransferSyntaxUID")
    if declared is None:  # no file meta information: the encoding that the parser found
        implicit, little = dataset.original_encoding
        return IMPLICIT_LE if implicit else EXPLICIT_LE if little else EXPLICIT_BE
    syntax = str(declared)
    if syntax not in NATIVE and syntax not in ENCAPSULATED:
        raise _unread_syntax(path, f"{syntax} ({declared.name if declared.name != syntax else 'unknown'})")
    return syntax


def _unread_syntax(path: Path, which: str) -> SourceFormatError:
    names = ", ".join([*NATIVE.values(), *ENCAPSULATED.values()])
    return SourceFormatError(f"{path}: transfer syntax {which} is not read; convert the file to one of: {names}")


def _pixel_element(file: BinaryIO, path: Path, syntax: str) -> tuple[str, int, int | None]:
    """(VR, offset of the value, length or None) of the element that the parser stopped at."""
    at = file.tell()
    head = file.read(12)
    order = ">" if syntax == EXPLICIT_BE else "<"
    if len(head) < 12:
        raise SourceFormatError(f"{path}: no pixel data; the file is cut short or is no image")
    tag = struct.unpack(f"{order}HH", head[:4])
    if tag != (0x7FE0, 0x0010):
        raise SourceFormatError(f"{path}: no pixel data of whole numbers (element {tag[0]:04X},{tag[1]:04X} instead)")
    if syntax == IMPLICIT_LE:
        vr, start, length = "OW", at + 8, struct.unpack("<L", head[4:8])[0]
    else:
        vr, start, length = head[4:6].decode("latin-1"), at + 12, struct.unpack(f"{order}L", head[8:12])[0]
    if length == 0xFFFFFFFF and syntax in NATIVE:
        raise SourceFormatError(f"{path}: pixel data of undefined length in an uncompressed transfer syntax")
    return vr, start, None if length == 0xFFFFFFFF else length


def _check_format(header: DicomHeader, path: Path) -> None:
    grey, colour = header.photometric in GREY, header.photometric in COLOUR
    if not (grey or colour):
        raise SourceFormatError(
            f"{path}: photometric interpretation {header.photometric!r} is not read; {', '.join(GREY + COLOUR)} are"
        )
    if header.samples != (1 if grey else 3):
        raise SourceFormatError(f"{path}: {header.samples} samples per pixel do not fit {header.photometric}")
    if header.bits_allocated not in (8, 16) or header.bits_stored > header.bits_allocated:
        raise SourceFormatError(
            f"{path}: {header.bits_stored} of {header.bits_allocated} bits per sample; 8 or 16 bits are read"
        )
    if header.syntax in JPEG_HUFFMAN and header.bits_allocated != 8:
        raise SourceFormatError(f"{path}: JPEG of {header.bits_stored} bits; 8-bit JPEG is read")


def _check_size(header: DicomHeader, path: Path, max_samples: int) -> None:
    per_frame = header.rows * header.columns * header.samples
    if per_frame > MAX_FRAME_SAMPLES or per_frame * header.frames > max_samples:
        raise SourceFormatError(
            f"{path}: {header.frames} frames of {header.rows} x {header.columns} x {header.samples} samples; at most "
            f"{MAX_FRAME_SAMPLES} in a frame and {max_samples} in all are read (raise max_samples if that is right)"
        )
    if header.encapsulated:
        return
    per_pixel = 2 if header.photometric == "YBR_FULL_422" else header.samples
    needed = header.rows * header.columns * per_pixel * header.frames * header.bits_allocated // 8
    present = min(header.pixel_length or 0, header.file_size - header.pixel_start)
    if present < needed:
        raise SourceFormatError(
            f"{path}: cut short: {needed} bytes of pixel data are needed for {header.frames} frames, "
            f"{present} are there"
        )
