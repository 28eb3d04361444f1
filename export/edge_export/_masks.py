"""From logits to class maps, and their Dice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError
from edge_runtime.metrics.segmentation import dice

__all__ = ["class_map", "frame_dice", "mean_dice"]


def class_map(logits: npt.NDArray[np.float32], spec: OutputSpec) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 from (1, C, H, W) logits: one channel is 1 where sigmoid(logit / T) > threshold, else the argmax.

    Worked out on the logits, where the sigmoid's threshold is T log(t / (1 - t)). Raises `ConfigError` on a shape
    that is not the spec's.
    """
    if logits.shape != spec.shape:
        raise ConfigError(f"logits have shape {logits.shape}; output {spec.name!r} is {spec.shape}")
    if logits.shape[1] == 1:
        level = spec.temperature * np.log(spec.threshold / (1.0 - spec.threshold))
        return np.asarray(logits[0, 0] > level, np.uint8)
    return np.asarray(logits[0].argmax(axis=0), np.uint8)


def frame_dice(
    found: Sequence[npt.NDArray[np.uint8]], wanted: Sequence[npt.NDArray[np.uint8]]
) -> npt.NDArray[np.float64]:
    """(N,) Dice coefficients 2 |A and B| / (|A| + |B|), mean over the classes above 0 that either map of a frame holds.

    A frame in which both maps are all background counts 1.
    """
    scores = []
    for left, right in zip(found, wanted, strict=True):
        classes = [k for k in np.union1d(np.unique(left), np.unique(right)) if k > 0]
        each = [dice(left == k, right == k) for k in classes]
        scores.append(float(np.mean(each)) if each else 1.0)
    return np.array(scores, np.float64)


def mean_dice(found: Sequence[npt.NDArray[np.uint8]], wanted: Sequence[npt.NDArray[np.uint8]]) -> float:
    """The mean of `frame_dice`."""
    return float(frame_dice(found, wanted).mean())
