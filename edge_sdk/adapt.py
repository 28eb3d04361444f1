"""Fit a trained student to the frames of another device, without labels.

Two steps, each of use alone:

- `reestimate_batchnorm` replaces the batch-norm statistics of training by those of the target frames (AdaBN: Li,
  Wang, Shi, Liu and Hou, "Revisiting batch normalization for practical domain adaptation", 2016), or blends both
  (Schneider et al., NeurIPS 2020, section 2). No weight changes; seconds on a CPU.
- `adapt_student` then trains on the target frames alone: the student sees changed frames and learns the answer to the
  unchanged ones. The answers come from a teacher, or from the student itself after the first step (self-training with
  soft targets; the noisy student of Xie et al., CVPR 2020); places where they are unsure do not count.

A device's frames should be those of that device alone: statistics of a mixture fit neither part.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import msgspec
import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.batch import Batch, Field, TrainingSet
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.losses import label_free_kd
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.teachers import OutputForm, Teacher, teacher_from_module, with_flips
from edge_sdk.train import FitReport, fit

__all__ = ["AdaptConfig", "Adapted", "adapt_student", "reestimate_batchnorm"]

_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_CLIP = 30.0  # a sigmoid of +-30 is 0 or 1 to float32


class AdaptConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How `adapt_student` works.

    `prior` is how many target frames the statistics of training are worth (0: replaced; see `reestimate_batchnorm`).
    `rounds` of training follow, each with new answers where the student is its own teacher; 0 re-estimates alone.
    `optimiser` and `augment` are of each round. `threshold` is the probability below which a teacher's answer does
    not count, `temperature` that of the loss (`edge_sdk.losses.label_free_kd`). `flips` asks the teacher about the
    mirrored frame too and averages.
    """

    prior: float = 0.0
    rounds: int = 1
    optimiser: OptimiserConfig = OptimiserConfig(epochs=8, batch_size=16, learning_rate=5e-4, ema_decay=0.98)
    augment: AugmentConfig = AugmentConfig(min_scale=0.8, rotate=15)
    threshold: float = 0.8
    temperature: float = 1.0
    flips: bool = True

    def __post_init__(self) -> None:
        checks = (
            (self.prior >= 0, "prior", self.prior, "zero or more frames are needed"),
            (0 <= self.rounds <= 20, "rounds", self.rounds, "0 to 20 are allowed"),
            (0 <= self.threshold < 1, "threshold", self.threshold, "a probability in [0, 1) is allowed"),
            (self.temperature > 0, "temperature", self.temperature, "a value above 0 is needed"),
        )
        for ok, name, value, allowed in checks:
            if not ok:
                raise ConfigError(f"{name} is {value!r}; {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapted:
    """The adapted network in evaluation mode, how each round's training went, and how many layers were re-estimated."""

    network: nn.Module
    rounds: tuple[FitReport, ...]
    layers: int


class _Moments:
    """Exact pooled mean and variance of a batch-norm layer's inputs."""

    def __init__(self, layer: _Norm) -> None:
        self.layer, self.count = layer, 0
        self.total = torch.zeros(layer.num_features, dtype=torch.float64)
        self.square = torch.zeros(layer.num_features, dtype=torch.float64)

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().transpose(0, 1).flatten(1).double().cpu()
        self.count += values.shape[1]
        self.total += values.sum(dim=1)
        self.square += values.square().sum(dim=1)

    def store(self, mean: Tensor, variance: Tensor, share: float) -> None:
        """Set the layer's statistics to `share` of what was seen and the rest of `mean` and `variance`."""
        seen = self.total / self.count
        spread = (self.square / self.count - seen.square()).clamp_min(0) * (self.count / max(1, self.count - 1))
        for buffer, new, old in ((self.layer.running_mean, seen, mean), (self.layer.running_var, spread, variance)):
            blend = share * new + (1 - share) * old.double().cpu()
            cast(Tensor, buffer).copy_(blend.to(cast(Tensor, buffer).dtype))


def _norm_layers(network: nn.Module) -> list[_Norm]:
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)]
    return [layer for layer in layers if layer.running_mean is not None]


@contextmanager
def _modes_kept(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def reestimate_batchnorm(
    network: nn.Module, frames: Tensor, *, prior: float = 0.0, batch_size: int = 16, passes: int = 2
) -> int:
    """Give the batch-norm layers of `network` the statistics of `frames` (N, C, H, W) float32, in place.

    With `prior` P the statistics become P / (P + N) of the old and N / (P + N) of the new ones (Schneider et al. 2020,
    equation 4; they find 8 to 128 good for small N). The first pass normalises every batch by its own statistics, each
    further one all frames by those found so far, which makes later layers consistent with earlier ones; variances are
    of all frames and places pooled, unbiased. Dropout is off, modes are kept. Returns the number of layers. Raises
    `ConfigError` for a network without such layers, no frames, values that are not finite, or numbers out of range.
    """
    layers = _norm_layers(network)
    if not layers:
        raise ConfigError(
            f"{type(network).__name__} has no batch-norm layer with running statistics; there is nothing to "
            "re-estimate (batch norm folded into convolutions cannot be adapted: take the network before export)"
        )
    if frames.dim() < 2 or len(frames) == 0 or not torch.isfinite(frames).all():
        raise ConfigError(f"frames are {tuple(frames.shape)}; at least one, all of finite values, is needed")
    if prior < 0 or batch_size < 1 or passes < 1:
        raise ConfigError(
            f"prior is {prior}, batch_size {batch_size}, passes {passes}; zero or more, and 1 or more twice, are needed"
        )
    old = [(cast(Tensor, m.running_mean).clone(), cast(Tensor, m.running_var).clone()) for m in layers]
    share = len(frames) / (len(frames) + prior)
    with _modes_kept(network), torch.no_grad():
        network.eval()
        for k in range(passes):
            moments = _observe(network, layers, frames, batch_size, own=k == 0)
            for layer, (mean, variance) in zip(moments, old, strict=True):
                layer.store(mean, variance, share)
    return len(layers)


def _observe(network: nn.Module, layers: list[_Norm], frames: Tensor, batch_size: int, *, own: bool) -> list[_Moments]:
    moments = [_Moments(layer) for layer in layers]
    kept = [(layer.momentum, cast(Tensor, layer.num_batches_tracked).clone()) for layer in layers]
    hooks = [layer.register_forward_pre_hook(seen) for layer, seen in zip(layers, moments, strict=True)]
    try:
        for layer in layers:
            layer.training, layer.momentum = own, 0.0  # momentum 0: the pass itself leaves the statistics alone
        for start in range(0, len(frames), batch_size):
            network(frames[start : start + batch_size])
    finally:
        for hook in hooks:
            hook.remove()
        for layer, (momentum, batches) in zip(layers, kept, strict=True):
            layer.training, layer.momentum = False, momentum
            cast(Tensor, layer.num_batches_tracked).copy_(batches)
    return moments


def adapt_student(
    student: nn.Module,
    teacher: Teacher | None,
    target_frames: Tensor,
    *,
    scale: tuple[float, float] = (0.0, 1.0),
    config: AdaptConfig | None = None,
    progress: Progress = ignore_progress,
) -> Adapted:
    """A copy of `student` fitted to `target_frames` (N, C, H, W) float32, network inputs of the target device.

    `student` maps them to logits (N, K, H, W) or (N, K) and stays as it is. `teacher` gives logits of the same shape;
    give its members the target's statistics first (`reestimate_batchnorm`), since a shift that harms the student harms
    the teacher too. None makes the student with the target's statistics its own teacher, anew in every round. `scale`
    is (mean, std) of the preprocessing's `Normalize`. The same arguments give the same network. Raises `ConfigError`
    for settings, frames or answers that do not fit, `InferenceError` for a teacher's answer that is not finite.
    """
    config = config or AdaptConfig()
    network = copy.deepcopy(student).eval()
    layers = reestimate_batchnorm(network, target_frames, prior=config.prior)
    reports: list[FitReport] = []
    for k in range(config.rounds):
        if k == 0 or teacher is None:
            soft = _answers(teacher or _itself(network, target_frames), target_frames, config.flips)
        data = TrainingSet(
            inputs=target_frames,
            labelled=torch.zeros(len(target_frames), dtype=torch.bool),
            soft={"answer": Field(values=soft, kind="dense" if soft.dim() == 4 else "fixed")},
            scale=scale,
        )
        optimiser = msgspec.structs.replace(config.optimiser, seed=config.optimiser.seed + k)
        loss = _Loss(config.temperature, config.threshold)
        reports.append(
            fit(network, data, loss, optimiser, config.augment, task=f"adapt, round {k + 1}", progress=progress)
        )
        # training saw changed frames in small batches; the device sees unchanged ones
        reestimate_batchnorm(network, target_frames, prior=config.prior)
    return Adapted(network=network, rounds=tuple(reports), layers=layers)


@dataclass(frozen=True, slots=True)
class _Loss:
    temperature: float
    threshold: float

    def __call__(self, logits: Tensor, batch: Batch) -> Tensor:
        answer = batch.soft_target("answer")
        return label_free_kd(logits.float(), answer, temperature=self.temperature, threshold=self.threshold)


def _itself(network: nn.Module, frames: Tensor) -> Teacher:
    """A frozen copy of the network as it is, as a teacher."""
    frozen = copy.deepcopy(network).eval()
    with torch.inference_mode():
        answer = frozen(frames[:1])
    if not isinstance(answer, Tensor) or answer.dim() not in (2, 4):
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ConfigError(f"the student gives {found}; logits (N, K, H, W) or (N, K) are needed")
    form = OutputForm(channels=answer.shape[1], layout="planes" if answer.dim() == 4 else "vector")
    return teacher_from_module(frozen, name="the student itself", form=form)


def _answers(teacher: Teacher, frames: Tensor, flips: bool, batch_size: int = 16) -> Tensor:
    asked = with_flips(teacher) if flips else teacher
    parts = [asked(frames[k : k + batch_size]).clamp(-_CLIP, _CLIP) for k in range(0, len(frames), batch_size)]
    return torch.cat(parts).clone()
