"""Unlabelled frames from files: what a student imitates its teacher on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Rectangle
from edge_runtime.optional import require
from edge_runtime.sources import Source, open_source, with_geometry
from edge_sdk.frames import UnlabelledFrames
from edge_sdk.recipe import FileFrames, PydicomExample

__all__ = ["open_unlabelled", "read_unlabelled", "unlabelled_path"]


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


def open_unlabelled(entry: FileFrames | PydicomExample, base: Path) -> Source:
    """The file of `entry` as a source; the caller closes it.

    A scan area in the recipe replaces the file's own on every frame; millimetres, trust and reason stay as the
    first frame has them. Raises `ConfigError` for a path that is missing, `SourceError` for a file that is not read.
    """
    path = unlabelled_path(entry, base)
    source = open_source(path)
    if entry.scan_area is None:
        return source
    first = source.read()
    if first is None:
        raise ConfigError(f"unlabelled: {path} holds no frames")
    source.rewind()
    x0, y0, x1, y1 = entry.scan_area
    return with_geometry(source, replace(first.geometry, scan_area=Rectangle(x0=x0, y0=y0, x1=x1, y1=y1)))


def read_unlabelled(entry: FileFrames | PydicomExample, base: Path) -> UnlabelledFrames:
    """Every `entry.every`-th frame of the file, read as the device reads it; errors as `open_unlabelled`."""
    with open_unlabelled(entry, base) as source:
        frames = [frame for frame in source if frame.index % entry.every == 0]
    return UnlabelledFrames(source=unlabelled_path(entry, base).name, frames=frames)
