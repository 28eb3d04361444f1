"""From a detector's dense output to boxes (NumPy), and their average precision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from edge_runtime.preprocess import Preprocessor, PreprocessSpec
from edge_sdk.students.detector import Detector
from edge_sdk.tasks.detection.data import BoxedFrames, source_boxes

__all__ = ["decode", "detect", "iou_matrix", "suppress"]

Float = npt.NDArray[np.float32]


def iou_matrix(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = (a[:, 2:] - a[:, :2]).prod(-1)[:, None] + (b[:, 2:] - b[:, :2]).prod(-1)[None]
    return shared / np.maximum(area - shared, 1e-9)


def suppress(boxes: Float, scores: Float, iou: float) -> npt.NDArray[np.int64]:
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    overlap = iou_matrix(boxes, boxes)
    alive = np.ones(len(boxes), bool)
    for k in order:
        if alive[k]:
            kept.append(int(k))
            alive &= overlap[k] <= iou
    return np.array(kept, np.int64)


def decode(output: Float, *, score: float = 0.02, iou: float = 0.5, most: int = 50) -> Float:
    """(P, 4 + K) -> (D, 6) rows (label, score, x0, y0, x1, y1), best first."""
    logits = output[:, 4:]
    probability = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    rows = []
    for label in range(logits.shape[1]):
        (index,) = np.nonzero(probability[:, label] >= score)
        index = index[np.argsort(-probability[index, label], kind="stable")[:300]]
        kept = index[suppress(output[index, :4], probability[index, label], iou)]
        rows.append(np.column_stack([np.full(len(kept), label), probability[kept, label], output[kept, :4]]))
    found = np.concatenate(rows).astype(np.float32)
    return found[np.argsort(-found[:, 1], kind="stable")[:most]]


def detect(network: Detector, data: BoxedFrames, spec: PreprocessSpec, **settings: float) -> list[Float]:
    """Of every frame (D, 6) float32 rows (label, score, x0, y0, x1, y1) in source pixels, best first."""
    prepare = Preprocessor(spec)
    module = network.exportable(*prepare.output_shape[2:]).eval()
    found = []
    for frame in data.frames:
        prepared = prepare(frame)
        with torch.no_grad():
            output = module(torch.from_numpy(prepared.tensor))[0].numpy()
        rows = decode(output, **settings)  # type: ignore[arg-type]
        rows[:, 2:] = source_boxes(rows[:, 2:], prepared.map)
        found.append(rows)
    return found
