"""The explanation check: do teacher and student look at the same places, and would the check notice if not?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_runtime.errors import ConfigError
from edge_sdk.explain.agreement import CamAgreement, cam_agreement
from edge_sdk.explain.gradcam import CamVariant, grad_cam, predicted_region
from edge_sdk.explain.layers import evaluation_mode

__all__ = ["ExplanationCheck", "explanation_check", "randomised"]


_OTHER_SEEDS = 1_000_003  # else a network built from the same seed would get back the very weights it began with


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExplanationCheck:
    """Maps (N, H, W) float32 of teacher and student, their agreement, and that of students with random weights.

    `random_maps` holds the maps of the first random draw. `region` is what was explained, (N, H, W) bool, None for
    classifiers.
    """

    teacher_maps: Tensor
    student_maps: Tensor
    random_maps: Tensor
    region: Tensor | None
    student: CamAgreement
    randomised: tuple[CamAgreement, ...]


def explanation_check(
    teacher: nn.Module | Sequence[nn.Module],
    student: nn.Module,
    frames: Tensor,
    *,
    teacher_layer: str = "",
    student_layer: str = "",
    target: int | None = None,
    variant: CamVariant = "grad-cam",
    top: float = 0.2,
    draws: int = 3,
    seed: int = 0,
) -> ExplanationCheck:
    """Grad-CAM (`grad_cam`) of `teacher` and `student` on frames (N, C, H, W), compared by `cam_agreement`.

    Both explain the same thing, the teacher's: the pixels that the teacher predicts as `target`, or for classifiers
    the class that it predicts. Of several teachers the answers (probabilities) and the maps are averaged.

    The sanity check is that of Adebayo et al. (NeurIPS 2018): the same comparison with `draws` copies of the student
    whose weights are drawn anew. An explanation whose agreement does not fall then says nothing about what was
    learned. Raises `ConfigError` for networks or arguments that do not fit.
    """
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    if not teachers or draws < 1:
        raise ConfigError(f"{len(teachers)} teachers and {draws} random draws; at least one of each is needed")
    answers = torch.stack([_probabilities(member, frames) for member in teachers]).mean(dim=0)
    region: Tensor | None = None
    classes: int | Tensor | None = target
    if answers.ndim == 4:
        if answers.shape[1] > 1 and target is None:
            raise ConfigError(f"the teacher gives planes of {answers.shape[1]} classes; say which one as `target`")
        region = predicted_region(answers - 0.5 if answers.shape[1] == 1 else answers, target or 0)
    elif target is None:
        classes = answers.argmax(dim=1)

    def maps(module: nn.Module, layer: str) -> Tensor:
        return grad_cam(module, frames, layer=layer, target=classes, region=region, variant=variant)

    teacher_maps = torch.stack([maps(member, teacher_layer) for member in teachers]).mean(dim=0)
    student_maps = maps(student, student_layer)
    random_maps = [maps(randomised(student, seed + k), student_layer) for k in range(draws)]
    return ExplanationCheck(
        teacher_maps=teacher_maps,
        student_maps=student_maps,
        random_maps=random_maps[0],
        region=region,
        student=cam_agreement(teacher_maps, student_maps, top=top),
        randomised=tuple(cam_agreement(teacher_maps, found, top=top) for found in random_maps),
    )


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """A copy of `module` in evaluation mode with every weight drawn anew by its layer's own initialisation.

    Parameters of layers without `reset_parameters` are drawn from a normal distribution of their own standard
    deviation. The global random state is left as it was.
    """
    fresh = copy.deepcopy(module).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_OTHER_SEEDS + seed)
        for part in fresh.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in part.parameters(recurse=False):
                spread = parameter.std(correction=0) if parameter.numel() > 1 else parameter.abs()
                parameter.copy_(torch.randn_like(parameter) * spread)
    return fresh


def _probabilities(module: nn.Module, frames: Tensor, batch_size: int = 16) -> Tensor:
    with evaluation_mode(module), torch.no_grad():
        starts = range(0, len(frames), batch_size)
        logits = torch.cat([module(frames[start : start + batch_size]) for start in starts])
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 4):
        raise ConfigError(f"{type(module).__name__} gives neither class logits (N, K) nor planes (N, K, H, W)")
    return torch.sigmoid(logits) if logits.ndim == 4 and logits.shape[1] == 1 else logits.softmax(dim=1)
