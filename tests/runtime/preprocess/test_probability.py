"""A probability on its way back: interpolated on an axis that grows, averaged on one that shrinks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.preprocess import PixelMap
from edge_runtime.preprocess.pixel_map import Box

pytest.importorskip("cv2")

sizes = st.integers(1, 60)


@st.composite
def maps(draw: st.DrawFn) -> PixelMap:
    """Any map: a crop inside a source, a content inside a network image."""

    def box(shape: tuple[int, int]) -> Box:
        x0, y0 = draw(st.integers(0, shape[1] - 1)), draw(st.integers(0, shape[0] - 1))
        width, height = draw(st.integers(1, shape[1] - x0)), draw(st.integers(1, shape[0] - y0))
        return Box(x0=x0, y0=y0, width=width, height=height)

    source, network = (draw(sizes), draw(sizes)), (draw(sizes), draw(sizes))
    return PixelMap(source_shape=source, network_shape=network, crop=box(source), content=box(network))


def weights(n: int, m: int) -> npt.NDArray[np.float64]:
    """(m, n) weights of n source pixels in m target pixels, pixel areas aligned, edges carried outwards."""
    target, source = np.arange(m)[:, None], np.arange(n)[None]
    if n > m:  # overlap of the intervals, over the length of a target pixel
        left, right = target * n / m, (target + 1) * n / m
        return np.clip(np.minimum(right, source + 1) - np.maximum(left, source), 0, None) * m / n
    x = np.clip((target + 0.5) * n / m - 0.5, 0, n - 1)
    return np.clip(1 - np.abs(x - source), 0, None)


@settings(max_examples=80)
@given(maps(), st.integers(0, 2**32 - 1))
def test_any_map_in_float64_by_matrices(pixels: PixelMap, seed: int) -> None:
    probability = np.random.default_rng(seed).random(pixels.network_shape, np.float32)
    found = pixels.probability_to_source(probability)
    content = probability[pixels.content.slices].astype(np.float64)
    rows = weights(content.shape[0], pixels.crop.height)
    columns = weights(content.shape[1], pixels.crop.width)
    np.testing.assert_allclose(found[pixels.crop.slices], rows @ content @ columns.T, atol=1e-6)
    outside = np.ones(pixels.source_shape, bool)
    outside[pixels.crop.slices] = False
    assert not found[outside].any()


def test_shrinking_agrees_with_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    pixels = PixelMap(
        source_shape=(20, 16),
        network_shape=(60, 64),
        crop=Box(x0=0, y0=0, width=16, height=20),
        content=Box(x0=0, y0=0, width=64, height=60),
    )
    probability = np.random.default_rng(0).random((60, 64), np.float32)
    peer = transform.downscale_local_mean(probability, (3, 4))
    np.testing.assert_allclose(pixels.probability_to_source(probability), peer, atol=1e-6)
