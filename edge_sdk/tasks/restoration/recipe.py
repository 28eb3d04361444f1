"""The restoration recipe: clean frames, how they are degraded, teacher and student.

Like `edge_sdk.recipe`, this imports no torch; `run` lives in `edge_sdk.tasks.restoration.run`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.preprocess.spec import Normalize, PreprocessSpec, Resize, ToGray
from edge_sdk.config import AugmentConfig, NetworkConfig, OptimiserConfig
from edge_sdk.recipe_export import ExportSection, check_gates
from edge_sdk.settings import Settings, check

__all__ = [
    "CleanFrames",
    "DegradeConfig",
    "RestorationRecipe",
    "RestorerConfig",
    "RestorerDistillConfig",
    "RestorerTeacherConfig",
    "RestorerTeacherSource",
]


class DegradeConfig(Settings, frozen=True, kw_only=True):
    """What is done to a clean frame, in this order; grey values are echoes in dB over `range_db`.

    `speckle` is the share of fully developed speckle with grain `grain_px` (standard deviation of the point-spread
    function in pixels along depth, twice that across); `noise` the standard deviation of white noise on grey values in
    [0, 1]; `scale` 2 halves the frame by area, so that the network has to enlarge it. Black stays black.
    """

    speckle: float = 0.5
    grain_px: float = 0.7
    noise: float = 0.04
    range_db: float = 60.0
    scale: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        check(0 <= self.speckle <= 1, "speckle", self.speckle, "a share in [0, 1] is allowed")
        check(0.3 <= self.grain_px <= 8, "grain_px", self.grain_px, "0.3 to 8 pixels are allowed")
        check(0 <= self.noise <= 0.5, "noise", self.noise, "0 to 0.5 is allowed")
        check(20 <= self.range_db <= 120, "range_db", self.range_db, "20 to 120 dB are allowed")
        check(
            self.speckle > 0 or self.noise > 0 or self.scale == 2, "speckle", self.speckle, "nothing would be degraded"
        )


class RestorerConfig(Settings, frozen=True, kw_only=True):
    """A `Restorer`; its scale is that of the degradation."""

    width: int = 8
    depth: int = 3
    max_width: int = 64
    convs: int = 2

    def __post_init__(self) -> None:
        NetworkConfig(width=self.width, depth=self.depth, max_width=self.max_width, convs=self.convs)  # the same bounds


# grey changes would alter what the network sees and not what it must give
_FLIPS = AugmentConfig(flip=0.5, min_scale=1.0, gain=0.0, gamma=0.0, noise=0.0)


class _Learning(Settings, frozen=True, kw_only=True):
    """`draws` degraded copies of every frame are made before training; `augment` may only move frames."""

    optimiser: OptimiserConfig = OptimiserConfig(epochs=8, batch_size=16, learning_rate=2e-3, schedule="cosine")
    augment: AugmentConfig = _FLIPS
    draws: int = 4

    def __post_init__(self) -> None:
        check(1 <= self.draws <= 1000, "draws", self.draws, "1 to 1000 are allowed")
        grey = self.augment.gain, self.augment.gamma, self.augment.noise
        check(grey == (0, 0, 0), "augment (gain, gamma, noise)", grey, "all must be 0; use the degradation instead")


class RestorerTeacherConfig(_Learning, frozen=True, kw_only=True):
    """How a teacher is trained from scratch."""

    network: RestorerConfig = RestorerConfig(width=32, max_width=128)


class RestorerDistillConfig(_Learning, frozen=True, kw_only=True):
    """How a student learns: `distill_weight` times the distance to the teacher, the rest to the clean frame."""

    network: RestorerConfig = RestorerConfig()
    distill_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.distill_weight <= 1, "distill_weight", self.distill_weight, "a weight in [0, 1] is allowed")


class CleanFrames(Settings, frozen=True, kw_only=True):
    """A folder of images taken as clean, and a CSV `manifest` with the columns `file` and `split`.

    `group` names a column (an exam, a patient) that may not be in two splits ("" for none).
    """

    images: str
    manifest: str
    group: str = ""


class RestorerTeacherSource(Settings, frozen=True, kw_only=True):
    """A teacher trained here (`train`), or a `file` (ONNX or TorchScript) from degraded to restored network inputs."""

    train: RestorerTeacherConfig = RestorerTeacherConfig()
    file: str = ""


class RestorationRecipe(Settings, frozen=True, kw_only=True):
    """Everything from clean frames to a student. Paths are relative to the recipe's folder.

    With `export` the run ends with a verified `.edge` file.
    """

    data: CleanFrames
    task: Literal["restoration"] = "restoration"
    name: str = "restorer"
    preprocess: PreprocessSpec = PreprocessSpec(steps=(ToGray(), Resize(height=96, width=144), Normalize()))
    degrade: DegradeConfig = DegradeConfig()
    teacher: RestorerTeacherSource = RestorerTeacherSource()
    distill: RestorerDistillConfig = RestorerDistillConfig()
    seed: int = 1
    export: ExportSection | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        check_gates(self.export, "min_sqnr_db", self.task)
