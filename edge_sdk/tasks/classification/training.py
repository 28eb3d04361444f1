"""Train a classifier on labels; distil a student from class logits, with labels or without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edge_runtime.errors import ConfigError, InferenceError
from edge_runtime.preprocess import PreprocessSpec, Stack
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.frames import grey_scale
from edge_sdk.losses import pixelwise_kd
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.students.classifier import ClipClassifier, FrameClassifier
from edge_sdk.tasks.classification.data import ClipSet
from edge_sdk.tasks.classification.recipe import ClassDistillConfig, ClassifierConfig, ClassTeacherConfig
from edge_sdk.train import FitReport, fit

__all__ = [
    "ClassEnsemble",
    "ClassLoss",
    "build_classifier",
    "class_logits",
    "distill_classifier",
    "sample_weights",
    "train_teacher",
]

Classifier = FrameClassifier | ClipClassifier
TARGET = "class"


def build_classifier(config: ClassifierConfig, spec: PreprocessSpec, classes: int, *, seed: int = 0) -> Classifier:
    """A classifier for the inputs of `spec`, of clips where it stacks frames; weights are drawn from `seed` alone."""
    frames = next((step.n for step in spec.steps if isinstance(step, Stack)), 1)
    plain = {"width": config.width, "depth": config.depth, "max_width": config.max_width, "convs": config.convs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if frames == 1:
            return FrameClassifier(1, classes, dropout=config.dropout, **plain)
        return ClipClassifier(
            frames, classes, pool=config.pool, difference=config.difference, dropout=config.dropout, **plain
        )


class ClassEnsemble(nn.Module):
    """Several classifiers as one: the logarithm of their mean probability (N, K), which is a softmax's logits.

    Deep ensembles (Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017), section 2.4.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ConfigError("an ensemble needs at least one member")
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        logs = torch.stack([member(inputs).log_softmax(dim=1) for member in self.members])
        mean: Tensor = torch.logsumexp(logs, dim=0) - torch.log(torch.tensor(float(len(self.members))))
        return mean


def class_logits(network: Callable[[Tensor], Tensor], inputs: Tensor, classes: int, *, name: str = "network") -> Tensor:
    """(N, K) float32 logits of `inputs` (N, C, H, W), 32 at a time and without gradient.

    Raises `InferenceError` naming `name` for another shape or values that are not finite.
    """
    parts = []
    with torch.inference_mode():
        for start in range(0, len(inputs), 32):
            batch = inputs[start : start + 32]
            logits = network(batch)
            if tuple(logits.shape) != (len(batch), classes):
                raise InferenceError(
                    f"{name}: the output for {tuple(batch.shape)} is {tuple(logits.shape)}; "
                    f"{(len(batch), classes)} is needed (one logit per class)"
                )
            parts.append(logits.float())
        found = torch.cat(parts)
    if not bool(torch.isfinite(found).all()):
        raise InferenceError(f"{name}: logits are NaN or infinite; check its weights and its preprocessing")
    return found.clone()


def sample_weights(
    labels: Sequence[int], patients: Sequence[str], classes: int, balance: Literal["none", "class", "patient"]
) -> Tensor:
    """(N,) float32 weights with mean 1; see `ClassTeacherConfig.balance`. `ConfigError` for a class without samples."""
    counts = Counter(labels)
    empty = [k for k in range(classes) if not counts[k]]
    if empty and balance != "none":
        raise ConfigError(f"classes {empty} have no training sample; balance needs one of each")
    if balance == "none":
        return torch.ones(len(labels))
    pairs = list(zip(labels, patients, strict=True))
    per_pair = Counter(pairs)
    groups = Counter(label for label, _ in per_pair)
    if balance == "class":
        weights = [len(labels) / (classes * counts[label]) for label in labels]
    else:
        weights = [len(labels) / (classes * groups[pair[0]] * per_pair[pair]) for pair in pairs]
    return torch.tensor(weights, dtype=torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLoss:
    """Loss of class logits (N, K), weighted by the target "weight" (N,): a scalar.

    `distill_weight` times the distillation loss (`edge_sdk.losses.pixelwise_kd` of one pixel, T^2 KL) plus the rest
    times cross-entropy with label smoothing; an unlabelled sample has the distillation loss alone.
    """

    label_smoothing: float = 0.0
    temperature: float = 2.0
    distill_weight: float = 0.0

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        weight = batch.target("weight")
        share = torch.where(batch.labelled, self.distill_weight, 1.0)
        loss = logits.new_zeros(())
        if bool((share > 0).any()):
            soft = batch.soft_target(TARGET)
            distil = pixelwise_kd(
                logits.float()[..., None, None],
                soft[..., None, None],
                self.temperature,
                (share * weight)[:, None, None],
            )
            loss = loss + distil * (share * weight).sum() / weight.sum()
        if self.distill_weight < 1 and bool(batch.labelled.any()):
            entropy = F.cross_entropy(
                logits.float(),
                batch.target(TARGET).clamp_min(0),
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
            loss = loss + (entropy * weight * (1 - share)).sum() / weight.sum()
        return loss


def _training_set(
    clips: ClipSet,
    spec: PreprocessSpec,
    weights: Tensor,
    labelled: Tensor,
    soft: Tensor | None,
) -> TrainingSet:
    return TrainingSet(
        inputs=torch.from_numpy(clips.inputs),
        labelled=labelled,
        targets={
            TARGET: Field(values=torch.from_numpy(clips.labels), kind="fixed"),
            "weight": Field(values=weights, kind="fixed"),
        },
        soft={} if soft is None else {TARGET: Field(values=soft, kind="fixed")},
        scale=grey_scale(spec),
    )


def train_teacher(
    clips: ClipSet,
    *,
    spec: PreprocessSpec,
    classes: int,
    config: ClassTeacherConfig,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> tuple[ClassEnsemble, list[FitReport]]:
    """An ensemble of `config.members` networks trained on the labels of `clips`, in evaluation mode.

    Member k has the seed of the optimiser plus k, and the checkpoint `checkpoint`.k. Raises what `fit` raises.
    """
    weights = sample_weights(clips.labels.tolist(), clips.patients, classes, config.balance)
    data = _training_set(clips, spec, weights, torch.ones(len(clips), dtype=torch.bool), None)
    members, reports = [], []
    for k in range(config.members):
        optimiser = msgspec.structs.replace(config.optimiser, seed=config.optimiser.seed + k)
        network = build_classifier(config.network, spec, classes, seed=optimiser.seed)
        reports.append(
            fit(
                network,
                data,
                ClassLoss(label_smoothing=config.label_smoothing),
                optimiser,
                config.augment,
                task=f"teacher {k + 1}/{config.members}",
                checkpoint=None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.{k}"),
                progress=progress,
            )
        )
        members.append(network)
    return ClassEnsemble(members).eval(), reports


def distill_classifier(
    teacher: Callable[[Tensor], Tensor] | None,
    clips: ClipSet,
    *,
    spec: PreprocessSpec,
    classes: int,
    config: ClassDistillConfig,
    checkpoint: Path | None = None,
    progress: Progress = ignore_progress,
) -> tuple[Classifier, FitReport]:
    """A student in evaluation mode. The teacher answers each clean clip once; the student sees changed ones.

    With `config.distill_weight` 1 no label is read: samples weigh the same, and labels may be -1. Without a teacher
    (`None`) the weight must be 0: the same student from labels alone. Raises `ConfigError` for a label missing,
    `InferenceError` when the teacher's output does not fit, and what `fit` raises.
    """
    label_free = config.distill_weight == 1
    if teacher is None and config.distill_weight > 0:
        raise ConfigError(f"distill_weight is {config.distill_weight} and there is no teacher; give one, or set 0")
    known = torch.from_numpy(clips.labels) >= 0
    if not label_free and not bool(known.all()):
        raise ConfigError(f"{int((~known).sum())} clips have no label; set distill_weight to 1 to train without labels")
    soft = None
    if teacher is not None and config.distill_weight > 0:
        soft = class_logits(teacher, torch.from_numpy(clips.inputs), classes, name="teacher")
    weights = sample_weights(clips.labels.tolist(), clips.patients, classes, "none" if label_free else config.balance)
    network = build_classifier(config.network, spec, classes, seed=config.optimiser.seed)
    report = fit(
        network,
        _training_set(clips, spec, weights, known & (not label_free), soft),
        ClassLoss(
            label_smoothing=config.label_smoothing,
            temperature=config.temperature,
            distill_weight=config.distill_weight,
        ),
        config.optimiser,
        config.augment,
        task="student",
        checkpoint=checkpoint,
        progress=progress,
    )
    return network, report
