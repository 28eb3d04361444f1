"""A geometry that the user gave for a source: it holds for the size of its first frame alone."""

from __future__ import annotations

from edge_runtime.frame import FrameGeometry

__all__ = ["GivenGeometry", "withdrawn"]


class GivenGeometry:
    """`at(size)` is the geometry as it was given until the size changes; from then on one without millimetres.

    A calibration and a scan area are of one size of image: after a change neither is known.
    """

    def __init__(self, geometry: FrameGeometry) -> None:
        self._given = self._geometry = geometry
        self._size: tuple[int, int] | None = None

    def at(self, size: tuple[int, int]) -> FrameGeometry:
        """The geometry of a frame of `size` (rows, columns)."""
        if self._size is not None and size != self._size:
            self._geometry = withdrawn(self._geometry, self._size, size)
        self._size = size
        return self._geometry

    def restart(self) -> None:
        """The next frame is the first one again."""
        self._geometry, self._size = self._given, None


def withdrawn(geometry: FrameGeometry, before: tuple[int, int], size: tuple[int, int]) -> FrameGeometry:
    """What is left of `geometry`, which was given for images of the size `before`, at another `size`."""
    if not geometry.trusted and geometry.row_mm is None and geometry.scan_area is None:
        return geometry  # it says nothing, and why
    return FrameGeometry(
        reason=f"the images changed from {before[0]} x {before[1]} to {size[0]} x {size[1]} pixels; the geometry was "
        "given for the first"
    )
