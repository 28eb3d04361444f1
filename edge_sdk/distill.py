"""Train a teacher on labelled frames; distil a student from a teacher on labelled and unlabelled frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess import Preprocessor, PreprocessSpec
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import DistillConfig, TeacherConfig
from edge_sdk.evaluate.scores import predict_masks, score_masks
from edge_sdk.frames import (
    FrameRecord,
    LabelledFrames,
    UnlabelledFrames,
    grey_scale,
    network_inputs,
    network_masks,
)
from edge_sdk.losses import compose, dice_ce, pixelwise_kd
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.students import UNet, build_network
from edge_sdk.teachers import Teacher, TeacherCache, cached_answers
from edge_sdk.train import FitReport, Loss, Validate, fit
from edge_sdk.views import make_views

__all__ = ["Trained", "distill_student", "output_planes", "train_teacher"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A trained network in evaluation mode, how its training went, and which unlabelled frames it learned from."""

    network: UNet
    fit: FitReport
    labelled_frames: int
    unlabelled: tuple[FrameRecord, ...] = field(default=())


def output_planes(classes: int) -> int:
    """Planes of logits for `classes` foreground classes: one (sigmoid), or a background plane besides (softmax)."""
    if classes < 1:
        raise ConfigError(f"{classes} foreground classes; at least 1 is needed")
    return 1 if classes == 1 else classes + 1


def train_teacher(
    labelled: LabelledFrames,
    *,
    spec: PreprocessSpec,
    classes: int = 1,
    config: TeacherConfig | None = None,
    validation: LabelledFrames | None = None,
    checkpoint: Path | None = None,
    logs: Path | None = None,
    progress: Progress = ignore_progress,
) -> Trained:
    """A U-Net trained from scratch on `labelled` with Dice plus cross-entropy.

    `classes` counts the foreground classes. With `validation` frames their mean Dice chooses the epoch whose weights
    are kept, and stops training as `config.loop` says. `checkpoint` is a file that a killed run continues from, `logs`
    a folder for tables and curves. Raises `ConfigError` for masks that do not fit, and what `fit` raises.
    """
    config = config or TeacherConfig()
    inputs = torch.from_numpy(network_inputs(labelled.frames, spec))
    data = TrainingSet(
        inputs=inputs,
        targets={"mask": Field(values=torch.from_numpy(network_masks(labelled, spec, classes)), kind="labels")},
        labelled=torch.ones(len(inputs), dtype=torch.bool),
        scale=grey_scale(spec),
    )
    network = build_network(
        config.network, in_channels=inputs.shape[1], classes=output_planes(classes), seed=config.optimiser.seed
    )
    report = fit(
        network,
        data,
        lambda logits, batch: dice_ce(logits, batch.target("mask")),
        config.optimiser,
        config.augment,
        loop=config.loop,
        validate=_mean_dice(validation, spec, classes),
        logs=logs,
        task="teacher",
        checkpoint=checkpoint,
        progress=progress,
    )
    return Trained(network=network, fit=report, labelled_frames=len(inputs))


def _mean_dice(validation: LabelledFrames | None, spec: PreprocessSpec, classes: int) -> Validate | None:
    if validation is None:
        return None
    inputs = torch.from_numpy(network_inputs(validation.frames, spec))
    truth = network_masks(validation, spec, classes)

    def validate(network: nn.Module) -> float:
        device = next(network.parameters()).device
        return score_masks(predict_masks(lambda x: network(x.to(device)).cpu(), inputs), truth, classes).mean

    return validate


def distill_student(
    teacher: Teacher,
    *,
    spec: PreprocessSpec,
    labelled: LabelledFrames | None = None,
    unlabelled: Sequence[UnlabelledFrames] = (),
    classes: int = 1,
    config: DistillConfig | None = None,
    student: UNet | None = None,
    cache: TeacherCache | None = None,
    validation: LabelledFrames | None = None,
    checkpoint: Path | None = None,
    logs: Path | None = None,
    progress: Progress = ignore_progress,
) -> Trained:
    """A student that imitates `teacher` on every frame, and learns the truth where there is one.

    The teacher answers each frame, or each of its `config.views`, once; its logits are kept as float16, in `cache` on
    disk where one is given, so an epoch costs the student's passes alone and a second student no teacher run. Without
    `labelled` the teacher is the only truth. `student` replaces the network of `config`; `validation`, `checkpoint` and
    `logs` are as in `train_teacher`. Raises `ConfigError` when there is nothing to learn from or the masks do not fit,
    `InferenceError` when the teacher's output does not.
    """
    config = config or DistillConfig()
    planes = output_planes(classes)
    if teacher.classes != planes:
        raise ConfigError(f"teacher {teacher.name} gives {teacher.classes} planes; {classes} classes need {planes}")
    data = _training_frames(spec, labelled, unlabelled, classes)
    if config.views:
        data = make_views(data, config.view_augment, config.views)
    data = _with_answers(data, teacher, cache, progress)
    network = student or build_network(
        config.network, in_channels=data.inputs.shape[1], classes=planes, seed=config.optimiser.seed
    )
    with _loss(config, network, teacher, data) as loss:
        report = fit(
            network,
            data,
            loss,
            config.optimiser,
            config.augment,
            loop=config.loop,
            validate=_mean_dice(validation, spec, classes),
            logs=logs,
            task="distill",
            checkpoint=checkpoint,
            progress=progress,
        )
    return Trained(
        network=network,
        fit=report,
        labelled_frames=len(labelled.frames) if labelled else 0,
        unlabelled=tuple(source.record for source in unlabelled),
    )


@contextmanager
def _loss(config: DistillConfig, network: UNet, teacher: Teacher, data: TrainingSet) -> Iterator[Loss]:
    """The loss of `config`; hooks of feature terms are in place while it is open."""
    if not config.terms:
        yield _Loss(config.temperature, config.distill_weight)
        return
    module = teacher.forward if isinstance(teacher.forward, nn.Module) else None
    with compose(config.terms, student=network, teacher=module, example=data.inputs[:1].float()) as loss:
        yield loss


@dataclass(frozen=True, slots=True)
class _Loss:
    """The soft-output loss of every frame and the task loss of the labelled ones (see `DistillConfig`)."""

    temperature: float
    distill_weight: float

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        weight = torch.where(batch.labelled, self.distill_weight, 1.0).view(-1, 1, 1)
        share = weight.mean()
        loss = pixelwise_kd(logits, batch.soft_target("mask"), self.temperature, weight) * share
        if self.distill_weight < 1 and bool(batch.labelled.any()):
            loss = loss + (1 - share) * dice_ce(logits[batch.labelled], batch.target("mask")[batch.labelled])
        return loss


def _training_frames(
    spec: PreprocessSpec, labelled: LabelledFrames | None, unlabelled: Sequence[UnlabelledFrames], classes: int
) -> TrainingSet:
    """All frames at network size, the labelled ones first."""
    groups = [network_inputs(source.frames, spec) for source in unlabelled]
    size = Preprocessor(spec).output_shape[2:]
    truth = [np.zeros((sum(map(len, groups)), *size), np.uint8)]
    if labelled is not None:
        groups.insert(0, network_inputs(labelled.frames, spec))
        truth.insert(0, network_masks(labelled, spec, classes))
    if not groups:
        raise ConfigError("neither labelled nor unlabelled frames were given; a student needs frames to learn from")
    inputs = torch.from_numpy(np.concatenate(groups))
    known = len(labelled.frames) if labelled else 0
    return TrainingSet(
        inputs=inputs,
        targets={"mask": Field(values=torch.from_numpy(np.concatenate(truth)), kind="labels")},
        labelled=torch.arange(len(inputs)) < known,
        scale=grey_scale(spec),
    )


def _with_answers(data: TrainingSet, teacher: Teacher, cache: TeacherCache | None, progress: Progress) -> TrainingSet:
    """`data` with the teacher's logits on every input, from `cache` where they are there."""
    values, sha256 = cached_answers(teacher, data.inputs.float(), cache, progress)
    return replace(data, soft={"mask": Field(values=values, kind="dense", sha256=sha256)})
