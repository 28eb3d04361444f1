"""Clean frames from a folder, split by a manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_sdk.evaluate.folds import check_groups, read_rows
from edge_sdk.frames import frames_of
from edge_sdk.pairs import read_image
from edge_sdk.tasks.restoration.recipe import CleanFrames

__all__ = ["FrameSet", "read_clean"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameSet:
    """Frames of one split with their file names; `sha256` over pixels."""

    frames: list[Frame]
    names: list[str]
    sha256: str


def read_clean(data: CleanFrames, base: Path) -> tuple[FrameSet, FrameSet]:
    """(train, test) frames of `data`; paths are relative to `base`.

    Raises `ConfigError` naming the file for a split that is neither, a group in two splits, an image that is missing or
    cannot be read, and a split without images.
    """
    manifest = base / data.manifest
    rows = read_rows(manifest)
    if data.group:
        check_groups(rows, group=data.group, split="split", origin=str(manifest))
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for row in rows:
        if row.get("split") not in parts:
            raise ConfigError(f"{manifest}: {row['file']} has split {row.get('split')!r}; train or test is needed")
        parts[row["split"]].append(row["file"])
    for split, names in parts.items():
        if not names:
            raise ConfigError(f"{manifest}: no row of split {split!r}; both splits are needed")
    return _read(base / data.images, parts["train"]), _read(base / data.images, parts["test"])


def _read(folder: Path, names: list[str]) -> FrameSet:
    digest, frames = hashlib.sha256(), []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"{path} is named in the manifest and does not exist")
        image = read_image(path)
        digest.update(repr((name, image.shape)).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        frames.append(frames_of(image[None])[0])
    return FrameSet(frames=frames, names=names, sha256=digest.hexdigest())
