"""From class and border maps to numbered objects (NumPy), and how well they match the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.tasks.instances.truth import components

__all__ = ["InstanceScore", "match_instances", "separate"]

Int32 = npt.NDArray[np.int32]


def separate(
    mask: npt.NDArray[np.float32],
    border: npt.NDArray[np.float32],
    *,
    threshold: float = 0.5,
    border_threshold: float = 0.5,
    min_seed: int = 4,
    min_area: int = 12,
) -> tuple[Int32, npt.NDArray[np.uint8]]:
    """Objects of `mask` (C, H, W) and `border` (H, W) logits: their numbers (H, W) int32 and classes (H, W) uint8.

    The seeds are the 4-connected parts of the mask without its border (Chen et al., CVPR 2016) of at least `min_seed`
    pixels; each pixel of the mask then joins the nearest seed of its own part and class. A part without a seed, too
    thin for one, is an object by itself. Objects of fewer than `min_area` pixels are dropped. With one plane a pixel
    is in the mask when its probability exceeds `threshold`, with more when its class is the most probable. Raises
    `InferenceError` for values that are not finite, `ConfigError` for shapes and thresholds that do not fit.
    """
    if mask.ndim != 3 or border.shape != mask.shape[1:]:
        raise ConfigError(f"mask is {mask.shape} and border {border.shape}; (C, H, W) and (H, W) are needed")
    if not (0 < threshold < 1 and 0 < border_threshold < 1):
        raise ConfigError(f"thresholds are {threshold} and {border_threshold}; above 0 and below 1 are allowed")
    if not (np.isfinite(mask).all() and np.isfinite(border).all()):
        raise InferenceError("mask or border holds values that are not finite")
    classes = _classes(mask, threshold)
    inner = np.where(border > np.log(border_threshold / (1 - border_threshold)), 0, classes)
    seeds = components(inner, min_seed)
    numbers = np.zeros(classes.shape, np.int32)
    parts = components(classes)
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[box] == part
        own = np.where(inside, seeds[box], 0)
        if not own.any():
            own = np.where(inside, seeds.max() + part, 0)
        rows, columns = ndimage.distance_transform_edt(own == 0, return_distances=False, return_indices=True)
        numbers[box][inside] = own[rows, columns][inside]
    numbers = _dense(numbers, min_area)
    return numbers, np.where(numbers > 0, classes, 0).astype(np.uint8)


def _classes(mask: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.uint8]:
    if len(mask) == 1:
        return np.asarray(mask[0] > np.log(threshold / (1 - threshold)), np.uint8)
    return np.asarray(mask.argmax(0), np.uint8)


def _dense(numbers: Int32, min_area: int) -> Int32:
    """The numbers that have `min_area` pixels, counted from 1 without gaps."""
    kept = np.bincount(numbers.ravel()) >= min_area
    kept[0] = False
    found: Int32 = np.where(kept, np.cumsum(kept), 0).astype(np.int32)[numbers]
    return found


class InstanceScore(NamedTuple):
    """Counts of objects: `matched` in both, `missed` only in the truth, `extra` only in the prediction."""

    matched: int
    missed: int
    extra: int

    @property
    def f1(self) -> float:
        """2 matched / (2 matched + missed + extra); NaN where neither has an object."""
        total = 2 * self.matched + self.missed + self.extra
        return 2 * self.matched / total if total else float("nan")

    def __add__(self, other: object) -> InstanceScore:
        if not isinstance(other, InstanceScore):
            return NotImplemented
        return InstanceScore(*(a + b for a, b in zip(tuple(self), tuple(other), strict=True)))


def match_instances(
    predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer], iou: float = 0.5
) -> InstanceScore:
    """Objects of two numbered maps (H, W) that overlap with an IoU above `iou`, at least 0.5.

    Above a half no object can match two others, so the pairs are unique without an assignment (Kirillov et al.,
    Panoptic Segmentation, CVPR 2019, section 4.1).
    """
    if predicted.shape != truth.shape or not 0.5 <= iou < 1:
        raise ConfigError(
            f"shapes are {predicted.shape} and {truth.shape}, iou is {iou}; equal shapes and 0.5 <= iou < 1 are needed"
        )
    p, t = predicted.ravel().astype(np.int64), truth.ravel().astype(np.int64)
    shared = np.zeros((p.max(initial=0) + 1, t.max(initial=0) + 1), np.int64)
    np.add.at(shared, (p, t), 1)
    area_p, area_t = shared.sum(1, keepdims=True), shared.sum(0, keepdims=True)
    overlap = shared / np.maximum(area_p + area_t - shared, 1)
    matched = int((overlap[1:, 1:] > iou).sum())
    found, wanted = int((area_p[1:] > 0).sum()), int((area_t[:, 1:] > 0).sum())
    return InstanceScore(matched=matched, missed=wanted - matched, extra=found - matched)
