"""Pixels there and back: closed forms, round trips, and pictures whose place is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.pixel_map import Box, PixelMap

pytest.importorskip("cv2")


@st.composite
def boxes(draw: st.DrawFn, largest: int) -> tuple[tuple[int, int], Box]:
    """A shape (H, W) and a box inside it."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    h, w = draw(st.integers(1, height - y0)), draw(st.integers(1, width - x0))
    return (height, width), Box(x0=x0, y0=y0, width=w, height=h)


@st.composite
def maps(draw: st.DrawFn) -> PixelMap:
    (source, crop), (network, content) = draw(boxes(200)), draw(boxes(80))
    return PixelMap(source_shape=source, network_shape=network, crop=crop, content=content)


@given(maps(), st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=5))
def test_there_and_back(pixels: PixelMap, points: list[tuple[float, float]]) -> None:
    assert np.allclose(pixels.to_network(pixels.to_source(points)), points, atol=1e-6)


@given(maps())
def test_edges_of_the_content_are_edges_of_the_crop(pixels: PixelMap) -> None:
    # a pixel at integer c covers c - 0.5 ... c + 0.5
    content, crop = pixels.content, pixels.crop
    near = pixels.to_source((content.x0 - 0.5, content.y0 - 0.5))
    far = pixels.to_source((content.x0 + content.width - 0.5, content.y0 + content.height - 0.5))
    assert np.allclose(near, (crop.x0 - 0.5, crop.y0 - 0.5))
    assert np.allclose(far, (crop.x0 + crop.width - 0.5, crop.y0 + crop.height - 0.5))


def test_halving_puts_a_network_pixel_between_two_source_pixels() -> None:
    half = PixelMap(
        source_shape=(8, 8),
        network_shape=(4, 4),
        crop=Box(x0=0, y0=0, width=8, height=8),
        content=Box(x0=0, y0=0, width=4, height=4),
    )
    assert half.to_source((0, 3)).tolist() == [0.5, 6.5]
    assert half.to_network([[0.5, 6.5], [-0.5, 7.5]]).tolist() == [[0, 3], [-0.5, 3.5]]


@given(maps())
def test_a_linear_field_comes_back_as_itself(pixels: PixelMap) -> None:
    """Linear interpolation reproduces a plane away from the border, and 0 stands outside the crop."""
    h, w = pixels.network_shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    source = pixels.probability_to_source(x + 100 * y)
    rows, columns = pixels.crop.slices
    outside = source.copy()
    outside[rows, columns] = 0
    assert not outside.any()
    (sx, sy), content = pixels.scale, pixels.content
    if sx > 1 or sy > 1:
        Y, X = np.mgrid[: source.shape[0], : source.shape[1]]
        at = pixels.to_network(np.stack([X, Y], axis=-1))
        within_x = (at[..., 0] >= content.x0) & (at[..., 0] <= content.x0 + content.width - 1)
        within_y = (at[..., 1] >= content.y0) & (at[..., 1] <= content.y0 + content.height - 1)
        inside = within_x & within_y & (sx >= 1) & (sy >= 1)
        wanted = at[..., 0] + 100 * at[..., 1]
        assert np.allclose(source[inside], wanted[inside], atol=0.02)


@given(maps())
def test_labels_are_taken_from_the_nearest_network_pixel(pixels: PixelMap) -> None:
    labels = np.random.default_rng(0).integers(0, 255, pixels.network_shape, np.uint8)
    found = pixels.mask_to_source(labels)
    Y, X = np.mgrid[: found.shape[0], : found.shape[1]]
    at = pixels.to_network(np.stack([X, Y], axis=-1))
    crop = pixels.crop
    inside = np.zeros(found.shape, bool)
    inside[crop.slices] = True
    tie = (np.abs(at - np.floor(at) - 0.5) < 1e-3).any(axis=-1)  # half way between two: either will do
    nearest = np.rint(at).astype(int)
    wanted = labels[nearest[..., 1].clip(0, labels.shape[0] - 1), nearest[..., 0].clip(0, labels.shape[1] - 1)]
    sure = inside & ~tie
    assert np.array_equal(found[sure], wanted[sure])
    assert not found[~inside].any()


def test_growing_agrees_with_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    probability = np.random.default_rng(1).random((32, 40)).astype(np.float32)
    pixels = PixelMap(
        source_shape=(96, 130),
        network_shape=(32, 40),
        crop=Box(x0=0, y0=0, width=130, height=96),
        content=Box(x0=0, y0=0, width=40, height=32),
    )
    peer = transform.resize(probability, (96, 130), order=1, mode="edge", anti_aliasing=False)
    assert np.abs(pixels.probability_to_source(probability) - peer).max() < 1e-5


@pytest.mark.parametrize("radius", [3.0, 6.0, 12.0, 25.0])
def test_a_disc_keeps_its_area(radius: float) -> None:
    """Soft-edged discs at 64 x 64 brought to 480 x 640 and cut at one half: within 1 %, or 4 % when tiny."""
    pixels = PixelMap(
        source_shape=(480, 640),
        network_shape=(64, 64),
        crop=Box(x0=40, y0=20, width=560, height=400),
        content=Box(x0=0, y0=0, width=64, height=64),
    )
    sx, sy = pixels.scale
    y, x = np.mgrid[:64, :64]
    rng = np.random.default_rng(2)
    ratios = []
    for _ in range(10):
        cx, cy = rng.uniform(28, 36, 2)
        probability = np.clip(radius - np.hypot(x - cx, y - cy) + 0.5, 0, 1).astype(np.float32)
        found = np.count_nonzero(pixels.probability_to_source(probability) > 0.5)
        ratios.append(found / (np.pi * radius**2 * sx * sy))
    assert abs(np.mean(ratios) - 1) < (0.04 if radius < 5 else 0.01)


@pytest.mark.parametrize(
    ("image", "out", "said"),
    [
        (np.zeros((4, 4), np.float64), None, "float32"),
        (np.zeros((4, 5), np.float32), None, r"\(4, 5\)"),
        (np.zeros((4, 4), np.float32), np.zeros((8, 7), np.float32), r"\(8, 7\)"),
        (np.zeros((4, 4), np.float32), np.zeros((8, 8), np.float64), "float64"),
        (np.zeros((4, 4), np.float32), np.zeros((8, 16), np.float32)[:, ::2], "C-contiguous"),
    ],
)
def test_wrong_arrays_are_refused(image: Any, out: Any, said: str) -> None:
    pixels = PixelMap(
        source_shape=(8, 8),
        network_shape=(4, 4),
        crop=Box(x0=0, y0=0, width=8, height=8),
        content=Box(x0=0, y0=0, width=4, height=4),
    )
    with pytest.raises(ConfigError, match=said):
        pixels.probability_to_source(image, out=out)


def test_a_used_target_is_cleaned_outside_the_crop_and_returned() -> None:
    pixels = PixelMap(
        source_shape=(8, 9),
        network_shape=(4, 4),
        crop=Box(x0=2, y0=1, width=4, height=5),
        content=Box(x0=1, y0=0, width=2, height=4),
    )
    out, mask = np.full((8, 9), 7, np.float32), np.full((8, 9), 7, np.uint8)
    assert pixels.probability_to_source(np.ones((4, 4), np.float32), out=out) is out
    assert pixels.mask_to_source(np.ones((4, 4), np.uint8), out=mask) is mask
    wanted = np.zeros((8, 9))
    wanted[1:6, 2:6] = 1
    assert np.array_equal(out, wanted)
    assert np.array_equal(mask, wanted)
