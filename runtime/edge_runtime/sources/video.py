"""Video files through OpenCV's FFmpeg."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.clock import Clock
from edge_runtime.errors import CorruptFrameError, SourceError, SourceFormatError
from edge_runtime.frame import Frame
from edge_runtime.optional import require
from edge_runtime.sources.base import Source

__all__ = ["VideoSource"]

MAX_PIXELS = 2**26
# how far the announced number of frames may be off before an early end counts as damage: some containers
# (MPEG program streams) announce duration times rate
COUNT_SLACK, COUNT_SLACK_SHARE = 3, 0.02
VARIES = 0.25  # share of the nominal interval


class VideoSource(Source):
    """Frames of an mp4, mov, avi, mpeg, webm or gif file: (H, W, 3) RGB uint8, decoded one at a time.

    `frame_count` is what the container announces, which may be an estimate. `Frame.device_ns` is the container's
    time since the first frame; where that time does not grow, the nominal interval is added to the time before
    it and `timing_note` says so. `fps` is the mean rate; with a variable rate `timing_note` says so once it is
    seen. A file that ends more than 3 frames and 2 % before its announced count raises one `CorruptFrameError`
    with the index of the first missing frame, then ends. FFmpeg conceals or leaves out damaged frames inside a
    stream without telling; that shows in the count alone. Raises `SourceFormatError` for a file without readable
    video and `SourceError` for one that cannot be opened.
    """

    def __init__(self, path: str | Path, *, clock: Clock | None = None) -> None:
        path = Path(path)
        self._cv2 = require("cv2", f"to read the video {path.name}")
        _check_readable(path)
        self._path = path
        self._capture = self._opened()
        announced = self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)
        count = int(announced) if math.isfinite(announced) and announced > 0 else None
        fps = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        known = math.isfinite(fps) and 0 < fps < 1e4
        super().__init__(
            name=path.name,
            frame_count=count,
            fps=fps if known else None,
            timing_note="" if known else "the container announces no frame rate",
            clock=clock,
        )
        self._pending: npt.NDArray[np.uint8] | None = None
        self._restart()
        self._pending = self._grab()  # decoded at once, so that a file without a readable frame fails here
        if self._pending is None:
            self._capture.release()
            raise SourceFormatError(f"{path}: no frame of this video can be decoded; it is damaged or cut short")

    def _opened(self) -> Any:
        cv2 = self._cv2
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        size = (capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        if not capture.isOpened() or not 0 < size[0] * size[1] <= MAX_PIXELS:
            capture.release()
            raise SourceFormatError(
                f"{self._path}: not a video that OpenCV's FFmpeg reads (mp4, mov, avi, mpeg, webm, gif), or its "
                f"{size[0]:g} x {size[1]:g} pixels are outside 1 to {MAX_PIXELS}"
            )
        return capture

    def _restart(self) -> None:
        self._index = 0
        self._first_ms = 0.0
        self._last_ns: int | None = None
        self._ended = False
        self._pending = None

    def _grab(self) -> npt.NDArray[np.uint8] | None:
        ok, image = self._capture.read()
        return image if ok and image is not None and image.size else None

    def _next(self) -> Frame | None:
        if self._ended:
            return None
        image, self._pending = (self._pending if self._pending is not None else self._grab()), None
        index = self._index
        if image is None:
            self._ended = True
            self._check_complete(index)
            return None
        self._index += 1
        cv2 = self._cv2
        return Frame(
            image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
            index=index,
            arrival_ns=self._clock.now_ns(),
            device_ns=self._device_ns(index),
        )

    def _device_ns(self, index: int) -> int | None:
        """Container time of the frame just read, made to grow; None without any timing."""
        position_ms = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC))
        if index == 0:
            self._first_ms = position_ms
            self._last_ns = 0 if self.fps is not None else None
            return self._last_ns
        if self.fps is None or self._last_ns is None:
            return None
        interval_ns = 1e9 / self.fps
        time_ns = round((position_ms - self._first_ms) * 1e6)
        if time_ns <= self._last_ns:
            time_ns = self._last_ns + round(interval_ns)
            self._note(f"container times do not grow at frame {index}: the nominal interval is used there")
        elif abs(time_ns - self._last_ns - interval_ns) > VARIES * interval_ns:
            self._note("variable frame rate: device_ns follows the container, fps is the mean")
        self._last_ns = time_ns
        return time_ns

    def _note(self, note: str) -> None:
        if not self.timing_note:
            self.timing_note = note

    def _check_complete(self, delivered: int) -> None:
        announced = self.frame_count or 0
        if announced - delivered > max(COUNT_SLACK, COUNT_SLACK_SHARE * announced):
            raise CorruptFrameError(
                f"{self.name}: decoding ended at frame {delivered} of {announced} announced; the file is damaged or "
                "cut short",
                delivered,
            )

    def _rewind(self) -> None:
        self._capture.release()
        self._capture = self._opened()
        self._restart()

    def _release(self) -> None:
        self._capture.release()


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror}") from error
    if empty:
        raise SourceFormatError(f"{path}: the file is empty")
