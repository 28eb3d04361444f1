"""A lock between threads and processes on one file, which a killed holder gives back by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require

__all__ = ["hold", "try_hold"]


@contextmanager
def hold(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`; `on_wait` is called once when another holder has to be waited for.

    The file is removed when the lock is given back. Advisory (flock), so POSIX alone; raises `ConfigError` where
    the file cannot be made.
    """
    handle = _acquire(path, wait=False)
    if handle is None:
        on_wait()
        handle = _acquire(path, wait=True)
    assert handle is not None
    try:
        yield
    finally:
        _give_back(path, handle)


@contextmanager
def try_hold(path: Path) -> Iterator[bool]:
    """As `hold`, without waiting; gives False, and holds nothing, when another has the lock."""
    handle = _acquire(path, wait=False)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _give_back(path, handle)


def _give_back(path: Path, handle: int) -> None:
    with suppress(FileNotFoundError):
        path.unlink()  # under the lock: who waits for it finds another file of this name and starts again
    os.close(handle)


def _acquire(path: Path, *, wait: bool) -> int | None:
    fcntl = require("fcntl", "to lock a cache folder (a POSIX system)")
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"{path} cannot be made: {error.strerror}; name a folder that can be written") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)
