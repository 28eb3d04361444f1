"""Label maps on the way of the frames they belong to, for training and for scores at network size."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.preprocess._order import Size
from edge_runtime.preprocess.preprocessor import Preprocessor
from edge_runtime.preprocess.spec import CropToScanArea, Letterbox, Normalize, PreprocessSpec, ToGray

__all__ = ["LabelPreprocessor"]


class LabelPreprocessor:
    """`prepare(mask, geometry)`: (H, W) uint8 labels to (h, w) uint8 by the largest share of each network pixel.

    The mask takes the frame's way (crop, letterbox, resize, polar), one class at a time, so truth and input stay
    aligned to a fraction of a pixel; letterbox borders are background. Labels are 0 (background) to `classes`.
    """

    def __init__(self, spec: PreprocessSpec, classes: int) -> None:
        self._prepare = Preprocessor(_label_spec(spec))
        self._shares = np.empty((classes + 1, *self.output_shape), np.float32)
        self.classes = classes

    @property
    def output_shape(self) -> tuple[int, int]:
        """(h, w) of every result."""
        return self._prepare.output_shape[2:]

    def __call__(self, mask: npt.NDArray[np.uint8], geometry: FrameGeometry) -> npt.NDArray[np.uint8]:
        """Labels at network size. Raises `ConfigError` for a label above `classes`."""
        if (top := int(mask.max())) > self.classes:
            raise ConfigError(f"the mask holds label {top}; 0 to {self.classes} are allowed. Name more classes")
        for label in range(1, self.classes + 1):
            indicator = np.where(mask == label, np.uint8(255), np.uint8(0))
            plane = Frame(image=indicator, index=0, arrival_ns=0, geometry=geometry)
            self._shares[label] = self._prepare(plane).tensor[0, 0]
        self._shares[0] = 1 - self._shares[1:].sum(axis=0)
        labels: npt.NDArray[np.uint8] = self._shares.argmax(axis=0).astype(np.uint8)
        return labels


def _label_spec(spec: PreprocessSpec) -> PreprocessSpec:
    """The steps that move pixels; filters, masks and values are the image's alone."""
    kept: list[Any] = [step for step in spec.steps if isinstance(step, (CropToScanArea, ToGray, Size))]
    steps = [msgspec.structs.replace(step, fill=0) if isinstance(step, Letterbox) else step for step in kept]
    return PreprocessSpec(steps=(*steps, Normalize()))
