"""From a frame to a network input, and back: one implementation for training, ranges and the device."""

from edge_runtime.preprocess.labels import LabelPreprocessor
from edge_runtime.preprocess.pixel_map import PixelMap
from edge_runtime.preprocess.polar_map import PolarMap
from edge_runtime.preprocess.preprocessor import Prepared, Preprocessor
from edge_runtime.preprocess.scan_area import detect_scan_area
from edge_runtime.preprocess.spec import (
    Bilateral,
    Clahe,
    CropToScanArea,
    EqualizeHistogram,
    Gamma,
    Letterbox,
    MaskBoxes,
    MaskColor,
    MaskOutside,
    Median,
    MinMax,
    Normalize,
    Persistence,
    PreprocessSpec,
    Resize,
    Srad,
    Stack,
    Step,
    ToGray,
    ToPolar,
    Unsharp,
    ZScore,
)

__all__ = [
    "Bilateral",
    "Clahe",
    "CropToScanArea",
    "EqualizeHistogram",
    "Gamma",
    "LabelPreprocessor",
    "Letterbox",
    "MaskBoxes",
    "MaskColor",
    "MaskOutside",
    "Median",
    "MinMax",
    "Normalize",
    "Persistence",
    "PixelMap",
    "PolarMap",
    "Prepared",
    "PreprocessSpec",
    "Preprocessor",
    "Resize",
    "Srad",
    "Stack",
    "Step",
    "ToGray",
    "ToPolar",
    "Unsharp",
    "ZScore",
    "detect_scan_area",
]
