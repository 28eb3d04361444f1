"""The `export:` section of a recipe: which file its run ends with, and the gates that stand before it.

The section is the same for every task. Like `edge_sdk.recipe`, this imports neither torch nor onnx; the work is done by
`edge_sdk.lowering`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.bundle.manifest import OutputSpec
from edge_runtime.bundle.manifest_reading import Measure, Rule
from edge_runtime.errors import ConfigError
from edge_sdk.settings import Settings, check

__all__ = [
    "CalibrationFrames",
    "CardSection",
    "ExportSection",
    "GateSection",
    "Gates",
    "MaskReading",
    "RangeMethod",
    "VariantId",
    "check_gates",
]

# as in edge_export, which is not imported here because it needs onnx
VariantId = Literal["fp32", "fp16", "int8", "int8-cpu"]
RangeMethod = Literal["minmax", "percentile", "mse", "entropy"]
Gates = Literal["max_drop_points", "min_agreement", "min_sqnr_db"]


class CalibrationFrames(Settings, frozen=True, kw_only=True):
    """Frames for quantization calibration: at most `count` of what was trained on, never of the held-out frames.

    `choice` "random" draws them from `seed`; "kmeans" takes the frames nearest to the centres of as many clusters of
    the student's own embedding (`edge_export.choose_frames`). A set of `count` frames or fewer is taken whole.
    """

    count: int = 64
    choice: Literal["random", "kmeans"] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        check(1 <= self.count <= 100_000, "calibration: count", self.count, "1 to 100000 frames are allowed")
        check(self.seed >= 0, "calibration: seed", self.seed, "zero or more is needed")


class CardSection(Settings, frozen=True, kw_only=True):
    """What only the author knows: the parts of `edge_export.ModelCard`. The first three must not be empty."""

    intended_use: str
    training_data: str
    limits: str
    license: str = "other"
    tags: tuple[str, ...] = ()
    held_out: str = "held-out frames"

    def __post_init__(self) -> None:
        for name in ("intended_use", "training_data", "limits"):
            if not getattr(self, name).strip():
                raise ConfigError(f"card: {name} is empty; say it in a sentence, the card is what users read")


class GateSection(Settings, frozen=True, kw_only=True):
    """A gate against frames unlike those of training, in the manifest, fitted on the labelled frames of training.

    `score` "energy" is of the student's own logits, for masks and classes; "mahalanobis" of features that the file then
    gives as a second output, for masks, boxes and restored frames (`edge_sdk.gate`). At most the share `false_alarm` of
    the frames lies beyond it: at least 1 / `false_alarm` are needed. The student has seen them, so of new frames of
    their kind more will: ask for less than can be borne, and read the share of the held-out frames in the evidence.
    """

    score: Literal["energy", "mahalanobis"] = "energy"
    false_alarm: float = 0.02

    def __post_init__(self) -> None:
        check(0 < self.false_alarm < 1, "gate: false_alarm", self.false_alarm, "a share between 0 and 1 is needed")


class MaskReading(Settings, frozen=True, kw_only=True):
    """How a device reads the mask, as `edge_runtime.bundle.OutputSpec` has it: the largest region of each class or all,
    the weight of the newest frame in the average (1: none), plausibility rules, and measurements in mm.
    """

    keep: Literal["all", "largest"] = "all"
    smoothing: float = 1.0
    rules: tuple[Rule, ...] = ()
    measure: tuple[Measure, ...] = ()

    def of(self, output: OutputSpec) -> OutputSpec:
        """`output`, read so."""
        return msgspec.structs.replace(output, **msgspec.structs.asdict(self))


class ExportSection(Settings, frozen=True, kw_only=True):
    """How the student becomes NAME.edge, NAME being the recipe's name.

    `precisions` are the variants (fp32 is always made), `method` and `percentile` how their ranges are found, `exclude`
    names convolutions that stay out of INT8 (what `edge_export.mixed_precision` chooses). Every variant is compared
    with the student in torch on the held-out frames, on each of `runners` that it is written for. The gates change
    those of `edge_export` by variant: `max_drop_points` (Dice, percentage points) for masks, `min_agreement` (share of
    equal decisions) for classes and boxes, `min_sqnr_db` for restored frames. A variant that fails is not packaged, and
    neither are the others, unless `overrides` names it with a reason, which then stands in the card.

    `threshold` is the output's in the manifest. `golden` simulated frames travel in the file for its self-test. `key`
    is an ed25519 private key (PEM; relative to the recipe's paths, "~" is the home folder); without it the file is not
    signed. `rtx` puts the variants through TensorRT-RTX's parser where it is installed. With `gate` the file marks
    frames that are unlike those of training; `reading` is how a device reads a mask.
    """

    card: CardSection
    version: str = "1.0.0"
    key: str = ""
    precisions: tuple[VariantId, ...] = ("fp32", "fp16", "int8")
    method: RangeMethod = "minmax"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    calibration: CalibrationFrames = CalibrationFrames()
    runners: tuple[str, ...] = ("onnxruntime",)
    max_drop_points: dict[str, float] = msgspec.field(default_factory=dict)
    min_agreement: dict[str, float] = msgspec.field(default_factory=dict)
    min_sqnr_db: dict[str, float] = msgspec.field(default_factory=dict)
    overrides: dict[str, str] = msgspec.field(default_factory=dict)
    threshold: float = 0.5
    golden: int = 2
    rtx: bool = True
    gate: GateSection | msgspec.UnsetType = msgspec.UNSET
    reading: MaskReading | msgspec.UnsetType = msgspec.UNSET

    @property
    def variants(self) -> tuple[str, ...]:
        """The ids of the variants that are made."""
        return tuple(dict.fromkeys(("fp32", *self.precisions)))

    def __post_init__(self) -> None:
        check(bool(self.version.strip()), "export: version", self.version, "a version such as 1.0.0 is needed")
        check(50 < self.percentile <= 100, "export: percentile", self.percentile, "above 50 and up to 100 is allowed")
        check(0 < self.threshold < 1, "export: threshold", self.threshold, "a probability between 0 and 1 is needed")
        check(1 <= self.golden <= 8, "export: golden", self.golden, "1 to 8 frames are allowed")
        check(bool(self.runners), "export: runners", list(self.runners), "at least one is needed")
        for name in ("max_drop_points", "min_agreement", "min_sqnr_db", "overrides"):
            strange = sorted(set(getattr(self, name)) - set(self.variants))
            check(not strange, f"export: {name} of", strange, f"the variants are {list(self.variants)}")
        for name, most in (("max_drop_points", 100.0), ("min_agreement", 1.0), ("min_sqnr_db", 300.0)):
            for variant, gate in getattr(self, name).items():
                check(0 <= gate <= most, f"export: {name} of {variant}", gate, f"0 to {most:g} is allowed")
        for variant, reason in self.overrides.items():
            check(bool(reason.strip()), f"export: override of {variant}", reason, "give the reason, the card shows it")


_SCORES = {"segmentation": ("energy", "mahalanobis"), "classification": ("energy",)}  # other tasks: mahalanobis


def check_gates(section: ExportSection | msgspec.UnsetType, gates: Gates, task: str) -> None:
    """Raise `ConfigError` when `section` sets other gates than `gates`, the one that a `task` has, a `gate` whose score
    the task's student does not give, or a `reading` where there is no mask.
    """
    if not section:
        return
    for name in ("max_drop_points", "min_agreement", "min_sqnr_db"):
        if name != gates and getattr(section, name):
            raise ConfigError(f"export: {name} is given; {task} is held to {gates}, set that one")
    if section.reading and task != "segmentation":
        raise ConfigError(f"export: reading is given; it is of masks, and the task is {task}")
    allowed = _SCORES.get(task, ("mahalanobis",))
    if section.gate and section.gate.score not in allowed:
        raise ConfigError(f"export: gate: score is {section.gate.score}; {task} has {' or '.join(allowed)}")
