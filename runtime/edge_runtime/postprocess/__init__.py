"""From network outputs to what a result holds, in source pixels and mm, and whether to believe it."""

from edge_runtime.postprocess.agreement import agreement
from edge_runtime.postprocess.boxes import detections
from edge_runtime.postprocess.classes import class_scores
from edge_runtime.postprocess.gates import GateReader
from edge_runtime.postprocess.masks import MaskPostprocessor, Segmentation, mean_entropy, sigmoid
from edge_runtime.postprocess.measuring import measure
from edge_runtime.postprocess.outputs import OutputsPostprocessor
from edge_runtime.postprocess.pictures import to_source_image
from edge_runtime.postprocess.regions import keep_largest, separate
from edge_runtime.postprocess.rules import RuleChecker
from edge_runtime.postprocess.smoothing import Smoother, mean_lag, step_lag
from edge_runtime.postprocess.tiled import TiledRunner

__all__ = [
    "GateReader",
    "MaskPostprocessor",
    "OutputsPostprocessor",
    "RuleChecker",
    "Segmentation",
    "Smoother",
    "TiledRunner",
    "agreement",
    "class_scores",
    "detections",
    "keep_largest",
    "mean_entropy",
    "mean_lag",
    "measure",
    "separate",
    "sigmoid",
    "step_lag",
    "to_source_image",
]
