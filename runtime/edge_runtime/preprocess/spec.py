"""`PreprocessSpec`: the declarative list of steps from a frame to a network input.

One implementation (`edge_runtime.preprocess.Preprocessor`) reads it in training, in quantization calibration
and on the device. The JSON form stands in a bundle's manifest.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

__all__ = [
    "CropToScanArea",
    "Letterbox",
    "Normalize",
    "PreprocessSpec",
    "Resize",
    "Stack",
    "Step",
    "ToGray",
]


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", kw_only=True):
    """A step's JSON form is `{"step": NAME, ...}`; unknown fields are errors."""


class CropToScanArea(_Step, frozen=True, kw_only=True, tag="crop_to_scan_area"):
    """Crop to the bounding box of the frame's scan area; a frame without one passes whole."""


class ToGray(_Step, frozen=True, kw_only=True, tag="to_gray"):
    """RGB to luminance Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded to uint8; grey passes as it is."""


class Resize(_Step, frozen=True, kw_only=True, tag="resize"):
    """Stretch to `height` x `width`, both axes alike or not; area averaging when shrinking, else linear."""

    height: int
    width: int
    interpolation: Literal["area", "linear"] = "area"


class Letterbox(_Step, frozen=True, kw_only=True, tag="letterbox"):
    """Shrink or grow with the aspect kept, centre, fill the rest with `fill`."""

    height: int
    width: int
    fill: int = 0
    interpolation: Literal["area", "linear"] = "area"


class Normalize(_Step, frozen=True, kw_only=True, tag="normalize"):
    """float32 `(pixel / scale - mean) / std`."""

    scale: float = 255.0
    mean: float = 0.0
    std: float = 1.0


class Stack(_Step, frozen=True, kw_only=True, tag="stack"):
    """The last `n` images, `stride` frames apart, oldest first, as channels. Has state; reset on a gap."""

    n: int
    stride: int = 1


Step = CropToScanArea | ToGray | Resize | Letterbox | Normalize | Stack


class PreprocessSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ordered steps. The rules (one size step, one `Normalize`, `Stack` last) are checked by `Preprocessor`."""

    steps: tuple[Step, ...]

    def to_json(self) -> bytes:
        """Canonical JSON: fields in declaration order, no spaces."""
        return msgspec.json.encode(self)

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON; every `Result` carries it."""
        return hashlib.sha256(self.to_json()).hexdigest()
