"""Train a detector from boxes; distil one from a teacher on labelled and unlabelled frames."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError, InferenceError
from edge_sdk.batch import Batch, TrainingSet
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.students.detector import DenseBoxes, Detector
from edge_sdk.tasks.detection.config import DetectorConfig, DetectorDistillConfig, DetectorTeacherConfig
from edge_sdk.tasks.detection.losses import box_loss, dense_kd
from edge_sdk.train import FitReport, fit

__all__ = ["TrainedDetector", "build_detector", "distill_detector", "train_detector"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedDetector:
    """A trained detector in evaluation mode and how its training went."""

    network: Detector
    fit: FitReport


def build_detector(config: DetectorConfig, *, in_channels: int = 1, classes: int = 1, seed: int = 0) -> Detector:
    """A `Detector` with weights drawn from `seed` alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Detector(
            in_channels,
            classes,
            width=config.width,
            stages=config.stages,
            max_width=config.max_width,
            convs=config.convs,
            levels=config.levels,
            pyramid=config.pyramid,
            head_convs=config.head_convs,
        )


def train_detector(
    data: TrainingSet,
    *,
    classes: int,
    config: DetectorTeacherConfig | None = None,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> TrainedDetector:
    """A detector trained from scratch on the target "boxes" of `data` (`edge_sdk.tasks.detection.training_set`).

    `checkpoint` is a file that a killed run continues from. Raises `ConfigError` for frames without boxes' truth and
    labels above `classes`, and what `fit` raises.
    """
    config = config or DetectorTeacherConfig()
    if not bool(data.labelled.all()):
        raise ConfigError("some frames have no boxes' truth; a detector that has no teacher learns from labelled ones")
    network = build_detector(
        config.network, in_channels=data.inputs.shape[1], classes=classes, seed=config.optimiser.seed
    )
    grid = network.points(*data.inputs.shape[2:])
    report = fit(
        network,
        data,
        lambda dense, batch: box_loss(dense, batch.target("boxes"), *(x.to(batch.inputs.device) for x in grid)),
        config.optimiser,
        config.augment,
        task="teacher",
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrainedDetector(network=network, fit=report)


def distill_detector(
    teacher: nn.Module,
    data: TrainingSet,
    *,
    classes: int,
    config: DetectorDistillConfig | None = None,
    student: Detector | None = None,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> TrainedDetector:
    """A student that imitates `teacher` on every frame, and learns the boxes of the labelled ones.

    `teacher` gives `DenseBoxes` at the student's points; it answers each augmented frame anew (Beyer et al., CVPR
    2022: the same view for both). Answers kept from the clean frame would not do: distances change with scale and
    flips swap left and right. `student` replaces the network of `config`. `checkpoint` continues a killed run; it
    must be another file for another teacher. Raises `ConfigError` when the teacher's points or classes differ,
    `InferenceError` when it does not answer with finite numbers.
    """
    config = config or DetectorDistillConfig()
    network = student or build_detector(
        config.network, in_channels=data.inputs.shape[1], classes=classes, seed=config.optimiser.seed
    )
    grid = network.points(*data.inputs.shape[2:])
    report = fit(
        network,
        data,
        _DistillLoss(teacher.eval(), grid, config),
        config.optimiser,
        config.augment,
        task="distill",
        checkpoint=checkpoint,
        progress=progress,
    )
    return TrainedDetector(network=network, fit=report)


class _DistillLoss:
    """The teacher's part of every frame and the boxes' part of the labelled ones (see `DetectorDistillConfig`)."""

    def __init__(self, teacher: nn.Module, grid: tuple[Tensor, Tensor], config: DetectorDistillConfig) -> None:
        self.teacher, self.grid, self.config = teacher, grid, config

    def __call__(self, dense: DenseBoxes, batch: Batch) -> Tensor:
        answer = _answer(self.teacher, batch.inputs, self.config.optimiser.precision == "bf16-mixed")
        share = torch.where(batch.labelled, self.config.distill_weight, 1.0).mean()
        loss = share * dense_kd(dense, answer, self.config.gamma)
        if self.config.distill_weight < 1 and bool(batch.labelled.any()):
            known = DenseBoxes(*(part[batch.labelled] for part in dense))
            grid = (x.to(batch.inputs.device) for x in self.grid)
            loss = loss + (1 - share) * box_loss(known, batch.target("boxes")[batch.labelled], *grid)
        return loss


def _answer(teacher: Callable[[Tensor], DenseBoxes], inputs: Tensor, bf16: bool) -> DenseBoxes:
    with torch.no_grad(), torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        answer = teacher(inputs)
    if not all(bool(torch.isfinite(part).all()) for part in answer):
        raise InferenceError("the teacher's answer to a training frame is not finite; check its weights and its input")
    return answer


def weights_sha256(module: nn.Module) -> str:
    """Hash of a module's state, to name a teacher by."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
