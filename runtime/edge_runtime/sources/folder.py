"""A folder of still images as a sequence of frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.optional import require
from edge_runtime.sources._jpeg import checked_jpeg
from edge_runtime.sources.base import Source
from edge_runtime.sources.given import GivenGeometry

__all__ = ["ImageFolderSource"]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")


class ImageFolderSource(Source):
    """The images of a folder, or a list of image files, one file a frame.

    Files of a folder come in natural order (`f2` before `f10`); those with another suffix than png, jpg, bmp, tif
    and hidden ones are left out. Colour becomes RGB, an alpha channel is dropped, EXIF rotation is not applied.
    Images of 16 bits are scaled by 255 / (2**bits - 1): give `bits=12` for 12-bit values in 16-bit files.

    All frames must have the size of the first that could be read: a change of size is another geometry, so it is
    a `CorruptFrameError` naming both sizes, unless `mixed_sizes` is true; `geometry` is then withdrawn. A file that
    cannot be read or decoded is a `CorruptFrameError` with the file's name; the next `read` goes on after it.

    Raises `SourceError` when there is no such folder or no image in it, `ConfigError` for a bad argument.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        *,
        fps: float | None = None,
        bits: int = 16,
        mixed_sizes: bool = False,
        geometry: FrameGeometry | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not 8 < bits <= 16:
            raise ConfigError(f"bits is {bits}; 9 to 16 used bits of a 16-bit image are allowed")
        if fps is not None and not 0 < fps < float("inf"):
            raise ConfigError(f"fps is {fps}; frames per second must be positive")
        self._files = _listed(Path(path)) if isinstance(path, (str, Path)) else [Path(p) for p in path]
        if not self._files:
            raise SourceError("the list of image files is empty; name at least one")
        folder = Path(path).name if isinstance(path, (str, Path)) else self._files[0].parent.name
        note = "" if fps is not None else "still images carry no timing; give fps"
        super().__init__(name=folder, frame_count=len(self._files), fps=fps, timing_note=note, clock=clock)
        self._cv2 = require("cv2", "to read images")
        self._scale = 255.0 / ((1 << bits) - 1)
        self._geometry = GivenGeometry(FrameGeometry() if geometry is None else geometry)
        self._mixed = mixed_sizes
        self._size: tuple[int, int] | None = None
        self._index = 0

    def _next(self) -> Frame | None:
        index = self._index
        if index >= len(self._files):
            return None
        self._index += 1
        image = self._image(self._files[index], index)
        size = image.shape[:2]
        if self._size is None:
            self._size = size
        if size != self._size and not self._mixed:
            raise CorruptFrameError(
                f"{self._files[index].name} (frame {index}) is {size[0]} x {size[1]}, the frames before it are "
                f"{self._size[0]} x {self._size[1]}; use mixed_sizes=True if that is meant",
                index,
            )
        return Frame(
            image=image,
            index=index,
            arrival_ns=self._clock.now_ns(),
            device_ns=self.due_ns(index),
            geometry=self._geometry.at((size[0], size[1])),
        )

    def _image(self, path: Path, index: int) -> npt.NDArray[np.uint8]:
        cv2 = self._cv2
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptFrameError(f"{path.name} (frame {index}) cannot be read: {error.strerror}", index) from error
        if data[:2] == b"\xff\xd8":
            _check_jpeg(data, path, index)
        try:
            found = None if not data else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            pages = cv2.imcount(str(path)) if path.suffix.lower() in (".tif", ".tiff") else 1
        except cv2.error as error:
            raise CorruptFrameError(f"{path.name} (frame {index}) cannot be decoded", index) from error
        if found is None:
            raise CorruptFrameError(
                f"{path.name} (frame {index}) cannot be decoded: damaged, cut short, or no image", index
            )
        if pages != 1:
            raise CorruptFrameError(f"{path.name} (frame {index}) holds {pages} pages; one image a file is read", index)
        return self._eight_bit_rgb(found, path, index)

    def _eight_bit_rgb(self, found: npt.NDArray[Any], path: Path, index: int) -> npt.NDArray[np.uint8]:
        if found.dtype == np.uint16:
            found = np.clip(np.rint(found * self._scale), 0, 255).astype(np.uint8)
        if found.dtype != np.uint8:
            raise CorruptFrameError(
                f"{path.name} (frame {index}) has samples of type {found.dtype}; 8 and 16 bits are read", index
            )
        if found.ndim == 2:
            return found
        if found.shape[2] == 2:  # grey with alpha
            return np.ascontiguousarray(found[..., 0])
        code = self._cv2.COLOR_BGRA2RGB if found.shape[2] == 4 else self._cv2.COLOR_BGR2RGB
        image: npt.NDArray[np.uint8] = self._cv2.cvtColor(found, code)
        return image

    def _rewind(self) -> None:
        self._index = 0
        self._geometry.restart()


def _check_jpeg(data: bytes, path: Path, index: int) -> None:
    try:
        checked_jpeg(data, index, tail=len(data))  # cameras put thumbnails and notes after the image
    except CorruptFrameError as error:
        raise CorruptFrameError(f"{path.name}: {error}", index) from error


def _listed(path: Path) -> list[Path]:
    try:
        entries = list(path.iterdir())
    except OSError as error:
        raise SourceError(f"{path}: cannot be listed as a folder of images: {error.strerror}") from error
    files = [p for p in entries if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and not p.is_dir()]
    if not files:
        raise SourceError(f"{path}: no image in this folder ({', '.join(SUFFIXES)} are read; open clips one by one)")
    return sorted(files, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts] + [(2, 0, path.name)]
