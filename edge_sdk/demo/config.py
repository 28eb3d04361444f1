"""Settings of the demonstration, each with its default on this page."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.settings_file import read_yaml, to_struct
from edge_sdk.recipe import DEMO_CINE, FileFrames, PydicomExample, Recipe, SimulatedData

__all__ = ["DemoConfig", "read_config"]


class DemoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the demonstration does; `recipe` is its first half.

    `calibration_frames` of the training frames set the quantization ranges. `cine` is the real recording,
    by default the SonoSite cine in pydicom's wheel; `stream_s` seconds of it are streamed at its own frame
    rate with `budget_ms` from each frame's arrival. `simulated_frames` at `simulated_fps` make the cine with exact
    areas, `sweep_frames` the tracked sweep that is compounded to `voxel_mm`. `threads` is the runner's.
    """

    recipe: Recipe = Recipe(data=SimulatedData(workers=2))
    calibration_frames: int = 64
    cine: FileFrames | PydicomExample = DEMO_CINE
    budget_ms: float = 33.3
    stream_s: float = 20.0
    simulated_frames: int = 150
    simulated_fps: float = 30.0
    simulated_shape: tuple[int, int] = (320, 320)
    sweep_frames: int = 120
    voxel_mm: float = 0.35
    seed: int = 21
    threads: int = 1

    def __post_init__(self) -> None:
        if self.recipe.export:
            raise ConfigError("recipe: export is given; the demonstration exports as it does, use `edge-sdk distill`")
        for name in ("calibration_frames", "simulated_frames", "sweep_frames"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; at least 2 frames are needed")
        for name in ("budget_ms", "stream_s", "simulated_fps", "voxel_mm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.threads < 1 or self.seed < 0:
            raise ConfigError(f"threads {self.threads}, seed {self.seed}: at least 1 and at least 0 are needed")


def read_config(path: Path | None) -> DemoConfig:
    """The settings in the YAML file `path`, or the defaults. Raises `ConfigError` naming the file."""
    if path is None:
        return DemoConfig()
    return to_struct(read_yaml(path, "settings file"), DemoConfig, str(path))
