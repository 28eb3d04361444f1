"""The detection recipe: images with boxes in a CSV file.

Like `edge_sdk.recipe`, this imports no torch; `run` lives in `edge_sdk.tasks.detection.run`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.spec import Letterbox, Normalize, PreprocessSpec, ToGray
from edge_sdk.recipe_export import ExportSection, check_gates
from edge_sdk.settings import Settings
from edge_sdk.tasks.detection.config import DetectorConfig, DetectorDistillConfig, DetectorTeacherConfig

__all__ = ["BoxData", "DetectionRecipe", "DetectorTeacherSource"]


class BoxData(Settings, frozen=True, kw_only=True):
    """A folder of images, a CSV file of boxes (file, label, x, y, w, h) and one of splits (file, split).

    `group` is the manifest's column of what must not be divided between train and test ("" for none). See
    `edge_sdk.tasks.detection.data.read_boxes`.
    """

    images: str
    boxes: str
    manifest: str
    group: str = ""


class DetectorTeacherSource(Settings, frozen=True, kw_only=True):
    """A teacher trained here (`train`), or one whose weights exist: `checkpoint`, of the network `train.network`."""

    checkpoint: str = ""
    train: DetectorTeacherConfig = DetectorTeacherConfig()


class DetectionRecipe(Settings, frozen=True, kw_only=True):
    """Everything from data to a student detector. Paths are relative to the recipe's folder.

    `score` is the least probability of a box that is scored in the report (that of a device is `export.threshold`).
    With `export` the run ends with a verified `.edge` file. Raises `ConfigError` for classes that are
    missing or equal, and for a student and teacher with different levels of stages, whose points differ.
    """

    data: BoxData
    classes: tuple[str, ...]
    task: Literal["detection"] = "detection"
    name: str = "detector"
    preprocess: PreprocessSpec = PreprocessSpec(
        steps=(ToGray(), Letterbox(height=192, width=192), Normalize(mean=0.2, std=0.2))
    )
    teacher: DetectorTeacherSource = DetectorTeacherSource()
    distill: DetectorDistillConfig = DetectorDistillConfig()
    score: float = 0.02
    export: ExportSection | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        check_gates(self.export, "min_agreement", self.task)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes is {list(self.classes)}; one or more different names are needed")
        if not 0 <= self.score < 1:
            raise ConfigError(f"score is {self.score}; 0 up to 1 is allowed")
        ours, theirs = _strides(self.distill.network), _strides(self.teacher.train.network)
        if ours != theirs:
            raise ConfigError(f"the student has the strides {ours}, the teacher {theirs}; both need the same points")


def _strides(network: DetectorConfig) -> list[int]:
    return [1 << stage for stage in range(network.stages - network.levels + 1, network.stages + 1)]
