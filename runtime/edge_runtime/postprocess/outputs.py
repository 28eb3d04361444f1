"""All outputs of a bundle read together: mask, objects, classes, boxes, picture, uncertainty, gates: what it has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame
from edge_runtime.postprocess.boxes import detections
from edge_runtime.postprocess.classes import class_scores, class_uncertainty
from edge_runtime.postprocess.gates import GateReader
from edge_runtime.postprocess.masks import CERTAIN, MaskPostprocessor, Segmentation, sigmoid
from edge_runtime.postprocess.pictures import to_source_image
from edge_runtime.postprocess.regions import instances_of, separate
from edge_runtime.postprocess.smoothing import Smoother
from edge_runtime.preprocess import Normalize, Prepared, PreprocessSpec
from edge_runtime.result import ClassScore, Detection, Instance, Outcome

__all__ = ["OutputsPostprocessor"]

Float32 = npt.NDArray[np.float32]
_READ = ("mask_logits", "class_logits", "boxes", "image", "uncertainty", "border")
_MIN_SEED, _MIN_AREA = 4, 12  # network pixels


class OutputsPostprocessor:
    """Reads every output of a kind that has a meaning; "logits" and "raw" are left to programs.

    The mask as `MaskPostprocessor`, classes as `class_scores`, boxes as `detections`, pictures as `to_source_image`.
    `uncertainty_map` is the uncertainty output as it is, at network size, negative values as 0, and the frame's
    `uncertainty` its mean over the pixels whose probability of being in any class exceeds 0.001 (0 when there are
    none); without one it is the mask's, else that of the classes. A border output parts the mask into objects, in
    source pixels (`separate`). Every output's gate gives its score. What the outputs say of smoothing is applied to
    masks and classes; `reset()` forgets earlier frames.

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
            raise ConfigError(
                "an output of kind image is turned back to grey levels by the normalize step; there is none"
            )
        mask = self._by_kind.get("mask_logits")
        self._mask = None if mask is None else MaskPostprocessor(mask)
        self._gates = tuple(GateReader(output) for output in outputs if output.gate is not None)
        classes = self._by_kind.get("class_logits")
        self._smoother = Smoother(1.0 if classes is None else classes.smoothing)

    def reset(self) -> None:
        """Forget earlier frames: the next one starts the averages anew and is no jump."""
        self._smoother.reset()
        if self._mask is not None:
            self._mask.reset()

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
        found: Segmentation | None = None
        plane = uncertainty = picture = numbers = None
        classes: tuple[ClassScore, ...] = ()
        boxes: tuple[Detection, ...] = ()
        objects: tuple[Instance, ...] = ()
        if (spec := self._by_kind.get("class_logits")) is not None:
            classes = self._smoothed(class_scores(outputs[spec.name], spec), frame)
            uncertainty = class_uncertainty(classes, spec)
        if self._mask is not None:
            probability_out = self._fitting(probability_out)
            found = self._mask(outputs, prepared, frame, mask_out=mask_out, probability_out=probability_out)
            uncertainty = found.uncertainty
        if (spec := self._by_kind.get("uncertainty")) is not None and found is not None:
            plane = _plane(outputs[spec.name], spec)
            inside = plane[found.probability > CERTAIN]
            uncertainty = float(inside.mean(dtype=np.float64)) if inside.size else 0.0
        if (spec := self._by_kind.get("border")) is not None and found is not None:
            numbers, objects = self._objects(outputs[spec.name], spec, found, prepared, frame)
        if (spec := self._by_kind.get("boxes")) is not None:
            boxes = detections(outputs[spec.name], spec, prepared.map)
        if (spec := self._by_kind.get("image")) is not None and self._normalize is not None:
            picture = to_source_image(outputs[spec.name], spec, self._normalize, prepared.map, frame)
        return Outcome(
            mask=None if found is None else found.mask,
            probability=None if found is None else found.probability,
            areas=() if found is None else found.areas,
            uncertainty=uncertainty,
            classes=classes,
            detections=boxes,
            image=picture,
            uncertainty_map=plane,
            instances=numbers,
            objects=objects,
            measurements=() if found is None else found.measurements,
            findings=() if found is None else found.findings,
            gates=tuple(gate(outputs[gate.output.name]) for gate in self._gates),
        )

    def _smoothed(self, classes: tuple[ClassScore, ...], frame: Frame) -> tuple[ClassScore, ...]:
        values = np.array([score.probability for score in classes])
        self._smoother(values, frame.index, (frame.shape, frame.geometry))
        return tuple(
            ClassScore(label=score.label, probability=float(p)) for score, p in zip(classes, values, strict=True)
        )

    def _objects(
        self, border: Float32, spec: OutputSpec, found: Segmentation, prepared: Prepared, frame: Frame
    ) -> tuple[npt.NDArray[np.int32], tuple[Instance, ...]]:
        """Numbers in source pixels, read-only, and the objects; sizes are meant in network pixels."""
        if not np.isfinite(border).all():
            bad = int((~np.isfinite(border)).sum())
            raise InferenceError(f"output {spec.name!r}: {bad} of {border.size} values are not finite")
        drawn = np.empty(border.shape[2:], np.float32)
        sigmoid(border[0, 0], spec.temperature, out=drawn)
        source = prepared.map.probability_to_source(drawn)
        crop, content = prepared.map.crop, prepared.map.content
        pixels = crop.width * crop.height / (content.width * content.height)
        labels = tuple(area.label for area in found.areas)
        numbers = separate(
            found.mask,
            source > spec.threshold,
            len(labels),
            min_seed=_MIN_SEED * pixels,
            min_area=_MIN_AREA * pixels,
        )
        numbers.flags.writeable = False
        return numbers, instances_of(numbers, found.mask, labels, frame.geometry)

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
