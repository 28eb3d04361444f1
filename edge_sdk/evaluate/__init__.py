"""Evaluation of teachers, students and every lowered variant on labelled images, with intervals and an audit of what
compression does to subgroups. Names are imported when first used, so that a command line's help costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.evaluate.auditing import Audit, Finding, audit, holm
    from edge_sdk.evaluate.bands import levels_of
    from edge_sdk.evaluate.cases import Case, read_case, read_cohort
    from edge_sdk.evaluate.config import (
        AuditConfig,
        CohortConfig,
        EvaluateConfig,
        QuantityConfig,
        SystemConfig,
        load_config,
    )
    from edge_sdk.evaluate.folds import check_split, grouped_folds
    from edge_sdk.evaluate.measuring import Measured, measure
    from edge_sdk.evaluate.output import write_evaluation
    from edge_sdk.evaluate.result import Difference, Evaluation, ImageScores, Interval, Summary
    from edge_sdk.evaluate.run import audit_rows, evaluate, score_cases
    from edge_sdk.evaluate.scores import SegmentationScores, dice_scores, predict_logits, predict_masks, score_masks
    from edge_sdk.evaluate.summary import ClusterBootstrap
    from edge_sdk.evaluate.systems import Prediction, System, open_systems, system_from_callable
    from edge_sdk.evaluate.text import render

__all__ = [
    "Audit",
    "AuditConfig",
    "Case",
    "ClusterBootstrap",
    "CohortConfig",
    "Difference",
    "EvaluateConfig",
    "Evaluation",
    "Finding",
    "ImageScores",
    "Interval",
    "Measured",
    "Prediction",
    "QuantityConfig",
    "SegmentationScores",
    "Summary",
    "System",
    "SystemConfig",
    "audit",
    "audit_rows",
    "check_split",
    "dice_scores",
    "evaluate",
    "grouped_folds",
    "holm",
    "levels_of",
    "load_config",
    "measure",
    "open_systems",
    "predict_logits",
    "predict_masks",
    "read_case",
    "read_cohort",
    "render",
    "score_cases",
    "score_masks",
    "system_from_callable",
    "write_evaluation",
]

_MODULES = {
    "auditing": ("Audit", "Finding", "audit", "holm"),
    "bands": ("levels_of",),
    "cases": ("Case", "read_case", "read_cohort"),
    "config": ("AuditConfig", "CohortConfig", "EvaluateConfig", "QuantityConfig", "SystemConfig", "load_config"),
    "folds": ("check_split", "grouped_folds"),
    "measuring": ("Measured", "measure"),
    "output": ("write_evaluation",),
    "result": ("Difference", "Evaluation", "ImageScores", "Interval", "Summary"),
    "run": ("audit_rows", "evaluate", "score_cases"),
    "scores": ("SegmentationScores", "dice_scores", "predict_logits", "predict_masks", "score_masks"),
    "summary": ("ClusterBootstrap",),
    "systems": ("Prediction", "System", "open_systems", "system_from_callable"),
    "text": ("render",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_sdk.evaluate' has no attribute {name!r}")
    value = getattr(import_module(f"edge_sdk.evaluate.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
