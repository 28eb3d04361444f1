"""From a teacher to a student and a report, on the host. Names are imported when first used, so that importing this
package needs neither torch nor a second of time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.adapt import AdaptConfig, adapt_student, reestimate_batchnorm
    from edge_sdk.batch import Batch, Field, TrainingSet
    from edge_sdk.config import (
        AugmentConfig,
        DistillConfig,
        NetworkConfig,
        OptimiserConfig,
        TeacherConfig,
        UltrasoundAugmentConfig,
    )
    from edge_sdk.distill import Trained, distill_student, train_teacher
    from edge_sdk.evaluate import SegmentationScores, check_split, grouped_folds, predict_masks, score_masks
    from edge_sdk.explain import explanation_check, explanation_picture, grad_cam
    from edge_sdk.frames import LabelledFrames, UnlabelledFrames
    from edge_sdk.losses import LossTerm, compose
    from edge_sdk.progress import Progress, ProgressEvent
    from edge_sdk.recipe import Recipe, load_recipe, run_recipe
    from edge_sdk.stages import Stages
    from edge_sdk.students import UNet, count_macs, count_parameters, light_unet, unet_teacher
    from edge_sdk.teachers import (
        OutputForm,
        Teacher,
        TeacherCache,
        cached_answers,
        ensemble,
        load_teacher,
        teacher_from_module,
        with_flips,
    )
    from edge_sdk.train import FitReport, LoopConfig, fit
    from edge_sdk.uncertainty import fit_temperature, monte_carlo_dropout, risk_coverage, spread_student

__all__ = [
    "AdaptConfig",
    "AugmentConfig",
    "Batch",
    "DistillConfig",
    "Field",
    "FitReport",
    "LabelledFrames",
    "LoopConfig",
    "LossTerm",
    "NetworkConfig",
    "OptimiserConfig",
    "OutputForm",
    "Progress",
    "ProgressEvent",
    "Recipe",
    "SegmentationScores",
    "Stages",
    "Teacher",
    "TeacherCache",
    "TeacherConfig",
    "Trained",
    "TrainingSet",
    "UNet",
    "UltrasoundAugmentConfig",
    "UnlabelledFrames",
    "__version__",
    "adapt_student",
    "cached_answers",
    "check_split",
    "compose",
    "count_macs",
    "count_parameters",
    "distill_student",
    "ensemble",
    "explanation_check",
    "explanation_picture",
    "fit",
    "fit_temperature",
    "grad_cam",
    "grouped_folds",
    "light_unet",
    "load_recipe",
    "load_teacher",
    "monte_carlo_dropout",
    "predict_masks",
    "reestimate_batchnorm",
    "risk_coverage",
    "run_recipe",
    "score_masks",
    "spread_student",
    "teacher_from_module",
    "train_teacher",
    "unet_teacher",
    "with_flips",
]

__version__ = "0.1.0"

_MODULES = {
    "adapt": ("AdaptConfig", "adapt_student", "reestimate_batchnorm"),
    "batch": ("Batch", "Field", "TrainingSet"),
    "config": (
        "AugmentConfig",
        "DistillConfig",
        "NetworkConfig",
        "OptimiserConfig",
        "TeacherConfig",
        "UltrasoundAugmentConfig",
    ),
    "distill": ("Trained", "distill_student", "train_teacher"),
    "evaluate": ("SegmentationScores", "check_split", "grouped_folds", "predict_masks", "score_masks"),
    "explain": ("explanation_check", "explanation_picture", "grad_cam"),
    "frames": ("LabelledFrames", "UnlabelledFrames"),
    "losses": ("LossTerm", "compose"),
    "progress": ("Progress", "ProgressEvent"),
    "recipe": ("Recipe", "load_recipe", "run_recipe"),
    "stages": ("Stages",),
    "students": ("UNet", "count_macs", "count_parameters", "light_unet", "unet_teacher"),
    "teachers": (
        "OutputForm",
        "Teacher",
        "TeacherCache",
        "cached_answers",
        "ensemble",
        "load_teacher",
        "teacher_from_module",
        "with_flips",
    ),
    "train": ("FitReport", "LoopConfig", "fit"),
    "uncertainty": ("fit_temperature", "monte_carlo_dropout", "risk_coverage", "spread_student"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edge_sdk' has no attribute {name!r}")
    value = getattr(import_module(f"edge_sdk.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
