"""From network outputs to masks in source pixels, areas in mm^2 and an uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.optional import require
from edge_runtime.postprocess.measuring import measure
from edge_runtime.postprocess.regions import keep_largest
from edge_runtime.postprocess.rules import RuleChecker
from edge_runtime.postprocess.smoothing import Smoother
from edge_runtime.preprocess import Prepared
from edge_runtime.result import Area, Finding, Measurement

__all__ = ["CERTAIN", "MaskPostprocessor", "Segmentation", "mean_entropy", "sigmoid"]

Float32 = npt.NDArray[np.float32]
CERTAIN = 1e-3  # probabilities nearer to 0 than this are plain background and take no part in the uncertainty
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segmentation:
    """`mask` (H, W) uint8 in source pixels (0 background, k the k-th class), `probability` (h, w) float32 of being in
    any class at network size, one `Area` a class, `uncertainty` 0 (sure) to 1; measurements and findings of rules.
    """

    mask: npt.NDArray[np.uint8]
    probability: Float32
    areas: tuple[Area, ...]
    uncertainty: float
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()


class MaskPostprocessor:
    """Reads one output of kind `mask_logits`.

    One plane: sigmoid of logit / temperature, brought to source pixels as a probability and cut at `threshold` there,
    so that borders follow sub-pixel positions. More: softmax over the planes, each class brought back alike, the most
    probable wins. Areas count source pixels: the sum of probabilities would add the whole background's (at 0.018 a
    disc of radius 10 in 128 x 128 reads 95 % too large, counted 0.2 % too small). mm^2 are given when the frame's
    geometry is trusted, else withheld with its reason. `uncertainty` is the mean binary entropy in bits (Shannon 1948)
    of the pixels whose probability of being in any class exceeds 0.001; 0 when there are none.

    Where the output says so: the probabilities are averaged over frames (`Smoother`), anew when the map to the source
    or the frame's geometry changes; the largest region of each class is kept; rules are checked on the mask that is
    given; and measurements are taken in source pixels, of one class at `threshold`, of several where the class is as
    probable as the likeliest other. Rules with jumps and smoothing remember earlier frames until `reset()`.

    Not for more than one thread at a time. Raises `ConfigError` for another kind of output, `InferenceError` for
    values that are not finite.
    """

    def __init__(self, output: OutputSpec) -> None:
        shape = output.shape
        if output.kind != "mask_logits" or len(shape) != 4 or shape[0] != 1 or not output.classes:
            raise ConfigError(f"output {output.name!r} is {output.kind} {shape}; mask_logits (1, C, H, W) is needed")
        if shape[1] != len(output.classes):
            raise ConfigError(
                f"output {output.name!r} has {shape[1]} planes and the classes {output.classes}; one name a plane is "
                "needed, the background's first when there are more than one"
            )
        self.output = output
        self._labels = output.classes if len(output.classes) == 1 else output.classes[1:]
        self._cv2: Any = require("cv2", "to map masks to source pixels")
        self._values = {label: k + len(output.classes) - len(self._labels) for k, label in enumerate(self._labels)}
        self._smoother = Smoother(output.smoothing)
        self._rules = RuleChecker(output.rules, self._labels)
        self._logits = np.empty(shape[1:], np.float32)
        self._source: Float32 = np.empty((0, 0), np.float32)
        self._best: Float32 = self._source

    def reset(self) -> None:
        """Forget earlier frames."""
        self._smoother.reset()
        self._rules.reset()

    def __call__(
        self,
        outputs: dict[str, Float32],
        prepared: Prepared,
        frame: Frame,
        *,
        mask_out: npt.NDArray[np.uint8] | None = None,
        probability_out: Float32 | None = None,
    ) -> Segmentation:
        """The segmentation of `frame`; written into `mask_out` (H, W) and `probability_out` (h, w) where given."""
        logits = outputs[self.output.name][0]
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits)).sum())
            raise InferenceError(f"output {self.output.name!r}: {bad} of {logits.size} values are not finite")
        mask = np.empty(frame.shape, np.uint8) if mask_out is None else mask_out
        inside = np.empty(logits.shape[1:], np.float32) if probability_out is None else probability_out
        if logits.shape[0] == 1:
            self._one_class(logits[0], prepared, frame, mask, inside)
        else:
            self._several(logits, prepared, frame, mask, inside)
        if self.output.keep == "largest":
            keep_largest(mask, len(self._labels))
        return Segmentation(
            mask=mask,
            probability=inside,
            areas=self._areas(mask, frame.geometry),
            uncertainty=mean_entropy(inside),
            measurements=self._measure(prepared, frame.geometry),
            findings=self._rules(mask, frame),
        )

    def _one_class(
        self, logits: Float32, prepared: Prepared, frame: Frame, mask: npt.NDArray[np.uint8], inside: Float32
    ) -> None:
        sigmoid(logits, self.output.temperature, out=inside)
        self._smoother(inside, frame.index, (prepared.map, frame.geometry))
        source = self._to_source(inside, prepared, mask.shape)
        # outside the crop the map is 0, which no threshold above 0 lets through
        np.greater(source, np.float32(self.output.threshold), out=mask.view(np.bool_))

    def _several(
        self, logits: Float32, prepared: Prepared, frame: Frame, mask: npt.NDArray[np.uint8], inside: Float32
    ) -> None:
        planes = self._logits
        np.divide(logits, self.output.temperature, out=planes)
        planes -= planes.max(axis=0)
        np.exp(planes, out=planes)
        planes /= planes.sum(axis=0)
        self._smoother(planes, frame.index, (prepared.map, frame.geometry))
        np.subtract(1, planes[0], out=inside)
        mask.fill(0)
        if self._best.shape != mask.shape:
            self._best = np.empty(mask.shape, np.float32)
        best = self._best
        np.copyto(best, self._to_source(planes[0], prepared, mask.shape))
        for k in range(1, len(planes)):
            source = self._to_source(planes[k], prepared, mask.shape)
            mask[source > best] = k
            np.maximum(best, source, out=best)

    def _measure(self, prepared: Prepared, geometry: FrameGeometry) -> tuple[Measurement, ...]:
        """Of one class from the map that the mask was cut from; of several each against the likeliest other."""
        found: list[Measurement] = []
        several = len(self.output.classes) > 1
        for what in self.output.measure:
            if several and geometry.trusted:
                own = self._logits[self._values[what.label]]  # probabilities by now
                others = np.delete(self._logits, self._values[what.label], axis=0).max(axis=0)
                self._to_source(own / (own + others), prepared, self._source.shape)
            found += measure(self._source, geometry, what, level=0.5 if several else self.output.threshold)
        return tuple(found)

    def _to_source(self, probability: Float32, prepared: Prepared, shape: tuple[int, ...]) -> Float32:
        if self._source.shape != shape:
            self._source = np.zeros(shape, np.float32)
        return prepared.map.probability_to_source(probability, out=self._source)

    def _areas(self, mask: npt.NDArray[np.uint8], geometry: FrameGeometry) -> tuple[Area, ...]:
        if len(self._labels) == 1:
            counts = [int(self._cv2.countNonZero(mask))]
        else:
            counts = np.bincount(mask.ravel(), minlength=len(self._labels) + 1)[1:].tolist()
        per_pixel = geometry.pixel_area_mm2 if geometry.trusted else None
        withheld = "" if geometry.trusted else geometry.reason
        return tuple(
            Area(label=label, pixels=n, mm2=None if per_pixel is None else n * per_pixel, withheld=withheld)
            for label, n in zip(self._labels, counts, strict=True)
        )


def sigmoid(logits: Float32, temperature: float, *, out: Float32) -> None:
    """`1 / (1 + exp(-logits / temperature))` into `out`, without overflow for any finite logit."""
    np.multiply(logits, np.float32(-1 / temperature), out=out)
    np.minimum(out, np.float32(80), out=out)  # e^-x of a large x is 0, as it should be
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def mean_entropy(probability: Float32) -> float:
    """Mean binary entropy in bits of the pixels with probability above 0.001; 0 when there are none.

    Float32 logarithms, summed in float64: within 1e-6 of the sum in float64.
    """
    cv2: Any = require("cv2", "to take logarithms")
    inside = probability[probability > CERTAIN]
    if not len(inside):
        return 0.0
    both = np.empty((2, len(inside)), np.float32)  # p, and 1 - p
    both[0] = inside
    np.subtract(1, inside, out=both[1])
    np.maximum(both[1], _TINY, out=both[1])  # 0 log 0 is 0
    terms = cv2.log(both)
    terms *= both
    return -float(cv2.sumElems(terms)[0]) / (len(inside) * math.log(2))
