"""From a frame to a network input, and back: one implementation for training, ranges and the device."""

from edge_runtime.preprocess.labels import LabelPreprocessor
from edge_runtime.preprocess.pixel_map import PixelMap
from edge_runtime.preprocess.preprocessor import Prepared, Preprocessor
from edge_runtime.preprocess.spec import (
    CropToScanArea,
    Letterbox,
    Normalize,
    PreprocessSpec,
    Resize,
    Stack,
    Step,
    ToGray,
)

__all__ = [
    "CropToScanArea",
    "LabelPreprocessor",
    "Letterbox",
    "Normalize",
    "PixelMap",
    "Prepared",
    "PreprocessSpec",
    "Preprocessor",
    "Resize",
    "Stack",
    "Step",
    "ToGray",
]
