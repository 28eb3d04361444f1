"""Train a network that separates objects, from numbered masks or from a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.losses import dice_ce, pixelwise_kd
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.students.instances import InstanceMaps, InstanceUNet, build_instance_network
from edge_sdk.tasks.instances.truth import border_of
from edge_sdk.train import FitReport, fit

__all__ = ["InstanceConfig", "TrainedInstances", "distill_instances", "instance_set", "train_instances"]


class InstanceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an `InstanceUNet` is trained.

    `border` is the border's width in network pixels, `border_weight` its loss beside the mask's. `temperature` and
    `distill_weight` are those of `edge_sdk.config.DistillConfig` and count with a teacher alone.
    """

    network: NetworkConfig = NetworkConfig(width=8, depth=4, max_width=48)
    optimiser: OptimiserConfig = OptimiserConfig(epochs=20, batch_size=16)
    augment: AugmentConfig = AugmentConfig()
    border: int = 1
    border_weight: float = 1.0
    temperature: float = 2.0
    distill_weight: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (("border", 1, 16), ("border_weight", 0, 100), ("distill_weight", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; {low} to {high} is allowed")
        if not 0 < self.temperature <= 100:
            raise ConfigError(f"temperature is {self.temperature!r}; above 0 and up to 100 is allowed")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedInstances:
    """A trained network in evaluation mode and how its training went."""

    network: InstanceUNet
    fit: FitReport


def instance_set(
    inputs: npt.NDArray[np.float32],
    masks: npt.NDArray[np.integer],
    numbers: npt.NDArray[np.integer],
    *,
    scale: tuple[float, float] = (0.0, 1.0),
) -> TrainingSet:
    """A training set of `inputs` (N, C, H, W), `masks` (N, H, W) classes and `numbers` (N, H, W) objects from 1.

    Both maps move with the frame by nearest neighbour; the border is made from the moved numbers. Raises
    `ConfigError` where an object's pixels and the mask's differ.
    """
    for k, (mask, own) in enumerate(zip(masks, numbers, strict=True)):
        if mask.shape != own.shape or not np.array_equal(mask > 0, own > 0):
            raise ConfigError(f"frame {k}: the pixels with an object number are not those with a class")
    return TrainingSet(
        inputs=torch.from_numpy(np.ascontiguousarray(inputs, np.float32)),
        labelled=torch.ones(len(inputs), dtype=torch.bool),
        targets={
            "mask": Field(values=torch.from_numpy(np.asarray(masks, np.uint8)), kind="labels"),
            "instances": Field(values=torch.from_numpy(np.asarray(numbers, np.int32)), kind="labels"),
        },
        scale=scale,
    )


def _truth_loss(maps: InstanceMaps, batch: Batch, config: InstanceConfig) -> Tensor:
    """The loss of the labelled frames of `batch`."""
    known = batch.labelled
    border = border_of(batch.target("instances")[known], config.border)
    mask = dice_ce(maps.mask[known], batch.target("mask")[known])
    return mask + config.border_weight * dice_ce(maps.border[known], border.long())


def train_instances(
    data: TrainingSet,
    *,
    planes: int = 1,
    config: InstanceConfig | None = None,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> TrainedInstances:
    """An `InstanceUNet` trained from scratch: Dice plus cross-entropy of the mask (`planes` planes) and the border.

    Raises `ConfigError` for frames without truth, and what `fit` raises.
    """
    config = config or InstanceConfig()
    if not bool(data.labelled.all()):
        raise ConfigError("some frames have no truth; a network that has no teacher learns from labelled ones")
    network = build_instance_network(
        config.network, in_channels=data.inputs.shape[1], classes=planes, seed=config.optimiser.seed
    )
    report = fit(
        network,
        data,
        lambda maps, batch: _truth_loss(maps, batch, config),
        config.optimiser,
        config.augment,
        task="teacher",
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrainedInstances(network=network, fit=report)


def distill_instances(
    teacher: nn.Module,
    data: TrainingSet,
    *,
    planes: int = 1,
    config: InstanceConfig | None = None,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> TrainedInstances:
    """A student that imitates both maps of `teacher` on every frame and learns the truth of the labelled ones.

    The teacher answers each clean frame once; its maps move with the frame (pixel-wise distillation, Liu et al., CVPR
    2019). Raises `ConfigError` for a teacher whose maps have other planes or another size than the student's,
    `InferenceError` for answers that are not finite.
    """
    config = config or InstanceConfig()
    with torch.no_grad():
        parts = [InstanceMaps(*teacher.eval()(x)) for x in torch.split(data.inputs, 16)]
    if not all(bool(torch.isfinite(x).all()) for part in parts for x in part):
        raise InferenceError("the teacher's answer to a training frame is not finite; check its weights and its input")
    soft = {
        name: Field(values=torch.cat([getattr(p, name) for p in parts]).clamp(-30, 30).half(), kind="dense")
        for name in ("mask", "border")
    }
    data = TrainingSet(inputs=data.inputs, labelled=data.labelled, targets=data.targets, soft=soft, scale=data.scale)
    network = build_instance_network(
        config.network, in_channels=data.inputs.shape[1], classes=planes, seed=config.optimiser.seed
    )

    def loss(maps: InstanceMaps, batch: Batch) -> Tensor:
        share = torch.where(batch.labelled, config.distill_weight, 1.0).mean()
        value = share * (
            pixelwise_kd(maps.mask, batch.soft_target("mask"), config.temperature)
            + config.border_weight * pixelwise_kd(maps.border, batch.soft_target("border"), config.temperature)
        )
        if config.distill_weight < 1 and bool(batch.labelled.any()):
            value = value + (1 - share) * _truth_loss(maps, batch, config)
        return value

    report = fit(
        network,
        data,
        loss,
        config.optimiser,
        config.augment,
        task="distill",
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrainedInstances(network=network, fit=report)
