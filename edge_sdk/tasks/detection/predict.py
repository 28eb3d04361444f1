"""A detector's boxes in source pixels, through the device's own decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.postprocess import detections
from edge_runtime.preprocess import Preprocessor, PreprocessSpec
from edge_sdk.students.detector import ExportedDetector
from edge_sdk.tasks.detection.data import BoxedFrames

__all__ = ["OUTPUT_NAME", "detect", "output_spec"]

OUTPUT_NAME = "boxes"
Rows = npt.NDArray[np.float32]


def output_spec(exported: ExportedDetector, classes: Sequence[str], *, threshold: float = 0.5) -> OutputSpec:
    """What a bundle's manifest says of the output of `exported`, whose classes are called `classes`."""
    points = exported.points.shape[-1]
    shape = (1, points, 4 + len(classes))
    return OutputSpec(name=OUTPUT_NAME, shape=shape, kind="boxes", classes=tuple(classes), threshold=threshold)


def detect(
    exported: Callable[[Tensor], Tensor], output: OutputSpec, frames: BoxedFrames, spec: PreprocessSpec
) -> list[Rows]:
    """Of every frame its rows (D, 6) float32 (label, score, x0, y0, x1, y1) in source pixels, best first.

    `exported` answers one preprocessed frame (1, C, H, W) with (1, P, 4 + K), as `output` says.
    """
    prepare, found = Preprocessor(spec), []
    for frame in frames.frames:
        prepared = prepare(frame)
        with torch.no_grad():
            rows = exported(torch.from_numpy(prepared.tensor)).float().numpy()
        boxes = detections(rows, output, prepared.map)
        values = [[output.classes.index(b.label), b.score, b.x0, b.y0, b.x1, b.y1] for b in boxes]
        found.append(np.array(values, np.float32).reshape(-1, 6))
    return found
