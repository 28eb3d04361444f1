"""Trainings behind the `calibration` row: cross-fitted teachers, students that tell their spread, students from labels.

Three quarters of the train split, by examination, train everything here; the last quarter fits temperatures alone.
Each of three teachers leaves out a third of the examinations that the students learn from, so that every frame has an
answer from a teacher that never saw it: teachers that all know a frame by heart agree on it, and teach no doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from benchmarks.distill.cases import HC18
from benchmarks.distill.segmentation import Images
from edge_runtime.preprocess import PreprocessSpec
from edge_sdk.batch import Field, TrainingSet
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.frames import grey_scale, network_inputs, network_masks
from edge_sdk.losses import dice_ce
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.students import build_network
from edge_sdk.train import fit
from edge_sdk.uncertainty import SpreadLoss, ensemble_spread, spread_fields, spread_student

__all__ = ["SETTINGS", "CalibrationSettings", "heads_set", "labels_student", "told_student", "train_students"]


class CalibrationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides the weights but the data and the seed."""

    preprocess: PreprocessSpec = HC18.spec
    members: int = 3
    teacher: NetworkConfig = NetworkConfig(width=12, depth=4, max_width=96, stem_stride=2)
    student: NetworkConfig = NetworkConfig(width=8, depth=4, max_width=48, stem_stride=2)
    augment: AugmentConfig = AugmentConfig(min_scale=0.7, max_scale=1.2, rotate=25, stretch=0.1)
    optimiser: OptimiserConfig = OptimiserConfig(
        epochs=24, batch_size=8, learning_rate=3e-3, precision="bf16-mixed", threads=1
    )
    spread_weight: float = 1.0
    distill_weight: float = 0.5
    temperature: float = 1.0


SETTINGS = CalibrationSettings()


def heads_set(heads: Images) -> TrainingSet:
    """The heads at network size with their masks."""
    spec = SETTINGS.preprocess
    return TrainingSet(
        inputs=torch.from_numpy(network_inputs(heads.labelled.frames, spec)),
        labelled=torch.ones(len(heads.names), dtype=torch.bool),
        targets={"mask": Field(values=torch.from_numpy(network_masks(heads.labelled, spec, 1)), kind="labels")},
        scale=grey_scale(spec),
    )


def told_student(seed: int = 0) -> nn.Module:
    """The student with a mask and an uncertainty plane, before training."""
    return spread_student(SETTINGS.student, seed=seed)


def labels_student(seed: int = 0) -> nn.Module:
    """The same network with a mask alone, before training."""
    return build_network(SETTINGS.student, seed=seed)


def train_students(
    heads: Images, seeds: Sequence[int], *, work: Path, progress: Progress = ignore_progress
) -> Iterator[tuple[int, dict[str, nn.Module], dict[str, Any]]]:
    """For every seed the students "told" and "labels" with the logs of their trainings; `work` holds checkpoints."""
    work.mkdir(parents=True, exist_ok=True)
    data = heads_set(heads)
    teachers = [_train_member(heads, data, m, work, progress) for m in range(SETTINGS.members)]
    soft = spread_fields(ensemble_spread(teachers, data.inputs))
    told = TrainingSet(inputs=data.inputs, labelled=data.labelled, targets=data.targets, soft=soft, scale=data.scale)
    loss = SpreadLoss(
        temperature=SETTINGS.temperature,
        distill_weight=SETTINGS.distill_weight,
        spread_weight=SETTINGS.spread_weight,
    )
    for seed in seeds:
        taught, taught_log = _train(told_student(seed), told, loss, f"told {seed}", seed, work, progress)
        plain, plain_log = _train(labels_student(seed), data, _task, f"labels {seed}", seed, work, progress)
        yield seed, {"told": taught, "labels": plain}, {"told": taught_log, "labels": plain_log}


def _task(logits: Any, batch: Any) -> torch.Tensor:
    return dice_ce(logits.float(), batch.target("mask"))


def _train_member(heads: Images, data: TrainingSet, member: int, work: Path, progress: Progress) -> nn.Module:
    exams = sorted(set(heads.groups))
    left_out = set(exams[member :: SETTINGS.members])
    part = torch.tensor([k for k, exam in enumerate(heads.groups) if exam not in left_out])
    mask = Field(values=data.target("mask")[part], kind="labels")
    chosen = TrainingSet(
        inputs=data.inputs[part], labelled=data.labelled[part], targets={"mask": mask}, scale=data.scale
    )
    network = build_network(SETTINGS.teacher, seed=100 + member)
    return _train(network, chosen, _task, f"teacher {member}", 100 + member, work, progress)[0]


def _train(
    module: nn.Module,
    data: TrainingSet,
    loss: Callable[[Any, Any], torch.Tensor],
    task: str,
    seed: int,
    work: Path,
    progress: Progress,
) -> tuple[nn.Module, dict[str, Any]]:
    optimiser = msgspec.structs.replace(SETTINGS.optimiser, seed=seed)
    checkpoint = work / f"{task.replace(' ', '_')}.checkpoint"
    report = fit(module, data, loss, optimiser, SETTINGS.augment, task=task, checkpoint=checkpoint, progress=progress)
    return module, {"losses": report.losses, "seconds": report.seconds}
