"""Reading and writing a `TrackedSequence`, whichever of the two formats the file has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edge_runtime.atomic import write_bytes
from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.sources.tracked import _mha, _nrrd
from edge_runtime.sources.tracked._sequence import TrackedSequence

__all__ = ["MAX_BYTES", "read_sequence", "write_sequence"]

MAX_BYTES = 1 << 31


def read_sequence(path: str | Path, *, orientation: str | None = None, max_bytes: int = MAX_BYTES) -> TrackedSequence:
    """Read a tracked recording: MetaImage (`.igs.mha`, as PLUS writes it) or NRRD (`.seq.nrrd`, PLUS or 3D Slicer).

    The format is told by the first bytes. `orientation` is what to believe in place of the file. uint8 pixels, grey or
    RGB, in one file with the header; the list axis of an NRRD file may be first or last. `max_bytes` bounds the pixels.

    Raises `SourceError` when the file cannot be opened and `SourceFormatError` when it is of another kind, damaged, cut
    short or larger than `max_bytes`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(0)
            if start.startswith(b"NRRD000"):
                return _nrrd.decode(file, path.name, orientation, max_bytes)
            if start.startswith((b"ObjectTy", b"NDims", b"Comment")):
                return _mha.decode(file, path.name, orientation, max_bytes)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    raise SourceFormatError(f"{path.name}: neither a MetaImage nor an NRRD file; .igs.mha and .seq.nrrd are read")


def write_sequence(
    path: str | Path,
    sequence: TrackedSequence,
    *,
    compress: bool = True,
    list_axis: Literal["last", "first"] = "last",
) -> None:
    """Write `sequence` to `path` atomically; the suffix `.mha` or `.nrrd` names the format.

    Reading it again gives equal pixels, transforms, statuses, times and fields, bit for bit. An NRRD file has the keys
    of PLUS and those of 3D Slicer, so both read it; `list_axis="first"` is for Slicer up to 5.8. Raises `ConfigError`
    for another suffix, for text that a header cannot hold, and for an NRRD file without pixels.
    """
    path = Path(path)
    if list_axis not in ("last", "first"):
        raise ConfigError(f"list_axis is {list_axis!r}; 'last' or 'first' are allowed")
    if path.suffix.lower() == ".mha":
        write_bytes(path, _mha.encode(sequence, compress))
    elif path.suffix.lower() == ".nrrd":
        write_bytes(path, _nrrd.encode(sequence, compress, list_axis))
    else:
        raise ConfigError(f"{path.name}: a sequence is written as .mha (.igs.mha) or .nrrd (.seq.nrrd)")
