"""`PreprocessSpec`: the declarative list of steps from a frame to a network input.

One implementation (`edge_runtime.preprocess.Preprocessor`) reads it in training, in quantization calibration
and on the device. The JSON form stands in a bundle's manifest. `docs/preprocessing.md` shows every step.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

__all__ = [
    "NEW_STEPS",
    "Bilateral",
    "Clahe",
    "CropToScanArea",
    "EqualizeHistogram",
    "Gamma",
    "Letterbox",
    "MaskBoxes",
    "MaskColor",
    "MaskOutside",
    "Median",
    "MinMax",
    "Normalize",
    "Persistence",
    "PreprocessSpec",
    "Resize",
    "Srad",
    "Stack",
    "Step",
    "ToGray",
    "ToPolar",
    "Unsharp",
    "ZScore",
]


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="step", kw_only=True):
    """A step's JSON form is `{"step": NAME, ...}`; unknown fields are errors."""


class CropToScanArea(_Step, frozen=True, kw_only=True, tag="crop_to_scan_area"):
    """Crop to the bounding box of the frame's scan area; a frame without one passes whole."""


class ToGray(_Step, frozen=True, kw_only=True, tag="to_gray"):
    """RGB to luminance Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded to uint8; grey passes as it is."""


class MaskOutside(_Step, frozen=True, kw_only=True, tag="mask_outside"):
    """Pixels outside the frame's scan area become 0; a frame without one passes whole."""


class MaskBoxes(_Step, frozen=True, kw_only=True, tag="mask_boxes"):
    """Pixels inside any of `boxes` become 0: (x0, y0, x1, y1) in source pixels, half open. For text and logos.

    A frame that a box lies wholly outside of is a `GeometryError`: the boxes are for another size of image.
    """

    boxes: tuple[tuple[int, int, int, int], ...]


class MaskColor(_Step, frozen=True, kw_only=True, tag="mask_color"):
    """Coloured pixels of an RGB frame (max - min of R, G, B above `spread`), and all within `grow` px, become 0.

    For calipers, markers and scales drawn in colour; it takes colour Doppler too. Stands before `to_gray`; a grey
    frame passes as it is.
    """

    spread: int = 48
    grow: int = 1


class Median(_Step, frozen=True, kw_only=True, tag="median"):
    """Median of `size` x `size` pixels (odd); the border is repeated."""

    size: int = 3


class Bilateral(_Step, frozen=True, kw_only=True, tag="bilateral"):
    """Bilateral filter over a disc of `diameter` px (odd), sigmas in grey levels and px (Tomasi, Manduchi 1998)."""

    diameter: int = 5
    sigma_grey: float = 25.0
    sigma_px: float = 2.0


class Srad(_Step, frozen=True, kw_only=True, tag="srad"):
    """Speckle-reducing anisotropic diffusion (Yu and Acton, IEEE Trans. Image Process. 11:1260-1270, 2002).

    Grey levels are decompressed to amplitude over `dynamic_range_db` first and compressed after. The speckle scale is
    `q0 exp(-decay t)` at diffusion time t; a step lasts `time_step`.
    """

    iterations: int = 20
    time_step: float = 0.5
    q0: float = 0.5
    decay: float = 0.1666667
    dynamic_range_db: float = 60.0


class Clahe(_Step, frozen=True, kw_only=True, tag="clahe"):
    """Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) on `tiles` x `tiles` parts of the image."""

    clip_limit: float = 2.0
    tiles: int = 8


class EqualizeHistogram(_Step, frozen=True, kw_only=True, tag="equalize_histogram"):
    """Histogram equalisation of the whole image."""


class Gamma(_Step, frozen=True, kw_only=True, tag="gamma"):
    """`255 (v / 255) ** gamma`, rounded; below 1 brightens."""

    gamma: float


class Unsharp(_Step, frozen=True, kw_only=True, tag="unsharp"):
    """`v + amount (v - blurred)`, Gaussian blur of `sigma` px, rounded and held in 0 to 255."""

    sigma: float = 1.0
    amount: float = 0.5


class Persistence(_Step, frozen=True, kw_only=True, tag="persistence"):
    """Temporal average `weight * last + (1 - weight) * new`. Has state; reset on a gap."""

    weight: float = 0.5


class Resize(_Step, frozen=True, kw_only=True, tag="resize"):
    """Stretch to `height` x `width`, both axes alike or not; area averaging when shrinking, else linear."""

    height: int
    width: int
    interpolation: Literal["area", "linear"] = "area"


class Letterbox(_Step, frozen=True, kw_only=True, tag="letterbox"):
    """Shrink or grow with the aspect kept, centre, fill the rest with the grey level `fill`."""

    height: int
    width: int
    fill: int = 0
    interpolation: Literal["area", "linear"] = "area"


class ToPolar(_Step, frozen=True, kw_only=True, tag="to_polar"):
    """Inverse scan conversion: rows are radii from the probe down, columns beam angles from left to right.

    Averages when shrinking. A rectangle (linear probe) is stretched as by `resize`; a frame without a scan area is
    refused.
    """

    height: int
    width: int


class Normalize(_Step, frozen=True, kw_only=True, tag="normalize"):
    """float32 `(pixel / scale - mean) / std`."""

    scale: float = 255.0
    mean: float = 0.0
    std: float = 1.0


class ZScore(_Step, frozen=True, kw_only=True, tag="z_score"):
    """float32 `(pixel - mean) / max(std, floor)`, mean and std (of N) of the image where the step stands."""

    floor: float = 1.0


class MinMax(_Step, frozen=True, kw_only=True, tag="min_max"):
    """float32 `(pixel - min) / max(max - min, 1)`, of the image where the step stands."""


class Stack(_Step, frozen=True, kw_only=True, tag="stack"):
    """The last `n` images, `stride` frames apart, oldest first, as channels. Has state; reset on a gap."""

    n: int
    stride: int = 1


Step = (
    CropToScanArea
    | ToGray
    | MaskOutside
    | MaskBoxes
    | MaskColor
    | Median
    | Bilateral
    | Srad
    | Clahe
    | EqualizeHistogram
    | Gamma
    | Unsharp
    | Persistence
    | Resize
    | Letterbox
    | ToPolar
    | Normalize
    | ZScore
    | MinMax
    | Stack
)

# steps that the manifest's schema versions 1 and 2 do not know; a bundle that holds one needs a newer version
NEW_STEPS = frozenset(
    kind.__struct_config__.tag
    for kind in (
        *(MaskOutside, MaskBoxes, MaskColor, Median, Bilateral, Srad, Clahe, EqualizeHistogram, Gamma, Unsharp),
        *(Persistence, ToPolar, ZScore, MinMax),
    )
)


class PreprocessSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ordered steps. The rules (one size step, one value step, `Stack` last) are checked by `Preprocessor`."""

    steps: tuple[Step, ...]

    def to_json(self) -> bytes:
        """Canonical JSON: fields in declaration order, no spaces."""
        return msgspec.json.encode(self)

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON; every `Result` carries it."""
        return hashlib.sha256(self.to_json()).hexdigest()
