"""`PixelMap`: where a network pixel lies in the source image, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_runtime.preprocess._resample import Resampler

__all__ = ["Box", "PixelMap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle of whole pixels: columns `x0 ... x0 + width - 1`, rows `y0 ... y0 + height - 1`."""

    x0: int
    y0: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """(rows, columns) to index an (H, W) array with."""
        return slice(self.y0, self.y0 + self.height), slice(self.x0, self.x0 + self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelMap:
    """Affine per axis between network and source pixels, pixel centres at integers.

    `crop` is the part of the source (`source_shape`, (H, W)) that was resized onto `content`, a part of the
    network image (`network_shape`, (h, w)). Resizing aligns the areas of pixels, so with s = crop / content:
    `x_source = s * x_network + (0.5 - content.x0) * s - 0.5 + crop.x0`, and alike in y.
    """

    source_shape: tuple[int, int]
    network_shape: tuple[int, int]
    crop: Box
    content: Box

    @property
    def scale(self) -> tuple[float, float]:
        """(sx, sy): source pixels per network pixel."""
        return self.crop.width / self.content.width, self.crop.height / self.content.height

    @property
    def offset(self) -> tuple[float, float]:
        """(bx, by): source position of network pixel (0, 0)."""
        sx, sy = self.scale
        return (
            (0.5 - self.content.x0) * sx - 0.5 + self.crop.x0,
            (0.5 - self.content.y0) * sy - 0.5 + self.crop.y0,
        )

    def to_source(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Source positions (..., 2) of network positions (..., 2), each (x, y) in pixels."""
        source: npt.NDArray[np.float64] = np.asarray(points, np.float64) * self.scale + self.offset
        return source

    def to_network(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Network positions (..., 2) of source positions (..., 2), each (x, y) in pixels."""
        network: npt.NDArray[np.float64] = (np.asarray(points, np.float64) - self.offset) / self.scale
        return network

    def probability_to_source(
        self, probability: npt.NDArray[np.float32], *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """(H, W) float32 of a (h, w) float32 map: linear inside the crop, 0 outside.

        `out` (H, W) float32 is filled and returned when given. Letterbox borders take no part: the
        edge value of the content is carried outwards. Raises `ConfigError` for a wrong shape or dtype.
        """
        target = self._target(probability, np.float32, out)
        Resampler("area")(probability[self.content.slices], target[self.crop.slices])
        return target

    def mask_to_source(
        self, mask: npt.NDArray[np.uint8], *, out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """(H, W) uint8 of a (h, w) uint8 label image: nearest pixel centre inside the crop, 0 outside.

        Labels cannot be interpolated; to bring a probability back, use `probability_to_source` and set the
        threshold there, which keeps borders smooth. Raises `ConfigError` for a wrong shape or dtype.
        """
        target = self._target(mask, np.uint8, out)
        cv2: Any = require("cv2", "to map masks to source pixels")
        size = (self.crop.width, self.crop.height)
        content = mask[self.content.slices]
        cv2.resize(content, size, dst=target[self.crop.slices], interpolation=cv2.INTER_NEAREST_EXACT)
        return target

    def _target(self, image: npt.NDArray[Any], dtype: type[Any], out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        """A checked (H, W) target whose pixels outside the crop are 0."""
        if image.shape != self.network_shape or image.dtype != dtype:
            raise ConfigError(
                f"image is {image.dtype} {image.shape}; {np.dtype(dtype)} {self.network_shape} (network) is needed"
            )
        if out is None:
            return np.zeros(self.source_shape, dtype)
        if out.shape != self.source_shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ConfigError(
                f"out is {out.dtype} {out.shape}; C-contiguous {np.dtype(dtype)} {self.source_shape} "
                "(source pixels) is needed"
            )
        self.clear_outside(out)
        return out

    def clear_outside(self, image: npt.NDArray[Any]) -> None:
        """Set the pixels of a source-sized `image` (H, W) outside the crop to 0."""
        rows, columns = self.crop.slices
        image[: rows.start] = 0
        image[rows.stop :] = 0
        image[rows, : columns.start] = 0
        image[rows, columns.stop :] = 0
