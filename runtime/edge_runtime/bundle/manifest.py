"""The manifest of a `.edge` file, schema versions 1 to 3 (`docs/bundle.md` is the specification)."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.bundle.manifest_reading import Gate, Measure, Rule
from edge_runtime.preprocess.spec import NEW_STEPS, PreprocessSpec

__all__ = [
    "FIELDS_SINCE",
    "KINDS_SINCE",
    "SCHEMA_VERSION",
    "STEPS_SINCE",
    "Calibration",
    "Evidence",
    "GoldenSample",
    "InputSpec",
    "Manifest",
    "Member",
    "OutputKind",
    "OutputSpec",
    "Precision",
    "Target",
    "Variant",
    "schema_version",
]

SCHEMA_VERSION = 3  # the newest that is read; `schema_version` says which one a manifest needs

OutputKind = Literal[
    "mask_logits", "logits", "raw", "class_logits", "boxes", "image", "uncertainty", "border", "features"
]

# what each later schema version added to outputs; a manifest of an older version must not hold any of it
STEPS_SINCE = 3  # of `edge_runtime.preprocess.spec.NEW_STEPS`
KINDS_SINCE = {2: frozenset(("class_logits", "boxes", "image", "uncertainty")), 3: frozenset(("border", "features"))}
FIELDS_SINCE = {
    2: frozenset(("activation", "nms_iou", "max_boxes", "of", "calibration")),
    3: frozenset(("keep", "smoothing", "rules", "measure", "gate")),
}

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["ort-cpu", "tensorrt", "openvino"]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=False):
    """Unknown fields are refused, so that a later reader cannot misread an older file's meaning."""


class Member(_Struct, frozen=True, kw_only=True):
    """One file of the archive: exact size in bytes, lower-case hex sha256."""

    path: str
    size: int
    sha256: str


class InputSpec(_Struct, frozen=True, kw_only=True):
    """The network input: NCHW, one dtype at the border whatever the precision inside."""

    name: str
    shape: tuple[int, int, int, int]
    dtype: Literal["float32"] = "float32"


class Calibration(_Struct, frozen=True, kw_only=True):
    """How well an output's probabilities were calibrated on held-out data, before and after `temperature`.

    `over` names what was counted ("pixels within 10 px of the boundary"), `n` how many; ECE in `bins` bins of equal
    width, Brier scores where they were measured.
    """

    over: str
    n: int
    ece_before: float
    ece_after: float
    bins: int = 15
    brier_before: float | None = None
    brier_after: float | None = None


class OutputSpec(_Struct, frozen=True, kw_only=True):
    """One network output and what its numbers mean. `temperature` divides all logits first.

    `kind`, the first three of schema version 1, the last two of 3, the others of 2:

    - "mask_logits": (1, C, H, W); with one channel a sigmoid, with more a softmax over C (channel 0 is the background).
      `classes` names the channels, the background's too. `threshold` is the probability above which a pixel is set
      (one channel).
    - "logits", "raw": given to nobody but programs.
    - "class_logits": (1, K), `classes` names all K; `activation` "softmax" (taken when None) or "sigmoid".
    - "boxes": (1, N, 4 + K), decoded in the graph: x0, y0, x1, y1 in network pixels (half-open, pixel edges at
      integers), then a logit a class; `activation` "sigmoid" (taken when None) or "softmax". Boxes with a probability
      of at least `threshold` go through non-maximum suppression at overlap `nms_iou`; the best `max_boxes` are kept.
    - "image": (1, 1, H, W), a frame in the units of the normalized input, at network size or a whole multiple of it.
    - "uncertainty": (1, 1, H, W), 0 (sure) and up, of the mask output that `of` names, at its size.

    - "border": (1, 1, H, W), logits of an object's border in the mask output that `of` names, at its size; above
      `threshold` it parts touching objects.
    - "features": (1, D) or (1, D, H, W), what a gate of this output measures a distance in.

    `calibration` says how far the probabilities can be trusted. Of schema version 3, for masks: `keep` the largest
    8-connected region of each class alone; `rules` of plausibility; `measure`, lengths and areas in mm. For masks and
    classes: `smoothing`, the weight a of the newest frame in the exponential average of the probabilities, 1 for none.
    `gate` (energy of masks and classes, Mahalanobis of features) says which frames are not like those it was fitted on.
    """

    name: str
    shape: tuple[int, ...]
    kind: OutputKind
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    temperature: float = 1.0
    dtype: Literal["float32"] = "float32"
    activation: Literal["softmax", "sigmoid"] | None = None
    nms_iou: float = 0.5
    max_boxes: int = 50
    of: str = ""
    calibration: Calibration | None = None
    keep: Literal["all", "largest"] = "all"
    smoothing: float = 1.0
    rules: tuple[Rule, ...] = ()
    measure: tuple[Measure, ...] = ()
    gate: Gate | None = None


class Variant(_Struct, frozen=True, kw_only=True):
    """One lowered form of the model. `parity_abs` bounds |output - golden| in the self-test, same unit as the output.

    `min_agreement` is the share of equal mask pixels that the self-test demands beside it (mask outputs).
    `macs` counts multiply-adds of one inference; `scores` are verified figures (for example `dice`).
    """

    id: str
    model: str
    precision: Precision
    opset: int
    macs: int
    parity_abs: float
    min_agreement: float = 1.0
    scores: dict[str, float] = {}


class GoldenSample(_Struct, frozen=True, kw_only=True):
    """An input tensor and the fp32 outputs it must give: `.npy` members, C order, little-endian, no pickle."""

    input: str
    outputs: dict[str, str]


class Evidence(_Struct, frozen=True, kw_only=True):
    """A JSON member with numbers behind a claim."""

    path: str
    title: str


class Manifest(_Struct, frozen=True, kw_only=True):
    """Everything a device needs to know; the signature covers the exact bytes of its JSON form.

    `members` names every file of the archive but `manifest.json` and `signature.json`. `ladders` maps a target
    to variant ids from the first choice down; the runtime re-orders them by latency measured at warm-up.
    """

    schema_version: int
    name: str
    version: str
    created: str
    producer: str
    task: Literal["segmentation", "other"]
    intended_use: str
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    preprocess: PreprocessSpec
    variants: tuple[Variant, ...]
    ladders: dict[Target, tuple[str, ...]]
    golden: tuple[GoldenSample, ...]
    evidence: tuple[Evidence, ...] = ()
    card: str = "card.md"
    members: tuple[Member, ...] = ()


def schema_version(outputs: tuple[OutputSpec, ...], preprocess: PreprocessSpec | None = None) -> int:
    """The oldest schema version that can say `outputs` and `preprocess`: 1 unless a kind, field or step of a later one
    is used."""
    plain = {field.name: field.default for field in msgspec.structs.fields(OutputSpec)}
    return max(
        [1]
        + [since for since, kinds in KINDS_SINCE.items() if any(output.kind in kinds for output in outputs)]
        + [
            since
            for since, names in FIELDS_SINCE.items()
            if any(getattr(output, name) != plain[name] for output in outputs for name in names)
        ]
        + [STEPS_SINCE for step in (preprocess.steps if preprocess else ()) if step.__struct_config__.tag in NEW_STEPS]
    )
