"""A recipe: everything from data to student in one YAML file, checked before anything costly is imported.

Paths in a recipe are relative to the recipe's folder. Unknown keys are errors. `run_recipe` lives in
`edge_sdk.recipe_run` and is imported when called.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.optional import require
from edge_runtime.preprocess.spec import CropToScanArea, Letterbox, Normalize, PreprocessSpec, ToGray
from edge_runtime.settings_file import parse_yaml, read_text, to_struct
from edge_sdk.config import DistillConfig, TeacherConfig
from edge_sdk.progress import Progress, ignore_progress
from edge_sdk.recipe_export import ExportSection, check_gates
from edge_sdk.settings import Settings

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


class SimulatedData(Settings, frozen=True, kw_only=True, tag_field="kind", tag="simulated"):
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


class FolderData(Settings, frozen=True, kw_only=True, tag_field="kind", tag="folder"):
    """Pairs of image files with masks of the same names (any image suffix) in two folders.

    `mask_values[k]` is the value of class k in the masks, background first: a grey level, or the index where the file
    has a palette. `manifest` is a CSV file with the columns `file` and `split` (`train` or `test`); without it every
    `hold_out_every`-th pair by name is held out. `group` names a column (an exam, a patient) that may not be in two
    splits.
    """

    images: str
    masks: str
    mask_values: tuple[int, ...] = (0, 255)
    manifest: str = ""
    group: str = ""
    hold_out_every: int = 5

    def __post_init__(self) -> None:
        if self.group and not self.manifest:
            raise ConfigError(f"data: group is {self.group!r}, a column of a manifest; name the manifest too")
        if self.hold_out_every < 2:
            raise ConfigError(f"data: hold_out_every is {self.hold_out_every}; at least 2 is needed")
        values = self.mask_values
        if len(values) < 2 or len(set(values)) != len(values) or not all(0 <= value <= 255 for value in values):
            raise ConfigError(f"data: mask_values is {list(values)}; two or more different values in 0..255 are needed")


class _Unlabelled(Settings, frozen=True, kw_only=True, tag_field="kind"):
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


class TeacherSection(Settings, frozen=True, kw_only=True):
    """Where the teacher comes from: trained as `train` says, or ONNX or TorchScript files.

    `file` is one teacher, `files` several that answer together; `output` says whether they give logits or
    probabilities. `checkpoint` is a state dict for the network of `train`, which is then not trained. `members` above 1
    trains as many networks, from `train`'s seed upwards. Several answer as one by `weighting`
    (`edge_sdk.teachers.ensemble`); with `flips` each also sees the mirrored frame.
    """

    train: TeacherConfig = TeacherConfig()
    file: str = ""
    files: tuple[str, ...] = ()
    checkpoint: str = ""
    output: Literal["logits", "probabilities"] = "logits"
    members: int = 1
    weighting: Literal["mean", "confidence", "max-probability"] = "mean"
    flips: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("file", "files", "checkpoint") if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"teacher: both {given[0]} and {given[1]} are set; give one")
        if not 1 <= self.members <= 20:
            raise ConfigError(f"teacher: members is {self.members}; 1 to 20 are allowed")
        if given and self.members > 1:
            raise ConfigError(f"teacher: members is {self.members}, but {given[0]} is not trained; leave members out")


DEMO_STEPS = (CropToScanArea(), ToGray(), Letterbox(height=128, width=128), Normalize())


class Recipe(Settings, frozen=True, kw_only=True):
    """A whole run. The defaults are the demonstration: `Recipe()` is what `edge-sdk demo` trains.

    `classes` names the foreground classes; `unlabelled` may stay empty. `validation` is the share of the training
    frames, by whole groups, that is kept out of training: their Dice chooses the epoch whose weights are kept, and
    stops training early where `loop.patience` says so. The held-out frames are never used for that. With `export` the
    run ends with a verified `.edge` file.
    """

    task: Literal["segmentation"] = "segmentation"
    name: str = "demo"
    classes: tuple[str, ...] = ("anechoic",)
    data: SimulatedData | FolderData = SimulatedData()
    unlabelled: tuple[FileFrames | PydicomExample, ...] = (DEMO_CINE,)
    preprocess: PreprocessSpec = PreprocessSpec(steps=DEMO_STEPS)
    teacher: TeacherSection = TeacherSection()
    distill: DistillConfig = DistillConfig()
    validation: float = 0.0
    export: ExportSection | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        check_gates(self.export, "max_drop_points", self.task)
        if not 0 <= self.validation <= 0.5:
            raise ConfigError(f"validation is {self.validation}; a share from 0 (none) to 0.5 is allowed")
        for name, loop in (("teacher.train", self.teacher.train.loop), ("distill", self.distill.loop)):
            if loop.patience and not self.validation:
                raise ConfigError(f"{name}.loop: patience is {loop.patience}, but validation is 0; set it, to 0.15 say")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes is {list(self.classes)}; one or more different names are needed")
        if isinstance(self.data, FolderData) and len(self.data.mask_values) != len(self.classes) + 1:
            raise ConfigError(
                f"data: mask_values has {len(self.data.mask_values)} values; "
                f"background and {len(self.classes)} classes need {len(self.classes) + 1}"
            )
        if isinstance(self.data, SimulatedData) and len(self.classes) != 1:
            raise ConfigError(f"classes is {list(self.classes)}; simulated frames have one class (anechoic regions)")


# task -> (where its recipe and its `run` are, the recipe's name)
_TASKS = {
    "classification": ("edge_sdk.tasks.classification", "ClassificationRecipe"),
    "detection": ("edge_sdk.tasks.detection", "DetectionRecipe"),
    "restoration": ("edge_sdk.tasks.restoration", "RestorationRecipe"),
}


def _struct(task: str) -> Any:
    if task == "segmentation":
        return Recipe
    package, name = _TASKS[task]
    return getattr(import_module(f"{package}.recipe"), name)


def load_recipe(path: Path) -> Any:
    """The recipe in the YAML file `path`; `ConfigError` naming the file for anything that is wrong with it."""
    return parse_recipe(read_text(path, "recipe"), str(path))


def parse_recipe(text: str, origin: str = "recipe") -> Any:
    """The recipe in a YAML `text`: a `Recipe`, or the recipe of the task that its key `task` names.

    `origin` stands in messages. An empty text is the demonstration's recipe.
    """
    content = parse_yaml(text, origin)
    task = content.get("task", "segmentation") if isinstance(content, dict) else "segmentation"
    if task != "segmentation" and task not in list(_TASKS):
        known = ", ".join(sorted([*_TASKS, "segmentation"]))
        raise ConfigError(f"{origin}: task is {task!r}; one of {known} is needed")
    return to_struct(content, _struct(task), origin)


def effective_yaml(recipe: Any) -> str:
    """Every setting of `recipe`, defaults included, as YAML that `parse_recipe` reads back to an equal recipe."""
    yaml = require("yaml", "to write a recipe")
    text: str = yaml.safe_dump(msgspec.to_builtins(recipe), sort_keys=False, default_flow_style=None, width=100)
    return text


def run_recipe(
    path: Path, out_dir: Path, progress: Progress = ignore_progress, *, base: Path | None = None
) -> dict[str, Any]:
    """Run the recipe in the YAML file `path` and write its outputs into `out_dir`; see the task's `run`.

    The recipe's paths are relative to `base`, its own folder by default.
    """
    path = Path(path)
    recipe = load_recipe(path)
    module = "edge_sdk.recipe_run" if recipe.task == "segmentation" else f"{_TASKS[recipe.task][0]}.run"
    run = import_module(module).run
    folder = path.resolve().parent if base is None else Path(base)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give the one that the recipe's paths start from")
    report: dict[str, Any] = run(recipe, base=folder, out_dir=Path(out_dir), progress=progress)
    return report
