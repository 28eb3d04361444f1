"""Dice of a network on frames with truth, at network size."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_runtime.errors import ConfigError

__all__ = ["SegmentationScores", "dice_scores", "predict_logits", "predict_masks", "score_masks"]


class SegmentationScores(msgspec.Struct, frozen=True, kw_only=True):
    """Dice over frames and over all pixels.

    `mean` and `std` are over frames (and, with several classes, their mean over classes); `pooled` counts every
    pixel of all frames once; `per_frame` has the N values. A frame without the class in truth and prediction has 1,
    in only one of the two 0.
    """

    mean: float
    std: float
    pooled: float
    n: int
    per_frame: tuple[float, ...]


def dice_scores(predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(N,) Dice (1945) of two (N, H, W) masks, 1 where both are empty."""
    both = (predicted & truth).sum(axis=(1, 2))
    total = predicted.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
    return np.where(total == 0, 1.0, 2.0 * both / np.maximum(total, 1))


def score_masks(predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], classes: int) -> SegmentationScores:
    """Scores of label images (N, H, W) uint8 with `classes` foreground classes; `ConfigError` for other shapes."""
    if predicted.shape != truth.shape or predicted.ndim != 3 or not len(truth):
        raise ConfigError(f"predicted masks are {predicted.shape}, the truth {truth.shape}; equal (N, H, W) are needed")
    per_class = []
    pooled = []
    for label in range(1, classes + 1):
        p, t = predicted == label, truth == label
        per_class.append(dice_scores(p, t))
        pooled.append(float(dice_scores(p.reshape(1, -1, 1), t.reshape(1, -1, 1))[0]))
    frames = np.mean(per_class, axis=0)
    return SegmentationScores(
        mean=float(frames.mean()),
        std=float(frames.std()),
        pooled=float(np.mean(pooled)),
        n=len(frames),
        per_frame=tuple(float(value) for value in frames),
    )


def predict_logits(network: Callable[[Tensor], Tensor], inputs: Tensor, batch_size: int = 16) -> Tensor:
    """(N, C, H, W) float32 logits of `inputs` (N, C_in, H, W), in batches, without gradient."""
    with torch.inference_mode():
        starts = range(0, len(inputs), batch_size)
        return torch.cat([network(inputs[k : k + batch_size]).float() for k in starts]).clone()


def predict_masks(network: Callable[[Tensor], Tensor], inputs: Tensor, batch_size: int = 16) -> npt.NDArray[np.uint8]:
    """(N, H, W) uint8 label images: probability above 0.5 with one output plane, else the most probable class."""
    logits = predict_logits(network, inputs, batch_size)
    labels = (logits[:, 0] > 0) if logits.shape[1] == 1 else logits.argmax(dim=1)
    return labels.to(torch.uint8).numpy()
