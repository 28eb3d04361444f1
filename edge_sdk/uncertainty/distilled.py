"""A student that tells, in the one pass that gives its mask, how far its teacher's members would disagree.

Monte-Carlo dropout and ensembles cost ten passes or more. Their mean and their spread on the training frames are
soft targets like any other: Shen et al., "Real-Time Uncertainty Estimation in Computer Vision via Uncertainty-Aware
Distribution Distillation" (WACV 2021); Malinin, Mlodozeniec and Gales, "Ensemble Distribution Distillation" (ICLR
2020), who match a Dirichlet where here a plane is regressed, because a plane needs no operator that a device lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch, Field
from edge_sdk.config import NetworkConfig
from edge_sdk.losses import dice_ce, pixelwise_kd
from edge_sdk.students import build_network
from edge_sdk.uncertainty.spread import Spread

__all__ = ["SpreadKind", "SpreadLoss", "SpreadStudent", "spread_fields", "spread_student", "spread_target"]

SpreadKind = Literal["deviation", "epistemic", "total"]
_LOGIT_LIMIT = 30.0  # a sigmoid is 0 or 1 to float32 beyond, and float16 holds it


class SpreadStudent(nn.Module):
    """A dense network of `planes` + 1 planes as a student with two named outputs.

    (N, C_in, H, W) float32 -> {"mask": (N, planes, H, W) logits, "uncertainty": (N, 1, H, W) float32 in [0, 1]}, the
    second through a sigmoid; what 1 means is `spread_target`'s. Raises `ConfigError` when the network gives another
    number of planes.
    """

    def __init__(self, network: nn.Module, planes: int) -> None:
        super().__init__()
        if planes < 1:
            raise ConfigError(f"planes is {planes}; at least 1 plane of logits is needed")
        self.network, self.planes = network, planes

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        answer: Tensor = self.network(frames)
        if answer.shape[1] != self.planes + 1:
            raise ConfigError(f"the network gives {answer.shape[1]} planes; {self.planes} + 1 are needed")
        # in float32: bfloat16 would round the loss's 1 - p to 1
        return {"mask": answer[:, : self.planes], "uncertainty": torch.sigmoid(answer[:, self.planes :].float())}


def spread_student(config: NetworkConfig, *, in_channels: int = 1, planes: int = 1, seed: int = 0) -> SpreadStudent:
    """A U-Net student with an uncertainty plane, its weights drawn from `seed` alone.

    `planes` counts the planes of mask logits, the background's too. The plane costs one more row of the last 1 x 1
    convolution.
    """
    return SpreadStudent(build_network(config, in_channels=in_channels, classes=planes + 1, seed=seed), planes)


def spread_target(spread: Spread, kind: SpreadKind = "deviation") -> Tensor:
    """(N, 1, H, W) float32 in [0, 1]: what a student is to say about `spread` of dense answers.

    "deviation": the standard deviation of a probability, 1 where half of the members say surely yes and half surely
    no; "epistemic": the mutual information, and "total": the entropy of the mean, both as shares of log C. Raises
    `ConfigError` for another kind or a spread that is not dense.
    """
    if kind not in get_args(SpreadKind):
        raise ConfigError(f"spread kind is {kind!r}; {', '.join(get_args(SpreadKind))} are allowed")
    if spread.mean.dim() != 4:
        raise ConfigError(f"the mean has shape {tuple(spread.mean.shape)}; dense answers (N, C, H, W) are needed")
    if kind == "deviation":
        plane = 2 * spread.deviation
    else:
        most = math.log(max(2, spread.mean.shape[1]))
        plane = (spread.epistemic if kind == "epistemic" else spread.total) / most
    return plane.clamp(0, 1)[:, None]


def spread_fields(spread: Spread, kind: SpreadKind = "deviation") -> dict[str, Field]:
    """The soft fields of a `TrainingSet`: "mask", the logits of the mean probability, and "uncertainty", both float16.

    Logits are clipped to +-30. Raises as `spread_target`.
    """
    plane = spread_target(spread, kind)
    if spread.mean.shape[1] == 1:
        logits = torch.logit(spread.mean.double()).clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
    else:
        logits = spread.mean.double().log().clamp_min(-_LOGIT_LIMIT)
    return {
        "mask": Field(values=logits.to(torch.float16), kind="dense"),
        "uncertainty": Field(values=plane.to(torch.float16), kind="dense"),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadLoss:
    """The loss of a `SpreadStudent` on batches with `spread_fields`, a scalar.

    `spread_weight` times the cross-entropy between the two uncertainty planes, plus, for the mask, `distill_weight`
    times the soft loss at `temperature` and the rest of the weight on the truth of the labelled frames, as in
    `DistillConfig`. The cross-entropy of a share in [0, 1] is least at the teacher's value and its gradient at the
    logit is their plain difference, so small spreads are learned as fast as large ones. Raises `ConfigError` for
    settings out of range and outputs that are not a `SpreadStudent`'s.
    """

    temperature: float = 1.0
    distill_weight: float = 0.5
    spread_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature is {self.temperature}; a positive number is needed")
        if not 0 <= self.distill_weight <= 1:
            raise ConfigError(f"distill_weight is {self.distill_weight}; a weight in [0, 1] is allowed")
        if not 0 < self.spread_weight < math.inf:
            raise ConfigError(f"spread_weight is {self.spread_weight}; a positive number is needed")

    def __call__(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        if not isinstance(outputs, Mapping) or not {"mask", "uncertainty"} <= set(outputs):
            raise ConfigError("the module does not give 'mask' and 'uncertainty' by name; wrap it in SpreadStudent")
        logits, known = outputs["mask"].float(), batch.labelled
        share = torch.where(known, self.distill_weight, 1.0).mean()
        weight = torch.where(known, self.distill_weight, 1.0).view(-1, 1, 1)
        loss = pixelwise_kd(logits, batch.soft_target("mask"), self.temperature, weight) * share
        if self.distill_weight < 1 and bool(known.any()):
            loss = loss + (1 - share) * dice_ce(logits[known], batch.target("mask")[known])
        return loss + self.spread_weight * _share_cross_entropy(
            outputs["uncertainty"], batch.soft_target("uncertainty")
        )


def _share_cross_entropy(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean over pixels of KL(wanted || found) between Bernoulli shares: their cross-entropy less its least value."""
    if found.shape != wanted.shape:
        raise ConfigError(
            f"the uncertainty plane is {tuple(found.shape)}, the teacher's {tuple(wanted.shape)}; both need one size"
        )
    share = wanted.clamp(0, 1)
    least = (torch.special.entr(share) + torch.special.entr(1 - share)).mean()
    divergence: Tensor = F.binary_cross_entropy(found.float(), share) - least
    return divergence
