"""Unlabelled frames from files: what a student imitates its teacher on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry, Rectangle
from edge_runtime.optional import require
from edge_sdk.frames import UnlabelledFrames
from edge_sdk.recipe import FileFrames, PydicomExample

__all__ = ["read_unlabelled", "unlabelled_geometry", "unlabelled_path"]


def unlabelled_path(entry: FileFrames | PydicomExample, base: Path) -> Path:
    """Where the file of a recipe's `entry` lies; a relative path is relative to `base`, the recipe's folder."""
    if isinstance(entry, PydicomExample):
        return _pydicom_example(entry.name)
    path = base / entry.path
    if not path.exists():
        raise ConfigError(f"unlabelled: {path} does not exist; paths are relative to the recipe's folder")
    return path


def _pydicom_example(name: str) -> Path:
    examples: Any = require("pydicom.examples", "to find its example files")
    try:
        return Path(examples.get_path(name))
    except ValueError as error:
        raise ConfigError(f"unlabelled: pydicom ships no example {name!r}: {error}") from error


def unlabelled_geometry(entry: FileFrames | PydicomExample) -> FrameGeometry | None:
    """The geometry that replaces the file's own where the recipe gives a scan area; it has no millimetres."""
    if entry.scan_area is None:
        return None
    x0, y0, x1, y1 = entry.scan_area
    reason = "the scan area was given without a pixel size"
    return FrameGeometry(scan_area=Rectangle(x0=x0, y0=y0, x1=x1, y1=y1), origin="user", reason=reason)


def read_unlabelled(entry: FileFrames | PydicomExample, base: Path) -> UnlabelledFrames:
    """Every `entry.every`-th frame of the file, read as the device reads it.

    Raises `ConfigError` for a path that is missing, `SourceError` for a file that is not read.
    """
    from edge_runtime.sources import open_source

    path = unlabelled_path(entry, base)
    frames: list[Frame] = []
    with open_source(path, geometry=unlabelled_geometry(entry)) as source:
        frames.extend(frame for frame in source if frame.index % entry.every == 0)
    return UnlabelledFrames(source=path.name, frames=frames)
