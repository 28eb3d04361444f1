"""Both JPEG decoders give the same bits, and say when they cannot decode."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_runtime.sources._jpeg_codec import jpeg_decode, opencv_decode, turbo_decode

SAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
}


def coded(sampling: str, shape: tuple[int, int, int], quality: int = 90) -> bytes:
    rng = np.random.default_rng(5)
    smooth = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), shape[1::-1], interpolation=cv2.INTER_CUBIC)
    noisy = cv2.add(smooth, rng.integers(0, 60, shape, np.uint8))
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]]
    return cv2.imencode(".jpg", noisy, options)[1].tobytes()


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("shape", [(48, 64, 3), (37, 53, 3)])
def test_equal_bit_for_bit(grey: bool, sampling: str, shape: tuple[int, int, int]) -> None:
    pytest.importorskip("simplejpeg")
    data = coded(sampling, shape)
    turbo, opencv = turbo_decode(grey=grey)(data), opencv_decode("test", grey=grey)(data)
    assert isinstance(turbo, np.ndarray)
    assert turbo.dtype == np.uint8
    assert turbo.flags.c_contiguous
    np.testing.assert_array_equal(turbo, opencv)
    assert turbo.shape == (shape[:2] if grey else shape)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xd9", b"no jpeg at all"])
def test_what_is_wrong_is_said(data: bytes) -> None:
    assert isinstance(jpeg_decode("test", grey=False)(data), str)


def test_a_cut_stream_is_damage() -> None:
    pytest.importorskip("simplejpeg")
    data = coded("422", (48, 64, 3))
    assert isinstance(turbo_decode(grey=False)(data[: len(data) // 2] + b"\xff\xd9"), str)


def test_without_simplejpeg_opencv_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    image = jpeg_decode("test", grey=False)(coded("420", (48, 64, 3)))
    assert isinstance(image, np.ndarray)
