"""How far two outputs of one network decide alike: what a self-test and a lowering are held to beside differences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.metrics.detection import iou_matrix, match_greedily
from edge_runtime.postprocess.boxes import decode_boxes

__all__ = ["agreement"]

Float32 = npt.NDArray[np.float32]


def agreement(found: Float32, wanted: Float32, output: OutputSpec) -> float:
    """Share of equal decisions, 0 to 1, in two arrays of the output's shape.

    mask_logits: pixels of equal class; border: pixels on the same side of `threshold`. class_logits: 1 when the class
    is the same (softmax), or the share of classes on the same side of `threshold` (sigmoid). boxes: 2 matched / (found
    + wanted) of the boxes after suppression, matched by class at an overlap of at least 0.5; 1 when both are without
    boxes. Other kinds decide nothing: 1.
    """
    if output.kind == "boxes":
        return _boxes(found, wanted, output)
    if output.kind not in ("mask_logits", "class_logits", "border"):
        return 1.0
    one_by_one = output.activation == "sigmoid" if output.kind == "class_logits" else found.shape[1] == 1
    if one_by_one:
        level = output.temperature * np.log(output.threshold / (1 - output.threshold))
        return float(np.mean((found > level) == (wanted > level)))
    return float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)))


def _boxes(found: Float32, wanted: Float32, output: OutputSpec) -> float:
    labels, _, boxes = decode_boxes(found, output)
    true_labels, _, true_boxes = decode_boxes(wanted, output)
    if not len(labels) and not len(true_labels):
        return 1.0
    same = labels[:, None] == true_labels[None]
    matches = match_greedily(np.where(same, iou_matrix(boxes, true_boxes), 0.0), (0.5,))
    return 2 * int((matches >= 0).sum()) / (len(labels) + len(true_labels))
