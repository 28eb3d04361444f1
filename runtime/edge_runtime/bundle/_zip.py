"""The container: the one ZIP encoding that a `.edge` file may have (PKWARE APPNOTE 6.3.10, sections 4.3 and 4.4).

General ZIP readers search, skip and guess, and two of them can see different files in the same bytes. Here every header
field has one legal value or follows from the member's name, size and CRC, and members, directory and end record touch
each other: the bytes are fully determined by the ordered list of (name, content).
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from edge_runtime.bundle._file import ByteSource
from edge_runtime.bundle._names import check_distinct, check_name
from edge_runtime.bundle.limits import Limits
from edge_runtime.errors import BundleFormatError, BundleIntegrityError

__all__ = ["Entry", "read_directory", "read_member", "write_archive"]

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
LOCAL_MAGIC, CENTRAL_MAGIC, END_MAGIC, ZIP64_MAGIC = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\7"
VERSION = 20  # 2.0, stored members
MADE_BY = 3 << 8 | VERSION  # Unix
DATE = 1 << 5 | 1  # 1980-01-01, the first day that ZIP knows
MODE = stat.S_IFREG | 0o644


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One member: where its header begins, and what its directory entry says of its content (size in bytes)."""

    name: str
    size: int
    crc: int
    offset: int

    @property
    def start(self) -> int:
        """Offset of the first byte of the content."""
        return self.offset + LOCAL.size + len(self.name)

    @property
    def end(self) -> int:
        """Offset behind the last byte of the content."""
        return self.start + self.size

    def local(self) -> bytes:
        """The local header this entry must have."""
        name = self.name.encode("ascii")
        fixed = (LOCAL_MAGIC, VERSION, 0, 0, 0, DATE, self.crc, self.size, self.size, len(name), 0)
        return LOCAL.pack(*fixed) + name

    def central(self) -> bytes:
        """The directory entry this entry must have."""
        name = self.name.encode("ascii")
        head = (CENTRAL_MAGIC, MADE_BY, VERSION, 0, 0, 0, DATE, self.crc, self.size, self.size, len(name))
        return CENTRAL.pack(*head, 0, 0, 0, 0, MODE << 16, self.offset) + name


def read_directory(source: ByteSource, limits: Limits) -> tuple[Entry, ...]:
    """All members in file order, after every header has been checked; no content is read.

    Raises `BundleFormatError` for anything but the one encoding of these members.
    """
    if source.size > limits.file_bytes:
        raise BundleFormatError(f"has {source.size} bytes, over the cap of {limits.file_bytes} (Limits.file_bytes)")
    count, size, offset = _read_end(source, limits)
    directory = source.read(offset, size)
    entries, position = [], 0
    for _ in range(count):
        entry, position = _parse_central(directory, position, limits)
        entries.append(entry)
    if position != size:
        raise BundleFormatError(f"{size - position} bytes stand between the directory and the end record")
    check_distinct([entry.name for entry in entries], "archive")
    _check_layout(source, entries, offset)
    return tuple(entries)


def _read_end(source: ByteSource, limits: Limits) -> tuple[int, int, int]:
    if source.size < END.size:
        raise BundleFormatError(f"is not a .edge file: {source.size} bytes cannot hold a ZIP archive")
    tail_start = max(0, source.size - END.size - 0xFFFF)
    tail = source.read(tail_start, source.size - tail_start)
    found = tail.rfind(END_MAGIC)
    if found < 0:
        if source.read(0, 4) == LOCAL_MAGIC:
            raise BundleFormatError("is truncated: it begins as a ZIP archive and has no end record; copy it again")
        raise BundleFormatError("is not a .edge file: no ZIP archive")
    if found + END.size != len(tail):
        extra = len(tail) - found - END.size
        raise BundleFormatError(f"has {extra} bytes behind the end record, or a comment: truncated or extended")
    _, disk, directory_disk, here, total, size, offset, comment = END.unpack_from(tail, found)
    start = source.size - END.size
    if tail[: -END.size][-20:][:4] == ZIP64_MAGIC or 0xFFFFFFFF in (size, offset) or total == 0xFFFF:
        raise BundleFormatError("is a ZIP64 archive; a .edge file stays below 4 GiB and does not use it")
    if disk or directory_disk or here != total or comment:
        raise BundleFormatError("has an end record that names several disks, or a comment; neither is allowed")
    if total > limits.members:
        raise BundleFormatError(f"has {total} members, over the cap of {limits.members} (Limits.members)")
    if size > total * (CENTRAL.size + limits.name_bytes):
        raise BundleFormatError(f"has a directory of {size} bytes for {total} members; it holds something else")
    if offset + size != start:
        raise BundleFormatError(
            f"has a directory at {offset}, {size} bytes long, and an end record at {start}: "
            "bytes before the archive, between its parts, or missing"
        )
    return total, size, offset


def _parse_central(directory: bytes, position: int, limits: Limits) -> tuple[Entry, int]:
    if position + CENTRAL.size > len(directory):
        raise BundleFormatError("has a directory shorter than its number of members")
    fields = CENTRAL.unpack_from(directory, position)
    magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra, comment, _, _, attributes, offset = fields
    if magic != CENTRAL_MAGIC:
        raise BundleFormatError(f"has no directory entry at byte {position} of the directory")
    end = position + CENTRAL.size + name_length
    raw = directory[position + CENTRAL.size : end]
    if len(raw) != name_length:
        raise BundleFormatError("has a directory entry whose name runs past the directory")
    name = check_name(raw, limits.name_bytes)
    _check_kind(name, flags, method, attributes >> 16)
    if extra or comment:
        raise BundleFormatError(f"member {name!r} has an extra field or a comment; neither is allowed")
    if 0xFFFFFFFF in (packed, size, offset):
        raise BundleFormatError(f"member {name!r} uses ZIP64; a .edge file stays below 4 GiB and does not use it")
    if packed != size:
        raise BundleFormatError(f"member {name!r} is stored but has two sizes, {packed} and {size} bytes")
    if size > limits.member_bytes:
        raise BundleFormatError(f"member {name!r} has {size} bytes, over the cap of {limits.member_bytes}")
    entry = Entry(name=name, size=size, crc=crc, offset=offset)
    if directory[position:end] != entry.central():
        raise BundleFormatError(f"member {name!r} has a directory entry with a date, version, mode or flag not of v1")
    return entry, end


def _check_kind(name: str, flags: int, method: int, mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if stat.S_ISLNK(mode):
        raise BundleFormatError(f"member {name!r} is a symbolic link; only regular files are allowed")
    if kind not in (0, stat.S_IFREG):
        raise BundleFormatError(f"member {name!r} is a special file (mode {mode:o}); only regular files are allowed")
    if flags & 0x2041:  # traditional, strong, masked headers
        raise BundleFormatError(f"member {name!r} is encrypted; members are stored in the clear")
    if method:
        raise BundleFormatError(f"member {name!r} is compressed (method {method}); members are stored, method 0")
    if flags:
        raise BundleFormatError(f"member {name!r} has flags {flags:#06x}; none are allowed")


def _check_layout(source: ByteSource, entries: list[Entry], directory_start: int) -> None:
    """Members begin at byte 0, touch each other, end at the directory, and repeat their directory entry."""
    position = 0
    for entry in entries:
        if entry.offset < position:
            raise BundleFormatError(f"member {entry.name!r} overlaps the one before it, or is out of order")
        if entry.offset > position:
            raise BundleFormatError(f"{entry.offset - position} hidden bytes stand before member {entry.name!r}")
        if entry.end > directory_start:
            raise BundleFormatError(f"member {entry.name!r} runs past the start of the directory: truncated")
        if source.read(entry.offset, entry.start - entry.offset) != entry.local():
            raise BundleFormatError(f"member {entry.name!r} has a local header that disagrees with the directory")
        position = entry.end
    if position != directory_start:
        raise BundleFormatError(f"{directory_start - position} hidden bytes stand before the directory")


def read_member(source: ByteSource, entry: Entry) -> bytes:
    """The content of one member, CRC checked; `BundleIntegrityError` when it differs."""
    content = source.read(entry.start, entry.size)
    if zlib.crc32(content) != entry.crc:
        raise BundleIntegrityError(f"member {entry.name!r} does not match its CRC-32: the file is damaged")
    return content


def write_archive(stream: BinaryIO, members: Iterable[tuple[str, bytes]]) -> None:
    """Write the one encoding of `members`, in their order; names are ASCII, contents together below 4 GiB."""
    position, entries = 0, []
    for name, content in members:
        entry = Entry(name=name, size=len(content), crc=zlib.crc32(content), offset=position)
        stream.write(entry.local())
        stream.write(content)
        entries.append(entry)
        position = entry.end
    directory = b"".join(entry.central() for entry in entries)
    stream.write(directory)
    stream.write(END.pack(END_MAGIC, 0, 0, len(entries), len(entries), len(directory), position, 0))
