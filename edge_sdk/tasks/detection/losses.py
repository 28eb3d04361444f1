"""Losses of a detector on every point at once: from boxes, and from a teacher's dense answer.

`points` (P, 2) and `strides` (P,) are those of `Detector.points`; all losses are float32 scalars.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.students.detector import DenseBoxes
from edge_sdk.tasks.detection.assign import assign

__all__ = ["box_loss", "dense_kd", "giou"]

_LOG_REACH = 5.0  # as in the network's decoding


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of two boxes around a common point: (..., 4) x 2 -> (...).

    Boxes are given as the positive distances from the point to their left, top, right and bottom sides, so they
    always overlap and no clamping is needed. Between -1 and 1.
    """
    inner, outer = torch.minimum(first, second), torch.maximum(first, second)

    def area(sides: Tensor) -> Tensor:
        return (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3])

    shared, hull = area(inner), area(outer)
    union = area(first) + area(second) - shared
    return shared / union - (hull - union) / hull


def _sides(dense: DenseBoxes) -> Tensor:
    return dense.distances.float().clamp(-_LOG_REACH, _LOG_REACH).exp()


def box_loss(dense: DenseBoxes, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """FCOS's loss (section 3.1 and 3.2): focal, GIoU weighted by centreness, and cross-entropy of the centreness.

    `boxes` (N, M, 5) rows (label, x0, y0, x1, y1) in input pixels, label -1 for padding. The focal loss (Lin et al.,
    ICCV 2017; gamma 2, alpha 0.25) is summed over points and classes and divided by the number of points that have a
    box (at least 1). Raises `ConfigError` for a label that the network has no class for.
    """
    from monai.losses.focal_loss import sigmoid_focal_loss

    classes = dense.classes.shape[-1]
    if boxes.numel() and float(boxes[..., 0].max()) >= classes:
        raise ConfigError(f"a box has label {int(boxes[..., 0].max())}; 0 to {classes - 1} are allowed")
    target = assign(boxes, points, strides)
    positive = target.label >= 0
    count = positive.sum().clamp(min=1)
    wanted = F.one_hot(target.label.clamp(min=0), classes) * positive[..., None]
    focal = sigmoid_focal_loss(dense.classes.float(), wanted.float(), gamma=2.0, alpha=0.25).sum() / count
    weight = target.centre[positive]
    overlap = giou(_sides(dense)[positive], target.distances[positive])
    sides = ((1 - overlap) * weight).sum() / weight.sum().clamp(min=1e-6)
    centre = F.binary_cross_entropy_with_logits(dense.centre.float()[positive], weight, reduction="sum") / count
    total: Tensor = focal + sides + centre
    return total


def dense_kd(student: DenseBoxes, teacher: DenseBoxes, gamma: float = 2.0) -> Tensor:
    """What the teacher says at every point, without boxes (Dense Teacher, Zhou et al., ECCV 2022).

    Classes by the quality focal loss (Li et al., NeurIPS 2020): |q - p|^gamma times the cross-entropy of p with the
    teacher's probability q, summed and divided by the sum of the teacher's best probabilities. Sides by 1 - GIoU with
    the teacher's box, and centreness by cross-entropy with its centreness, both weighted by the teacher's score
    (probability times centreness), so that background takes no part. No gradient reaches the teacher. Raises
    `ConfigError` when the two differ in points or classes.
    """
    if student.classes.shape != teacher.classes.shape:
        raise ConfigError(
            f"the student gives classes {tuple(student.classes.shape)}, the teacher {tuple(teacher.classes.shape)} "
            "(N, points, classes); both need the same strides and classes"
        )
    with torch.no_grad():
        q = torch.sigmoid(teacher.classes.float())
        central = torch.sigmoid(teacher.centre.float())
        best = q.amax(-1)
        score, sides = best * central, _sides(teacher)
    logits = student.classes.float()
    entropy = F.binary_cross_entropy_with_logits(logits, q, reduction="none")
    classes = ((q - torch.sigmoid(logits)).abs().pow(gamma) * entropy).sum() / best.sum().clamp(min=1)
    total = score.sum().clamp(min=1e-6)
    boxes = ((1 - giou(_sides(student), sides)) * score).sum() / total
    bce = F.binary_cross_entropy_with_logits(student.centre.float(), central, reduction="none")
    floor = F.binary_cross_entropy(central, central, reduction="none")  # so that a perfect student has loss 0
    return classes + boxes + ((bce - floor) * score).sum() / total
