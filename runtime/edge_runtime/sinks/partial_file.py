"""A file that grows while a stream runs: whole under its own name, or `.partial` where it was cut off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from edge_runtime.atomic import sync
from edge_runtime.errors import ConfigError, PipelineError

__all__ = ["PartialFile"]


class PartialFile:
    """`open`, then `write` any number of times, then `close`.

    While it is written the file is called `NAME.partial`; each `write` reaches the system at once, and the disk with
    `sync`. `close` gives it its name, unless a write had failed: then it stays `.partial`, as after a crash. A partial
    file that an earlier run left behind is kept as `NAME.cut-1`, `NAME.cut-2`, ...
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.size = 0
        self._file: BinaryIO | None = None
        self._whole = False

    def open(self) -> None:
        """Raises `ConfigError` for a folder that is not there or cannot be written."""
        if not self.path.parent.is_dir():
            raise ConfigError(f"{self.path.parent} is not a folder; make it before recording {self.path.name}")
        try:
            if self.partial.exists():
                cuts = (self.path.with_name(f"{self.path.name}.cut-{n}") for n in range(1, 10**6))
                os.replace(self.partial, next(path for path in cuts if not path.exists()))
            self._file = self.partial.open("wb", buffering=0)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}; name another file") from error
        self.size, self._whole = 0, True

    def write(self, data: bytes) -> None:
        """Append all of `data`. Raises `OSError` for what the system refuses; the file then never gets its name."""
        if self._file is None:
            raise PipelineError(f"{self.path.name} is not open for recording; the pipeline opens it, or call open()")
        whole, self._whole = self._whole, False
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]
        self._whole = whole
        self.size += len(data)

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Finish the file; again: nothing."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            os.fsync(file.fileno())
        finally:
            file.close()
        if self._whole:
            os.replace(self.partial, self.path)
            sync(self.path.parent)
