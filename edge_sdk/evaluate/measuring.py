"""All figures of one prediction against its truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError
from edge_runtime.metrics.calibration import reliability
from edge_runtime.metrics.classification import auroc, average_precision
from edge_runtime.metrics.ellipse import head_circumference
from edge_runtime.metrics.segmentation import dice, jaccard, precision, recall, surface_distances
from edge_runtime.optional import require
from edge_sdk.evaluate.cases import Case
from edge_sdk.evaluate.config import QuantityConfig
from edge_sdk.evaluate.systems import Prediction

__all__ = ["BINS", "Bins", "Measured", "border_band", "measure"]

BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bins:
    """Counts of a reliability diagram with `BINS` equal bins: pixels, sums of probability, pixels that came true."""

    count: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]

    @classmethod
    def of(cls, probability: npt.NDArray[np.float32], came_true: npt.NDArray[np.bool_]) -> Bins:
        """From (N,) probabilities and what came true."""
        found = reliability(probability, came_true, bins=BINS)
        at = np.minimum((found.low * BINS + 0.5).astype(int), BINS - 1)
        count, weight, true = (np.zeros(BINS) for _ in range(3))
        count[at], weight[at], true[at] = found.count, found.count * found.confidence, found.count * found.observed
        return cls(count=count, probability=weight, true=true)

    def plus(self, other: Bins) -> Bins:
        """The bins of both together."""
        return Bins(
            count=self.count + other.count,
            probability=self.probability + other.probability,
            true=self.true + other.true,
        )

    @property
    def ece(self) -> float:
        """Expected calibration error; NaN without pixels."""
        n = self.count.sum()
        return float(np.abs(self.probability - self.true).sum() / n) if n else math.nan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """`values` by metric (NaN where one is not defined), the bins of the border band, and `missed`: a class present in
    only one of truth and prediction.
    """

    values: dict[str, float]
    border: Bins
    missed: bool


def measure(
    prediction: Prediction,
    labels: npt.NDArray[np.uint8],
    case: Case,
    *,
    border_px: float,
    quantity: QuantityConfig | None = None,
) -> Measured:
    """Every metric of one image, the mean over its K classes where it has several.

    Distances are in mm when the case has a pixel size, else in pixels. Where a class is in only one of truth and
    prediction the distance is the image's diagonal (the convention of the BraTS challenges), so that a miss counts.
    `ap` is NaN without true pixels of the class, `auroc` too when all are. `f1` of pixels is Dice by another name.
    `quantity` is 0 when nothing can be measured (nothing was found), so its error is the whole truth.
    """
    classes = prediction.probabilities.shape[0]
    each = [_one_class(prediction, labels, case, label) for label in range(1, classes + 1)]
    values = {name: _mean([found[name] for found in each]) for name in each[0]}
    missed = any((labels == k).any() != (prediction.mask == k).any() for k in range(1, classes + 1))
    planes = prediction.probabilities
    truth = np.stack([labels == k for k in range(1, classes + 1)])
    values["ece"] = Bins.of(planes.ravel(), truth.ravel()).ece
    band = np.stack([border_band(plane, border_px) for plane in truth])
    border = Bins.of(planes[band], truth[band])
    values["ece_border"] = border.ece
    if quantity is not None:
        values.update(_quantity(prediction.mask, case, quantity))
    return Measured(values=values, border=border, missed=missed)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _one_class(prediction: Prediction, labels: npt.NDArray[np.uint8], case: Case, label: int) -> dict[str, float]:
    found, truth = prediction.mask == label, labels == label
    spacing = case.spacing or (1.0, 1.0)
    hd95, assd = _distances(found, truth, spacing)
    scores, positive = prediction.probabilities[label - 1].ravel(), truth.ravel()
    overlap = dice(found, truth)
    return {
        "dice": overlap,
        "jaccard": jaccard(found, truth),
        "hd95": hd95,
        "assd": assd,
        "precision": precision(found, truth),
        "recall": recall(found, truth),
        "f1": overlap,
        "ap": average_precision(scores, positive),
        "auroc": auroc(scores, positive),
    }


def _distances(
    found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], spacing: tuple[float, float]
) -> tuple[float, float]:
    """(HD95, ASSD) as `hausdorff95` and `assd`, worked out on the part of the image that holds either mask."""
    if found.any() != truth.any():
        diagonal = math.hypot(found.shape[0] * spacing[0], found.shape[1] * spacing[1])
        return diagonal, diagonal
    if not truth.any():
        return 0.0, 0.0
    either = found | truth
    rows, columns = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    there, back = surface_distances(found[part], truth[part], spacing)
    hd95 = float(max(np.percentile(there, 95), np.percentile(back, 95)))
    return hd95, float((there.sum() + back.sum()) / (len(there) + len(back)))


def border_band(truth: npt.NDArray[np.bool_], width_px: float) -> npt.NDArray[np.bool_]:
    """(H, W) bool: pixels within `width_px` of the border of `truth`, either side; the whole image when it is empty or
    full, because there is no border then."""
    if not truth.any() or truth.all():
        return np.ones_like(truth)
    cv2 = require("cv2", "to measure distances from a border")
    inside = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    band: npt.NDArray[np.bool_] = np.where(truth, inside, outside) <= width_px
    return band


def _quantity(mask: npt.NDArray[np.uint8], case: Case, quantity: QuantityConfig) -> dict[str, float]:
    if case.truth is None:
        return {"quantity": math.nan, "quantity_truth": math.nan, "quantity_error": math.nan}
    spacing = case.spacing
    if spacing is None:
        raise ConfigError(
            f"{case.name}: {quantity.column} is asked for in {quantity.unit}, and no pixel size is known; add a column "
            "pixel_size_mm to the manifest"
        )
    region = mask == quantity.label
    if quantity.kind == "area":
        value = float(region.sum()) * spacing[0] * spacing[1]
    else:
        offset = quantity.offset_px * math.sqrt(spacing[0] * spacing[1])
        value = head_circumference(region, spacing, contour_offset_mm=offset)
    value = 0.0 if math.isnan(value) else value
    return {"quantity": value, "quantity_truth": case.truth, "quantity_error": abs(value - case.truth)}
