"""Picture metrics against scikit-image and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.image import mean_absolute_error, psnr, ssim


def test_equal_and_shifted_images() -> None:
    image = np.random.default_rng(0).integers(0, 240, (20, 30), dtype=np.uint8)
    assert (mean_absolute_error(image, image), psnr(image, image), ssim(image, image)) == (0, math.inf, 1)
    assert mean_absolute_error(image + 10, image) == 10
    assert psnr(image + 10, image) == pytest.approx(20 * math.log10(25.5))
    assert psnr((image + 10) / 255, image / 255, data_range=1) == pytest.approx(20 * math.log10(25.5))


@pytest.mark.parametrize("shape", [(11, 11), (32, 47)])
def test_scikit_image_agrees(shape: tuple[int, int]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    clean = rng.integers(0, 256, shape, dtype=np.uint8)
    noisy = np.clip(clean + rng.normal(0, 20, shape), 0, 255).astype(np.uint8)
    settings = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": 1.5, "data_range": 255}
    assert ssim(noisy, clean) == pytest.approx(metrics.structural_similarity(clean, noisy, **settings), abs=1e-9)
    assert psnr(noisy, clean) == pytest.approx(metrics.peak_signal_noise_ratio(clean, noisy), abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones((11, 11)), np.ones((11, 12)), "equal and not empty"),
        (np.ones((10, 12)), np.ones((10, 12)), "at least 11 x 11"),
        (np.ones((2, 12, 12)), np.ones((2, 12, 12)), "at least 11 x 11"),
        (np.full((11, 11), np.inf), np.ones((11, 11)), "not finite"),
    ],
)
def test_bad_images(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ssim(a, b)


def test_bad_range() -> None:
    with pytest.raises(ConfigError, match="data_range 0"):
        psnr(np.zeros(3), np.ones(3), data_range=0)
