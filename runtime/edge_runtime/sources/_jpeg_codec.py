"""Two decoders of 8-bit JPEG with the same output: libjpeg-turbo through simplejpeg where it is installed, else OpenCV.

Both are libjpeg-turbo with its exact inverse DCT and smooth upsampling, so they agree bit for bit (tested); simplejpeg
takes 0.55 of OpenCV's time on a 640 x 480 frame, and reports damage that OpenCV turns into a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.optional import is_available, require

__all__ = ["JpegDecode", "jpeg_decode", "opencv_decode", "turbo_decode"]

Image = npt.NDArray[np.uint8]
JpegDecode = Callable[[bytes], Image | str]  # an image (H, W) or (H, W, 3) RGB, or what is wrong


def jpeg_decode(purpose: str, *, grey: bool) -> JpegDecode:
    """The faster decoder that is installed. Raises `MissingDependencyError` when there is neither."""
    if is_available("simplejpeg"):
        return turbo_decode(grey=grey)
    return opencv_decode(purpose, grey=grey)


def turbo_decode(*, grey: bool) -> JpegDecode:
    """libjpeg-turbo through simplejpeg; any warning of libjpeg is damage."""
    simplejpeg: Any = require("simplejpeg", "to decode JPEG frames")
    space = "GRAY" if grey else "RGB"

    def decode(data: bytes) -> Image | str:
        try:
            image: Image = simplejpeg.decode_jpeg(data, space, strict=True)
        except (ValueError, MemoryError) as error:
            return str(error)
        return image[:, :, 0] if grey else image

    return decode


def opencv_decode(purpose: str, *, grey: bool) -> JpegDecode:
    """OpenCV's own libjpeg-turbo."""
    cv2: Any = require("cv2", purpose)
    rgb_flag: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)  # from OpenCV 4.11; a JetPack may have an older one
    flags = (cv2.IMREAD_GRAYSCALE if grey else rgb_flag or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    swap = not grey and rgb_flag is None

    def decode(data: bytes) -> Image | str:
        image: Image | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is None:
            return "OpenCV cannot decode it"
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if swap else image

    return decode
