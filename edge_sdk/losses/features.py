"""Losses between intermediate features of student and teacher, and the adapter that makes them comparable.

Features are (N, C, H, W) maps or (N, D) vectors in any float type; every function computes in float32 and returns a
scalar. The teacher's features carry no gradient here: detach them (`capture` under `torch.no_grad`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError

__all__ = [
    "Adapter",
    "attention_transfer",
    "hint",
    "relation_angle",
    "relation_distance",
    "similarity_preserving",
]


class Adapter(nn.Module):
    """Brings a student's feature to a teacher's shape: a 1 x 1 convolution, or a linear layer for vectors.

    `student_shape` and `teacher_shape` are (C, H, W) or (D,), without the batch. Maps of another size are resized
    bilinearly before the convolution when they shrink and after it when they grow. The convolutional regressor of
    Romero et al. (FitNets, ICLR 2015, section 2.2) with a 1 x 1 kernel. Raises `ConfigError` for a map against a
    vector.
    """

    def __init__(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(student_shape) != len(teacher_shape) or len(student_shape) not in (1, 3):
            raise ConfigError(
                f"the student's feature is {student_shape}, the teacher's {teacher_shape}; "
                "both must be maps (C, H, W) or both vectors (D,)"
            )
        self.size = tuple(teacher_shape[1:])
        self.shrinks = len(student_shape) == 3 and student_shape[1] * student_shape[2] > self.size[0] * self.size[1]
        dense = len(student_shape) == 3
        kind = (lambda a, b: nn.Conv2d(a, b, 1)) if dense else nn.Linear
        self.project: nn.Module = kind(student_shape[0], teacher_shape[0])

    def forward(self, feature: Tensor) -> Tensor:
        value = feature.float()
        if not self.size or tuple(value.shape[2:]) == self.size:
            return cast(Tensor, self.project(value))
        if self.shrinks:
            return cast(Tensor, self.project(_resize(value, self.size)))
        return _resize(self.project(value), self.size)


def _resize(feature: Tensor, size: tuple[int, ...]) -> Tensor:
    # antialiased: shrinking a map must not skip pixels
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False, antialias=True)


def _check_batch(student: Tensor, teacher: Tensor) -> None:
    if student.shape[0] != teacher.shape[0] or student.dim() < 2 or teacher.dim() < 2:
        raise ConfigError(
            f"student features are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; "
            "both need the same samples in dimension 0"
        )


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Scalar mean squared difference of features of equal shape: the hint loss.

    `student` has passed its `Adapter`. Romero et al. (FitNets, ICLR 2015), equation 3, as a mean instead of half the
    sum. Raises `ConfigError` for shapes that differ.
    """
    if student.shape != teacher.shape:
        raise ConfigError(
            f"student features are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; use an Adapter"
        )
    return F.mse_loss(student.float(), teacher.float())


def _attention(feature: Tensor, power: float) -> Tensor:
    """Attention map of (N, C, H, W), scaled to unit length: (N, H, W)."""
    # the largest value is divided out first: its square may not fit float32, and the length is 1 anyway
    values = feature.float().abs()
    values = values / values.detach().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-20)
    attention = values.pow(power).sum(dim=1)
    return F.normalize(attention.flatten(1), dim=1).view_as(attention)


def attention_transfer(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Scalar squared distance of the attention maps of features (N, C, H, W), which may differ in C, H and W.

    A map is sum_c |A_c|^power, scaled to unit length. The result is the squared L2 distance, in [0, 2], mean over N
    (Zagoruyko and Komodakis, ICLR 2017, equation 2; the authors' code divides by the number of pixels besides). The
    larger of the two features is averaged down to the smaller size first. Raises `ConfigError` for features that are
    not maps, or a power below 1.
    """
    _check_batch(student, teacher)
    if student.dim() != 4 or teacher.dim() != 4:
        raise ConfigError(
            f"attention needs maps (N, C, H, W), not {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "choose layers before pooling"
        )
    if not power >= 1:
        raise ConfigError(f"attention power is {power}; 1 or more is needed")
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    own, other = (
        _attention(x if x.shape[2:] == size else F.adaptive_avg_pool2d(x.float(), size), power)
        for x in (student, teacher)
    )
    return (own - other).square().sum(dim=(1, 2)).mean()


def _distances(features: Tensor) -> Tensor:
    """Euclidean distances of the rows of (N, D), divided by their mean over pairs: (N, N), slope 0 where 0."""
    squares = (features.unsqueeze(0) - features.unsqueeze(1)).square().sum(dim=2)
    apart = squares > 0
    distances = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    return distances / (distances.sum() / apart.sum().clamp_min(1)).clamp_min(1e-12)


def relation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Scalar loss of the batch's pairwise distances: relational distillation, distance-wise.

    Features (N, ...) float, flattened per sample; C, H and W may differ. Distances are divided by their mean over the
    pairs that are apart; the loss is Huber's with delta 1, mean over all N^2 pairs. Park et al. (RKD), CVPR 2019,
    equations 5 to 7. A batch of one has no pair and gives 0.
    """
    _check_batch(student, teacher)
    own, other = (_distances(_unit(x)) for x in (student, teacher))
    return F.smooth_l1_loss(own, other)


def _unit(features: Tensor) -> Tensor:
    """Rows (N, D) divided by the largest absolute value of all, so that squares fit float32; relations stay."""
    rows = features.float().flatten(1)
    return rows / rows.detach().abs().amax().clamp_min(1e-20)


def _angles(features: Tensor) -> Tensor:
    """Cosines of the angles i-j-k of the rows of (N, D): (N, N, N), first index the corner j."""
    edges = F.normalize(features.unsqueeze(0) - features.unsqueeze(1), dim=2)
    return torch.bmm(edges, edges.transpose(1, 2))


def relation_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Scalar loss of the angles that the batch's triples form: relational distillation, angle-wise.

    Features (N, ...) float, flattened per sample; C, H and W may differ. Huber's loss with delta 1 on the cosines, mean
    over all N^3 triples. Park et al. (RKD), CVPR 2019, equations 8 to 10. Needs N^2 D values of memory: choose a deep,
    small feature. A batch of one gives 0.
    """
    _check_batch(student, teacher)
    own, other = (_angles(_unit(x)) for x in (student, teacher))
    return F.smooth_l1_loss(own, other)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Scalar squared distance of the batch's similarity matrices.

    Features (N, ...) float, flattened per sample; C, H and W may differ. G = Q Q^T with rows scaled to unit length;
    the loss is ||G_teacher - G_student||_F^2 / N^2. Tung and Mori, ICCV 2019, equations 1 to 4.
    """
    _check_batch(student, teacher)
    own, other = (F.normalize(rows @ rows.T, dim=1) for rows in map(_unit, (student, teacher)))
    return (own - other).square().mean()
