"""From a frame's pixels to the grey crop that filters work on: crop, colour masking, grey, static masking."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import GeometryError
from edge_runtime.frame import Frame
from edge_runtime.optional import require
from edge_runtime.preprocess._order import Layout
from edge_runtime.preprocess.pixel_map import Box

__all__ = ["GrayPreparer"]

Image = npt.NDArray[np.uint8]


class GrayPreparer:
    """`prepare(image)`: the (h, w) uint8 grey crop of a frame like the one it was made for.

    It lies in `out` when anything was done, else it is a view of the frame.
    """

    def __init__(self, layout: Layout, frame: Frame, crop: Box, out: Image) -> None:
        self._cv2: Any = require("cv2", "to prepare frames")
        self._slices, self._out = crop.slices, out
        self._color = layout.color if frame.image.ndim == 3 else None
        self._colored = frame.image.ndim == 3
        self._keep = _keep(layout, frame, crop)
        if self._color is not None:
            self._planes = tuple(np.empty_like(out) for _ in range(3))
            side = 2 * self._color.grow + 1
            self._around = np.ones((side, side), np.uint8)

    def __call__(self, image: Image) -> Image:
        """The grey crop of `image` (H, W) or (H, W, 3) uint8."""
        crop, gray = image[self._slices], self._out
        if self._colored:
            self._cv2.cvtColor(crop, self._cv2.COLOR_RGB2GRAY, dst=gray)
            if self._color is not None:
                self._cv2.bitwise_and(gray, self._plain(crop, self._color.spread), dst=gray)
        else:
            gray = crop
        if self._keep is None:
            return gray
        self._cv2.bitwise_and(gray, self._keep, dst=self._out)
        return self._out

    def _plain(self, rgb: Image, spread: int) -> Image:
        """255 where no colour is near, else 0."""
        cv2, (low, high, plane) = self._cv2, self._planes
        cv2.extractChannel(rgb, 0, dst=low)
        np.copyto(high, low)
        for channel in (1, 2):
            cv2.extractChannel(rgb, channel, dst=plane)
            cv2.min(low, plane, dst=low)
            cv2.max(high, plane, dst=high)
        cv2.subtract(high, low, dst=high)
        cv2.threshold(high, spread, 255, cv2.THRESH_BINARY_INV, dst=plane)
        cv2.erode(plane, self._around, dst=low)
        return low


def _keep(layout: Layout, frame: Frame, crop: Box) -> Image | None:
    """255 where pixels stay, else 0; None when all stay."""
    keep = np.full(frame.shape, 255, np.uint8)
    area = frame.geometry.scan_area
    if layout.outside and area is not None:
        keep[~area.mask(frame.shape)] = 0
    for x0, y0, x1, y1 in layout.boxes.boxes if layout.boxes is not None else ():
        if x0 >= frame.shape[1] or y0 >= frame.shape[0]:  # what it should hide is somewhere else, in the open
            raise GeometryError(
                f"frame {frame.index}: mask_boxes holds {(x0, y0, x1, y1)}, outside of the image of {frame.shape[1]} x "
                f"{frame.shape[0]}; the boxes are for another size of image"
            )
        keep[y0:y1, x0:x1] = 0
    return None if keep.all() else np.ascontiguousarray(keep[crop.slices])
