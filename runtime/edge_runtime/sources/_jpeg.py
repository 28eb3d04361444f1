"""What a JPEG codestream says about itself, and whether it is whole.

libjpeg (and so OpenCV) turns a damaged codestream into a picture without a word, and guesses the colour space
from markers alone; both are decided here before the decoder sees the bytes. ITU-T T.81 Annex B.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_runtime.errors import CorruptFrameError

__all__ = ["JpegInfo", "as_rgb_samples", "checked_jpeg"]

# APP14 "Adobe", version 100, flags 0, transform 0: the three components are R, G, B (Adobe TN 5116)
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
SOF_HUFFMAN = (0xC0, 0xC1, 0xC2)
SOF_OTHER = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
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


def checked_jpeg(data: bytes, index: int, tail: int = TAIL) -> JpegInfo:
    """Header of the codestream `data`; `CorruptFrameError` with `index` when it is damaged or cut short.

    Checked: SOI, marker segments, one Huffman-coded frame header, EOI within the last `tail` bytes, and that no
    marker stands inside the scans that cannot stand there. A JPEG has no checksum: damage that is again a valid bit
    stream passes.
    """
    try:
        info = _header(data)
    except (IndexError, ValueError) as error:
        raise CorruptFrameError(f"frame {index}: not a whole JPEG header ({error})", index) from error
    end = data.find(b"\xff\xd9", max(info.scan_start, len(data) - tail))
    if end < 0:
        raise CorruptFrameError(f"frame {index}: the JPEG is cut short (no end marker in {len(data)} bytes)", index)
    if (bad := _stray_marker(data, info.scan_start, end)) is not None:
        raise CorruptFrameError(
            f"frame {index}: the JPEG is damaged (marker FF{data[bad + 1]:02X} inside coded data, byte {bad})", index
        )
    return info


def _header(data: bytes) -> JpegInfo:
    if data[:2] != b"\xff\xd8":
        raise ValueError("no start marker")
    position, jfif, adobe = 2, False, None
    sof: tuple[int, int, int, int, tuple[int, ...]] | None = None
    while True:
        if data[position] != 0xFF:
            raise ValueError(f"no marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = data[position + 2] << 8 | data[position + 3]
        if length < 2 or position + 2 + length > len(data):
            raise ValueError(f"segment FF{marker:02X} does not fit")
        body = position + 4
        if marker in SOF_HUFFMAN:
            count = data[body + 5]
            ids = tuple(data[body + 6 + 3 * i] for i in range(count))
            rows, columns = data[body + 1] << 8 | data[body + 2], data[body + 3] << 8 | data[body + 4]
            sof = (data[body], rows, columns, count, ids)
        elif marker in SOF_OTHER:
            raise ValueError(f"coding process FF{marker:02X} is not baseline")
        elif marker == 0xE0:
            jfif = jfif or data[body : body + 5] == b"JFIF\0"
        elif marker == 0xEE and data[body : body + 5] == b"Adobe" and length >= 14:
            adobe = data[body + 11]
        position += 2 + length
        if marker == 0xDA:
            break
    if sof is None:
        raise ValueError("no frame header")
    precision, rows, columns, count, ids = sof
    return JpegInfo(
        rows=rows,
        columns=columns,
        components=count,
        precision=precision,
        ids=ids,
        jfif=jfif,
        adobe=adobe,
        scan_start=position,
    )


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
