"""Boxes of a detector: scores, non-maximum suppression, and the way back to source pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.metrics.detection import iou_matrix
from edge_runtime.postprocess.classes import probabilities
from edge_runtime.preprocess import PixelMap
from edge_runtime.result import Detection

__all__ = ["decode_boxes", "detections", "suppress"]

_CANDIDATES = 200  # best boxes of a class that go into the suppression, whose cost is their number squared
Floats = npt.NDArray[np.float64]


def detections(rows: npt.NDArray[np.float32], output: OutputSpec, place: PixelMap) -> tuple[Detection, ...]:
    """The boxes found in (1, N, 4 + K) rows of kind `boxes`, in source pixels, best first.

    Boxes are clipped to the frame; one that lies outside is left out. Raises as `decode_boxes`.
    """
    labels, scores, boxes = decode_boxes(rows, output)
    # pixel edges at integers against the map's pixel centres at integers: half a pixel
    corners = place.to_source(boxes.reshape(-1, 2, 2) - 0.5) + 0.5
    corners = np.clip(corners, 0, place.source_shape[::-1]).reshape(-1, 4)
    return tuple(
        Detection(label=output.classes[label], score=float(score), x0=x0, y0=y0, x1=x1, y1=y1)
        for label, score, (x0, y0, x1, y1) in zip(labels, scores, corners.tolist(), strict=True)
        if x1 > x0 and y1 > y0
    )


def decode_boxes(rows: npt.NDArray[np.float32], output: OutputSpec) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    """Labels (D,), scores (D,) and boxes (D, 4) in network pixels of (1, N, 4 + K) rows, best first.

    Of every class the 200 best with a probability of at least `threshold` are suppressed at `nms_iou`; of what is left
    of all classes the `max_boxes` best stay; of equal scores the earlier row. Raises `ConfigError` for another kind or
    shape, `InferenceError` for values that are not finite.
    """
    classes = len(output.classes)
    if output.kind != "boxes" or rows.ndim != 3 or rows.shape[0] != 1 or rows.shape[2] != 4 + classes:
        raise ConfigError(
            f"output {output.name!r} is {output.kind} {rows.shape}; boxes (1, N, 4 + {classes}) are needed"
        )
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).sum())
        raise InferenceError(f"output {output.name!r}: {bad} of {rows.size} values are not finite")
    boxes = rows[0, :, :4].astype(np.float64)
    probability = probabilities(rows[0, :, 4:], output, output.activation or "sigmoid")
    labels, places, scores = [], [], []
    for label, values in enumerate(probability.T):
        index = np.flatnonzero(values >= output.threshold)
        index = index[np.argsort(-values[index], kind="stable")[:_CANDIDATES]]
        kept = index[suppress(boxes[index], values[index], output.nms_iou)]
        labels.append(np.full(len(kept), label, np.intp))
        places.append(kept)
        scores.append(values[kept])
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")[: output.max_boxes]
    return np.concatenate(labels)[order], score[order], boxes[np.concatenate(places)[order]]


def suppress(boxes: Floats, scores: Floats, iou: float) -> npt.NDArray[np.intp]:
    """Indices of the boxes (M, 4) that greedy non-maximum suppression keeps, best score first.

    A box goes when it overlaps a better one that stays by more than `iou`; of equal scores the earlier is better.
    """
    order = np.argsort(-scores, kind="stable")
    overlap = iou_matrix(boxes, boxes) > iou
    alive, kept = np.ones(len(boxes), np.bool_), []
    for k in order:
        if alive[k]:
            kept.append(k)
            alive &= ~overlap[k]
    return np.array(kept, np.intp)
