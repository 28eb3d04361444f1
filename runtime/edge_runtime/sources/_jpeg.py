"""What a JPEG codestream says about itself, and whether it is whole.

libjpeg (and so OpenCV) turns a damaged codestream into a picture without a word, and guesses the colour space
from markers alone; both are decided here before the decoder sees the bytes. ITU-T T.81 Annex B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import CorruptFrameError

__all__ = ["JPEG_LS", "LOSSLESS", "JpegInfo", "as_rgb_samples", "checked_jpeg"]

# APP14 "Adobe", version 100, flags 0, transform 0: the three components are R, G, B (Adobe TN 5116)
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
LOSSY = (0xC0, 0xC1, 0xC2)  # frame headers of baseline, extended, progressive
LOSSLESS = (0xC3,)
JPEG_LS = (0xF7,)  # ITU-T T.87
HEADER_SEGMENTS = frozenset({0xC4, 0xDA, 0xDB, 0xDD, 0xFE, 0xF8, *range(0xE0, 0xF0)})  # tables, scan, comment, APPn
BETWEEN_SCANS = (0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE)
TAIL = 32  # bytes at the end among which EOI must be; what follows it is padding


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegInfo:
    """Frame header of one codestream; `adobe` is the transform of the Adobe marker, or None."""

    rows: int
    columns: int
    components: int
    precision: int
    ids: tuple[int, ...]
    jfif: bool
    adobe: int | None
    scan_start: int


def checked_jpeg(data: bytes, index: int, *, tail: int = TAIL, process: tuple[int, ...] = LOSSY) -> JpegInfo:
    """Header of the codestream `data`; `CorruptFrameError` with `index` when it is damaged or cut short.

    Checked: SOI, marker segments, one frame header of a `process` named, EOI within the last `tail` bytes, and that no
    marker stands inside the scans that cannot stand there. A JPEG has no checksum: damage that is again a valid bit
    stream passes.
    """
    try:
        info = _header(data, process)
    except (IndexError, ValueError) as error:
        raise CorruptFrameError(f"frame {index}: not a whole JPEG header ({error})", index) from error
    end = data.find(b"\xff\xd9", max(info.scan_start, len(data) - tail))
    if end < 0:
        raise CorruptFrameError(f"frame {index}: the JPEG is cut short (no end marker in {len(data)} bytes)", index)
    # JPEG-LS stuffs bits, not bytes, after FF
    if process != JPEG_LS and (bad := _stray_marker(data, info.scan_start, end)) is not None:
        raise CorruptFrameError(
            f"frame {index}: the JPEG is damaged (marker FF{data[bad + 1]:02X} inside coded data, byte {bad})", index
        )
    return info


def _header(data: bytes, process: tuple[int, ...]) -> JpegInfo:
    """Walk the segments up to the coded data of the first scan."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no start marker")
    position, jfif, adobe = 2, False, None
    frame = b""
    while True:
        if data[position] != 0xFF:
            raise ValueError(f"no marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker not in process and marker not in HEADER_SEGMENTS:
            raise ValueError(f"marker FF{marker:02X} does not belong here")
        length = data[position + 2] << 8 | data[position + 3]
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if length < 2 or position > len(data):
            raise ValueError(f"segment FF{marker:02X} does not fit")
        if marker in process:
            frame = body
        elif marker == 0xE0:
            jfif = jfif or body[:5] == b"JFIF\0"
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker == 0xDA:
            break
    ids = _frame_ids(frame)
    _check_scan(body, ids, process)
    rows, columns = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
    return JpegInfo(
        rows=rows,
        columns=columns,
        components=len(ids),
        precision=frame[0],
        ids=ids,
        jfif=jfif,
        adobe=adobe,
        scan_start=position,
    )


def _frame_ids(frame: bytes) -> tuple[int, ...]:
    """Component ids of a frame header (T.81 B.2.2), its sampling factors checked."""
    if not frame:
        raise ValueError("no frame header")
    count = frame[5]
    if len(frame) != 6 + 3 * count or not 1 <= count <= 4:
        raise ValueError(f"frame header of {len(frame)} bytes for {count} components")
    if any(not (1 <= factors >> 4 <= 4 and 1 <= factors & 15 <= 4) for factors in frame[7::3]):
        raise ValueError("sampling factor outside 1 to 4")
    return tuple(frame[6::3])


def _check_scan(scan: bytes, ids: tuple[int, ...], process: tuple[int, ...]) -> None:
    """Refuse a scan header (T.81 B.2.3) that does not fit the frame's components, or names no predictor."""
    count = scan[0]
    if len(scan) != 4 + 2 * count or not 1 <= count <= len(ids) or not set(scan[1 : 1 + 2 * count : 2]) <= set(ids):
        raise ValueError("the scan header does not fit the frame header")
    first, last, approximation = scan[-3:]
    if process == JPEG_LS:  # tolerance, interleave mode, point transform
        allowed = last <= 2 and approximation <= 15
    elif process == LOSSLESS:
        allowed = 1 <= first <= 7 and last == 0 and approximation >> 4 == 0
    else:
        allowed = first <= last <= 63
    if not allowed:
        raise ValueError("the scan header's range of coefficients or predictor is not allowed")


def _stray_marker(data: bytes, start: int, end: int) -> int | None:
    """Offset of the first marker that cannot stand in coded data, or None."""
    coded = np.frombuffer(data, np.uint8)
    if not ((coded[start:end] == 0xFF) & (coded[start + 1 : end + 1] != 0)).any():
        return None  # the usual case: every FF is stuffed with 00
    position = start
    while (position := data.find(b"\xff", position, end)) >= 0:
        marker = data[position + 1]
        if marker in BETWEEN_SCANS:
            position += 2 + (data[position + 2] << 8 | data[position + 3])
        elif marker == 0xFF:
            position += 1
        elif marker == 0 or 0xD0 <= marker <= 0xD7:
            position += 2
        else:
            return position
    return None


def as_rgb_samples(data: bytes, info: JpegInfo, labelled_rgb: bool) -> bytes:
    """`data` such that libjpeg takes its three components for R, G, B where they are, else unchanged.

    The order of trust: JFIF says YCbCr; an Adobe marker says which; component ids "RGB" say RGB; only then the
    label outside the codestream. libjpeg knows all but the label and the ids in lower case.
    """
    if info.components != 3 or info.jfif or info.adobe is not None or info.ids == (82, 71, 66):
        return data
    if info.ids == (114, 103, 98) or labelled_rgb:
        return data[:2] + ADOBE_RGB + data[2:]
    return data
