"""Where each frame lies in encapsulated pixel data (PS3.5 Annex A.4). Read once, at opening; 16 bytes a fragment."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from edge_runtime.errors import CorruptFrameError, SourceFormatError
from edge_runtime.sources.dicom._header import DicomHeader

__all__ = ["DELIMITER", "ITEM", "Extent", "index_frames", "read_frame"]

Extent = list[tuple[int, int]]  # (offset in the file, bytes) of each fragment of one frame
ITEM = b"\xfe\xff\x00\xe0"
DELIMITER = b"\xfe\xff\xdd\xe0"
EOI_TAIL = 16


def index_frames(file: BinaryIO, header: DicomHeader, path: Path) -> list[Extent]:
    """The fragments of each of `header.frames` frames.

    The basic offset table is used when it gives exactly that many frames; else one fragment is one frame, or,
    with more fragments than frames, a frame ends with the fragment that ends with a JPEG end marker. An extended
    offset table needs no reading: it demands one fragment a frame. Raises `SourceFormatError` when the items are
    damaged, cut short, or do not make up that many frames.
    """
    offsets, fragments = _scan(file, header, path)
    frames = _by_table(offsets, fragments, header.frames)
    if frames is None:
        frames = _by_count(file, fragments, header.frames)
    if len(frames) != header.frames:
        raise SourceFormatError(
            f"{path}: {header.frames} frames are announced, {len(frames)} found in {len(fragments)} fragments; "
            "the file is cut short or damaged"
        )
    return frames


def read_frame(file: BinaryIO, extent: Extent, index: int) -> bytes:
    """The coded bytes of one frame; `CorruptFrameError` when the file has become shorter than it was."""
    parts = []
    for offset, length in extent:
        file.seek(offset)
        parts.append(file.read(length))
        if len(parts[-1]) != length:
            raise CorruptFrameError(f"frame {index}: the file ends inside it; it was cut while it was open", index)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _scan(file: BinaryIO, header: DicomHeader, path: Path) -> tuple[tuple[int, ...], Extent]:
    """Basic offset table and all fragments."""
    end = header.file_size if header.pixel_length is None else header.pixel_start + header.pixel_length
    limit = 4096 + 256 * header.frames
    position, items, delimited = header.pixel_start, [], header.pixel_length is not None
    while position + 8 <= min(end, header.file_size):
        file.seek(position)
        head = file.read(8)
        length: int = struct.unpack("<L", head[4:])[0]
        if head[:4] == DELIMITER:
            delimited = True
            break
        if head[:4] != ITEM or length == 0xFFFFFFFF:
            raise SourceFormatError(f"{path}: damaged: no fragment of pixel data at byte {position}")
        items.append((position + 8, length))
        position += 8 + length
        if len(items) > limit:
            raise SourceFormatError(f"{path}: more than {limit} fragments for {header.frames} frames")
    if position > header.file_size or not (delimited or items):
        raise SourceFormatError(f"{path}: cut short: pixel data goes on to byte {position} of {header.file_size}")
    if not delimited:
        raise SourceFormatError(f"{path}: cut short: the pixel data has no end after {len(items)} fragments")
    if not items:
        raise SourceFormatError(f"{path}: the pixel data is empty")
    file.seek(items[0][0])
    table = file.read(items[0][1] // 4 * 4)
    return struct.unpack(f"<{len(table) // 4}L", table), items[1:]


def _by_table(offsets: tuple[int, ...], fragments: Extent, count: int) -> list[Extent] | None:
    if len(offsets) != count or not fragments:
        return None
    first = fragments[0][0]
    starts = {offset - first: i for i, (offset, _) in enumerate(fragments)}
    if offsets[0] != 0 or any(offset not in starts for offset in offsets) or sorted(set(offsets)) != list(offsets):
        return None
    cuts = [starts[offset] for offset in offsets] + [len(fragments)]
    return [fragments[a:b] for a, b in pairwise(cuts)]


def _by_count(file: BinaryIO, fragments: Extent, count: int) -> list[Extent]:
    if len(fragments) <= count:
        return [[fragment] for fragment in fragments]
    if count == 1:
        return [fragments]
    frames: list[Extent] = [[]]
    for offset, length in fragments:
        frames[-1].append((offset, length))
        file.seek(offset + max(0, length - EOI_TAIL))
        if b"\xff\xd9" in file.read(min(length, EOI_TAIL)):
            frames.append([])
    return [frame for frame in frames if frame]
