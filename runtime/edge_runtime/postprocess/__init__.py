"""From network outputs to what a result holds, in source pixels: masks, classes, boxes, pictures, uncertainty."""

from edge_runtime.postprocess.masks import MaskPostprocessor, Segmentation, mean_entropy, sigmoid

__all__ = ["MaskPostprocessor", "Segmentation", "mean_entropy", "sigmoid"]
