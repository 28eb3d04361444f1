"""A scan area for captures that say of none: videos, screen captures, cameras."""

from __future__ import annotations

from dataclasses import replace

from edge_runtime.errors import ConfigError, CorruptFrameError, EdgeError, GeometryError
from edge_runtime.frame import Frame, FrameGeometry, ScanArea
from edge_runtime.sources.base import GeometrySource, Source

__all__ = ["find_scan_area", "with_scan_area"]


def find_scan_area(source: Source, *, frames: int = 30) -> tuple[ScanArea, tuple[int, int]]:
    """The scan area in the first `frames` frames of `source`, and the size (rows, columns) that it is for.

    A recording is at its first frame again afterwards; of a live source these frames are gone. Frames that cannot be
    decoded are passed over. Raises what `detect_scan_area` raises, and `ConfigError` for `frames` below 1.
    """
    from edge_runtime.preprocess.scan_area import detect_scan_area

    if frames < 1:
        raise ConfigError(f"frames is {frames}; a scan area is found in at least 1")
    images = []
    for _ in range(frames):
        try:
            frame = source.read()
        except CorruptFrameError:
            continue
        if frame is None:
            break
        images.append(frame.image)
    if not images:
        raise GeometryError(f"source {source.name!r} gave no frame to find a scan area in; set the scan area by hand")
    if not source.live:
        source.rewind()
    return detect_scan_area(images), (images[0].shape[0], images[0].shape[1])


def with_scan_area(source: Source, area: ScanArea | None = None, *, frames: int = 30) -> Source:
    """`source` with a scan area on every frame that has none; millimetres stay as they are.

    Without `area` it is found, once, in the first `frames` frames (`find_scan_area`); where it is not, `source` is
    closed. An area is of one size of image: frames of another size than the first go without one. Closing the result
    closes `source`.
    """
    size: tuple[int, int] | None = None
    if area is None:
        try:
            area, size = find_scan_area(source, frames=frames)
        except EdgeError:
            source.close()
            raise

    def geometry_of(frame: Frame) -> FrameGeometry:
        nonlocal size
        size = size or frame.shape
        known = frame.geometry.scan_area is not None or frame.shape != size
        return frame.geometry if known else replace(frame.geometry, scan_area=area)

    return GeometrySource(source, geometry_of)
