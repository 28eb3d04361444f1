"""From network outputs to what a result holds, in source pixels: masks, classes, boxes, pictures, uncertainty."""

from edge_runtime.postprocess.agreement import agreement
from edge_runtime.postprocess.boxes import detections
from edge_runtime.postprocess.classes import class_scores
from edge_runtime.postprocess.masks import MaskPostprocessor, Segmentation, mean_entropy, sigmoid
from edge_runtime.postprocess.outputs import OutputsPostprocessor
from edge_runtime.postprocess.pictures import to_source_image

__all__ = [
    "MaskPostprocessor",
    "OutputsPostprocessor",
    "Segmentation",
    "agreement",
    "class_scores",
    "detections",
    "mean_entropy",
    "sigmoid",
    "to_source_image",
]
