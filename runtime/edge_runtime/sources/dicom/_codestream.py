"""Checks of a compressed frame before a native decoder sees it.

A decoder in C may end the process, or ask for gigabytes, on a header that does not fit the file: so size, components
and precision inside the codestream must be those that the file announces.
"""

from __future__ import annotations

import struct

from edge_runtime.errors import CorruptFrameError
from edge_runtime.sources._jpeg import JPEG_LS, LOSSLESS, JpegInfo, checked_jpeg
from edge_runtime.sources.dicom._header import JPEG_LOSSLESS, DicomHeader

__all__ = ["check_codestream", "check_jpeg_size"]

JPEG_LS_SYNTAXES = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
SOC_SIZ = b"\xff\x4f\xff\x51"
J2K_WRAPPER_BYTES = 1024  # some writers put a JP2 header before the codestream


def check_codestream(coded: bytes, header: DicomHeader, index: int) -> None:
    """`CorruptFrameError` when the coded frame is not what `header` announces."""
    if header.syntax in JPEG_LOSSLESS:
        check_jpeg_size(checked_jpeg(coded, index, process=LOSSLESS), header, index)
    elif header.syntax in JPEG_LS_SYNTAXES:
        check_jpeg_size(checked_jpeg(coded, index, process=JPEG_LS), header, index)
    elif header.syntax in JPEG_2000_SYNTAXES:
        _check_jpeg_2000(coded, header, index)


def check_jpeg_size(info: JpegInfo, header: DicomHeader, index: int) -> None:
    """`CorruptFrameError` when size, components or precision of a JPEG are not those announced."""
    _check((info.rows, info.columns, info.components), info.precision, header, index)


def _check_jpeg_2000(coded: bytes, header: DicomHeader, index: int) -> None:
    """Image and tile size marker, ITU-T T.800 A.5.1."""
    at = coded.find(SOC_SIZ, 0, J2K_WRAPPER_BYTES)
    if at < 0 or len(coded) < at + 46:
        raise CorruptFrameError(f"frame {index}: no JPEG 2000 codestream", index)
    x1, y1, x0, y0, tile_x, tile_y, _, _, count = struct.unpack(">8LH", coded[at + 8 : at + 42])
    tiles = -(-x1 // max(1, tile_x)) * -(-y1 // max(1, tile_y))
    if not (tile_x and tile_y) or tiles > 65535:
        raise CorruptFrameError(f"frame {index}: JPEG 2000 tiles of {tile_y} x {tile_x} are not allowed", index)
    _check((y1 - y0, x1 - x0, count), (coded[at + 42] & 0x7F) + 1, header, index)


def _check(size: tuple[int, int, int], precision: int, header: DicomHeader, index: int) -> None:
    if size != (header.rows, header.columns, header.samples) or not 0 < precision <= header.bits_allocated:
        raise CorruptFrameError(
            f"frame {index}: its codestream is {size[0]} x {size[1]} x {size[2]} of {precision} bits, the file "
            f"announces {header.rows} x {header.columns} x {header.samples} of {header.bits_allocated}",
            index,
        )
