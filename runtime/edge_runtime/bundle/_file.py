"""Reading from one descriptor, and replacing a file in one step."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edge_runtime.atomic import sync
from edge_runtime.errors import BundleError, BundleFormatError

__all__ = ["ByteSource", "replace_file"]


class ByteSource:
    """A regular file, opened once and never through a symbolic link; reads by position, so threads may share it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags)
        except ValueError as error:  # a NUL in the path
            raise BundleFormatError(f"cannot be opened: {error}") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise BundleFormatError("is a symbolic link; give the path of the file itself") from error
            raise BundleFormatError(f"cannot be opened: {error.strerror}") from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise BundleFormatError("is not a regular file; give the path of a .edge file")
        self.size = status.st_size

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes at `offset`; `BundleFormatError` when the file ends before, else `BundleError`."""
        if self._fd < 0:
            raise BundleError("the bundle is closed; read inside `with Bundle.open(...)`")
        if offset + count > self.size:
            raise BundleFormatError(f"ends at byte {self.size}, {offset + count} bytes are needed: truncated")
        parts, got = [], 0
        while got < count:
            try:
                part = os.pread(self._fd, min(count - got, 1 << 24), offset + got)
            except OSError as error:
                raise BundleError(f"cannot be read at byte {offset + got}: {error.strerror}") from error
            if not part:
                raise BundleFormatError(f"became shorter while open: nothing at byte {offset + got}")
            parts.append(part)
            got += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(fd, "wb") as stream:
            yield temporary, stream
    finally:
        with contextlib.suppress(FileNotFoundError):  # it is gone once renamed
            os.unlink(temporary)


def replace_file(path: Path, write: Callable[[BinaryIO], None], check: Callable[[Path], None]) -> None:
    """Put what `write` writes at `path`, whole or not at all, after `check` has accepted the temporary file.

    The temporary file stands in the same folder and is removed on failure; an older file at `path` is untouched
    until the rename. Raises `BundleError` when the disk refuses, and whatever `check` raises.
    """
    try:
        with _temporary(path) as (temporary, stream):
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            check(temporary)
            os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise BundleError(f"{path}: cannot be written: {error.strerror or error}") from error
