"""How alike two pictures are: mean absolute error, PSNR and SSIM, for denoised frames against clean ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["mean_absolute_error", "psnr", "ssim"]

Image = npt.NDArray[Any]
_SIGMA, _RADIUS = 1.5, 5  # the 11 x 11 window of Wang et al.


def mean_absolute_error(image: Image, reference: Image) -> float:
    """Mean of |difference| in grey levels, of two arrays of equal shape. Raises `ConfigError` for unequal shapes,
    empty or not finite images.
    """
    a, b = _pair(image, reference)
    return float(np.abs(a - b).mean())


def psnr(image: Image, reference: Image, *, data_range: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(data_range^2 / mean squared error); infinite for equal images.

    `data_range` is the distance from black to white (255, or 1 for floats). Errors as `mean_absolute_error`.
    """
    a, b = _pair(image, reference)
    error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(_range(data_range) ** 2 / error) if error else math.inf


def ssim(image: Image, reference: Image, *, data_range: float = 255.0) -> float:
    """Structural similarity of two (H, W) images, at least 11 x 11; 1 for equal images.

    Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 13 (2004), equation 13: gaussian window of 11 x 11 with sigma 1.5,
    K1 0.01, K2 0.03, variances over N, mean over the windows that lie wholly inside. As scikit-image with
    `gaussian_weights=True, use_sample_covariance=False`. Errors as `mean_absolute_error`.
    """
    a, b = _pair(image, reference)
    if a.ndim != 2 or min(a.shape) < 2 * _RADIUS + 1:
        raise ConfigError(f"SSIM of images of shape {a.shape}; (H, W), at least 11 x 11, is needed")
    c1, c2 = (0.01 * _range(data_range)) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    both = _blur(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    likeness /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float(likeness.mean())


def _blur(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weighted means over every window that lies wholly inside: (H - 10, W - 10)."""
    weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    weights /= weights.sum()
    height, width = image.shape[0] - 2 * _RADIUS, image.shape[1] - 2 * _RADIUS
    rows = np.zeros((height, image.shape[1]))
    for k, weight in enumerate(weights):
        rows += weight * image[k : k + height]
    found = np.zeros((height, width))
    for k, weight in enumerate(weights):
        found += weight * rows[:, k : k + width]
    return found


def _pair(image: Image, reference: Image) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if image.shape != reference.shape or image.size == 0:
        raise ConfigError(f"images of shapes {image.shape} and {reference.shape}; equal and not empty is needed")
    a, b = image.astype(np.float64), reference.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ConfigError("an image holds values that are not finite")
    return a, b


def _range(data_range: float) -> float:
    if not (math.isfinite(data_range) and data_range > 0):
        raise ConfigError(f"data_range {data_range}; a positive number is needed, 255 for 8-bit images")
    return data_range
