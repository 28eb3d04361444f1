"""The outputs of a result: filled into leased buffers, given out again, let go."""

from __future__ import annotations

import numpy as np

from edge_runtime.frame import Frame
from edge_runtime.result import Outcome, Result
from edge_runtime.runners.base import Runner
from edge_runtime.streaming.contracts import Segmented
from edge_runtime.streaming.pool import Slot

__all__ = ["alike", "fill", "let_go", "repeat"]


def fill(result: Result, segmented: Segmented, slot: Slot, runner: Runner) -> None:
    """Outputs into the leased slot (where the postprocessor did not write there itself), read-only from here."""
    if segmented.mask is not None:
        if segmented.mask is not slot.mask:
            np.copyto(slot.mask, segmented.mask)
        result.mask = slot.given_mask
    if segmented.probability is not None:
        if segmented.probability is not slot.probability:
            slot.fit(result.frame.shape, segmented.probability.shape)
            np.copyto(slot.probability, segmented.probability)
        result.probability = slot.given_probability
    result.areas, result.uncertainty = segmented.areas, segmented.uncertainty
    if isinstance(segmented, Outcome):
        result.classes, result.detections = segmented.classes, segmented.detections
        result.image, result.uncertainty_map = segmented.image, segmented.uncertainty_map
        result.instances, result.objects = segmented.instances, segmented.objects
        result.measurements, result.findings, result.gates = segmented.measurements, segmented.findings, segmented.gates
    result.variant, result.runner, result.outputs_from = runner.variant, runner.name, result.frame.index


def repeat(last: Result, result: Result, reason: str) -> None:
    """Give the outputs of `last` out again in `result`, marked stale."""
    let_go(result)
    last.retain()
    result.state, result.reason, result.lease = "stale", reason, last.lease
    result.mask, result.probability, result.areas = last.mask, last.probability, last.areas
    result.uncertainty, result.outputs_from = last.uncertainty, last.outputs_from
    result.classes, result.detections = last.classes, last.detections
    result.image, result.uncertainty_map = last.image, last.uncertainty_map
    result.instances, result.objects = last.instances, last.objects
    result.measurements, result.findings, result.gates = last.measurements, last.findings, last.gates
    result.variant, result.runner = last.variant, last.runner


def let_go(result: Result) -> None:
    """Give the buffers back and forget the outputs."""
    result.release()
    result.lease = result.mask = result.probability = result.image = result.uncertainty_map = None
    result.areas, result.classes, result.detections, result.uncertainty = (), (), (), None
    result.instances, result.objects = None, ()
    result.measurements, result.findings, result.gates = (), (), ()


def alike(a: Frame, b: Frame) -> bool:
    """Whether two frames have the same size, colour and geometry, so that an output of one can stand for the other."""
    same_geometry = a.geometry is b.geometry or a.geometry == b.geometry
    return a.image.shape == b.image.shape and same_geometry
