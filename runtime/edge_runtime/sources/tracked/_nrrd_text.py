"""The text header of an NRRD file (https://teem.sourceforge.net/nrrd/format.html), for volumes and sequences."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SourceFormatError

__all__ = ["BYTES", "ENDS", "SPACES", "parse_header", "vector", "vectors"]

ENDS = (b"\n\n", b"\r\n\r\n")  # of the header
BYTES = ("uchar", "unsigned char", "uint8", "uint8_t")
SPACES = {  # signs that turn the axes into left, posterior, superior
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
}
DETACHED = {"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"}


def parse_header(head: str, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Fields (names in lower case) and key/value pairs (`key:=value`) of the lines after the magic.

    Raises `SourceFormatError` for a line that is neither and for pixels that do not follow the header directly.
    """
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in head.split("\n")[1:]:
        line = line.rstrip("\r")
        if line.startswith("#") or not line:
            continue
        key, colon, value = line.partition(":")
        if not colon:
            raise SourceFormatError(f"{name}: header line {line[:60]!r} is not 'field: value'")
        if value.startswith("="):
            pairs[key.strip()] = value[1:].strip()
        else:
            fields[key.strip().lower()] = value.strip()
    if refused := sorted(DETACHED & fields.keys()):
        raise SourceFormatError(f"{name}: {', '.join(refused)} is not read; store header and data in one file")
    return fields, pairs


def vector(v: npt.NDArray[np.float64]) -> str:
    """`(x,y,z)` with all digits."""
    return "(" + ",".join(repr(float(x)) for x in v) + ")"


def vectors(text: str) -> npt.NDArray[np.float64]:
    """(n, d) finite numbers of `(..) (..)`; (0, 0) when they are not n vectors of d finite numbers."""
    try:
        found = np.array([[float(n) for n in row.split(",")] for row in re.findall(r"\(([^()]*)\)", text)])
    except ValueError:
        return np.empty((0, 0))
    return found if found.ndim == 2 and np.isfinite(found).all() else np.empty((0, 0))
