"""A recipe: everything from data to student in one YAML file, checked before anything costly is imported.

Paths in a recipe are relative to the recipe's folder. Unknown keys are errors. `run_recipe` lives in
`edge_sdk.recipe_run` and is imported when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_runtime.preprocess.spec import CropToScanArea, Letterbox, Normalize, PreprocessSpec, ToGray
from edge_runtime.settings_file import parse_yaml, read_text, to_struct
from edge_sdk.config import DistillConfig, TeacherConfig
from edge_sdk.progress import Progress, ignore_progress

__all__ = [
    "DEMO_CINE",
    "FileFrames",
    "FolderData",
    "PydicomExample",
    "Recipe",
    "SimulatedData",
    "TeacherSection",
    "effective_yaml",
    "load_recipe",
    "parse_recipe",
    "run_recipe",
]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are refused."""


class SimulatedData(_Section, frozen=True, kw_only=True, tag_field="kind", tag="simulated"):
    """Frames of `edge_sdk.simulate`: `train` frames from `seed`, `held_out` ones from `seed` + 1, `shape` (H, W)."""

    seed: int = 1
    train: int = 1000
    held_out: int = 120
    shape: tuple[int, int] = (160, 160)
    workers: int = 1

    def __post_init__(self) -> None:
        if self.train < 1 or self.held_out < 1 or self.seed < 0:
            raise ConfigError(
                f"data: train {self.train}, held_out {self.held_out}, seed {self.seed}; "
                "at least one frame each and a seed of zero or more are needed"
            )


class FolderData(_Section, frozen=True, kw_only=True, tag_field="kind", tag="folder"):
    """Pairs of image files with masks of the same names (any image suffix) in two folders.

    `mask_values[k]` is the grey value of class k in the masks, background first. `manifest` is a CSV file with the
    columns `file` and `split` (`train` or `test`); without it every `hold_out_every`-th pair by name is held out.
    """

    images: str
    masks: str
    mask_values: tuple[int, ...] = (0, 255)
    manifest: str = ""
    hold_out_every: int = 5

    def __post_init__(self) -> None:
        if self.hold_out_every < 2:
            raise ConfigError(f"data: hold_out_every is {self.hold_out_every}; at least 2 is needed")
        values = self.mask_values
        if len(values) < 2 or len(set(values)) != len(values) or not all(0 <= value <= 255 for value in values):
            raise ConfigError(f"data: mask_values is {list(values)}; two or more different values in 0..255 are needed")


class _Unlabelled(_Section, frozen=True, kw_only=True, tag_field="kind"):
    """Every `every`-th frame is taken.

    `scan_area` (x0, y0, x1, y1), in pixels and half open, is where the image proper lies on the screen, for files
    that do not say so or say it wrongly; without it the file's own is used.
    """

    every: int = 1
    scan_area: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"unlabelled: every is {self.every}; 1 or more is needed")
        if self.scan_area is not None:
            x0, y0, x1, y1 = self.scan_area
            if not (x0 < x1 and y0 < y1):
                raise ConfigError(f"unlabelled: scan_area is {self.scan_area}; x0 < x1 and y0 < y1 are needed")


class FileFrames(_Unlabelled, frozen=True, kw_only=True, tag="file"):
    """Unlabelled frames of a DICOM file, video, image or folder of images."""

    path: str


class PydicomExample(_Unlabelled, frozen=True, kw_only=True, tag="pydicom_example"):
    """Unlabelled frames of a file that pydicom's own wheel ships, so that every user has real ultrasound."""

    name: str = "ybr_color"


# the SonoSite cine's region still describes a screen of twice the size; this is its sector, read off the picture
DEMO_CINE = PydicomExample(name="ybr_color", scan_area=(41, 25, 297, 202))


class TeacherSection(_Section, frozen=True, kw_only=True):
    """Where the teacher comes from: trained as `train` says, or the ONNX or TorchScript `file`.

    `output` says whether the file gives logits or probabilities. `checkpoint` is a state dict for the
    network of `train`, which is then not trained.
    """

    train: TeacherConfig = TeacherConfig()
    file: str = ""
    checkpoint: str = ""
    output: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        if self.file and self.checkpoint:
            raise ConfigError("teacher: both file and checkpoint are set; give one")


DEMO_STEPS = (CropToScanArea(), ToGray(), Letterbox(height=128, width=128), Normalize())


class Recipe(_Section, frozen=True, kw_only=True):
    """A whole run. The defaults are the demonstration: `Recipe()` is what `edge-sdk demo` trains.

    `classes` names the foreground classes; `unlabelled` may stay empty.
    """

    name: str = "demo"
    classes: tuple[str, ...] = ("anechoic",)
    data: SimulatedData | FolderData = SimulatedData()
    unlabelled: tuple[FileFrames | PydicomExample, ...] = (DEMO_CINE,)
    preprocess: PreprocessSpec = PreprocessSpec(steps=DEMO_STEPS)
    teacher: TeacherSection = TeacherSection()
    distill: DistillConfig = DistillConfig()

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes is {list(self.classes)}; one or more different names are needed")
        if isinstance(self.data, FolderData) and len(self.data.mask_values) != len(self.classes) + 1:
            raise ConfigError(
                f"data: mask_values has {len(self.data.mask_values)} values; "
                f"background and {len(self.classes)} classes need {len(self.classes) + 1}"
            )
        if isinstance(self.data, SimulatedData) and len(self.classes) != 1:
            raise ConfigError(f"classes is {list(self.classes)}; simulated frames have one class (anechoic regions)")


def load_recipe(path: Path) -> Recipe:
    """The recipe in the YAML file `path`; `ConfigError` naming the file for anything that is wrong with it."""
    return parse_recipe(read_text(path, "recipe"), str(path))


def parse_recipe(text: str, origin: str = "recipe") -> Recipe:
    """The recipe in a YAML `text`; `origin` stands in messages. An empty text is the demonstration's recipe."""
    return to_struct(parse_yaml(text, origin), Recipe, origin)


def effective_yaml(recipe: Recipe) -> str:
    """Every setting of `recipe`, defaults included, as YAML that `parse_recipe` reads back to an equal recipe."""
    yaml = require("yaml", "to write a recipe")
    text: str = yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False, default_flow_style=None, width=100)
    return text


def run_recipe(path: Path, out_dir: Path, progress: Progress = ignore_progress) -> dict[str, Any]:
    """Run the recipe in the YAML file `path` and write its outputs into `out_dir`; see `recipe_run.run`."""
    from edge_sdk.recipe_run import run

    path = Path(path)
    return run(load_recipe(path), base=path.resolve().parent, out_dir=Path(out_dir), progress=progress)
