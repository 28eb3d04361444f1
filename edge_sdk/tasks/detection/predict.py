"""From a detector's dense output to boxes in source pixels (NumPy)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.metrics.detection import iou_matrix
from edge_runtime.preprocess import Preprocessor, PreprocessSpec
from edge_sdk.tasks.detection.data import BoxedFrames, source_boxes

__all__ = ["decode", "detect", "suppress"]

Rows = npt.NDArray[np.float32]


def suppress(boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], iou: float) -> npt.NDArray[np.intp]:
    """Indices of the boxes (M, 4) that greedy non-maximum suppression keeps, best score first.

    A box is dropped when it overlaps a better kept one by more than `iou`; of equal scores the earlier wins.
    """
    order = np.argsort(-scores, kind="stable")
    overlap = iou_matrix(boxes, boxes)
    alive, kept = np.ones(len(boxes), bool), []
    for k in order:
        if alive[k]:
            kept.append(k)
            alive &= overlap[k] <= iou
    return np.array(kept, np.intp)


def decode(
    output: npt.NDArray[np.float32], *, score: float = 0.02, iou: float = 0.5, candidates: int = 200, most: int = 50
) -> Rows:
    """(P, 4 + K) of an `ExportedDetector` -> (D, 6) float32 rows (label, score, x0, y0, x1, y1), best first.

    Of every class the `candidates` best points with a probability of at least `score` go through non-maximum
    suppression at `iou`, class by class; the `most` best rows are kept. Coordinates stay in network pixels. Raises
    `InferenceError` for values that are not finite, `ConfigError` for limits out of range.
    """
    if not (0 <= score < 1 and 0 < iou <= 1 and candidates >= 1 and most >= 1):
        raise ConfigError(
            f"score {score}, iou {iou}, candidates {candidates}, most {most}; score in [0, 1), iou in (0, 1] and "
            "counts of 1 or more are allowed"
        )
    if not np.isfinite(output).all():
        raise InferenceError(f"{int((~np.isfinite(output)).sum())} of {output.size} box values are not finite")
    probability = 1 / (1 + np.exp(-np.clip(output[:, 4:], -80, 80)))
    rows = []
    for label, values in enumerate(probability.T):
        (index,) = np.nonzero(values >= score)
        index = index[np.argsort(-values[index], kind="stable")[:candidates]]
        kept = index[suppress(output[index, :4], values[index], iou)]
        rows.append(np.column_stack([np.full(len(kept), label), values[kept], output[kept, :4]]))
    found = np.concatenate(rows).astype(np.float32)
    return found[np.argsort(-found[:, 1], kind="stable")[:most]]


def detect(
    exported: Callable[[Tensor], Tensor], frames: BoxedFrames, spec: PreprocessSpec, *, score: float = 0.02
) -> list[Rows]:
    """Of every frame its rows (D, 6) float32 (label, score, x0, y0, x1, y1) in source pixels, best first.

    `exported` gives what an `ExportedDetector` gives, one frame at a time.
    """
    prepare, found = Preprocessor(spec), []
    for frame in frames.frames:
        prepared = prepare(frame)
        with torch.no_grad():
            output = exported(torch.from_numpy(prepared.tensor))
        rows = decode(output[0].float().numpy(), score=score)
        rows[:, 2:] = source_boxes(rows[:, 2:], prepared.map)
        found.append(rows)
    return found
