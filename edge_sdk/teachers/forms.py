"""The declared form of a teacher's output, and the check of every answer against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from edge_runtime.errors import ConfigError, InferenceError

__all__ = ["OutputForm", "OutputKind", "OutputLayout"]

OutputKind = Literal["logits", "probabilities", "values"]
OutputLayout = Literal["planes", "vector", "rows"]
_PROBABILITY_MARGIN = 1e-6
_CHANNELS_LAST = (0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputForm:
    """What one output of a teacher looks like for frames (N, C, H, W).

    `layout`: "planes" is (N, channels, H, W) (segmentation, heat maps, denoised frames), "vector" (N, channels)
    (classification, regression), "rows" (N, any number, channels) (decoded boxes). `values`: "logits",
    "probabilities" (a sigmoid's or softmax's result, given back as logits), or "values" (anything else, as it is).

    Planes may be smaller than the frame by `stride` (sizes rounded up) or larger by `enlarge` (super-resolution).
    `resize` brings them to the frame's size bilinearly (logits and not probabilities are interpolated); it is never
    done unasked.
    """

    channels: int
    layout: OutputLayout = "planes"
    values: OutputKind = "logits"
    stride: int = 1
    enlarge: int = 1
    resize: bool = False

    def __post_init__(self) -> None:
        if self.channels < 1 or self.stride < 1 or self.enlarge < 1:
            raise ConfigError(
                f"an output form has {self.channels} channels, stride {self.stride} and enlarge {self.enlarge}; "
                "each must be at least 1"
            )
        if self.layout not in ("planes", "vector", "rows"):
            raise ConfigError(f"output layout {self.layout!r} is unknown; 'planes', 'vector' or 'rows' are")
        if self.values not in ("logits", "probabilities", "values"):
            raise ConfigError(f"output values {self.values!r} are unknown; 'logits', 'probabilities', 'values' are")
        if self.layout != "planes" and (self.stride, self.enlarge, self.resize) != (1, 1, False):
            raise ConfigError(f"stride, enlarge and resize are for planes; this output is {self.layout!r}")

    def expected(self, frames: Tensor) -> tuple[int, ...]:
        """The shape of the output for `frames`; -1 stands for any number of rows."""
        count = int(frames.shape[0])
        if self.layout == "vector":
            return count, self.channels
        if self.layout == "rows":
            return count, -1, self.channels
        height, width = (-(-int(side) * self.enlarge // self.stride) for side in frames.shape[2:])
        return count, self.channels, height, width

    def accept(self, outputs: Any, frames: Tensor, label: str) -> Tensor:
        """`outputs` as float32 logits or values of this form; `label` ("teacher NAME") begins every message.

        Raises `InferenceError` for another type or shape, values that are not finite, and probabilities outside
        [0, 1].
        """
        expected = self.expected(frames)
        if not isinstance(outputs, Tensor) or not _fits(tuple(outputs.shape), expected):
            raise InferenceError(self._shape_message(outputs, frames, expected, label))
        bad = int((~torch.isfinite(outputs)).sum()) if outputs.is_floating_point() else 0
        if bad:
            raise InferenceError(
                f"{label}: {bad} of {outputs.numel()} output values are NaN or infinite; "
                "check its weights and that its preprocessing is the one configured"
            )
        result = outputs.float()
        if self.values == "probabilities":
            result = self._to_logits(result, label)
        if self.resize and result.shape[2:] != frames.shape[2:]:
            result = F.interpolate(result, size=tuple(frames.shape[2:]), mode="bilinear", align_corners=False)
        return result

    def _shape_message(self, outputs: Any, frames: Tensor, expected: tuple[int, ...], label: str) -> str:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        meaning = {
            "planes": "one plane per class or channel at the input's size",
            "vector": "one vector per frame",
            "rows": "any number of rows per frame",
        }[self.layout]
        if self.layout == "planes" and (self.stride, self.enlarge) != (1, 1):
            meaning = f"planes of {self.enlarge}/{self.stride} of the input's size"
        text = f"{label}: the output for frames {tuple(frames.shape)} is {got}; {expected} is needed ({meaning})"
        if isinstance(outputs, Tensor) and outputs.ndim == 4 and self.layout == "planes":
            if _fits(tuple(outputs.shape[k] for k in _CHANNELS_LAST), expected):
                return f"{text}. It is channels-last: load it with output_layout='NHWC'"
            if outputs.shape[1] == self.channels and self.stride == 1 and outputs.shape[2] < frames.shape[2]:
                ratio = frames.shape[2] / outputs.shape[2]
                return f"{text}. A coarser output is taken when its form says so, for example stride={ratio:.0f}"
        if isinstance(outputs, dict | tuple | list):
            return f"{text}. It gives several outputs: choose one with output_name, or declare a form for each"
        return text

    def _to_logits(self, probabilities: Tensor, label: str) -> Tensor:
        low, high = float(probabilities.min()), float(probabilities.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise InferenceError(
                f"{label}: outputs span [{low:.3g}, {high:.3g}], which are not probabilities; "
                "set its output to 'logits'"
            )
        clipped = probabilities.clamp(_PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
        return torch.logit(clipped) if self.channels == 1 else clipped.log()


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (-1, s) for s, e in zip(shape, expected, strict=True))
