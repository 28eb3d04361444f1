"""The files of a command, written all or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from edge_runtime.atomic import sync
from edge_runtime.errors import ReconstructionError

__all__ = ["Write", "write_all"]

Write = tuple[Path, Callable[[Path], object]]


def write_all(writes: Sequence[Write]) -> None:
    """Let each function write its file, or folder, beside the name it is for; when all are whole, they take the names.

    Raises `ReconstructionError` with the file and the reason when one cannot be written; then none has taken its name,
    and what stood there before still does. Should the system refuse a name even then, the error says which are new.
    """
    with ExitStack() as stack:
        ready: list[Path] = []
        for path, write in writes:
            try:
                folder = stack.enter_context(TemporaryDirectory(prefix=".writing-", dir=path.parent))
                ready.append(Path(folder) / path.name)
                write(ready[-1])
            except OSError as error:
                raise ReconstructionError(
                    f"{path} cannot be written: {error.strerror or error}; none of the {len(writes)} files of this "
                    "command was written; make room, or name another folder"
                ) from error
        for k, (path, _) in enumerate(writes):
            try:
                os.replace(ready[k], path)
            except OSError as error:
                new = ", ".join(str(done) for done, _ in writes[:k]) or "none"
                raise ReconstructionError(
                    f"{path} cannot be replaced: {error.strerror or error}; written by this command: {new}; those "
                    "after it are not"
                ) from error
        for parent in {path.parent for path, _ in writes}:
            sync(parent)
