"""Overlays as a video and as a contact sheet; both files appear whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.atomic import replacing, write_bytes
from edge_runtime.errors import ConfigError, MissingDependencyError
from edge_runtime.optional import require
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.sinks.overlay import draw_overlay

__all__ = ["ContactSheetSink", "OverlayVideoSink", "contact_sheet", "write_png"]

Image = npt.NDArray[np.uint8]

_CODECS = {".webm": "VP80", ".mp4": "mp4v", ".avi": "MJPG"}


def _ready(path: Path, purpose: str) -> None:
    require("cv2", purpose)
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is not a folder; make it before writing {path.name}")


class OverlayVideoSink(Sink):
    """Writes each result's overlay as one video frame.

    The codec follows the suffix: `.webm` (VP8, plays in browsers), `.mp4` (MPEG-4 part 2), `.avi` (Motion JPEG). The
    size is that of the first overlay; others are fitted into it with their aspect kept. `fps` is the pace of
    playing, and results that were dropped are not in the video. `stale_outputs` as in `draw_overlay`. The file takes
    its name at `close`; without a result there is none.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float = 30.0,
        stale_outputs: bool = False,
        branch: str | None = None,
        capacity: int = 8,
    ) -> None:
        super().__init__(branch=branch, capacity=capacity)
        self.path = Path(path)
        self._stale_outputs = stale_outputs
        if self.path.suffix not in _CODECS:
            raise ConfigError(f"video suffix is {self.path.suffix!r}; choose one of {', '.join(_CODECS)}")
        if not fps > 0:
            raise ConfigError(f"fps is {fps}; it must be above 0")
        self.fps = fps
        self._file = ExitStack()
        self._writer: Any = None
        self._size = (0, 0)

    def open(self) -> None:
        """Raises `MissingDependencyError` without OpenCV and `ConfigError` for a folder that is not there."""
        _ready(self.path, "to write overlay videos")

    def write(self, result: Result) -> None:
        image = draw_overlay(result, stale_outputs=self._stale_outputs)
        if self._writer is None:
            self._begin((image.shape[1], image.shape[0]))
        self._writer.write(np.ascontiguousarray(_fitted(image, self._size)[:, :, ::-1]))

    def _begin(self, size: tuple[int, int]) -> None:
        cv2 = require("cv2", "to write overlay videos")
        temporary = self._file.enter_context(replacing(self.path))
        self._size = size
        codec = _CODECS[self.path.suffix]
        self._writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*codec), self.fps, size)
        if not self._writer.isOpened():
            raise MissingDependencyError(
                f"this OpenCV has no {codec} encoder for {self.path.name}; choose another of {', '.join(_CODECS)}"
            )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._file.close()


class ContactSheetSink(Sink):
    """Keeps up to `count` overlays, evenly spread over a stream of unknown length, and writes them as one PNG at
    `close`.

    Every `stride`-th result is kept; when there are too many, every second is let go and the stride doubles. So a long
    stream ends with more than half of `count`.
    """

    def __init__(
        self, path: str | Path, *, count: int = 12, columns: int = 4, branch: str | None = None, capacity: int = 8
    ) -> None:
        super().__init__(branch=branch, capacity=capacity)
        if count < 1 or columns < 1:
            raise ConfigError(f"a sheet of {count} pictures in {columns} columns cannot be drawn; at least 1 of each")
        self.path = Path(path)
        self._count, self._columns = count, columns
        self._stride, self._seen = 1, 0
        self._images: list[Image] = []

    def open(self) -> None:
        """Raises `MissingDependencyError` without OpenCV and `ConfigError` for a folder that is not there."""
        _ready(self.path, "to draw contact sheets")

    def write(self, result: Result) -> None:
        number, self._seen = self._seen, self._seen + 1
        if number % self._stride:
            return
        if len(self._images) == self._count:
            self._images = self._images[::2]
            self._stride *= 2
            if number % self._stride:
                return
        self._images.append(draw_overlay(result))

    def close(self) -> None:
        if self._images:
            write_png(self.path, contact_sheet(self._images, columns=self._columns))


def contact_sheet(images: Sequence[Image], *, columns: int = 4, width: int = 480) -> Image:
    """(H, W, 3) uint8 RGB: pictures (h, w, 3) in rows of `columns`, each fitted into `width` pixels and a common
    height."""
    if not images:
        raise ConfigError("a contact sheet of no pictures cannot be drawn")
    height = max(round(image.shape[0] * width / image.shape[1]) for image in images)
    cells = [_fitted(image, (width, height)) for image in images]
    cells += [np.zeros((height, width, 3), np.uint8)] * (-len(cells) % min(columns, len(cells)))
    columns = min(columns, len(images))
    return np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)])


def write_png(path: str | Path, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB or (H, W) grey as PNG, atomically."""
    cv2 = require("cv2", "to write PNG files")
    _, data = cv2.imencode(".png", image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1]))
    write_bytes(Path(path), data.tobytes())


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """The picture in the middle of a black one of `size` (width, height), as large as its aspect allows."""
    if image.shape[1::-1] == size:
        return image
    cv2 = require("cv2", "to resize pictures")
    scale = min(size[0] / image.shape[1], size[1] / image.shape[0])
    width, height = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[y : y + height, x : x + width] = cv2.resize(image, (width, height), interpolation=interpolation)
    return canvas
