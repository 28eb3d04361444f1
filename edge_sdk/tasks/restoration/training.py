"""Train a restorer on degraded frames; distil a light one from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_runtime.preprocess import PreprocessSpec
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.frames import grey_scale, network_inputs
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.students.restorer import Restorer
from edge_sdk.tasks.restoration.degrade import degrade
from edge_sdk.tasks.restoration.recipe import (
    DegradeConfig,
    RestorerConfig,
    RestorerDistillConfig,
    RestorerTeacherConfig,
)
from edge_sdk.teachers import OutputForm, Teacher, TeacherCache, cached_answers, teacher_from_module
from edge_sdk.train import FitReport, fit

__all__ = [
    "IMAGE",
    "TrainedRestorer",
    "build_restorer",
    "degraded_set",
    "distill_restorer",
    "restorer_teacher",
    "train_restorer",
]

IMAGE = "image"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedRestorer:
    """A trained network in evaluation mode and how its training went."""

    network: Restorer
    fit: FitReport


def degraded_set(
    frames: Sequence[Frame], spec: PreprocessSpec, config: DegradeConfig, *, draws: int, seed: int
) -> TrainingSet:
    """`draws` degraded copies of every frame as inputs, the clean frames as targets, both normalised as `spec` says.

    Copy k of all frames stands at [k N, (k + 1) N). Raises `ConfigError` for frames that are not grey after the
    preprocessing, and sizes that cannot be halved where the degradation halves them.
    """
    clean = torch.from_numpy(network_inputs(frames, spec))
    if clean.shape[1] != 1:
        raise ConfigError(f"the preprocessing gives {clean.shape[1]} channels; restoration takes one, use to_gray")
    if config.scale == 2 and (clean.shape[2] % 2 or clean.shape[3] % 2):
        raise ConfigError(f"frames of {tuple(clean.shape[2:])} cannot be halved; even sizes are needed")
    mean, std = grey_scale(spec)
    grey = (clean * std + mean).clamp(0, 1)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.cat([(degrade(grey, config, generator) - mean) / std for _ in range(draws)])
    return TrainingSet(
        inputs=inputs,
        labelled=torch.ones(len(inputs), dtype=torch.bool),
        targets={IMAGE: Field(values=clean.repeat(draws, 1, 1, 1), kind="dense")},
        scale=(mean, std),
    )


def build_restorer(config: RestorerConfig, *, scale: int = 1, seed: int = 0) -> Restorer:
    """A `Restorer` with weights drawn from `seed` alone; the global random state is left as it was."""
    if scale not in (1, 2):
        raise ConfigError(f"scale is {scale}; 1 or 2 is allowed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Restorer(
            width=config.width,
            depth=config.depth,
            max_width=config.max_width,
            convs=config.convs,
            scale=1 if scale == 1 else 2,
        )


def restorer_teacher(network: Restorer, name: str = "teacher") -> Teacher:
    """`network` as a teacher whose answers are frames."""
    form = OutputForm(channels=network.channels, layout="planes", values="values", enlarge=network.scale)
    return teacher_from_module(network, form=form, name=name)


def train_restorer(
    data: TrainingSet,
    config: RestorerTeacherConfig,
    *,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> TrainedRestorer:
    """A restorer trained to give the clean frame: mean absolute error, which blurs less than the squared one."""

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        return F.l1_loss(outputs.float(), batch.target(IMAGE))

    network = build_restorer(config.network, scale=_scale(data), seed=config.optimiser.seed)
    report = fit(
        network,
        data,
        loss,
        config.optimiser,
        config.augment,
        task="teacher",
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrainedRestorer(network=network, fit=report)


def distill_restorer(
    teacher: Teacher,
    data: TrainingSet,
    config: RestorerDistillConfig,
    *,
    cache: TeacherCache | None = None,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> TrainedRestorer:
    """A light restorer that gives what the teacher gives, and the clean frame (`config.distill_weight`).

    The teacher answers every degraded frame once. Raises `InferenceError` when its output does not fit.
    """
    answers, sha256 = cached_answers(teacher, data.inputs, cache, progress)
    taught = replace(data, soft={IMAGE: Field(values=answers, kind="dense", sha256=sha256)})
    weight = config.distill_weight

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        own = outputs.float()
        value = (1 - weight) * F.l1_loss(own, batch.target(IMAGE))
        return value + weight * F.l1_loss(own, batch.soft_target(IMAGE))

    network = build_restorer(config.network, scale=_scale(data), seed=config.optimiser.seed)
    report = fit(
        network,
        taught,
        loss,
        config.optimiser,
        config.augment,
        task="distill",
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrainedRestorer(network=network, fit=report)


def _scale(data: TrainingSet) -> int:
    return int(data.target(IMAGE).shape[2] // data.inputs.shape[2])
