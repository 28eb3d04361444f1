"""Settings of detection, without torch; values out of range raise `ConfigError`."""

from __future__ import annotations

from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.settings import Settings, check

__all__ = ["DetectorConfig", "DetectorDistillConfig", "DetectorTeacherConfig"]


class DetectorConfig(Settings, frozen=True, kw_only=True):
    """A `Detector`: see its docstring for the settings. The defaults are a student of a quarter million parameters."""

    width: int = 12
    stages: int = 5
    max_width: int = 64
    convs: int = 1
    levels: int = 3
    pyramid: int = 32
    head_convs: int = 1

    def __post_init__(self) -> None:
        check(1 <= self.width <= 512, "width", self.width, "1 to 512 channels are allowed")
        check(2 <= self.stages <= 7, "stages", self.stages, "2 to 7 stages are allowed")
        check(1 <= self.levels < self.stages, "levels", self.levels, f"1 to {self.stages - 1} levels are allowed")
        check(self.max_width >= self.width, "max_width", self.max_width, f"at least width ({self.width}) is needed")
        check(0 <= self.convs <= 4, "convs", self.convs, "0 to 4 convolutions a stage are allowed")
        check(1 <= self.pyramid <= 512, "pyramid", self.pyramid, "1 to 512 channels are allowed")
        check(0 <= self.head_convs <= 8, "head_convs", self.head_convs, "0 to 8 convolutions are allowed")


_AUGMENT = AugmentConfig(min_scale=0.6, max_scale=1.3, rotate=8, stretch=0.15, gain=0.3, gamma=0.4, noise=0.04)


class DetectorTeacherConfig(Settings, frozen=True, kw_only=True):
    """How a teacher is trained from boxes."""

    network: DetectorConfig = DetectorConfig(width=24, max_width=160, pyramid=64, head_convs=2)
    optimiser: OptimiserConfig = OptimiserConfig(epochs=80, batch_size=16, ema_decay=0.99, weight_decay=1e-2)
    augment: AugmentConfig = _AUGMENT


class DetectorDistillConfig(Settings, frozen=True, kw_only=True):
    """How a student learns from a teacher's dense answers (`dense_kd`, its `gamma`) and from boxes.

    Loss of a labelled frame: `distill_weight` times the teacher's part plus (1 - `distill_weight`) times the boxes';
    an unlabelled frame has the teacher's part alone.
    """

    network: DetectorConfig = DetectorConfig()
    optimiser: OptimiserConfig = OptimiserConfig(epochs=80, batch_size=16, ema_decay=0.99, weight_decay=1e-2)
    augment: AugmentConfig = _AUGMENT
    gamma: float = 2.0
    distill_weight: float = 0.5

    def __post_init__(self) -> None:
        check(0 <= self.gamma <= 10, "gamma", self.gamma, "0 to 10 is allowed")
        check(0 <= self.distill_weight <= 1, "distill_weight", self.distill_weight, "a weight in [0, 1] is allowed")
