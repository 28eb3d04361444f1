"""Quantization-aware training with distillation, from a float32 ONNX model to one whose quantized file is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from edge_export import Ranges, run_model, to_int8
from edge_runtime.errors import ConfigError, LoweringError
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.losses import dice_ce, pixelwise_kd
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.qat.config import QatConfig
from edge_sdk.qat.network import Emit, FakeQuantNetwork
from edge_sdk.train import FitReport, fit

__all__ = ["QatResult", "qat"]

Float32 = npt.NDArray[np.float32]

_PARITY = 1e-3  # of the largest output: float32 sums in another order


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QatResult:
    """The trained float32 `model` and the `ranges` with which the same `emit` writes its quantized file."""

    model: onnx.ModelProto
    ranges: Ranges
    fit: FitReport


def qat(
    model: onnx.ModelProto,
    inputs: Sequence[Float32],
    *,
    ranges: Ranges,
    emit: Emit | None = None,
    labels: npt.NDArray[np.integer] | None = None,
    config: QatConfig | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> QatResult:
    """Train the tidy float32 `model` so that the quantized file that `emit(model, ranges)` writes answers as it did.

    `inputs` are preprocessed frames (float32, the model's shape, batch 1), `ranges` those that were collected on such.
    `emit` is `to_int8` by default; any function of the package that takes ranges will do, with any exclusions: the
    Q/DQ pairs are taken from the file that it writes. The truth is the float32 model's own answer to the very frame,
    so no labels are needed; `labels` (N, H, W) integers add the task's loss for a model with one output of logits.
    `scale` is (mean, std) that take inputs back to grey values in [0, 1] (`edge_sdk.frames.grey_scale`).
    `checkpoint` is a file from which a killed run goes on. Raises `ConfigError` for inputs or labels that do not fit
    and `LoweringError` for operators that cannot be trained through.
    """
    config = config or QatConfig()
    write = emit or (lambda item, found: to_int8(item, ranges=found))
    data = _training_set(inputs, labels, scale)
    teacher = FakeQuantNetwork(model, model)
    _check_parity(teacher, model, inputs[0])
    student = FakeQuantNetwork(model, write(model, ranges))
    student.log_steps.requires_grad_(config.learn_scales)
    if labels is not None and len(student.outputs) != 1:
        raise ConfigError(f"labels are for one output of logits; the model gives {student.outputs}")
    report = fit(
        student,
        data,
        _Loss(teacher.eval().requires_grad_(False), config, labels is not None),
        config.optimiser,
        config.augment,
        loop=config.loop,
        task="qat",
        checkpoint=checkpoint,
        progress=progress,
    )
    trained, learned = student.result(ranges)
    return QatResult(model=trained, ranges=learned, fit=report)


def _training_set(
    inputs: Sequence[Float32], labels: npt.NDArray[np.integer] | None, scale: tuple[float, float]
) -> TrainingSet:
    if len(inputs) == 0:
        raise ConfigError("no inputs to train on; give preprocessed frames like those on the device")
    frames = torch.from_numpy(np.concatenate(list(inputs)))
    size = (len(frames), *frames.shape[2:])
    if labels is not None and labels.shape != size:
        raise ConfigError(f"labels have shape {labels.shape}; {size} is needed")
    targets = {} if labels is None else {"mask": Field(values=torch.from_numpy(labels.astype(np.int64)), kind="labels")}
    known = torch.full((len(frames),), labels is not None)
    return TrainingSet(inputs=frames, targets=targets, labelled=known, scale=scale)


def _check_parity(teacher: FakeQuantNetwork, model: onnx.ModelProto, sample: Float32) -> None:
    """The module that is trained must compute what the file computes."""
    with torch.no_grad():
        found = teacher(torch.from_numpy(sample))
    for name, wanted in run_model(model, [sample])[0].items():
        error = float(np.abs(found[name].numpy() - wanted).max())
        if not error <= _PARITY * max(1.0, float(np.abs(wanted).max())):
            raise LoweringError(
                f"output {name!r} differs by {error:.3g} between ONNX Runtime and torch; one of the model's operators "
                "has attributes that training does not follow"
            )


@dataclass(slots=True)
class _Loss:
    teacher: FakeQuantNetwork
    config: QatConfig
    labelled: bool

    def __call__(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher.to(batch.inputs.device)(batch.inputs)
        loss = torch.stack([self._distance(outputs[name], wanted[name]) for name in wanted]).mean()
        if not self.labelled:
            return loss
        weight = self.config.distill_weight
        (logits,) = outputs.values()
        return weight * loss + (1 - weight) * dice_ce(logits, batch.target("mask"))

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.config.distance == "kd":
            return pixelwise_kd(found, wanted, self.config.temperature)
        return F.mse_loss(found, wanted) / wanted.var().clamp_min(1e-12)
