"""The manifest of a `.edge` file, schema version 1 (`docs/bundle.md` is the specification)."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_runtime.preprocess.spec import PreprocessSpec

__all__ = [
    "SCHEMA_VERSION",
    "Evidence",
    "GoldenSample",
    "InputSpec",
    "Manifest",
    "Member",
    "OutputSpec",
    "Target",
    "Variant",
]

SCHEMA_VERSION = 1

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


class OutputSpec(_Struct, frozen=True, kw_only=True):
    """One network output and what its numbers mean.

    `kind` "mask_logits": (1, C, H, W); with one channel a sigmoid, with more a softmax over C (channel 0 is the
    background). `classes` names the channels, the background's too. `threshold` is the probability above which a pixel
    is set (one channel). `temperature` divides the logits first.
    """

    name: str
    shape: tuple[int, ...]
    kind: Literal["mask_logits", "logits", "raw"]
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    temperature: float = 1.0
    dtype: Literal["float32"] = "float32"


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
