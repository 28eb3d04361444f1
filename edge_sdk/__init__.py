"""From a teacher to a student and a report, on the host. Names are imported when first used, so that importing this
package needs neither torch nor a second of time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_sdk.config import AugmentConfig, DistillConfig, NetworkConfig, OptimiserConfig, TeacherConfig
    from edge_sdk.distill import Trained, distill_student, train_teacher
    from edge_sdk.evaluate import SegmentationScores, predict_masks, score_masks
    from edge_sdk.frames import LabelledFrames, UnlabelledFrames
    from edge_sdk.progress import Progress, ProgressEvent
    from edge_sdk.recipe import Recipe, load_recipe, run_recipe
    from edge_sdk.stages import Stages
    from edge_sdk.students import UNet, count_macs, count_parameters, light_unet, unet_teacher
    from edge_sdk.teachers import Teacher, load_teacher, teacher_from_module

__all__ = [
    "AugmentConfig",
    "DistillConfig",
    "LabelledFrames",
    "NetworkConfig",
    "OptimiserConfig",
    "Progress",
    "ProgressEvent",
    "Recipe",
    "SegmentationScores",
    "Stages",
    "Teacher",
    "TeacherConfig",
    "Trained",
    "UNet",
    "UnlabelledFrames",
    "__version__",
    "count_macs",
    "count_parameters",
    "distill_student",
    "light_unet",
    "load_recipe",
    "load_teacher",
    "predict_masks",
    "run_recipe",
    "score_masks",
    "teacher_from_module",
    "train_teacher",
    "unet_teacher",
]

__version__ = "0.1.0"

_MODULES = {
    "config": ("AugmentConfig", "DistillConfig", "NetworkConfig", "OptimiserConfig", "TeacherConfig"),
    "distill": ("Trained", "distill_student", "train_teacher"),
    "evaluate": ("SegmentationScores", "predict_masks", "score_masks"),
    "frames": ("LabelledFrames", "UnlabelledFrames"),
    "progress": ("Progress", "ProgressEvent"),
    "recipe": ("Recipe", "load_recipe", "run_recipe"),
    "stages": ("Stages",),
    "students": ("UNet", "count_macs", "count_parameters", "light_unet", "unet_teacher"),
    "teachers": ("Teacher", "load_teacher", "teacher_from_module"),
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
