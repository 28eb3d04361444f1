"""All outputs of a bundle read together: a mask, classes, boxes, a picture and an uncertainty, whichever it has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame
from edge_runtime.postprocess.boxes import detections
from edge_runtime.postprocess.classes import class_scores, class_uncertainty
from edge_runtime.postprocess.masks import CERTAIN, MaskPostprocessor
from edge_runtime.postprocess.pictures import to_source_image
from edge_runtime.preprocess import Normalize, Prepared, PreprocessSpec
from edge_runtime.result import Area, ClassScore, Detection, Outcome

__all__ = ["OutputsPostprocessor"]

Float32 = npt.NDArray[np.float32]
_READ = ("mask_logits", "class_logits", "boxes", "image", "uncertainty")


class OutputsPostprocessor:
    """Reads every output of a kind that has a meaning; "logits" and "raw" are left to programs.

    The mask as `MaskPostprocessor`, classes as `class_scores`, boxes as `detections`, pictures as `to_source_image`.
    `uncertainty_map` is the uncertainty output as it is, at network size, negative values as 0, and the frame's
    `uncertainty` its mean over the pixels whose probability of being in any class exceeds 0.001 (0 when there are
    none); without one it is the mask's, else that of the classes.

    Not for more than one thread at a time. Raises `ConfigError` when no output has a meaning or two are of one kind,
    `InferenceError` for values that are not finite.
    """

    def __init__(self, outputs: tuple[OutputSpec, ...], preprocess: PreprocessSpec) -> None:
        kinds = [output.kind for output in outputs if output.kind in _READ]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if not kinds or twice:
            raise ConfigError(
                f"the outputs are {[(o.name, o.kind) for o in outputs]}; at least one of {list(_READ)} is needed, "
                "and at most one of each"
            )
        self._by_kind = {output.kind: output for output in outputs if output.kind in _READ}
        self._normalize = next((step for step in preprocess.steps if isinstance(step, Normalize)), None)
        if "image" in self._by_kind and self._normalize is None:
            raise ConfigError("an output of kind image is turned back to grey levels by the normalize step; there is none")
        mask = self._by_kind.get("mask_logits")
        self._mask = None if mask is None else MaskPostprocessor(mask)

    def __call__(
        self,
        outputs: dict[str, Float32],
        prepared: Prepared,
        frame: Frame,
        *,
        mask_out: npt.NDArray[np.uint8] | None = None,
        probability_out: Float32 | None = None,
    ) -> Outcome:
        """What was found in `frame`; a mask is written into `mask_out` and `probability_out` where given."""
        mask = probability = plane = uncertainty = picture = None
        areas: tuple[Area, ...] = ()
        classes: tuple[ClassScore, ...] = ()
        boxes: tuple[Detection, ...] = ()
        if (spec := self._by_kind.get("class_logits")) is not None:
            classes = class_scores(outputs[spec.name], spec)
            uncertainty = class_uncertainty(classes, spec)
        if self._mask is not None:
            probability_out = self._fitting(probability_out)
            found = self._mask(outputs, prepared, frame, mask_out=mask_out, probability_out=probability_out)
            mask, probability, areas, uncertainty = found.mask, found.probability, found.areas, found.uncertainty
        if (spec := self._by_kind.get("uncertainty")) is not None and probability is not None:
            plane = _plane(outputs[spec.name], spec)
            inside = plane[probability > CERTAIN]
            uncertainty = float(inside.mean(dtype=np.float64)) if inside.size else 0.0
        if (spec := self._by_kind.get("boxes")) is not None:
            boxes = detections(outputs[spec.name], spec, prepared.map)
        if (spec := self._by_kind.get("image")) is not None and self._normalize is not None:
            picture = to_source_image(outputs[spec.name], spec, self._normalize, prepared.map, frame)
        return Outcome(
            mask=mask,
            probability=probability,
            areas=areas,
            uncertainty=uncertainty,
            classes=classes,
            detections=boxes,
            image=picture,
            uncertainty_map=plane,
        )

    def _fitting(self, probability_out: Float32 | None) -> Float32 | None:
        """The buffer, if it has the mask's size: it is made for the first image-shaped output, which may be another."""
        size = self._by_kind["mask_logits"].shape[2:]
        return probability_out if probability_out is not None and probability_out.shape == size else None


def _plane(values: Float32, output: OutputSpec) -> Float32:
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise InferenceError(f"output {output.name!r}: {bad} of {values.size} values are not finite")
    plane: Float32 = np.maximum(values[0, 0], np.float32(0))
    plane.flags.writeable = False
    return plane
