"""Do teacher and student find their evidence in the same places? Grad-CAM on the fetal heads' test split.

Layer and variant were chosen on examinations held out of the train split, with a teacher and two students at 96 x 144
and three to ten draws of random weights. Mean rank correlation of student / random weights with the teacher:
Grad-CAM at the stem 0.34 / 0.02, encoder 0.17 / 0.01 and 0.37 / 0.04, bottleneck 0.72 / 0.22, first decoder stage
0.87 / 0.06, last 0.93 / 0.02. Maps of the late decoder are the logits over again, so they say no more than the masks
do. HiResCAM at the bottleneck has 0.80, but random weights reach 0.45, and 0.74 at the first decoder stage: it fails
the sanity check. So Grad-CAM is taken, at the bottleneck, with the first decoder stage beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmarks.distill.cases import HC18
from benchmarks.distill.segmentation import WORK, network, settings
from benchmarks.distill.stored import check_fresh, load_records, load_weights, paired_bootstrap
from benchmarks.figures import Figure
from edge_runtime.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edge_sdk.explain import ExplanationCheck

__all__ = ["DRAWS", "LEAST_CORRELATION", "figures_of", "measure_explanation_check"]

DRAWS = 10
LEAST_CORRELATION = 0.6  # "strong" in the usual reading of a rank correlation
_LAYERS = {"bottleneck": "", "first decoder stage": "decoder.0"}
_PICTURED = 4


def measure_explanation_check() -> list[Figure]:
    """One member of the stored teacher against the stored student, and against that student with random weights."""
    import torch

    from edge_sdk.frames import network_inputs

    record = load_records(HC18.name)[0]
    reason = check_fresh(record, settings(HC18), HC18.sha256())
    if reason:
        raise ConfigError(reason)
    teacher = load_weights(HC18.name, "member", network(HC18, "teacher"))
    student = load_weights(HC18.name, "student", network(HC18, "student"))
    frames = torch.from_numpy(network_inputs(HC18.read("test").labelled.frames, HC18.spec))
    return figures_of(teacher, student, frames)


def figures_of(teacher: nn.Module, student: nn.Module, frames: Tensor, draws: int = DRAWS) -> list[Figure]:
    """The row's figures for any two segmentation networks on frames (N, 1, H, W); with a picture."""
    from edge_sdk.explain import explanation_check

    figures = []
    for where, layer in _LAYERS.items():
        found = explanation_check(
            teacher, student, frames, teacher_layer=layer, student_layer=layer, target=0, draws=draws
        )
        figures += _figures(where, found, judged=not layer)
        if not layer:
            _draw(found, student, frames)
    return figures


def _figures(where: str, found: ExplanationCheck, judged: bool) -> list[Figure]:
    spearman, iou = found.student.spearman, found.student.top_iou
    random = np.stack([draw.spearman for draw in found.randomised])
    random_iou = np.stack([draw.top_iou for draw in found.randomised])
    low, high = paired_bootstrap(spearman[None])
    fall = spearman[None] - random
    fall_low, fall_high = paired_bootstrap(fall)
    worst = max(float(draw.spearman.mean()) for draw in found.randomised)
    undefined = sum(draw.undefined for draw in found.randomised)
    return [
        Figure(
            name=f"rank correlation of the maps, teacher and student, {where}",
            value=float(spearman.mean()),
            goal=f">= {LEAST_CORRELATION}" if judged else "none",
            unit="",
            n=spearman.size,
            met=bool(spearman.mean() >= LEAST_CORRELATION) if judged else None,
            spread=f"95 % {low:.2f} to {high:.2f}; {found.student.undefined} frames without evidence count as 0",
        ),
        Figure(
            name=f"fall of it for random weights, {where}",
            value=float(fall.mean()),
            goal="> 0, interval without 0" if judged else "none",
            unit="",
            n=fall.size,
            met=fall_low > 0 if judged else None,
            spread=f"95 % {fall_low:.2f} to {fall_high:.2f}; {len(random)} draws, mean {random.mean():+.2f}, "
            f"highest {worst:+.2f}; {undefined} maps without evidence",
        ),
        Figure(
            name=f"overlap (IoU) of the strongest 20 %, {where}",
            value=float(iou.mean()),
            goal="none",
            unit="",
            n=iou.size,
            met=None,
            spread=f"{_interval(iou)}; random weights {random_iou.mean():.2f}, by chance 0.11",
        ),
    ]


def _interval(values: npt.NDArray[np.float64]) -> str:
    low, high = paired_bootstrap(values[None])
    return f"95 % {low:.2f} to {high:.2f}"


def _draw(found: ExplanationCheck, student: nn.Module, frames: Tensor) -> None:
    """The frames of lowest, middle and highest agreement side by side, in the work folder."""
    import torch

    from edge_sdk.explain import explanation_picture, predicted_region
    from edge_sdk.frames import grey_scale

    order = np.argsort(found.student.spearman)
    chosen = torch.from_numpy(order[np.linspace(0, len(order) - 1, min(_PICTURED, len(order))).astype(int)].copy())
    with torch.inference_mode():
        masks = predicted_region(student(frames[chosen]))
    mean, std = grey_scale(HC18.spec)
    assert found.region is not None
    agreements = {"student": found.student, "student, random weights": found.randomised[0]}
    WORK.mkdir(parents=True, exist_ok=True)
    explanation_picture(
        WORK / "explanation_check.png",
        frames[chosen, 0] * std + mean,
        {
            "teacher": found.teacher_maps[chosen],
            "student": found.student_maps[chosen],
            "student, random weights": found.random_maps[chosen],
        },
        teacher_masks=found.region[chosen],
        student_masks=masks,
        notes={
            name: [f"rank correlation {agreement.spearman[k]:.2f}, top 20 % {agreement.top_iou[k]:.2f}" for k in chosen]
            for name, agreement in agreements.items()
        },
    )
