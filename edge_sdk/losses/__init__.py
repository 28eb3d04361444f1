"""Losses of distillation and of the task, each one plain function; their composition from settings; and the capture
of intermediate features. Names are imported when first used, so that `terms` needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.losses.capturing import capture
    from edge_sdk.losses.composing import DistillLoss, compose
    from edge_sdk.losses.features import (
        Adapter,
        attention_transfer,
        hint,
        relation_angle,
        relation_distance,
        similarity_preserving,
    )
    from edge_sdk.losses.soft import (
        boundary_kd,
        boundary_weights,
        channelwise_kd,
        confidence,
        hard_labels,
        label_free_kd,
        logit_kd,
        multi_teacher_kd,
        pixelwise_kd,
    )
    from edge_sdk.losses.task import (
        boundary_distance,
        cross_entropy,
        deep_supervision,
        dice,
        dice_ce,
        dice_focal,
        focal,
        generalised_dice,
    )
    from edge_sdk.losses.terms import LossTerm

__all__ = [
    "Adapter",
    "DistillLoss",
    "LossTerm",
    "attention_transfer",
    "boundary_distance",
    "boundary_kd",
    "boundary_weights",
    "capture",
    "channelwise_kd",
    "compose",
    "confidence",
    "cross_entropy",
    "deep_supervision",
    "dice",
    "dice_ce",
    "dice_focal",
    "focal",
    "generalised_dice",
    "hard_labels",
    "hint",
    "label_free_kd",
    "logit_kd",
    "multi_teacher_kd",
    "pixelwise_kd",
    "relation_angle",
    "relation_distance",
    "similarity_preserving",
]

_MODULES = {
    "capturing": ("capture",),
    "composing": ("DistillLoss", "compose"),
    "features": (
        "Adapter",
        "attention_transfer",
        "hint",
        "relation_angle",
        "relation_distance",
        "similarity_preserving",
    ),
    "soft": (
        "boundary_kd",
        "boundary_weights",
        "channelwise_kd",
        "confidence",
        "hard_labels",
        "label_free_kd",
        "logit_kd",
        "multi_teacher_kd",
        "pixelwise_kd",
    ),
    "task": (
        "boundary_distance",
        "cross_entropy",
        "deep_supervision",
        "dice",
        "dice_ce",
        "dice_focal",
        "focal",
        "generalised_dice",
    ),
    "terms": ("LossTerm",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_sdk.losses' has no attribute {name!r}")
    value = getattr(import_module(f"edge_sdk.losses.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
