"""The classification recipe: clips or frames with one label each, split by patient.

Like `edge_sdk.recipe`, this imports no torch; `run` lives in `edge_sdk.tasks.classification.run`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.preprocess.spec import Letterbox, Normalize, PreprocessSpec, Stack, ToGray
from edge_sdk.config import AugmentConfig, OptimiserConfig
from edge_sdk.recipe_export import ExportSection, check_gates
from edge_sdk.settings import Settings, check

__all__ = [
    "ClassDistillConfig",
    "ClassSpec",
    "ClassTeacherConfig",
    "ClassificationRecipe",
    "ClassifierConfig",
    "Columns",
    "ManifestData",
    "TeacherSource",
]


class ClassifierConfig(Settings, frozen=True, kw_only=True):
    """A `FrameClassifier`, or a `ClipClassifier` where the preprocessing ends in a stack; see there.

    `pool` and `difference` say how time is pooled and mean nothing without a stack.
    """

    width: int = 8
    depth: int = 4
    max_width: int = 64
    convs: int = 2
    pool: Literal["mean_max", "mean", "attention"] = "mean_max"
    difference: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check(1 <= self.width <= 1024, "width", self.width, "1 to 1024 channels are allowed")
        check(1 <= self.depth <= 7, "depth", self.depth, "1 to 7 stages are allowed")
        check(self.max_width >= self.width, "max_width", self.max_width, f"at least width ({self.width}) is needed")
        check(1 <= self.convs <= 4, "convs", self.convs, "1 to 4 convolutions a stage are allowed")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "a share in [0, 1) is allowed")


class _Learning(Settings, frozen=True, kw_only=True):
    """`label_smoothing` spreads that share of the truth over all classes (Szegedy et al., CVPR 2016).

    `balance` weighs samples: "class" gives every class the same total, "patient" moreover every patient of a class
    the same, "none" counts samples.
    """

    label_smoothing: float = 0.1
    balance: Literal["none", "class", "patient"] = "patient"

    def __post_init__(self) -> None:
        check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "a share in [0, 1) is allowed")


class ClassTeacherConfig(_Learning, frozen=True, kw_only=True):
    """A teacher of `members` networks from seeds of their own; their probabilities are averaged."""

    network: ClassifierConfig = ClassifierConfig(width=32, max_width=192)
    optimiser: OptimiserConfig = OptimiserConfig(epochs=12, batch_size=16, learning_rate=2e-3)
    augment: AugmentConfig = AugmentConfig()
    members: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(1 <= self.members <= 20, "members", self.members, "1 to 20 networks are allowed")


class ClassDistillConfig(_Learning, frozen=True, kw_only=True):
    """How a student learns.

    A labelled sample's loss is `distill_weight` times the distillation loss at `temperature` (Hinton, Vinyals and Dean
    2015) plus (1 - `distill_weight`) times the cross-entropy. A weight of 1 uses no label at all; 0 uses no teacher.
    """

    network: ClassifierConfig = ClassifierConfig()
    optimiser: OptimiserConfig = OptimiserConfig(epochs=16, batch_size=16, learning_rate=2e-3)
    augment: AugmentConfig = AugmentConfig()
    temperature: float = 2.0
    distill_weight: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.temperature <= 100, "temperature", self.temperature, "above 0 and up to 100 is allowed")
        check(0 <= self.distill_weight <= 1, "distill_weight", self.distill_weight, "a weight in [0, 1] is allowed")


class Columns(Settings, frozen=True, kw_only=True):
    """The names of the manifest's columns: path of the file, its label, `train` or `test`, and whose it is."""

    file: str = "file"
    label: str = "label"
    split: str = "split"
    patient: str = "patient"


class ManifestData(Settings, frozen=True, kw_only=True):
    """Clips or frames named in a CSV `manifest`; its paths are relative to the manifest's folder.

    `where` keeps the rows whose column has one of the values (a licence, a probe). Rows with an empty file name are
    left out with `skip_empty`, else an error. `samples` clips are taken from each file, evenly spaced in time.
    """

    manifest: str
    columns: Columns = Columns()
    where: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    skip_empty: bool = False
    samples: int = 12

    def __post_init__(self) -> None:
        check(bool(self.manifest), "data: manifest", self.manifest, "the path of a CSV file is needed")
        check(1 <= self.samples <= 1000, "data: samples", self.samples, "1 to 1000 clips a file are allowed")


class ClassSpec(Settings, frozen=True, kw_only=True):
    """A class and the manifest's labels that mean it; without `labels`, its own name."""

    name: str
    labels: tuple[str, ...] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        """The manifest's labels of this class."""
        return self.labels or (self.name,)


class TeacherSource(Settings, frozen=True, kw_only=True):
    """The teacher is trained as `train` says, or is the ONNX or TorchScript `file` that gives classes (N, K).

    `output` says whether the file gives logits or probabilities.
    """

    train: ClassTeacherConfig = ClassTeacherConfig()
    file: str = ""
    output: Literal["logits", "probabilities"] = "logits"


_STEPS = (ToGray(), Letterbox(height=96, width=96), Normalize(mean=0.25, std=0.25), Stack(n=4, stride=5))


class ClassificationRecipe(Settings, frozen=True, kw_only=True):
    """A whole run. Paths are relative to the recipe's folder; without `stack` in `preprocess` frames are classified.

    With `export` it ends with a verified `.edge` file.
    """

    data: ManifestData
    classes: tuple[ClassSpec, ...]
    task: Literal["classification"] = "classification"
    name: str = "classifier"
    preprocess: PreprocessSpec = PreprocessSpec(steps=_STEPS)
    teacher: TeacherSource = TeacherSource()
    distill: ClassDistillConfig = ClassDistillConfig()
    export: ExportSection | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        check_gates(self.export, "min_agreement", self.task)
        names = [spec.name for spec in self.classes]
        labels = [label for spec in self.classes for label in spec.all_labels]
        if len(names) < 2 or len(set(names)) != len(names) or len(set(labels)) != len(labels):
            raise ConfigError(
                f"classes are {names} with labels {labels}; two or more different names are needed, and no label twice"
            )
