"""Average precision and recall of boxes, by the rules of COCO (Lin et al., ECCV 2014) as pycocotools applies them.

Boxes are (x0, y0, x1, y1) in pixels, half-open. What COCO calls crowds, regions where any number of detections is
forgiven, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ConfigError

__all__ = ["COCO_IOUS", "Boxes", "DetectionScores", "evaluate_detections", "iou_matrix", "match_greedily"]

COCO_IOUS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
_RECALLS = np.linspace(0, 1, 101)
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boxes:
    """The boxes of one image: `boxes` (N, 4), `labels` (N,) integers, and for detections `scores` (N,)."""

    boxes: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    scores: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.labels.shape != (n,):
            raise ConfigError(f"boxes {self.boxes.shape} with labels {self.labels.shape}; (N, 4) and (N,) are needed")
        if self.scores is not None and (self.scores.shape != (n,) or not np.isfinite(self.scores).all()):
            raise ConfigError(f"scores {self.scores.shape} of {n} boxes; (N,) finite numbers are needed")
        if not np.isfinite(self.boxes).all():
            raise ConfigError(f"{int((~np.isfinite(self.boxes)).sum())} box coordinates are not finite")
        if (self.boxes[:, 2:] < self.boxes[:, :2]).any():
            raise ConfigError("a box ends before it begins; x0 <= x1 and y0 <= y1 are needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionScores:
    """Means over the classes that occur in the truth; NaN when none does.

    `ap` over all thresholds, `ap50` and `ap75` at one (NaN when it is not among them), `ar` the mean recall;
    `ap_by_class` the `ap` of every such class. `n_truth` and `n_detected` are the boxes counted.
    """

    ap: float
    ap50: float
    ap75: float
    ar: float
    ap_by_class: dict[int, float]
    n_truth: int
    n_detected: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Image:
    """One class in one image: of its D detections by falling score, what matched (T, D) and what is left out (T, D)."""

    scores: Floats
    matched: Bools
    left_out: Bools
    n_truth: int


def iou_matrix(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Floats:
    """(N, M) intersection over union of every box of `a` (N, 4) with every one of `b` (M, 4); 0 where both are empty.

    Raises `ConfigError` for other shapes.
    """
    for boxes in (a, b):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ConfigError(f"boxes of shape {boxes.shape}; (N, 4) as x0, y0, x1, y1 is needed")
    p, q = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(p[..., 2:], q[..., 2:]) - np.maximum(p[..., :2], q[..., :2])
    both: Floats = np.maximum(sides, 0).prod(axis=-1)
    union = (p[..., 2:] - p[..., :2]).prod(axis=-1) + (q[..., 2:] - q[..., :2]).prod(axis=-1) - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def match_greedily(ious: Floats, thresholds: Sequence[float], ignored: Bools | None = None) -> npt.NDArray[np.intp]:
    """(T, D) index of the true box that each detection takes at each threshold, -1 for none.

    Args:
        ious: (D, M), the detections by falling score.
        thresholds: T least overlaps.
        ignored: (M,) true boxes that are matched only when no other is (COCO: outside the range of areas).

    A detection takes the free true box of largest overlap, the later one of equals, as pycocotools does.
    """
    n_detected, n_truth = ious.shape
    found = np.full((len(thresholds), n_detected), -1, np.intp)
    counted = np.ones(n_truth, np.bool_) if ignored is None else ~ignored
    for row, threshold in zip(found, thresholds, strict=True):
        least = min(threshold, 1 - 1e-10)
        free = np.ones(n_truth, np.bool_)
        for d in range(n_detected):
            able = free & (ious[d] >= least)
            first = able & counted
            able = first if first.any() else able
            if able.any():
                overlap = np.where(able, ious[d], -1.0)
                row[d] = n_truth - 1 - int(np.argmax(overlap[::-1]))
                free[row[d]] = False
    return found


def evaluate_detections(
    detected: Sequence[Boxes],
    truth: Sequence[Boxes],
    *,
    thresholds: Sequence[float] = COCO_IOUS,
    max_detections: int = 100,
    area: tuple[float, float] = (0.0, 1e10),
) -> DetectionScores:
    """COCO's average precision and recall over images, one `Boxes` with scores and one without for each.

    Per class and image the `max_detections` of highest score are matched greedily; precision is made falling and read
    at 101 recalls; classes are averaged. True boxes with an area in pixels^2 outside `area` are ignored, and so are
    detections outside it that match nothing. As pycocotools without crowds, with box areas.

    Raises:
        ConfigError: unequal numbers of images, detections without scores, no or bad thresholds.
    """
    if len(detected) != len(truth):
        raise ConfigError(f"detections of {len(detected)} images and true boxes of {len(truth)}; one each is needed")
    if not thresholds or not all(0 < t <= 1 for t in thresholds) or max_detections < 1:
        raise ConfigError(f"overlap thresholds {tuple(thresholds)}, {max_detections} detections; 0 to 1, at least one")
    by_class: dict[int, tuple[Floats, Floats]] = {}
    n_truth = 0
    for label in sorted({int(k) for boxes in truth for k in boxes.labels}):
        images = [
            _match_image(one, other, label, thresholds, max_detections, area)
            for one, other in zip(detected, truth, strict=True)
        ]
        counted = sum(image.n_truth for image in images)
        if counted:
            by_class[label] = _precision_recall(images, counted)
            n_truth += counted
    precisions = np.array([p for p, _ in by_class.values()]).reshape(len(by_class), len(thresholds))
    recalls = np.array([r for _, r in by_class.values()])
    return DetectionScores(
        ap=_mean(precisions),
        ap50=_mean(precisions[:, np.isclose(thresholds, 0.5)]),
        ap75=_mean(precisions[:, np.isclose(thresholds, 0.75)]),
        ar=_mean(recalls),
        ap_by_class={label: float(p.mean()) for label, (p, _) in by_class.items()},
        n_truth=n_truth,
        n_detected=sum(len(boxes.boxes) for boxes in detected),
    )


def _match_image(
    detected: Boxes, truth: Boxes, label: int, thresholds: Sequence[float], limit: int, area: tuple[float, float]
) -> _Image:
    if detected.scores is None:
        raise ConfigError("detections without scores; give Boxes(scores=...) for what the network found")
    mine = np.flatnonzero(detected.labels == label)
    scores = detected.scores[mine].astype(np.float64)
    order = np.argsort(-scores, kind="stable")[:limit]
    boxes, wanted = detected.boxes[mine[order]], truth.boxes[truth.labels == label]
    ignored = _outside(wanted, area)
    matches = match_greedily(iou_matrix(boxes, wanted), thresholds, ignored)
    matched = matches >= 0
    left_out = ~matched & _outside(boxes, area)
    if len(wanted):
        left_out |= matched & ignored[matches]
    return _Image(scores=scores[order], matched=matched, left_out=left_out, n_truth=int((~ignored).sum()))


def _outside(boxes: npt.NDArray[Any], area: tuple[float, float]) -> Bools:
    sizes = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).prod(axis=1)
    return np.asarray((sizes < area[0]) | (sizes > area[1]))


def _precision_recall(images: Sequence[_Image], n_truth: int) -> tuple[Floats, Floats]:
    """(T,) average precision and (T,) recall of one class."""
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    matched = np.concatenate([image.matched for image in images], axis=1)[:, order]
    left_out = np.concatenate([image.left_out for image in images], axis=1)[:, order]
    hits = np.cumsum(matched & ~left_out, axis=1)
    misses = np.cumsum(~matched & ~left_out, axis=1)
    if not len(order):
        return np.zeros(len(hits)), np.zeros(len(hits))
    precision = hits / (hits + misses + np.spacing(1))
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / n_truth
    average = np.zeros(len(hits))
    for t in range(len(hits)):
        at = np.searchsorted(recall[t], _RECALLS, side="left")
        average[t] = falling[t][at[at < len(order)]].sum() / len(_RECALLS)
    return average, recall[:, -1]


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan
