"""What is done with each frame: nothing, a sleep, or a segmentation network as a plain program would run it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MEAN", "STD", "Work"]

MEAN, STD = np.float32(63.75), np.float32(63.75)  # of the student's `normalize` step


class Work:
    """`Work(...)(image)`: (H, W) uint8 in; a mask (H, W) uint8 out with "onnx", else None. One thread.

    `service_ns` is how long each call took.
    """

    def __init__(self, kind: str, *, sleep_ms: float = 0.0, model: str = "") -> None:
        self.service_ns: list[int] = []
        self._sleep_ns = round(sleep_ms * 1e6)
        self._session: Any = None
        self._kind = kind
        if kind == "onnx":
            self._open(model)
        elif kind not in ("none", "sleep"):
            raise ValueError(f"work is {kind!r}; none, sleep or onnx")

    def _open(self, model: str) -> None:
        import cv2
        import onnxruntime

        cv2.setNumThreads(1)
        self._cv2: Any = cv2
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        height, width = self._input.shape[2:]
        for _ in range(2):
            self._segment(np.zeros((height, width), np.uint8))

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
        start_ns = time.monotonic_ns()
        mask = None
        if self._kind == "onnx":
            mask = self._segment(image)
        elif self._kind == "sleep":
            while (left_ns := start_ns + self._sleep_ns - time.monotonic_ns()) > 0:
                time.sleep(left_ns / 1e9)
        self.service_ns.append(time.monotonic_ns() - start_ns)
        return mask

    def _segment(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = self._input.shape[2:]
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
        small = self._cv2.resize(grey, (width, height), interpolation=self._cv2.INTER_AREA)
        tensor = ((small.astype(np.float32) - MEAN) / STD)[None, None]
        (logits,) = self._session.run(None, {self._input.name: tensor})
        full = self._cv2.resize(logits[0, 0], (image.shape[1], image.shape[0]), interpolation=self._cv2.INTER_LINEAR)
        mask: npt.NDArray[np.uint8] = (full > 0).astype(np.uint8)
        return mask
