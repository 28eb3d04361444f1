"""How much nearer to the clean frame a restored one is, beside answers that need no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from edge_runtime.metrics.image import psnr, ssim
from edge_runtime.optional import require
from edge_sdk.batch import TrainingSet
from edge_sdk.evaluate import predict_logits
from edge_sdk.tasks.restoration.training import IMAGE

__all__ = ["TRIVIAL", "image_scores", "network_scores", "trivial_scores"]

Image = npt.NDArray[np.float32]
TRIVIAL = ("as it is", "median 3 x 3", "Gaussian, sigma 0.8", "Gaussian, sigma 1.2", "non-local means")


def _grey(images: Tensor, scale: tuple[float, float]) -> Image:
    """(N, 1, H, W) normalised -> (N, H, W) grey values in 0..255, rounded as a display shows them."""
    mean, std = scale
    grey: Image = np.rint((images[:, 0].numpy() * std + mean).clip(0, 1) * 255).astype(np.float32)
    return grey


def image_scores(found: Image, clean: Image) -> dict[str, list[float]]:
    """Per frame PSNR in dB and SSIM of (N, H, W) grey values in 0..255."""
    pairs = list(zip(found, clean, strict=True))
    return {"psnr": [psnr(a, b) for a, b in pairs], "ssim": [ssim(a, b) for a, b in pairs]}


def network_scores(network: Callable[[Tensor], Tensor], data: TrainingSet) -> dict[str, list[float]]:
    """Scores of `network` on degraded frames."""
    return image_scores(_grey(predict_logits(network, data.inputs), data.scale), _grey(data.target(IMAGE), data.scale))


def trivial_scores(data: TrainingSet) -> dict[str, dict[str, list[float]]]:
    """Scores of `TRIVIAL`: no filter, median, two Gaussians, and non-local means (Buades, Coll and Morel, CVPR 2005).

    Frames that must be enlarged are enlarged by bicubic interpolation first.
    """
    cv2: Any = require("cv2", "to filter images")
    clean = _grey(data.target(IMAGE), data.scale)
    size = clean.shape[2], clean.shape[1]
    inputs = _grey(data.inputs, data.scale)
    large = [cv2.resize(a, size, interpolation=cv2.INTER_CUBIC) if a.shape != clean.shape[1:] else a for a in inputs]
    filters: dict[str, Callable[[Image], Any]] = {
        "as it is": lambda a: a,
        "median 3 x 3": lambda a: cv2.medianBlur(a, 3),
        "Gaussian, sigma 0.8": lambda a: cv2.GaussianBlur(a, (0, 0), 0.8),
        "Gaussian, sigma 1.2": lambda a: cv2.GaussianBlur(a, (0, 0), 1.2),
        "non-local means": lambda a: cv2.fastNlMeansDenoising(a.clip(0, 255).astype(np.uint8), None, 12, 5, 15),
    }
    assert tuple(filters) == TRIVIAL
    return {
        name: image_scores(np.stack([np.asarray(apply(a), np.float32) for a in large]), clean)
        for name, apply in filters.items()
    }
