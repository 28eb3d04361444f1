"""Multi-frame DICOM ultrasound, frame by frame."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, SourceError, SourceFormatError
from edge_runtime.frame import Frame
from edge_runtime.sources.base import Source
from edge_runtime.sources.dicom._geometry import geometry_of
from edge_runtime.sources.dicom._header import read_header
from edge_runtime.sources.dicom._pixels import Color, make_decoder
from edge_runtime.sources.dicom._timing import timing_of

__all__ = ["DicomSource"]


class DicomSource(Source):
    """Frames of a DICOM image file: (H, W) or (H, W, 3) RGB, uint8; the file is never whole in memory.

    8-bit JPEG (baseline, the common ultrasound coding) is cut out of the file and decoded by OpenCV; every other
    transfer syntax goes through pydicom and its plugins, one frame at a time. Palettes are applied, MONOCHROME1 is
    inverted, YBR becomes RGB; more than 8 stored bits go through the window, or the full range, to 8.

    `geometry` holds millimetres and scan area, or the reason why they are withheld; `geometry_note` what else is
    odd about them. `Frame.device_ns` is the recorded time since the first frame, None without recorded times.
    No text of the file (names, dates, ids) is read, so none can reach a log.

    Args:
        path: the file.
        color: "native", or "gray" for (H, W) luma; from a JPEG that is its Y, decoded without the colours.
        region: which 2-D tissue region to take the millimetres from, where there are several (from 0).
        max_samples: refuse a file that announces more samples (rows x columns x frames x samples a pixel).

    Raises `SourceFormatError` for a file that is no readable DICOM image, is cut short, or is coded in a way that
    is not read; `MissingDependencyError` when a decoder is not installed; `ConfigError` for a bad argument.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        color: Color = "native",
        region: int | None = None,
        max_samples: int = 2**38,
        clock: Clock | None = None,
    ) -> None:
        if color not in ("native", "gray"):
            raise ConfigError(f"color is {color!r}; 'native' or 'gray' is allowed")
        path = Path(path)
        self._file = _open(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a charset that no element read here uses
                header = read_header(self._file, path, max_samples)
                self.geometry, self.geometry_note = geometry_of(header.dataset, header.rows, header.columns, region)
                timing = timing_of(header.dataset, header.frames)
                self._decode = make_decoder(self._file, header, path, color)
        except BaseException:
            self._file.close()
            raise
        super().__init__(
            name=path.name, frame_count=header.frames, fps=timing.fps, timing_note=timing.note, clock=clock
        )
        self._times_ns = timing.times_ns
        self._frames = header.frames
        self._index = 0

    def due_ns(self, index: int) -> int | None:
        if self._times_ns is None or self.fps is None:
            return super().due_ns(index)
        if index < self._frames:
            return self._times_ns[index]
        return self._times_ns[-1] + round((index - self._frames + 1) * 1e9 / self.fps)

    def _next(self) -> Frame | None:
        index = self._index
        if index >= self._frames:
            return None
        self._index += 1  # before decoding, so that a damaged frame is passed over by the next read
        try:
            image = self._decode(index)
        except OSError as error:
            raise SourceError(f"{self.name}: reading frame {index} failed: {error.strerror}") from error
        return Frame(
            image=image,
            index=index,
            arrival_ns=self._clock.now_ns(),
            device_ns=None if self._times_ns is None else self._times_ns[index],
            geometry=self.geometry,
        )

    def _rewind(self) -> None:
        self._index = 0

    def _release(self) -> None:
        self._file.close()


def _open(path: Path) -> BinaryIO:
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened: {error.strerror}") from error
    if not file.read(1):
        file.close()
        raise SourceFormatError(f"{path}: the file is empty")
    file.seek(0)
    return file
