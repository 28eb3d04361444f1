"""The file behind `edge-export package SPEC.yaml`: an ONNX model, its frames, its gates and its card.

The keys of the file are the fields of `PackageSpec`; unknown keys are errors, paths are relative to the file's folder.
`examples/recipes/package.yaml` shows every one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import onnx

from edge_export._lint import LintTarget
from edge_export._lower import DEFAULT_TARGETS, PRECISIONS, Precision
from edge_export._retype import QdqForm
from edge_export.ranges import Method
from edge_runtime.bundle import check_outputs
from edge_runtime.bundle.manifest import OutputKind, OutputSpec
from edge_runtime.bundle.manifest_reading import Gate, Measure, Rule
from edge_runtime.errors import BundleFormatError, ConfigError
from edge_runtime.preprocess.spec import PreprocessSpec
from edge_runtime.settings_file import read_yaml, to_struct

__all__ = [
    "FramesSection",
    "GoldenSection",
    "LoweringSection",
    "OriginSection",
    "OutputSection",
    "PackageSpec",
    "VerificationSection",
    "output_specs",
    "read_spec",
]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are refused."""


class FramesSection(_Section, frozen=True, kw_only=True):
    """Frames for quantization calibration: a path that `open_source` reads, every `every`-th frame, at most `count`.

    `scan_area` (x0, y0, x1, y1), pixels, half open, replaces what the file says about where the image proper lies.
    """

    path: str
    every: int = 1
    count: int = 64
    scan_area: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.count < 1:
            raise ConfigError(f"frames: every {self.every}, count {self.count}; 1 or more of each is needed")
        if self.scan_area is not None and not (
            self.scan_area[0] < self.scan_area[2] and self.scan_area[1] < self.scan_area[3]
        ):
            raise ConfigError(f"frames: scan_area is {self.scan_area}; x0 < x1 and y0 < y1 are needed")


class GoldenSection(_Section, frozen=True, kw_only=True):
    """The self-test's samples, which travel in the file.

    By default they are synthetic speckle from `seed`. With `from_frames` they are real frames: those must then be free
    to publish.
    """

    count: int = 2
    from_frames: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 8 or self.seed < 0:
            raise ConfigError(f"golden: count {self.count}, seed {self.seed}; 1 to 8 and zero or more are allowed")


class LoweringSection(_Section, frozen=True, kw_only=True):
    """The arguments of `edge_export.lower`, with its defaults."""

    precisions: tuple[Precision, ...] = PRECISIONS
    method: Method = "minmax"
    percentile: float = 99.99
    qdq_form: QdqForm = "opset17"
    exclude: tuple[str, ...] = ()
    reduce_range: bool = False
    targets: tuple[LintTarget, ...] = DEFAULT_TARGETS
    rtx: bool = True
    require_rtx: bool = False


class OutputSection(_Section, frozen=True, kw_only=True):
    """One output of the model, by its name in the graph; the fields are those of the manifest (`OutputSpec`).

    `keep`, `smoothing`, `rules` and `measure` say how a device reads it, `gate` which frames are unlike those that it
    was fitted on, with the figures of that fit.
    """

    name: str
    kind: OutputKind
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    temperature: float = 1.0
    activation: Literal["softmax", "sigmoid"] | None = None
    nms_iou: float = 0.5
    max_boxes: int = 50
    of: str = ""
    keep: Literal["all", "largest"] = "all"
    smoothing: float = 1.0
    rules: tuple[Rule, ...] = ()
    measure: tuple[Measure, ...] = ()
    gate: Gate | None = None


class VerificationSection(_Section, frozen=True, kw_only=True):
    """What the variants are held to before they are packaged, on every one of `runners`.

    With `images` and `masks`, two folders of the same file names, Dice of the first output: `mask_values[k]` is the
    grey value of class k, background first; `max_drop_points` changes the gates (percentage points by variant). With
    `frames` instead, for models without masks or without labels, agreement with the fp32 file: `min_agreement` (share
    of equal decisions) and `min_sqnr_db` (outputs that decide nothing) change the gates. `overrides` lets a variant
    pass a failed gate, with the reason that the card then carries.
    """

    images: str = ""
    masks: str = ""
    frames: FramesSection | None = None
    mask_values: tuple[int, ...] = (0, 255)
    runners: tuple[str, ...] = ("onnxruntime",)
    max_drop_points: dict[str, float] = {}
    min_agreement: dict[str, float] = {}
    min_sqnr_db: dict[str, float] = {}
    overrides: dict[str, str] = {}

    def __post_init__(self) -> None:
        values = self.mask_values
        if len(values) < 2 or len(set(values)) != len(values) or not all(0 <= value <= 255 for value in values):
            raise ConfigError(
                f"verification: mask_values is {list(values)}; two or more different values in 0..255 are needed"
            )
        labelled = bool(self.images), bool(self.masks)
        if labelled[0] != labelled[1] or labelled[0] == (self.frames is not None):
            raise ConfigError(
                f"verification: images {self.images!r}, masks {self.masks!r}, frames "
                f"{'given' if self.frames else 'not given'}; give images and masks, or frames alone"
            )


class OriginSection(_Section, frozen=True, kw_only=True):
    """What the model was made from, for the bill of materials: by its file at `path`, or by `sha256` alone."""

    kind: Literal["data", "teacher", "student", "recipe"]
    name: str
    path: str = ""
    sha256: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.sha256):
            raise ConfigError(f"origins: {self.name!r} has path {self.path!r} and sha256 {self.sha256!r}; give one")


class PackageSpec(_Section, frozen=True, kw_only=True):
    """What to package. `model` is a float32 ONNX file with one input of frames, channels first, batch 1.

    Open dimensions of the input are filled in with what `preprocess` gives. `outputs` names every output of the model.
    A model with one output of mask logits may have `classes` (one name a channel, the background's too when there is
    more than one) and `threshold` in its place. `license`, `tags` and `held_out` go into the card's metadata.
    """

    name: str
    version: str
    model: str
    intended_use: str
    training_data: str
    limits: str
    preprocess: PreprocessSpec
    frames: FramesSection
    outputs: tuple[OutputSection, ...] = ()
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    license: str = "other"
    tags: tuple[str, ...] = ()
    held_out: str = "held-out frames"
    origins: tuple[OriginSection, ...] = ()
    golden: GoldenSection = GoldenSection()
    lowering: LoweringSection = LoweringSection()
    verification: VerificationSection | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold is {self.threshold}; a probability between 0 and 1 is needed")
        if bool(self.outputs) == bool(self.classes):
            raise ConfigError("give `outputs`, or for one output of mask logits `classes`; not both, not neither")


def read_spec(path: Path) -> PackageSpec:
    """The file's settings. Raises `ConfigError` naming the file and the key."""
    return to_struct(read_yaml(path, "package file"), PackageSpec, str(path))


def output_specs(settings: PackageSpec, model: onnx.ModelProto) -> tuple[OutputSpec, ...]:
    """The outputs as the manifest has them, in the file's order, with the shapes of `model`.

    Raises `ConfigError` when names, shapes, classes or numbers do not fit the model and the kinds.
    """
    shapes = {item.name: _shape(item) for item in model.graph.output}
    wanted = settings.outputs or (_masks(settings, list(shapes)),)
    names = [item.name for item in wanted]
    if sorted(names) != sorted(shapes):
        raise ConfigError(f"outputs names {names}; the model has {list(shapes)}, and each is needed once")
    specs = tuple(
        OutputSpec(shape=shapes[item.name], **{key: getattr(item, key) for key in item.__struct_fields__})
        for item in wanted
    )
    try:
        check_outputs(specs)
    except BundleFormatError as error:
        raise ConfigError(f"outputs: {error}; correct the file, or export the model with such an output") from error
    return specs


def _masks(settings: PackageSpec, names: list[str]) -> OutputSection:
    if len(names) != 1:
        raise ConfigError(f"the model has the outputs {names}; say what each is under `outputs`")
    return OutputSection(name=names[0], kind="mask_logits", classes=settings.classes, threshold=settings.threshold)


def _shape(item: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)
