"""Objects as truth: numbered masks, their borders, and an untrained way to number a plain mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError

__all__ = ["border_of", "components"]


def components(mask: npt.NDArray[np.integer], min_area: int = 1) -> npt.NDArray[np.int32]:
    """(H, W) integer classes, 0 background -> (H, W) int32 numbers from 1, one per 4-connected part of one class.

    Parts of fewer than `min_area` pixels become background. Numbers run in the order of classes, then of first pixels.
    This is the truth where masks have classes alone, and the plain answer that a border must beat.
    """
    if mask.ndim != 2 or min_area < 1:
        raise ConfigError(f"mask has shape {mask.shape} and min_area is {min_area}; (H, W) and 1 or more are needed")
    numbers = np.zeros(mask.shape, np.int32)
    count = 0
    for label in np.unique(mask[mask > 0]):
        parts, found = ndimage.label(mask == label)
        kept = np.bincount(parts.ravel(), minlength=found + 1) >= min_area
        kept[0] = False
        renamed = np.where(kept, count + np.cumsum(kept), 0).astype(np.int32)
        numbers += renamed[parts]
        count += int(kept.sum())
    return numbers


def border_of(numbers: Tensor, width: int = 1) -> Tensor:
    """(N, H, W) int64 object numbers, 0 background -> (N, H, W) bool: object pixels near something else.

    A pixel of an object is border when the square of 2 `width` + 1 pixels around it holds background or another
    object; the frame's edge alone makes no border. Worked out on the moved numbers, after augmentation, so that a
    border is `width` pixels wide at every zoom.
    """
    if width < 1:
        raise ConfigError(f"width is {width}; 1 pixel or more is needed")
    values, side = numbers[:, None].float(), 2 * width + 1
    high = F.max_pool2d(values, side, stride=1, padding=width)
    low = -F.max_pool2d(-values, side, stride=1, padding=width)
    near: Tensor = (high != values) | (low != values)
    return (near & (values > 0))[:, 0]
